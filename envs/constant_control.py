"""A number of actions in, the open-loop baseline of constant actions and its grid out, for any continuous environment.

A baseline module (docs/environments.md) of constants is one line beside the environment's class, whose ``baseline`` is
then its own module's name:

    NAME, NOTHING, baseline_candidates, baseline_policy = constant_control.controls(num_actions=2)
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

LEVELS = (-1.0, -0.5, 0.0, 0.5, 1.0)
MOST_CANDIDATES = 125  # 5 levels of 3 actions; with more actions all share one level

#: ``NAME``, ``NOTHING``, ``baseline_candidates``, ``baseline_policy`` of a baseline module
Controls = tuple[
    str,
    dict[str, Any],
    Callable[[dict[str, Any]], list[dict[str, Any]]],
    Callable[[dict[str, Any], dict[str, Any]], Any],
]


class Constant:
    """The same action at every step.

    Args:
        action: float [num_actions] in [-1, 1].
    """

    def __init__(self, action: Sequence[float]) -> None:
        self.action = np.array(action, np.float32)

    def reset(self) -> None:
        """Start an episode: nothing is kept between steps."""

    def act(self, observation: np.ndarray) -> np.ndarray:
        """The action, float32 [num_actions], whatever the observation."""
        return self.action.copy()


def controls(
    num_actions: int, nothing: Sequence[float] | None = None, levels: Sequence[float] = LEVELS, name: str = "constant"
) -> Controls:
    """The four names of a baseline module whose controllers are constant actions.

    Args:
        num_actions: numbers in an action.
        nothing: the action that does nothing; None is zero.
        levels: values that each action tries, every combination of them up to ``MOST_CANDIDATES``.
        name: what one controller is called in tables.
    """
    idle = [0.0] * num_actions if nothing is None else [float(value) for value in nothing]
    if len(levels) ** num_actions <= MOST_CANDIDATES:
        grid = [list(action) for action in itertools.product(levels, repeat=num_actions)]
    else:
        grid = [[level] * num_actions for level in levels]
    candidates = [{"action": action} for action in [idle, *(action for action in grid if action != idle)]]
    return name, candidates[0], lambda env_kwargs: candidates, lambda params, env_kwargs: Constant(params["action"])
