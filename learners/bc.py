"""Sample batches of logged transitions flow in, gradients of a policy that does the same flow out, and back in.

Behaviour cloning by maximum likelihood (Pomerleau 1991): with a the action that was logged at o,

    J = −mean log π(a|o)

Where the batch has weights, each sample's part is multiplied by its own before the mean. A Box's actions are those that
the environment was given, π the Gaussian of ``distrl.learners.actor_policies``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from distrl.core.types import EnvSpec, Weights
from distrl.learners.cloned_actor import ClonedActor
from distrl.learners.device import to_device
from distrl.learners.graphs import Captured
from distrl.learners.inputs import flat_inputs
from distrl.learners.offline_config import BC as Config
from distrl.learners.optimized import Optimized
from distrl.learners.optimizer import Gradients, Optimizer, Rule, Trained
from distrl.learners.replay import SampleBatch


class BC(Optimized):
    """Implements ``distrl.core.contracts.Algorithm``; on a CPU, the same inputs give the same bits.

    Args:
        config: hyperparameters.
        env_spec: with Boxes, Discrete, MultiDiscrete or MultiBinary to observe and one of them to act in.
        device: "cpu", "cuda", "cuda:1", …
        seed: of the initial parameters.

    Attributes:
        optimizer: of the vector "actor".
    """

    def __init__(self, config: Config, env_spec: EnvSpec, device: str = "cpu", seed: int = 0):
        self.config, self.device = config, torch.device(device)
        self._policy_spec = config.policy_spec(env_spec)
        self._layout = self._policy_spec.kwargs["network"]["inputs"]
        generator = torch.Generator().manual_seed(seed)
        self.actor = ClonedActor(env_spec, self._policy_spec, config.hidden, self.device, generator)
        self.optimizer = Optimizer({"actor": Trained(self.actor.parameters.flat, Rule(config.learning_rate))})
        self._computed = Captured(self._compute, self.device)

    def gradients(self, batch: SampleBatch, rng: torch.Generator | None = None) -> tuple[Gradients, dict[str, Tensor]]:
        """The loss's gradient, and metrics (reading one waits for a GPU: do it seldom); on a GPU both are valid until
        the next call.

        Args:
            rng: nothing is drawn.
        """
        inputs, weight = to_device([flat_inputs(batch.observation, self._layout), batch.weights()], self.device)
        allowed, action = self.actor.allowed(batch.observation), self.actor.actions(batch.action)
        gradients, metrics = self._computed(inputs, allowed, action, weight)
        return gradients, metrics

    def _compute(
        self, inputs: Tensor, allowed: Tensor | None, action: Tensor, weight: Tensor
    ) -> tuple[Gradients, dict[str, Tensor]]:
        gradient, log_prob, entropy = self.actor.gradient(inputs, allowed, action, weight)
        return {"actor": gradient}, {"loss": -(weight * log_prob).mean(), "entropy": entropy.mean()}

    def policy_weights(self) -> Weights:
        """See ``ClonedActor.weights``."""
        return self.actor.weights()

    def _stepped(self) -> None:
        super()._stepped()
        self.actor.limit()
