"""Learners publish weights, actors pull those that are newer: one versioned store, a plain class without torch.

``cluster`` makes a Ray actor of it; in one process it is called directly.
"""

from __future__ import annotations

import threading
from collections.abc import Collection

from distrl.core.types import DEFAULT_POLICY, Weights


class ParameterServer:
    """Holds the newest weights of each policy.

    A version is the number of updates behind the weights; it never decreases, so a late or repeated publication changes
    nothing.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._held: dict[str, tuple[int, Weights]] = {}  # by policy

    def publish(self, version: int, weights: Weights, policy_id: str = DEFAULT_POLICY) -> int:
        """Offer weights; returns the version now held."""
        with self._changed:
            held = self._held.get(policy_id)
            if held is None or version > held[0]:
                held = self._held[policy_id] = version, weights
                self._changed.notify_all()
            return held[0]

    def pull_if_newer(
        self, version: int, wait_s: float = 0.0, policy_id: str = DEFAULT_POLICY
    ) -> tuple[int, Weights] | None:
        """(version, weights) if what is held is newer than ``version``, or becomes it within the time; else None."""

        def newer() -> tuple[int, Weights] | None:
            held = self._held.get(policy_id)
            return held if held is not None and held[0] > version else None

        with self._changed:
            return self._changed.wait_for(newer, wait_s) or None

    def pull_all(self, policy_ids: Collection[str]) -> dict[str, tuple[int, Weights]]:
        """policy → (version, weights), of those that have been published."""
        with self._changed:
            return {name: self._held[name] for name in policy_ids if name in self._held}


class PolicySource:
    """A parameter server in the same process as one policy's source of weights."""

    def __init__(self, server: ParameterServer, policy_id: str):
        self._server, self._policy_id = server, policy_id

    def pull_if_newer(self, version: int, wait_s: float = 0.0) -> tuple[int, Weights] | None:
        """See ``ParameterServer.pull_if_newer``."""
        return self._server.pull_if_newer(version, wait_s, self._policy_id)
