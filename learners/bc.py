"""Sample batches of logged transitions flow in, gradients of a policy that does the same flow out, and back in.

Behaviour cloning by maximum likelihood (Pomerleau 1991): with a the action that was logged at o,

    J = −mean log π(a|o)

A Box's actions are those that the environment was given, π the Gaussian of ``distrl.learners.actor_policies``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from distrl.core.types import EnvSpec, PolicySpec, Weights
from distrl.learners.adam import Adam
from distrl.learners.cloned_actor import ClonedActor, load_vector
from distrl.learners.inputs import flat_inputs
from distrl.learners.offline_config import BC as Config
from distrl.learners.replay import SampleBatch


class BC:
    """Implements ``distrl.core.contracts.Algorithm``; on a CPU, the same inputs give the same bits.

    Args:
        config: hyperparameters.
        env_spec: with Boxes, Discrete, MultiDiscrete or MultiBinary to observe and one of them to act in.
        device: "cpu", "cuda", "cuda:1", …
        seed: of the initial parameters.

    Attributes:
        updates: gradients applied so far.
    """

    def __init__(self, config: Config, env_spec: EnvSpec, device: str = "cpu", seed: int = 0):
        self.config, self.device, self.updates = config, torch.device(device), 0
        self._policy_spec = config.policy_spec(env_spec)
        self._layout = self._policy_spec.kwargs["network"]["inputs"]
        generator = torch.Generator().manual_seed(seed)
        self.actor = ClonedActor(env_spec, self._policy_spec, config.hidden, self.device, generator)
        self._adam = Adam(self.actor.parameters.flat, epsilon=1e-8)

    def gradients(self, batch: SampleBatch, rng: torch.Generator | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss's gradient [P], and metrics (reading one waits for a GPU: do it seldom).

        Args:
            rng: nothing is drawn.
        """
        inputs = torch.from_numpy(flat_inputs(batch.observation, self._layout)).to(self.device)
        action = self.actor.actions(batch.action)
        gradient, log_prob, entropy = self.actor.gradient(inputs, batch.observation, action)
        return gradient, {"loss": -log_prob.mean(), "entropy": entropy.mean()}

    def apply(self, gradients: Tensor) -> None:
        """One step of Adam."""
        self._adam.step(gradients, self.config.learning_rate)
        self.actor.limit()
        self.updates += 1

    def policy_spec(self) -> PolicySpec:
        """See ``Config.policy_spec``."""
        return self._policy_spec

    def policy_weights(self) -> Weights:
        """See ``ClonedActor.weights``."""
        return self.actor.weights()

    def state(self) -> dict[str, Any]:
        """Everything that an update reads or writes: tensors are copied to the CPU."""
        actor = self.actor.parameters.flat.to("cpu", copy=True)
        return {"updates": self.updates, "actor": actor, "adam": self._adam.state()}

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue bit for bit where ``state`` was taken.

        Raises:
            ValueError: the state is of other networks.
        """
        load_vector(self.actor.parameters.flat, state, "actor")
        self._adam.load_state(state["adam"])
        self.updates = int(state["updates"])
