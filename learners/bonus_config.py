"""Options of exploration bonuses flow in from a run configuration (no torch)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field


class BonusConfig(BaseModel):
    """A reward for what is new, where the environment's rewards are too rare to be found by chance."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["rnd", "drnd"] = Field(
        default="rnd",
        description="rnd: how far a network is from a fixed random one that it learns to repeat (Burda et al. 2018, "
        "arXiv 1810.12894). drnd: from the distribution of `num_targets` of them, which also tells how often something "
        "has been seen (Yang et al. 2024, arXiv 2401.09750).",
    )
    scope: Literal["global", "episodic", "both"] = Field(
        default="global",
        description="global: new in the run. episodic: unlike all else in the episode (Henaff et al. 2022, arXiv "
        "2210.05805); both: their product (Henaff et al. 2023, arXiv 2306.03236). Only on-policy algorithms see whole "
        "episodes.",
    )
    weight: float = Field(
        default=0.1,
        gt=0.0,
        le=1e6,
        description="Reward that a bonus of one standard deviation of the run's bonuses is worth.",
    )
    hidden: tuple[Annotated[int, Field(ge=1, le=16384)], ...] = Field(
        default=(128, 128), min_length=1, max_length=8, description="Widths of its networks' hidden layers, with ReLU."
    )
    num_features: int = Field(default=32, ge=1, le=4096, description="Outputs of its networks.")
    learning_rate: float = Field(default=1e-4, gt=0.0, le=1.0, description="Adam's step size for its network.")
    num_targets: int = Field(default=10, ge=2, le=1000, description="Fixed random networks of `drnd`.")
    distance_share: float = Field(
        default=0.9,
        ge=0.0,
        le=1.0,
        description="Of a `drnd` bonus, the share that is distance; the rest tells how seldom something has been seen: "
        "α.",
    )


def _without_episodes(bonus: BonusConfig | None) -> BonusConfig | None:
    if bonus is not None and bonus.scope != "global":
        raise ValueError(
            f'bonus.scope = "{bonus.scope}" needs whole episodes, and a replay gives single transitions: take '
            '"global", or an on-policy algorithm (ppo, appo, impala)'
        )
    return bonus


OffPolicyBonus = Annotated[
    BonusConfig | None,
    Field(description="A reward for what is new; unset: none. It is that of the observation that the rewards lead to."),
    AfterValidator(_without_episodes),
]
