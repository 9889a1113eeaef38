"""Fragments that may come twice, late or overlapping in; what has never been secured out.

Delivery is at least once: a restarted env worker sends again what its predecessor had not seen acknowledged. A
transition's key is (episode_uid, agent_index, step).
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import OrderedDict

from distrl.core.fragments import part, runs
from distrl.core.types import Fragment

Interval = tuple[int, int]  # steps [first, stop)


class SeenSteps:
    """Which steps of which episodes have been secured: for each (episode, agent) a few disjoint intervals in order.

    Args:
        max_episodes: the least recently touched are forgotten beyond so many, far more than can be on their way twice.
    """

    def __init__(self, max_episodes: int = 100_000):
        self._max_episodes = max_episodes
        self._episodes: OrderedDict[tuple[int, int], list[Interval]] = OrderedDict()

    def new_parts(self, fragment: Fragment) -> list[Fragment]:
        """Mark a fragment's steps as secured; what of it had not been: the fragment itself, parts of it, or nothing."""
        fresh: list[tuple[int, int, int]] = []
        uid, step, agent = (fragment.columns[name] for name in ("episode_uid", "step", "agent_index"))
        for row, start, stop in runs(fragment):
            key, first = (int(uid[start, row]), int(agent[row])), int(step[start, row])
            for new_first, new_stop in self._add(key, (first, first + stop - start)):
                fresh.append((row, start + new_first - first, start + new_stop - first))
        if sum(stop - start for _, start, stop in fresh) == fragment.num_transitions:
            return [fragment]
        return [part(fragment, *bounds) for bounds in fresh]

    def forget(self, fragment: Fragment) -> None:
        """A fragment that ``new_parts`` has just passed on could not be secured after all."""
        uid, step, agent = (fragment.columns[name] for name in ("episode_uid", "step", "agent_index"))
        for row, start, stop in runs(fragment):
            key, first = (int(uid[start, row]), int(agent[row])), int(step[start, row])
            last = first + stop - start
            kept = []
            for begin, end in self._episodes.get(key, []):
                kept += [(begin, min(end, first)), (max(begin, last), end)]
            self._episodes[key] = [(begin, end) for begin, end in kept if begin < end]

    def _add(self, key: tuple[int, int], interval: Interval) -> list[Interval]:
        """Take an interval in; the parts of it that were not covered."""
        first, stop = interval
        known = self._episodes.get(key)
        if known is None:
            self._episodes[key] = [interval]
            if len(self._episodes) > self._max_episodes:
                self._episodes.popitem(last=False)
            return [interval]
        self._episodes.move_to_end(key)
        if known and known[-1][1] == first:  # as nearly always: the episode goes on
            known[-1] = (known[-1][0], stop)
            return [interval]
        low = bisect_left(known, first, key=lambda item: item[1])  # the first that reaches up to us …
        high = bisect_right(known, stop, key=lambda item: item[0])  # … and behind the last that begins before our end
        new, at = [], first
        for begin, end in known[low:high]:
            if at < begin:
                new.append((at, begin))
            at = max(at, end)
        if at < stop:
            new.append((at, stop))
        touched = known[low:high]
        merged = (min([first, *(begin for begin, _ in touched)]), max([stop, *(end for _, end in touched)]))
        known[low:high] = [merged]
        return new
