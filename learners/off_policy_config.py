"""What algorithms with a replay and critics have in common flows in from a run configuration (no torch)."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from distrl.learners.bonus_config import OffPolicyBonus
from distrl.learners.registry import AlgorithmConfig

LearningRate = Annotated[float, Field(gt=0.0, le=1.0)]
ValueLossName = Annotated[
    Literal["squared", "hl_gauss"],
    Field(
        description="squared: a value is a number. hl_gauss: a value is the mean of a histogram, which is trained by "
        "cross-entropy towards a smoothed one around the target (Farebrother et al. 2024, arXiv 2403.03950)."
    ),
]


class OffPolicyConfig(AlgorithmConfig):
    """What they share."""

    tells_errors: ClassVar[bool] = True
    takes_tensors: ClassVar[bool] = True

    hidden: tuple[Annotated[int, Field(ge=1, le=16384)], ...] = Field(
        default=(256, 256),
        min_length=1,
        max_length=8,
        description="Widths of the hidden layers of every network, with ReLU; an update costs about the square of "
        "them.",
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
        default=0.005,
        gt=0.0,
        le=1.0,
        description="Share of the networks that the target networks take over when they move.",
    )
    reward_scale: float = Field(
        default=1.0, gt=0.0, le=1e6, description="Factor on rewards inside the losses; brings returns to order 1–100."
    )
    max_gradient_norm: float | None = Field(
        default=None, gt=0.0, description="Longer gradients are shortened to it; unset: none is."
    )
    bonus: OffPolicyBonus = None


class ValueLossConfig(AlgorithmConfig):
    """How values are represented, and what is made small."""

    value_loss: ValueLossName = "squared"
    value_min: float = Field(
        default=-100.0,
        description="Least value of `hl_gauss`, in units of `reward_scale` × discounted return; targets below are "
        "taken as it. Rewards within ±1 with gamma = 0.99 never lead beyond ±100.",
    )
    value_max: float = Field(default=100.0, description="Greatest value of `hl_gauss`.")
    num_bins: int = Field(default=101, ge=2, le=1 << 12, description="Bins of the histogram of `hl_gauss`.")
    smoothing: float = Field(
        default=0.75,
        gt=0.0,
        le=100.0,
        description="Standard deviation around the target in `hl_gauss`, in widths of a bin.",
    )

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not self.value_min < self.value_max:
            raise ValueError(
                f"value_min must be less than value_max; got {self.value_min} and {self.value_max}: give the least and "
                "the greatest discounted return"
            )
        return self
