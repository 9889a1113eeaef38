"""A level of detail in, a walk that shows at which level it is: for tests of fidelity schedules."""

from __future__ import annotations

import json
import os
import time
from typing import Any, ClassVar

import numpy as np
from gymnasium import spaces

from tests.fakes.environments import Continuable

LEVELS = ("coarse", "fine", "odd")  # in the order of the ``fidelity`` column


class Leveled(Continuable):
    """``Continuable`` whose rewards tell the level: its index times 1000 and the walk's own.

    Args:
        fidelity: "coarse", "fine", or "odd", which has an observation space of its own.
        construct_s: seconds that making one takes. step_s, fine_step_s: that a step takes, at coarse and at fine.
    """

    fidelities: ClassVar[dict[str, float]] = dict(zip(LEVELS, (0.001, 0.01, 0.1), strict=True))

    def __init__(
        self,
        fidelity: str = "fine",
        construct_s: float = 0.0,
        step_s: float = 0.0,
        fine_step_s: float = 0.0,
        **kwargs: Any,
    ):
        time.sleep(construct_s)
        super().__init__(**kwargs, step_s=fine_step_s if fidelity == "fine" else step_s)
        self.fidelity = fidelity
        if fidelity == "odd":  # no more bytes than the others': only who compares the spaces sees it
            self.observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        observation, info = super().reset(seed=seed, options=options)
        return observation.astype(self.observation_space.dtype), info

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        observation, reward, terminated, truncated, info = super().step(action)
        return (
            observation.astype(self.observation_space.dtype),
            reward + 1000 * LEVELS.index(self.fidelity),
            terminated,
            truncated,
            info,
        )

    def snapshot(self, directory: str) -> None:
        super().snapshot(directory)
        with open(os.path.join(directory, "level.json"), "w") as file:
            json.dump(self.fidelity, file)

    def restore(self, directory: str) -> np.ndarray | None:
        with open(os.path.join(directory, "level.json")) as file:
            level = json.load(file)
        assert level == self.fidelity, f"a snapshot at {level} cannot be restored at {self.fidelity}"
        return super().restore(directory)
