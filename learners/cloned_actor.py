"""Logged observations and actions flow in, how probable the actions are and the gradient of that flow out: the actor of
the algorithms for logged data, of which ``distrl.learners.actor_policies`` is the acting side.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from distrl.core.types import EnvSpec, Observation, PolicySpec, Weights
from distrl.learners.actor_critic import TanhMLP
from distrl.learners.actor_policies import action_units
from distrl.learners.distributions import Categorical, Distribution, Gaussian
from distrl.learners.inputs import MASK, input_size
from distrl.learners.networks import FlatParameters

LOG_STD_MIN, LOG_STD_MAX = -5.0, 2.0  # of Box actions: what was done the same everywhere would make it fall for ever


class ClonedActor:
    """A network of tanh layers and a distribution of actions.

    Args:
        env_spec: of the agent. recipe: of ``actor_recipes.mlp_recipe``.
        hidden: widths. generator: of the initial parameters.

    Attributes:
        parameters: ``actor/<i>/weight`` and ``actor/<i>/bias``, ``log_std`` of Box actions.
        num_inputs: D. num_encoded: E, numbers of an encoded action.
    """

    def __init__(
        self,
        env_spec: EnvSpec,
        recipe: PolicySpec,
        hidden: tuple[int, ...],
        device: torch.device,
        generator: torch.Generator,
    ):
        actions, self._device = recipe.kwargs["actions"], device
        self.num_inputs = input_size(env_spec.observation_space, recipe.kwargs["network"]["inputs"])
        self._distribution: Distribution
        if "choices" in actions:
            self._distribution = Categorical(actions["choices"], actions["lowest"])
        else:
            low, high = env_spec.action_space.low, env_spec.action_space.high
            center, half = action_units(low, high)
            self._distribution = Gaussian(center, half)
            self._bounds = [
                torch.from_numpy((bound.reshape(-1, 1) - center[:, None]) / half[:, None]).float().to(device)
                for bound in (low, high)
            ]
        self.num_encoded = self._distribution.num_outputs
        self._network = TanhMLP("actor", (self.num_inputs, *hidden, self.num_encoded), last_gain=0.01)
        self.parameters = FlatParameters(self._network.initial(generator) | self._distribution.initial(), device)

    def actions(self, action: np.ndarray) -> Tensor:
        """Logged actions [S, …] as the other methods take them, [k, S]: of a Box what the environment was given,
        which is within its bounds."""
        found = self._distribution.actions(action, self._device)
        return found if isinstance(self._distribution, Categorical) else found.clamp(*self._bounds)

    def allowed(self, observation: Observation) -> Tensor | None:
        """The mask, bool [E, S]; None where there is none."""
        mask = observation.get(MASK)
        if mask is None or not isinstance(self._distribution, Categorical):
            return None
        flat = mask.reshape(len(mask), -1).astype(bool, copy=False)
        return torch.from_numpy(np.ascontiguousarray(flat.T)).to(self._device)

    def encoded(self, action: Tensor) -> Tensor:
        """As inputs of a critic, float32 [S, E]: each choice one-hot; of a Box in half widths from its centre."""
        if not isinstance(self._distribution, Categorical):
            return action.t()
        choices = self._distribution.choices
        return torch.cat([one_hot(part, n) for part, n in zip(action, choices, strict=True)], 1).float()

    def gradient(
        self, inputs: Tensor, allowed: Tensor | None, action: Tensor, weight: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The gradient [P] of −mean(weight · log π(a|o)), log π(a|o) [S] and the entropy [S], in nats.

        Args:
            inputs: float32 [S, D]. allowed, action: see there and ``actions``.
            weight: [S]; None is 1.
        """
        named = self.parameters.frozen
        outputs, layers = self._network.forward(named, inputs)
        log_prob, entropy, context = self._distribution.forward(named, outputs, action, allowed)
        wanted = torch.ones_like(log_prob) if weight is None else weight
        gradients: dict[str, Tensor] = {}
        d_log_prob = wanted * (-1.0 / len(log_prob))
        d_outputs = self._distribution.backward(context, d_log_prob, torch.zeros_like(entropy), gradients)
        self._network.backward(named, layers, d_outputs, gradients)
        return self.parameters.join(gradients), log_prob, entropy

    def limit(self) -> None:
        """Keep the standard deviation of Box actions within its limits; after every step of the optimizer."""
        if "log_std" in self.parameters.frozen:
            self.parameters.frozen["log_std"].clamp_(LOG_STD_MIN, LOG_STD_MAX)

    def weights(self) -> Weights:
        """What ``actor_policies.mlp_policy`` loads; one copy from the device."""
        host = self.parameters.flat.to("cpu", copy=True)
        return {name: view.numpy() for name, view in self.parameters.split(host).items()}
