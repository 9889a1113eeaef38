"""DQN's hyperparameters flow in from a run configuration, the algorithm flows out of ``build`` (it loads torch)."""

from __future__ import annotations

from typing import Any, Literal

import gymnasium
from pydantic import Field

from distrl.core.contracts import Algorithm
from distrl.core.errors import ConfigError
from distrl.core.spaces import leaves
from distrl.core.types import EnvSpec, PolicySpec
from distrl.learners.actor_recipes import action_recipe
from distrl.learners.image_layers import output_shapes
from distrl.learners.inputs import image_paths, input_layout, input_size
from distrl.learners.off_policy_config import LearningRate, OffPolicyConfig, ValueLossConfig, ValueLossName


class Config(OffPolicyConfig, ValueLossConfig):
    """Deep Q-learning (Mnih et al. 2015, doi 10.1038/nature14236) with double Q-learning (van Hasselt et al. 2016,
    arXiv 1509.06461), n-step returns, and values as histograms (Farebrother et al. 2024, arXiv 2403.03950)."""

    value_loss: ValueLossName = "hl_gauss"
    learning_rate: LearningRate = Field(default=5e-4, description="Adam's step size.")
    max_gradient_norm: float | None = Field(
        default=10.0, gt=0.0, description="Longer gradients are shortened to it; unset: none is."
    )
    target_period: int = Field(
        default=1,
        ge=1,
        le=1 << 20,
        description="Updates between two moves of the target network; with tau = 1 it is a copy of so many updates "
        "ago at most.",
    )
    initial_epsilon: float = Field(default=1.0, ge=0.0, le=1.0, description="Share of random actions at the start.")
    final_epsilon: float = Field(
        default=0.05, ge=0.0, le=1.0, description="The same after `epsilon_steps`; between, it changes linearly."
    )
    epsilon_steps: int = Field(
        default=50_000, ge=1, description="Transitions, as far as the learner has seen them, after which it stays."
    )
    convolutions: Literal["small", "large"] = Field(
        default="small",
        description="Layers for images (uint8 of three axes), in place of `hidden`: two convolutions and 256 units, or "
        "the three and 512 of Mnih et al. 2015, which take about three times as long.",
    )

    def policy_spec(self, env_spec: EnvSpec) -> PolicySpec:
        """See ``AlgorithmConfig.policy_spec``."""
        observed = env_spec.observation_space
        if not isinstance(env_spec.action_space, gymnasium.spaces.Discrete):
            raise ConfigError(
                f"DQN needs one choice out of several (a Discrete action space); got {env_spec.action_space}: take td3 "
                "or sac for a Box, ppo for several choices at once"
            )
        actions = action_recipe(env_spec)
        inputs = input_layout(observed, has_mask=True)
        network: dict[str, Any] = {"inputs": inputs}
        shapes = {leaf.path: list(leaf.spec.shape) for leaf in leaves(observed)}
        if images := [shapes[path] for path in image_paths(inputs)]:
            if self.bonus is not None:
                raise ConfigError(f"algorithm.bonus needs observations without images; got {observed}: leave it out")
            for shape in images:
                output_shapes(shape, self.convolutions)
            num_flat = input_size(observed, inputs)
            network |= {"memory": None, "images": images, "num_flat": num_flat, "convolutions": self.convolutions}
        else:
            network["num_layers"] = len(self.hidden) + 1
        histogram = (self.value_min, self.value_max, self.num_bins) if self.value_loss == "hl_gauss" else None
        kwargs = {"network": network, "actions": actions, "histogram": histogram}
        return PolicySpec("distrl.learners.value_policies:epsilon_greedy", kwargs)

    def build(self, env_spec: EnvSpec, device: str = "cpu", seed: int = 0) -> Algorithm:
        """See ``AlgorithmConfig.build``."""
        from distrl.learners.dqn import DQN

        return DQN(self, env_spec, device, seed)
