"""SAC's hyperparameters flow in from a run configuration, the algorithm flows out of ``build`` (it loads torch)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from distrl.core.contracts import Algorithm
from distrl.core.types import EnvSpec, PolicySpec
from distrl.learners.off_policy_config import LearningRate, OffPolicyConfig, ValueLossConfig
from distrl.learners.spaces import bounded_box, observation_leaves


class EntropyConfig(OffPolicyConfig):
    """Of a squashed Gaussian whose entropy a temperature keeps."""

    actor_learning_rate: LearningRate = Field(default=3e-4, description="Adam's step size for the actor.")
    critic_learning_rate: LearningRate = Field(default=3e-4, description="Adam's step size for the critics.")
    temperature_learning_rate: LearningRate = Field(
        default=3e-4, description="Adam's step size for log(temperature); too large makes the entropy swing."
    )
    target_entropy: float | Literal["auto"] = Field(
        default="auto",
        description="Entropy that the temperature keeps, in nats of the action in [−1, 1]; auto: −(number of actions).",
    )
    initial_temperature: float = Field(
        default=1.0, gt=0.0, le=1e4, description="Weight of the entropy at the start, in units of the reward."
    )
    uniform_until_trained: bool = Field(
        default=True, description="Act uniformly at random until the first update; off acts with the untrained network."
    )

    def policy_spec(self, env_spec: EnvSpec) -> PolicySpec:
        """See ``AlgorithmConfig.policy_spec``."""
        box = bounded_box(env_spec.action_space, "SAC")
        kwargs = {
            "paths": tuple(observation_leaves(env_spec.observation_space)),
            "low": box.low.tolist(),
            "high": box.high.tolist(),
            "dtype": str(box.dtype),
            "num_layers": len(self.hidden) + 1,
            "uniform_until_trained": self.uniform_until_trained,
        }
        return PolicySpec("distrl.learners.policies:SquashedGaussianPolicy", kwargs)


class Config(EntropyConfig, ValueLossConfig):
    """Soft actor-critic with twin critics and automatic temperature (Haarnoja et al. 2018, arXiv 1812.05905)."""

    def build(self, env_spec: EnvSpec, device: str = "cpu", seed: int = 0) -> Algorithm:
        """See ``AlgorithmConfig.build``."""
        from distrl.learners.sac import SAC

        return SAC(self, env_spec, device, seed)
