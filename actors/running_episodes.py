"""What pools in the calling process share: steps and resets of their rows go in, the ``Requests`` that describe the
running episodes come out, and what the steps have cost.
"""

from __future__ import annotations

import math
import os
from typing import Any

import numpy as np

from distrl.actors.environment_process import core_seconds
from distrl.core.contracts import Requests
from distrl.core.types import Observation

_CORE_PERIOD_S = 0.05
_CORE_KEEP, _CORE_PRIOR_S = 0.95, 1e-3  # of the measurements before; one core, as if measured before the first
_NUM_CORES = os.cpu_count() or 1


def at_most(wall_s: float, core_s: float) -> float:
    """CPU seconds that can have been used within ``wall_s``: with the end of a child that another thread waits for,
    all that it has ever used is added to those of this process at once."""
    return min(core_s, wall_s * _NUM_CORES)


class CoreClock:
    """CPU seconds of steps, from their wall seconds and a share that is measured from time to time: in a process of
    many threads, as a Ray actor is, to ask costs as much as a cheap step.

        clock.begin(now)
        …                                     # the steps
        core_s = clock.spent(wall_s, now)

    One measurement means little, as other threads' time arrives in pieces of milliseconds: the share is a mean over the
    newest ones.
    """

    def __init__(self) -> None:
        self._core_sum_s = self._wall_sum_s = _CORE_PRIOR_S
        self._read_at = -math.inf
        self._core_s: float | None = None  # at the beginning, where these are measured

    def begin(self, now: float) -> None:
        """At ``now`` seconds of any clock."""
        self._core_s = core_seconds() if now - self._read_at > _CORE_PERIOD_S else None

    def spent(self, wall_s: float, now: float) -> float:
        """CPU seconds of what has taken ``wall_s``; ``now`` on the same clock."""
        if self._core_s is not None:
            core_s = at_most(wall_s, core_seconds() - self._core_s)
            self._core_sum_s = _CORE_KEEP * self._core_sum_s + core_s
            self._wall_sum_s = _CORE_KEEP * self._wall_sum_s + wall_s
            self._read_at = now
        return wall_s * self._core_sum_s / self._wall_sum_s


class RunningEpisodes:
    """What a pool in the calling process knows of each row's running episode.

    Attributes:
        steps: int32 [rows], finished ones. returns: float64 [rows], sum of their rewards.
        fidelity: int16 [rows].
    """

    def __init__(self, num_rows: int):
        self.steps = np.zeros(num_rows, np.int32)
        self.returns = np.zeros(num_rows, np.float64)
        self.fidelity = np.zeros(num_rows, np.int16)
        self._uid = np.zeros(num_rows, np.uint64)
        self._seed = np.zeros(num_rows, np.int64)
        self._all = np.arange(num_rows)

    def begin(self, rows: Any, uid: Any, seed: int) -> None:
        """A row has been reset, or several: rows int64 [K], uid uint64 [K]."""
        self._uid[rows], self._seed[rows] = uid, seed
        self.steps[rows], self.returns[rows] = 0, 0.0

    def stepped(self, rows: np.ndarray, reward: np.ndarray) -> None:
        """Each of the rows has finished a step; reward: float32 [S]."""
        index = self.index(rows)
        self.steps[index] += 1
        self.returns[index] += reward

    def index(self, rows: np.ndarray) -> Any:
        """Ascending rows as a slice where they are all: numpy copies nothing then, and is several times faster."""
        return slice(None) if len(rows) == len(self._all) else rows

    def requests(self, rows: np.ndarray, observation: Observation) -> Requests:
        """Of ascending rows; the observation [all rows, …] is copied only where not all rows ask."""
        index = self.index(rows)
        steps = self.steps[index].copy()
        return Requests(
            rows=rows,
            observation={path: array[index] for path, array in observation.items()},
            is_first=steps == 0,
            step=steps,
            episode_return=self.returns[index].copy(),
            episode_uid=self._uid[index].copy(),
            seed=self._seed[index].copy(),
            fidelity=self.fidelity[index].copy(),
        )
