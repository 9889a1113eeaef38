"""Policy versions in, a histogram of staleness out: the learner's version minus the transition's, in updates, on
arrival.
"""

from __future__ import annotations

import numpy as np


class StalenessHistogram:
    """Counts in logarithmic bins (four an octave), so that any run fits in a few dozen numbers.

    The mean is exact; a quantile is the upper edge of its bin, at most 19 % too large.
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

    @property
    def mean(self) -> float:
        """In updates; 0 without data."""
        return self.sum / self.total if self.total else 0.0

    def quantile(self, q: float) -> float:
        """The staleness that a share ``q`` of the transitions does not exceed."""
        if not self.total:
            return 0.0
        index = int(np.searchsorted(np.cumsum(self.counts), q * self.total))
        return float(2 ** (index / 4) - 1)
