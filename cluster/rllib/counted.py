"""An environment in RLlib's hands goes in; what its steps came to, counted in files of its own, comes out.

RLlib says neither how long environments were inside ``step`` nor what became of an episode that it threw away. Each
environment counts by itself, in whichever process RLlib has put it, and the driver reads all of them.
"""

from __future__ import annotations

import json
import os
import time
import uuid
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from distrl.envs.checks import plain_scalars

_NUMBERS = ("steps", "step_s", "reset_s", "core_s", "began_s", "ended_s", "diverged", "pid")


class Counted(gymnasium.Wrapper):
    """Counts steps, times and episodes into two files of ``folder``."""

    def __init__(self, env: gymnasium.Env, folder: str):
        super().__init__(env)
        path = Path(folder) / uuid.uuid4().hex
        self._numbers = np.memmap(f"{path}.numbers", np.float64, "w+", shape=len(_NUMBERS))
        self._add(began_s=time.time(), pid=os.getpid())
        self._episodes = open(f"{path}.episodes", "a", buffering=1)  # noqa: SIM115 - until ``close``
        self._seed: int | None = None
        self._return, self._length = 0.0, 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        begin, core = time.perf_counter(), time.process_time()
        result = self.env.reset(seed=seed, options=options)
        self._add(reset_s=time.perf_counter() - begin, core_s=time.process_time() - core)
        self._seed, self._return, self._length = seed, 0.0, 0
        return result

    def step(self, action: Any) -> Any:
        begin, core = time.perf_counter(), time.process_time()
        result = self.env.step(action)
        self._add(steps=1, step_s=time.perf_counter() - begin, core_s=time.process_time() - core)
        self._return += float(result[1])
        self._length += 1
        if result[2] or result[3]:
            episode = {"seed": self._seed, "return": self._return, "length": self._length}
            self._episodes.write(json.dumps(episode | {"info": plain_scalars(result[4])}) + "\n")
            self._add(diverged=float(bool(result[4].get("diverged"))))
        return result

    def close(self) -> None:
        self._add(ended_s=time.time())
        self._episodes.close()
        super().close()

    def _add(self, **numbers: float) -> None:
        for name, value in numbers.items():
            self._numbers[_NUMBERS.index(name)] += value


class Tally:
    """The driver's side: what all environments of a folder have counted."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._read: dict[Path, int] = {}  # characters of each file of episodes

    def core_s(self, pid: int) -> float:
        """CPU seconds of the environments in one process."""
        column = self._columns()
        return float(column["core_s"][column["pid"] == pid].sum())

    def totals(self) -> dict[str, float]:
        """Sums of steps, step_s, reset_s, core_s, lifetime_s and diverged, and num_envs of those not closed."""
        column = self._columns()
        ended = np.where(column["ended_s"] > 0, column["ended_s"], time.time())
        sums = {name: float(column[name].sum()) for name in ("steps", "step_s", "reset_s", "core_s", "diverged")}
        return sums | {
            "lifetime_s": float((ended - column["began_s"]).sum()),
            "num_envs": int((column["ended_s"] == 0).sum()),
        }

    def _columns(self) -> dict[str, np.ndarray]:
        found = [np.fromfile(path) for path in self._folder.glob("*.numbers")]
        rows = np.array([numbers for numbers in found if len(numbers) == len(_NUMBERS)]).reshape(-1, len(_NUMBERS))
        return dict(zip(_NUMBERS, rows.T, strict=True))

    def new_episodes(self) -> list[dict[str, Any]]:
        """Those that have ended since the last call."""
        episodes = []
        for path in sorted(self._folder.glob("*.episodes")):
            text = path.read_text()
            whole = text.rfind("\n") + 1
            episodes += [json.loads(line) for line in text[self._read.get(path, 0) : whole].splitlines()]
            self._read[path] = whole
        return episodes
