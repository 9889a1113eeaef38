"""Fragments in, the returns of the episodes that they hold from the first step to the last out; and what a choice of
episodes may be of."""

from __future__ import annotations

from enum import StrEnum

import numpy as np

from distrl.core.types import Fragment


class Quality(StrEnum):
    """How good the policies were that played some episodes; see distrl.mixes."""

    GOOD = "good"
    MEDIUM = "medium"
    POOR = "poor"
    REPLAY = "replay"


class EpisodeReturns:
    """Sums rewards over the steps and agents of every episode, in whatever parts and order they come.

    returns = EpisodeReturns()
    for _, fragment in read_log(directory):
        returns.add(fragment)
    returns.whole()
    """

    def __init__(self) -> None:
        self._sums: dict[int, float] = {}
        self._ends: dict[int, int] = {}  # episode → agents whose end has come
        # episode → steps that have not come, up to the ends that have; below 0 where an agent goes on
        self._missing: dict[int, int] = {}

    def add(self, fragment: Fragment) -> None:
        """Count a fragment; a transition that comes twice makes its episode one that is not whole."""
        columns = fragment.columns
        uids, where = np.unique(columns["episode_uid"], return_inverse=True)
        where = where.reshape(-1)
        over = (columns["terminated"] | columns["truncated"]).reshape(-1)
        lengths = np.where(over, columns["step"].reshape(-1) + 1, 0)  # of the agents whose end this is
        weights = (columns["reward"].reshape(-1), over, lengths - 1)
        found = (np.bincount(where, values, len(uids)) for values in weights)
        for uid, reward, ends, steps in zip(uids.tolist(), *(sums.tolist() for sums in found), strict=True):
            self._sums[uid] = self._sums.get(uid, 0.0) + reward
            self._ends[uid] = self._ends.get(uid, 0) + int(ends)
            self._missing[uid] = self._missing.get(uid, 0) + int(steps)

    def whole(self) -> dict[int, float]:
        """Episode → the sum of all its agents' rewards, in the order in which they appeared; only those of which no
        step is missing."""
        return {uid: self._sums[uid] for uid, steps in self._missing.items() if steps == 0}

    def num_agents(self, episode: int) -> int:
        """How many agents a whole episode had."""
        return self._ends[episode]
