"""Fragments in, generations of whole episodes out, first in first out: each transition is handed out once."""

from __future__ import annotations

from typing import Any

import numpy as np

from distrl.core.types import Fragment
from distrl.learners.queue import Queue


class EpisodeQueue(Queue):
    """Where transitions wait until enough episodes have ended, however long these are.

    Fragments are handed out as they came: also those of episodes that are still running, which the algorithm adds up
    itself. So nothing waits for an episode that will never end, because its env worker has left.

    Args:
        batch_size: episodes that an update takes, of which the last one's fragment may bring a few more.
    """

    def __init__(self, batch_size: int):
        super().__init__(batch_size, steps=1)
        self._ends: dict[int, int] = {}  # number of a fragment that waits → episodes that end in it

    def _add(self, number: int, fragment: Fragment) -> None:
        self._waiting[number] = (fragment, fragment.num_transitions)
        self.num_unsampled += fragment.num_transitions
        columns = fragment.columns
        self._ends[number] = int((columns["terminated"] | columns["truncated"]).sum())
        self._rows_ready += self._ends[number]

    def sample(self, batch_size: int, rng: np.random.Generator) -> Any:
        """The oldest fragments, in the order of arrival, up to the one with the last of ``batch_size`` ends: a list."""
        with self._changed:
            if self._rows_ready < batch_size:
                raise ValueError(f"a generation needs {batch_size} ends of episodes; the queue has {self._rows_ready}")
            taken: list[Fragment] = []
            for number in sorted(self._waiting):
                fragment, count = self._waiting.pop(number)
                ends = self._ends.pop(number)
                taken.append(fragment)
                self.num_unsampled -= count
                self.num_sampled += count
                self._rows_ready -= ends
                batch_size -= ends
                if batch_size <= 0:
                    break
        return taken

    def allows_update(self) -> bool:
        """Whether enough episodes have ended."""
        return self._rows_ready >= self.batch_size

    def waits_for(self) -> str:
        """What is missing for the next update, as one sentence."""
        return f"{self._rows_ready} of the {self.batch_size} episodes of a generation have ended (algorithm.population)"

    def restore_sampled(self, state: dict[str, np.ndarray]) -> None:
        """See ``Queue``; fragments are handed out whole, so none comes twice."""
        self._ends.clear()
        super().restore_sampled(state)
