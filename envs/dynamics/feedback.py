"""Features of an observation in, proportional control of them out: the closed-loop baseline and its grid of gains.

As in ``distrl.envs.constant_control``, the four names of a baseline module stand beside the environment's class.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from distrl.envs.constant_control import Controls

Features = Callable[[np.ndarray], np.ndarray]


class Proportional:
    """action = clip(idle - gain * features(observation), -1, 1).

    Args:
        gain: of the feedback; 0 does nothing.
        features: float32 observation to float [num_actions], what each action shall bring to zero.
        idle: the action that does nothing.
    """

    def __init__(self, gain: float, features: Features, idle: float) -> None:
        self.gain = gain
        self.features = features
        self.idle = idle

    def reset(self) -> None:
        """Start an episode: nothing is kept between steps."""

    def act(self, observation: np.ndarray) -> np.ndarray:
        """The action, float32 [num_actions]."""
        return np.clip(self.idle - self.gain * self.features(observation), -1.0, 1.0).astype(np.float32)


def controls(
    features: Callable[[dict[str, Any]], Features],
    gains: Sequence[float],
    idle: float = 0.0,
    name: str = "feedback gain",
) -> Controls:
    """The four names of a baseline module whose controllers are proportional feedback with one gain.

    Args:
        features: the environment's options to its features; see ``Proportional``.
        gains: what the grid tries; doing nothing, gain 0, comes first.
        idle: the action that does nothing.
        name: what one controller is called in tables.
    """
    candidates = [{"gain": gain} for gain in (0.0, *gains)]
    return (
        name,
        candidates[0],
        lambda env_kwargs: candidates,
        lambda params, env_kwargs: Proportional(params["gain"], features(env_kwargs), idle),
    )
