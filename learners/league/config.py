"""A league's options, with their bounds, flow in from a run configuration (pydantic only)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from distrl.core.errors import ConfigError

Role = Literal["main", "main_exploiter", "league_exploiter"]
Matchmaking = Literal["self_play", "fictitious", "delta_uniform", "pfsp", "psro", "alphastar"]
Weighting = Literal["squared", "linear", "linear_capped", "variance"]


class LeagueConfig(BaseModel):
    """Who plays whom, and when a policy's weights are kept as an opponent."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sides: list[list[str]] = Field(
        default_factory=list,
        description="Names of agents, or patterns of them (* and ?), of each side of the game; one player sits on a "
        "side. Empty: each agent is a side.",
    )
    matchmaking: Matchmaking = Field(
        "pfsp",
        description="Whom main players meet. self_play: themselves; fictitious: any snapshot; delta_uniform: any of "
        "the newest; pfsp: snapshots by how often these win; psro: snapshots by the equilibrium of their results among "
        "each other; alphastar: half pfsp, else self-play or those that they have forgotten how to beat.",
    )
    roles: dict[str, Role] = Field(
        default_factory=dict,
        description="By policy; main where not named. A main_exploiter meets main players alone, a league_exploiter "
        "every snapshot; both begin again from their first weights once they have succeeded.",
    )
    self_play_share: float = Field(
        0.5,
        ge=0.0,
        le=1.0,
        description="Share of a main player's matches against its own newest weights, with fictitious, delta_uniform, "
        "pfsp and psro; all of them while there is no snapshot.",
    )
    pfsp_weighting: Weighting = Field(
        "squared",
        description="How likely pfsp meets an opponent that it beats with probability x: (1 − x)², 1 − x, "
        "min(1/2, 1 − x) or x (1 − x), normalised.",
    )
    delta: float = Field(
        0.5,
        ge=0.0,
        le=1.0,
        description="Of delta_uniform: snapshots of versions below this share of the newest one's are left out; 0 "
        "leaves out none, 1 all but the newest.",
    )
    snapshot_period: int = Field(
        1000, ge=1, description="Updates of a policy between two of its snapshots, at least where there is a win rate."
    )
    snapshot_win_rate: float | None = Field(
        None,
        gt=0.0,
        lt=1.0,
        description="A snapshot waits until the policy beats every opponent that its role is about at this rate, but "
        "no longer than twice the period; without it the period alone decides. AlphaStar: 0.7.",
    )
    exploiter_reset: float = Field(
        0.25,
        ge=0.0,
        le=1.0,
        description="Probability that a league_exploiter begins again after a snapshot; a main_exploiter always does.",
    )
    window: int = Field(
        100,
        ge=1,
        le=1_000_000,
        description="Matches of a pair that its win rate remembers where one of them learns: each match scales what "
        "was counted before by 1 − 1/window. Between snapshots every match counts.",
    )
    payoff_share: float = Field(
        0.1,
        gt=0.0,
        lt=1.0,
        description="Of psro: share of the episodes in which two snapshots meet and nobody learns, for the results "
        "that the equilibrium is of.",
    )
    meta_solver: Literal["nash", "risk_averse"] = Field(
        "nash", description="Of psro: the equilibrium that the probabilities of opponents are taken from."
    )
    risk_aversion: float = Field(
        0.5,
        gt=0.0,
        le=100.0,
        description="Of risk_averse: what a unit of the payoff's variance costs, where a win pays 1 and a loss −1.",
    )
    risk_floor: float = Field(
        0.05,
        ge=0.0,
        lt=1.0,
        description="Of risk_averse: probability that is spread evenly over all opponents, so that what is never "
        "played is reckoned with.",
    )


def roles_of(config: LeagueConfig, rivals: Mapping[str, Sequence[str]]) -> dict[str, Role]:
    """Each policy's role.

    Args:
        rivals: policy → the policies that can sit opposite.

    Raises:
        ConfigError: a role of an unknown policy, or a policy without a main player to meet.
    """
    unknown = sorted(set(config.roles) - set(rivals))
    if unknown:
        raise ConfigError(f"league.roles needs names of policies, {', '.join(rivals)}, but {', '.join(unknown)} came")
    roles: dict[str, Role] = {policy: config.roles.get(policy, "main") for policy in rivals}
    for policy, its in rivals.items():
        if not any(roles.get(rival) == "main" for rival in its):
            raise ConfigError(
                f"policy {policy!r} needs a main player to meet, but its rivals are "
                f"{', '.join(its) or 'none'}, with the roles {', '.join(roles[one] for one in its) or 'none'}"
            )
    return roles
