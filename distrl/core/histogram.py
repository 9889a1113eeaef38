"""Whole numbers in, a histogram of them out whose bins grow with the numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np


class LogHistogram:
    """Counts numbers from 0 on in logarithmic bins (four an octave), so that any range fits in a few dozen of them.

    Numbers up to 5 have bins of their own. The mean is exact; a quantile is the most that its bin holds, at most 19 %
    too large.
    """

    def __init__(self) -> None:
        self.counts = np.zeros(256, np.int64)
        self.total = 0
        self.sum = 0

    def count(self, values: np.ndarray) -> None:
        """Args: values: int64, any shape, none below 0."""
        bins = np.minimum(np.ceil(4 * np.log2(values.ravel() + 1)).astype(np.int64), len(self.counts) - 1)
        self.counts += np.bincount(bins, minlength=len(self.counts))
        self.total += values.size
        self.sum += int(values.sum())

    @staticmethod
    def of(bins: Sequence[Sequence[int]], mean: float) -> LogHistogram:
        """What has these ``bins`` and this mean."""
        found = LogHistogram()
        for most, count in bins:
            found.counts[math.ceil(4 * math.log2(most + 1) - 1e-9)] += count
        found.total = int(found.counts.sum())
        found.sum = round(mean * found.total)
        return found

    def include(self, other: LogHistogram) -> None:
        """Add what another has counted."""
        self.counts += other.counts
        self.total += other.total
        self.sum += other.sum

    @property
    def mean(self) -> float:
        """0 without data."""
        return self.sum / self.total if self.total else 0.0

    def quantile(self, q: float) -> int:
        """What a share ``q`` of the numbers does not exceed; 0 without data."""
        if not self.total:
            return 0
        return _most(int(np.searchsorted(np.cumsum(self.counts), q * self.total)))

    def bins(self) -> list[list[int]]:
        """[the most that a bin holds, numbers in it] of the bins that are not empty."""
        return [[_most(index), int(self.counts[index])] for index in np.flatnonzero(self.counts).tolist()]


def _most(index: int) -> int:
    """The largest number in a bin."""
    return math.floor(2 ** (index / 4) - 1 + 1e-9)
