"""SAC's hyperparameters flow in from a run configuration, the algorithm flows out of ``build`` (it loads torch)."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from distrl.core.contracts import Algorithm
from distrl.core.types import EnvSpec, PolicySpec
from distrl.learners.registry import AlgorithmConfig
from distrl.learners.spaces import bounded_box, observation_leaves

LearningRate = Annotated[float, Field(gt=0.0, le=1.0)]


class Config(AlgorithmConfig):
    """Soft actor-critic with twin critics and automatic temperature (Haarnoja et al. 2018, arXiv 1812.05905)."""

    tells_errors: ClassVar[bool] = True

    hidden: tuple[Annotated[int, Field(ge=1, le=16384)], ...] = Field(
        default=(256, 256),
        min_length=1,
        max_length=8,
        description="Widths of the hidden layers of actor and critics; an update costs about the square of them.",
    )
    batch_size: int = Field(
        default=256, ge=1, le=1 << 20, description="Transitions in one update; larger is steadier and slower."
    )
    gamma: float = Field(
        default=0.99, ge=0.0, le=1.0, description="Discount per env step; about 1 / (1 − gamma) steps are looked ahead."
    )
    n_step: int = Field(
        default=1,
        ge=1,
        le=1000,
        description="Rewards summed before bootstrapping; more spreads rewards faster, but favours past policies.",
    )
    tau: float = Field(
        default=0.005, gt=0.0, le=1.0, description="Share of the critics that the target networks take over per update."
    )
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
    reward_scale: float = Field(
        default=1.0, gt=0.0, le=1e6, description="Factor on rewards inside the losses; brings returns to order 1–100."
    )
    max_gradient_norm: float | None = Field(
        default=None, gt=0.0, description="Longer gradients of actor or critics are shortened to it; unset: none is."
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

    def build(self, env_spec: EnvSpec, device: str = "cpu", seed: int = 0) -> Algorithm:
        """See ``AlgorithmConfig.build``."""
        from distrl.learners.sac import SAC

        return SAC(self, env_spec, device, seed)
