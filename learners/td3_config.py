"""TD3's hyperparameters flow in from a run configuration, the algorithm flows out of ``build`` (it loads torch)."""

from __future__ import annotations

from pydantic import Field

from distrl.core.contracts import Algorithm
from distrl.core.types import EnvSpec, PolicySpec
from distrl.learners.off_policy_config import LearningRate, OffPolicyConfig, ValueLossConfig
from distrl.learners.spaces import bounded_box, observation_leaves


class Config(OffPolicyConfig, ValueLossConfig):
    """Twin delayed deep deterministic policy gradient (Fujimoto et al. 2018, arXiv 1802.09477), with the defaults of
    its authors' implementation."""

    actor_learning_rate: LearningRate = Field(default=3e-4, description="Adam's step size for the actor.")
    critic_learning_rate: LearningRate = Field(default=3e-4, description="Adam's step size for the critics.")
    policy_delay: int = Field(
        default=2,
        ge=1,
        le=1000,
        description="Updates of the critics for one of the actor; the target networks move with the actor's.",
    )
    target_noise: float = Field(
        default=0.2,
        ge=0.0,
        le=2.0,
        description="Standard deviation of the noise on actions inside the target, of actions in [−1, 1]; smooths the "
        "values.",
    )
    target_noise_limit: float = Field(default=0.5, ge=0.0, le=2.0, description="That noise is clipped to ± this.")
    exploration_noise: float = Field(
        default=0.1,
        gt=0.0,
        le=2.0,
        description="Standard deviation of the noise that env workers act with, of actions in [−1, 1].",
    )
    uniform_until_trained: bool = Field(
        default=True, description="Act uniformly at random until the first update; off acts with the untrained network."
    )

    def policy_spec(self, env_spec: EnvSpec) -> PolicySpec:
        """See ``AlgorithmConfig.policy_spec``."""
        box = bounded_box(env_spec.action_space, "TD3")
        kwargs = {
            "paths": tuple(observation_leaves(env_spec.observation_space)),
            "low": box.low.tolist(),
            "high": box.high.tolist(),
            "dtype": str(box.dtype),
            "num_layers": len(self.hidden) + 1,
            "uniform_until_trained": self.uniform_until_trained,
            "noise": self.exploration_noise,
        }
        return PolicySpec("distrl.learners.policies:NoisyPolicy", kwargs)

    def build(self, env_spec: EnvSpec, device: str = "cpu", seed: int = 0) -> Algorithm:
        """See ``AlgorithmConfig.build``."""
        from distrl.learners.td3 import TD3

        return TD3(self, env_spec, device, seed)
