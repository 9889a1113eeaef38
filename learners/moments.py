"""Batches flow in, their running mean and variance flow out; rewards of a rollout flow in, scaled ones flow out."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from distrl.learners.together import ALONE, Together

REWARD_LIMIT = 10.0  # of a scaled reward (Huang et al. 2022, continuous detail 9)
_EPSILON = 1e-8  # added to a variance before its root


class RunningMoments:
    """Mean and variance of everything seen so far; Chan, Golub & LeVeque 1983, equation 1.4 and 1.5 for two sets.

    Attributes:
        count: samples. mean, variance: float64 [D].
    """

    def __init__(self, size: int):
        self.count = 0
        self.mean, self.variance = np.zeros(size), np.ones(size)

    @property
    def std(self) -> np.ndarray:
        """Never zero; 1 before the first sample; float64 [D]."""
        return np.sqrt(self.variance + _EPSILON)

    def add(self, samples: np.ndarray, together: Together = ALONE) -> None:
        """[S, D] of this learner, and as many as they have of the others."""
        own = [[len(samples)], samples.mean(axis=0, dtype=np.float64), samples.var(axis=0, dtype=np.float64)]
        for found in together.gather(np.concatenate(own)):
            self._merge(int(found[0]), *np.split(found[1:], 2))

    def _merge(self, number: int, mean: np.ndarray, variance: np.ndarray) -> None:
        total = self.count + number
        difference = mean - self.mean
        both = self.variance * self.count + variance * number
        self.variance = (both + difference**2 * (self.count * number / total)) / total
        self.mean = self.mean + difference * (number / total)
        self.count = total

    def state(self) -> dict[str, Any]:
        """Everything ``add`` reads."""
        return {"count": self.count, "mean": self.mean.copy(), "variance": self.variance.copy()}

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue where ``state`` was taken."""
        self.count, self.mean, self.variance = int(state["count"]), state["mean"].copy(), state["variance"].copy()


class RewardScale:
    """Divides rewards by the running standard deviation of each row's discounted return so far (Huang et al. 2022,
    continuous details 8 and 9; without subtracting a mean, which would change what is optimal).

    Args:
        gamma: discount of that return.
    """

    def __init__(self, gamma: float):
        self._gamma = gamma
        self._moments = RunningMoments(1)
        self._returns: dict[int, float] = {}  # row → Σ γ^i r_{t−i} up to its newest step; 0 behind an episode's end

    def scale(
        self,
        reward: np.ndarray,
        ended: np.ndarray,
        is_first: np.ndarray,
        row: np.ndarray,
        together: Together = ALONE,
    ) -> np.ndarray:
        """Scaled rewards, float32 [T, N], within ±10.

        Args:
            reward: float32 [T, N]. ended: bool [T, N]. is_first: bool [T + 1, N].
            row: int64 [N]; columns of the same row follow each other in time.
            together: the learners that have one scale.
        """
        returns = np.empty(reward.shape)
        goes_on = self._gamma * ~ended
        for columns in passes(row):
            keys = row[columns].tolist()
            sums = np.array([self._returns.get(key, 0.0) for key in keys]) * ~is_first[0, columns]
            for now, result, factor in zip(reward[:, columns], returns, goes_on[:, columns], strict=True):
                sums += now
                result[columns] = sums
                sums *= factor
            self._returns.update(zip(keys, sums.tolist(), strict=True))
        self._moments.add(returns.reshape(-1, 1), together)
        scaled = reward / np.float32(self._moments.std[0])
        return np.clip(scaled, -REWARD_LIMIT, REWARD_LIMIT)

    def state(self) -> dict[str, Any]:
        """Everything ``scale`` reads."""
        return {"moments": self._moments.state(), "returns": dict(self._returns)}

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue where ``state`` was taken."""
        self._moments.load_state(state["moments"])
        self._returns = dict(state["returns"])


def passes(row: np.ndarray) -> list[list[int]]:
    """Columns [N] of rows, some of which come again: first those of the first time, then those of the second, …"""
    seen: Counter[int] = Counter()
    found: list[list[int]] = []
    for column, key in enumerate(row.tolist()):
        if seen[key] == len(found):
            found.append([])
        found[seen[key]].append(column)
        seen[key] += 1
    return found
