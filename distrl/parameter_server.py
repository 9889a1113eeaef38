"""Learners publish weights, actors pull those that are newer: one versioned store, a plain class without torch.

``cluster`` makes a Ray actor of it; in one process it is called directly.
"""

from __future__ import annotations

import threading

from distrl.core.types import Weights


class ParameterServer:
    """Holds the newest weights of one policy.

    A version is the number of updates behind the weights; it never decreases, so a late or repeated publication changes
    nothing.
    """

    def __init__(self, version: int = -1):
        """``version``: the version that a resumed run continues from; nothing can be pulled before the first
        publication.
        """
        self._changed = threading.Condition()
        self._version = version
        self._weights: Weights | None = None

    def publish(self, version: int, weights: Weights) -> int:
        """Offer weights; returns the version now held."""
        with self._changed:
            if version > self._version or (version == self._version and self._weights is None):
                self._version, self._weights = version, weights
                self._changed.notify_all()
            return self._version

    def pull_if_newer(self, version: int, wait_s: float = 0.0) -> tuple[int, Weights] | None:
        """(version, weights) if what is held is newer than ``version``, or becomes it within the time; else None."""
        with self._changed:
            self._changed.wait_for(lambda: self._weights is not None and self._version > version, wait_s)
            if self._weights is None or self._version <= version:
                return None
            return self._version, self._weights
