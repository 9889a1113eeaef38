"""Policy versions in, a histogram of staleness out: the learner's version minus the transition's, in updates."""

from __future__ import annotations

from typing import Any

import numpy as np

from distrl.core.histogram import LogHistogram

_QUANTILES = (50, 90, 95, 99)  # percent


class StalenessHistogram(LogHistogram):
    """Of transitions, in updates."""

    def add(self, learner_version: int, versions: np.ndarray) -> None:
        """Args: learner_version: updates done. versions: int64, any shape: the version that acted, per transition."""
        self.count(np.maximum(learner_version - np.asarray(versions, np.int64), 0))

    def summary(self) -> dict[str, Any]:
        """What reports show: ``staleness_mean``, ``staleness_p50`` and further percentiles, ``staleness_max``, and
        ``staleness_counts``, as ``bins`` gives them."""
        return {
            "staleness_mean": self.mean,
            **{f"staleness_p{percent}": self.quantile(percent / 100) for percent in _QUANTILES},
            "staleness_max": self.quantile(1.0),
            "staleness_counts": self.bins(),
        }
