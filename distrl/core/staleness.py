"""Policy versions in, a histogram of staleness out: the learner's version minus the transition's, in updates."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

_QUANTILES = (50, 90, 95, 99)  # percent


class StalenessHistogram:
    """Counts in logarithmic bins (four an octave), so that any run fits in a few dozen numbers.

    Staleness up to 5 has bins of its own. The mean is exact; a quantile is the most that its bin holds, at most 19 %
    too large.
    """

    def __init__(self) -> None:
        self.counts = np.zeros(256, np.int64)
        self.total = 0
        self.sum = 0

    def add(self, learner_version: int, versions: np.ndarray) -> None:
        """Args: learner_version: updates done. versions: int64, any shape: the version that acted, per transition."""
        staleness = np.maximum(learner_version - np.asarray(versions, np.int64).ravel(), 0)
        bins = np.minimum(np.ceil(4 * np.log2(staleness + 1)).astype(np.int64), len(self.counts) - 1)
        self.counts += np.bincount(bins, minlength=len(self.counts))
        self.total += staleness.size
        self.sum += int(staleness.sum())

    def include(self, other: StalenessHistogram) -> None:
        """Add what another has counted."""
        self.counts += other.counts
        self.total += other.total
        self.sum += other.sum

    @property
    def mean(self) -> float:
        """In updates; 0 without data."""
        return self.sum / self.total if self.total else 0.0

    def quantile(self, q: float) -> int:
        """The staleness that a share ``q`` of the transitions does not exceed; 0 without data."""
        if not self.total:
            return 0
        return _most(int(np.searchsorted(np.cumsum(self.counts), q * self.total)))

    def summary(self) -> dict[str, Any]:
        """What reports show: ``staleness_mean``, ``staleness_p50`` and further percentiles, ``staleness_max``, and
        ``staleness_counts``, a list of [the most that a bin holds, transitions in it] of the bins that are not
        empty."""
        return {
            "staleness_mean": self.mean,
            **{f"staleness_p{percent}": self.quantile(percent / 100) for percent in _QUANTILES},
            "staleness_max": self.quantile(1.0),
            "staleness_counts": [
                [_most(index), int(self.counts[index])] for index in np.flatnonzero(self.counts).tolist()
            ],
        }


def _most(index: int) -> int:
    """The largest staleness in a bin."""
    return math.floor(2 ** (index / 4) - 1 + 1e-9)
