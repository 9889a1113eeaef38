"""Environments as RLlib's users write them; no RLlib is imported here."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete


class Settings(gymnasium.Env):
    """Takes its env_config as one argument; an episode has ``length`` steps."""

    observation_space, action_space = Box(-1, 1, (2,)), Discrete(2)

    def __init__(self, settings: Any):
        self._length = settings["length"]

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict]:
        self._step = 0
        return np.zeros(2, "f4"), {}

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict]:
        self._step += 1
        return np.full(2, 0.1, "f4"), 1.0, self._step == self._length, False, {"told": self._step, "left": self}


class Nested(gymnasium.Env):
    """Observations in a Dict in a Dict; an episode has four steps."""

    observation_space = Dict({"place": Box(-9, 9, (2,)), "sub": Dict({"speed": Box(-9, 9, (3,))})})
    action_space = Discrete(2)

    def _seen(self) -> dict[str, Any]:
        return {"place": np.full(2, self._step, "f4"), "sub": {"speed": np.full(3, -self._step, "f4")}}

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict]:
        self._step = 0
        return self._seen(), {}

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict]:
        self._step += 1
        return self._seen(), 1.0, False, self._step == 4, {}
