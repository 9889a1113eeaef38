"""Fragments in, rollouts of one shape out, first in first out: each transition is handed out once, none is dropped.

Fragments of the rollout's length pass as they are. Shorter and longer ones (an episode's end in a process of its own,
an env worker that leaves, steps found in a dead one's spool) are chained one behind the other and cut to that length:
where one stretch follows another of a different stream, its last step counts as truncated, so that its value is
bootstrapped from its own next observation and nothing flows across.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from distrl.core.fragments import join, part, some_rows
from distrl.core.types import FINAL, OBSERVATION, Fragment
from distrl.learners.rollout import Rollout, rollout_of


@dataclass
class _Ready:
    """Rows of the rollout's length. ``shares``: number of a fragment → how many of its transitions are in each row."""

    fragment: Fragment
    shares: list[dict[int, int]]


class Queue:
    """Where transitions wait for an on-policy learner; also tells when there are enough for an update.

    Args:
        batch_size: transitions of a rollout. steps: T of its rows.
        duration_limit: see ``rollout_of``.
    """

    num_evicted = 0  # as of a replay, which overwrites

    def __init__(self, batch_size: int, steps: int, duration_limit: float | None = None):
        self.batch_size, self._steps, self._duration_limit = batch_size, steps, duration_limit
        self._num_rows = batch_size // steps
        self._changed = threading.Condition()
        self._ready: deque[_Ready] = deque()
        self._rows_ready = 0
        self._rest: list[tuple[int, Fragment]] = []  # (number, stretch of one row) to be chained
        self._waiting: dict[int, tuple[Fragment, int]] = {}  # number → fragment, its transitions not handed out yet
        self.num_added = 0  # fragments
        self.num_inserted = 0  # as a limiter counts; see ``allows``
        self.num_settled = 0  # so many of the first ones have been trained on whole
        self.num_unsampled = 0  # transitions
        self.num_sampled = 0

    def __len__(self) -> int:
        """Transitions that wait."""
        return self.num_unsampled

    def waiting(self) -> Counter[int]:
        """Incarnation of an env worker → transitions of it that wait."""
        with self._changed:
            counts: Counter[int] = Counter()
            for fragment, count in self._waiting.values():
                counts[fragment.incarnation] += count
            return counts

    def add(self, fragment: Fragment) -> None:
        """Take a fragment in; its arrays are kept, not copied."""
        with self._changed:
            self._add(self.num_added, fragment)
            self.num_added += 1
            self._changed.notify_all()

    def _add(self, number: int, fragment: Fragment) -> None:
        self._waiting[number] = (fragment, fragment.num_transitions)
        self.num_unsampled += fragment.num_transitions
        if fragment.num_steps == self._steps:
            self._is_ready(_named(fragment), [{number: self._steps}] * fragment.num_rows)
            return
        for row in range(fragment.num_rows):
            self._rest.append((number, part(fragment, row, 0, fragment.num_steps)))
        while sum(stretch.num_steps for _, stretch in self._rest) >= self._steps:
            self._chain()

    def _chain(self) -> None:
        """One row of the rollout's length from the oldest stretches."""
        taken: list[Fragment] = []
        share: dict[int, int] = {}
        missing = self._steps
        while missing:
            number, stretch = self._rest.pop(0)
            if stretch.num_steps > missing:
                self._rest.insert(0, (number, part(stretch, 0, missing, stretch.num_steps)))
                stretch = part(stretch, 0, 0, missing)
            taken.append(stretch)
            share[number] = share.get(number, 0) + stretch.num_steps
            missing -= stretch.num_steps
        chain = [*(_named(stretch, cut=True) for stretch in taken[:-1]), _named(taken[-1])]
        self._is_ready(join(chain), [share])

    def _is_ready(self, fragment: Fragment, shares: list[dict[int, int]]) -> None:
        self._ready.append(_Ready(fragment, shares))
        self._rows_ready += fragment.num_rows

    def sample(self, batch_size: int, rng: np.random.Generator) -> Rollout:
        """The oldest ``batch_size`` transitions that make whole rows; nothing about it is random."""
        with self._changed:
            rows = batch_size // self._steps
            if self._rows_ready < rows:
                raise ValueError(
                    f"a rollout needs {rows} rows of {self._steps} steps; the queue has {self._rows_ready}"
                )
            taken: list[Fragment] = []
            while rows:
                oldest = self._ready.popleft()
                count = min(rows, oldest.fragment.num_rows)
                if count < oldest.fragment.num_rows:
                    left = some_rows(oldest.fragment, count, oldest.fragment.num_rows)
                    self._ready.appendleft(_Ready(left, oldest.shares[count:]))
                taken.append(some_rows(oldest.fragment, 0, count))
                for share in oldest.shares[:count]:
                    self._handed_out(share)
                rows -= count
                self._rows_ready -= count
            self.num_sampled += batch_size
        return rollout_of(taken, self._duration_limit)

    def _handed_out(self, share: dict[int, int]) -> None:
        for number, count in share.items():
            fragment, waiting = self._waiting.pop(number)
            self.num_unsampled -= count
            if waiting > count:
                self._waiting[number] = (fragment, waiting - count)

    # -- what the learner asks a limiter -------------------------------------------------------------------------------

    @property
    def min_size(self) -> int:
        """Transitions before the first update."""
        return self.batch_size

    def inserted(self, count: int) -> None:
        """See ``SamplesPerInsert``; ``add`` has counted them."""

    def sampled(self) -> None:
        """What has been handed out has been trained on."""
        with self._changed:
            self.num_settled = min(self._waiting, default=self.num_added)

    def allows_update(self) -> bool:
        """Whether there is a whole rollout."""
        return self._rows_ready >= self._num_rows

    def allows(self, inserted: int, sampled: int, learners: int) -> bool:
        """See ``SamplesPerInsert``; each learner's rollout is of the same size."""
        return True

    def can_sample(self) -> bool:
        """Whether there is a whole rollout."""
        return self.allows_update()

    def wait(self, timeout_s: float) -> bool:
        """Block until there is one or the time is over; returns whether there is."""
        with self._changed:
            return self._changed.wait_for(self.allows_update, timeout_s)

    def waits_for(self) -> str:
        """What is missing for the next update, as one sentence."""
        return (
            f"{self._rows_ready} of the {self._num_rows} rows of {self._steps} steps that a rollout needs have come "
            "(algorithm.batch_size, actors.fragment_steps)"
        )

    # -- what outlives the process -------------------------------------------------------------------------------------

    def sampled_state(self) -> dict[str, np.ndarray]:
        """Which fragments still wait, by number; of one that was handed out in part, all of it will wait again."""
        with self._changed:
            state = {"waiting": np.array(sorted(self._waiting), np.int64), "added": np.array(self.num_added, np.int64)}
            return state | {"sampled": np.array(self.num_sampled, np.int64)}

    def restore_sampled(self, state: dict[str, np.ndarray]) -> None:
        """Let go of what had been handed out, after all fragments of the log up to the state have been added again."""
        waiting, added = set(state["waiting"].tolist()), int(state["added"])
        with self._changed:
            kept = {
                number: fragment
                for number, (fragment, _) in sorted(self._waiting.items())
                if number in waiting or number >= added
            }
            self._ready.clear()
            self._rest.clear()
            self._waiting.clear()
            self._rows_ready = self.num_unsampled = 0
            for number, fragment in kept.items():
                self._add(number, fragment)
            self.num_sampled = int(state["sampled"])


