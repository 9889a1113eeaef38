"""Steps and resets of a pool's rows go in, the ``Requests`` that describe their running episodes come out."""

from __future__ import annotations

from typing import Any

import numpy as np

from distrl.core.contracts import Requests
from distrl.core.types import Observation


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
