"""Counters of a run in, the level of detail of a training episode out: pure functions, so a resume needs no state."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

# Irrational steps of a Kronecker sequence (Kuipers & Niederreiter, Uniform Distribution of Sequences, 1974, ch. 2.3):
# the golden ratio, which spreads an environment's episodes most evenly, and two independent of it.
_EPISODE, _ENVIRONMENT, _LIFE = (math.sqrt(5) - 1) / 2, math.sqrt(2) - 1, math.sqrt(3) - 1


@dataclass(frozen=True)
class Stage:
    """From ``from_env_steps`` env steps of the run on, episodes begin at levels in proportion to ``mix``.

    Attributes:
        from_env_steps: of the whole run. mix: level → weight ≥ 0, not all 0.
    """

    from_env_steps: int
    mix: Mapping[str, float]


def stage_in_force(schedule: Sequence[Stage], env_steps: int) -> Stage:
    """The last stage of a schedule (ordered, the first from 0) that has begun after ``env_steps`` of the run."""
    return [stage for stage in schedule if stage.from_env_steps <= env_steps][-1]


def level_of_episode(mix: Mapping[str, float], life: int, env_index: int, episode: int) -> str:
    """The level of one episode: each environment's episodes, and all environments' at one time, have the mix's shares.

    A point in [0, 1) of a low-discrepancy sequence picks from the weights, so that of an environment's first N episodes
    a level has its share of N within a few.

    Args:
        life: of the env worker, unique in the run. env_index: in that env worker. episode: of that environment.
    """
    point = math.fmod(0.5 + _EPISODE * episode + _ENVIRONMENT * env_index + _LIFE * life, 1.0) * sum(mix.values())
    levels = [(level, weight) for level, weight in mix.items() if weight > 0]
    for level, weight in levels:
        if point < weight:
            return level
        point -= weight
    return levels[-1][0]  # by rounding