class Unlogged:
    """In place of an ExperienceLog where transitions are cheaper than their record: a fragment is secured once it has
    been trained on; until then its env worker keeps it and sends it again to a learner's successor."""

    num_bytes_cut = 0

    def __init__(self, queues: Mapping[str, Queue]):
        """``queues``: by policy."""
        self._queues = queues
        self.num_records = 0
        self._settled = 0  # so many of the first ones …
        self._unsettled: deque[tuple[Queue, int]] = deque()  # … and of the others, which fragment of whose queue

    @property
    def num_synced(self) -> int:
        """Fragments that are secured: so many of the first ones that have come."""
        while self._unsettled and self._unsettled[0][1] < self._unsettled[0][0].num_settled:
            self._unsettled.popleft()
            self._settled += 1
        return self._settled

    def append(self, fragment: Fragment) -> None:
        """Count it; the queue gets it next."""
        queue = self._queues[fragment.policy_id]
        self._unsettled.append((queue, queue.num_added))
        self.num_records += 1

    def sync(self) -> None:
        """An env worker leaves: what it has sent is the learner's from now on, and lost with it."""
        self._unsettled.clear()
        self._settled = self.num_records

    def close(self) -> None:
        """There is nothing to close."""


def _named(fragment: Fragment, cut: bool = False) -> Fragment:
    """With the final observation of each row that ends with its last step where ``Rollout`` has those: a fragment that
    closes with its episode has it as the bootstrap row.

    ``cut``: another stream will follow, so what has not ended is truncated here.
    """
    columns, last = fragment.columns, fragment.num_steps - 1
    truncated = columns["truncated"]
    if cut:
        truncated = truncated.copy()
        truncated[last] |= ~columns["terminated"][last]
    final = columns["final_index"]
    ended = columns["terminated"][last] | truncated[last]
    ended[final[final[:, 0] == last, 1]] = False  # named already
    rows = np.flatnonzero(ended)
    if not len(rows):
        return fragment
    named = np.stack([np.full(len(rows), last), rows], axis=1).astype(np.int32)
    found = columns | {"truncated": truncated, "final_index": np.concatenate([final, named])}
    for name in columns:
        if name.startswith(FINAL):
            bootstrap = columns[OBSERVATION + name.removeprefix(FINAL)][last + 1, rows]
            found[name] = np.concatenate([columns[name], bootstrap])
    return Fragment(found, fragment.policy_id, fragment.worker, fragment.incarnation)
