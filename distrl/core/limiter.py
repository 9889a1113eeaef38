"""Decides who has to wait: the learner for transitions (``SamplesPerInsert``), or an env worker for newer weights
(``Admission``)."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class SamplesPerInsert:
    """Bounds the learner, never the producers.

    An update that samples ``batch_size`` transitions is allowed when at least ``min_size`` transitions are in and

        sampled + batch_size ≤ samples_per_insert · (inserted − min_size) + batch_size

    so that the ratio of samples to inserts beyond the first ``min_size`` approaches ``samples_per_insert`` from below
    and one update is due as soon as the replay is warm. ``samples_per_insert = None`` removes the bound (the learner
    runs as fast as it can).

    One lock; ``inserted`` may be called from another thread than the rest.
    """

    def __init__(self, samples_per_insert: float | None, min_size: int, batch_size: int):
        self.samples_per_insert = samples_per_insert
        self.min_size = min_size
        self.batch_size = batch_size
        self.num_inserted = 0
        self.num_sampled = 0
        self._changed = threading.Condition()

    def inserted(self, count: int) -> None:
        """``count`` transitions have entered the replay."""
        with self._changed:
            self.num_inserted += count
            self._changed.notify_all()

    def sampled(self) -> None:
        """One batch has been sampled."""
        with self._changed:
            self.num_sampled += self.batch_size

    def allows_update(self) -> bool:
        """Whether the next update may start now."""
        return self.allows(self.num_inserted, self.num_sampled, 1)

    def allows(self, inserted: int, sampled: int, learners: int) -> bool:
        """Whether so many learners, which have shared out the transitions and update in step, may do the next update
        with these counts of all of them."""
        min_size = self.min_size * learners
        if inserted < max(min_size, 1):
            return False
        return self.samples_per_insert is None or sampled <= self.samples_per_insert * (inserted - min_size)

    def can_sample(self) -> bool:
        """Whether there is anything to draw."""
        return self.num_inserted > 0

    def waits_for(self) -> str:
        """What is missing for the next update, as one sentence."""
        if self.num_inserted < max(self.min_size, 1):
            return f"the replay holds {self.num_inserted} of the {self.min_size} transitions that learning starts "
            "with (replay.min_size)"
        if self.samples_per_insert is None:
            return "nothing"
        missing = self.num_sampled / self.samples_per_insert + self.min_size - self.num_inserted
        return (
            f"the learner is {missing:.0f} transitions ahead of replay.samples_per_insert = {self.samples_per_insert:g}"
        )

    def wait(self, timeout_s: float) -> bool:
        """Block until an update is allowed or the time is over; returns whether it is allowed."""
        with self._changed:
            return self._changed.wait_for(self.allows_update, timeout_s)


class Admission:
    """Bounds the staleness of what an on-policy learner will train on, by making its producers wait.

    An env worker that has begun n transitions since its first weights, of version v₀, may begin another while

        n < (v − v₀ + 1 + max_staleness) · share

    where v is the version of its present weights and ``share`` its part of the transitions that one version trains on
    (the rule of AReaL, arXiv 2505.24298, section 5.1, for each env worker). With 0 every rollout is made by the newest
    weights; with 1 the next one is made while the learner trains. Rows that ask together are admitted together, so
    where they are not in step, n may end above the bound by their number less one; and so may it where several agents
    act (``lend``).
    """

    def __init__(self, share: int, max_staleness: int):
        self._share, self._max_staleness = share, max_staleness
        self._first: int | None = None
        self._begun = self._lent = 0

    def admits(self, version: int) -> bool:
        """Whether another transition may be begun with weights of this version."""
        if self._first is None:
            self._first = version
        return self._begun - self._lent < (version - self._first + 1 + self._max_staleness) * self._share

    def begun(self, count: int) -> None:
        """So many transitions have been begun."""
        self._begun += count

    def lend(self, count: int) -> None:
        """So many more may be begun, because the learner waits for them. An env worker alone cannot know that it must:
        that another's environments wait for another policy's weights, or that what agents have begun finishes only
        with the others' turns."""
        self._lent += count


class WaitNotice:
    """Says what a loop waits for, once every ``period_s`` of uninterrupted waiting."""

    def __init__(self, who: str, say: Callable[[str], None] = print, period_s: float = 60.0):
        self._who = who
        self._say = say
        self._period_s = period_s
        self._since: float | None = None
        self._said = 0

    def waiting(self, what: Callable[[], str]) -> None:
        """Called in each round of a wait; ``what`` gives the cause in words."""
        now = time.monotonic()
        if self._since is None:
            self._since, self._said = now, 0
        waited_s = now - self._since
        if waited_s >= (self._said + 1) * self._period_s:
            self._said += 1
            self._say(f"{self._who} has waited {waited_s:.0f} s: {what()}")

    def over(self) -> None:
        """The wait has ended (harmless where there was none)."""
        self._since = None
