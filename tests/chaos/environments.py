"""Environments of which a chaos test must know more than chance allows: when one dies, what an episode returns."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from distrl.envs.ledgered import LedgeredPendulum


class Mortal(LedgeredPendulum):
    """Args: moment: ``before`` its ledger knows of the step, ``computed`` (it does, nobody else), or ``told`` (its env
    worker knows too, a snapshot is being taken); or ``hangs``: the step never returns. at: steps in this process.
    """

    def __init__(self, ledger: str, moment: str, at: int = 30, **kwargs: Any):
        super().__init__(ledger, **kwargs)
        self._mark, self._moment, self._at, self._steps = Path(ledger, "died"), moment, at, 0

    def _die(self, moment: str) -> None:
        if moment != self._moment or self._steps < self._at:
            return
        try:
            self._mark.touch(exist_ok=False)
        except FileExistsError:
            return
        if moment == "hangs":
            time.sleep(1000)
        os.kill(os.getpid(), signal.SIGKILL)

    def step(self, action: Any) -> Any:
        self._steps += 1
        self._die("before")
        self._die("hangs")
        result = super().step(action)
        self._die("computed")
        return result

    def snapshot(self, directory: Any) -> None:
        self._die("told")
        super().snapshot(directory)


class Even(gymnasium.Env):
    """Every episode has ten steps and returns 10, whatever is done: of two policies neither is better."""

    observation_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)

    def __init__(self, discrete: bool = False):
        self.action_space = gymnasium.spaces.Discrete(2) if discrete else gymnasium.spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self._step = 0
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        self._step += 1
        return np.zeros(1, np.float32), 1.0, self._step == 10, False, {}
