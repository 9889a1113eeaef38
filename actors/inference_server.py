"""Rows of many env workers come in, go through one copy of the policy together, and each worker's actions go back."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from distrl.actors.inference import Answer, LocalInference
from distrl.core.contracts import Policy, WeightsSource
from distrl.core.types import Columns, Observation

_PULL_WAIT_S = 0.5


@dataclass
class _Asked:
    observation: Observation
    state: Columns
    is_first: np.ndarray
    at_least: int
    came_s: float
    answer: Future[Answer] = field(default_factory=Future)

    @property
    def num_rows(self) -> int:
        return len(self.is_first)


class InferenceServer:
    """Dynamic batching with a bound on what it adds to the latency.

        answer = server.ask(observation, state, is_first).result()   # from any thread
        server.run(stop)                                             # the loop, in one

    A batch goes through the policy as soon as it has ``max_rows`` rows, or its oldest request has waited
    ``max_wait_s``; while a batch is computed, the next one gathers. The server keeps no state of any row, so env
    workers may leave, come and ask another one.

    Args:
        max_rows: of a batch; one request larger than that is a batch of its own.
        max_wait_s: that a request may wait for others to join it. 0: whatever is there goes at once.
        on_news: called, in the loop's threads, when newer weights act.
    """

    def __init__(
        self,
        policy: Policy,
        source: WeightsSource,
        max_rows: int,
        max_wait_s: float,
        on_news: Callable[[], None] = lambda: None,
    ):
        self._inference = LocalInference(policy, source)
        self._max_rows, self._max_wait_s, self._on_news = max_rows, max_wait_s, on_news
        self._queue: queue.SimpleQueue[_Asked] = queue.SimpleQueue()
        self._next: _Asked | None = None  # it did not fit into the batch before
        self._num_batches = self._num_rows = 0
        self._waited_s = 0.0
        self._turned_s = time.monotonic()  # when the loop last came round

    @property
    def version(self) -> int:
        """Of the weights that act; −1: none yet."""
        return self._inference.version

    def ask(self, observation: Observation, state: Columns, is_first: np.ndarray, at_least: int = -1) -> Future[Answer]:
        """Rows that want an action: observation, state: path → [N, …]; is_first: bool [N], all read when their batch
        begins. ``at_least``: a version that others have acted with already.

        The future has the policy's error where it raises one.
        """
        asked = _Asked(observation, state, is_first, at_least, time.monotonic())
        self._queue.put(asked)
        return asked.answer

    def pull(self, wait_s: float = 0.0) -> bool:
        """See ``Inference.pull``."""
        if self._inference.pull(wait_s):
            self._on_news()
            return True
        return False

    def run_once(self, timeout_s: float) -> int:
        """Answer one batch; returns its rows, 0 where nobody asked within the time."""
        self._turned_s = time.monotonic()
        batch = self._gather(timeout_s)
        if not batch:
            return 0
        while self.version < max(asked.at_least for asked in batch):
            self.pull(_PULL_WAIT_S)
        began = time.monotonic()
        self._waited_s += sum(began - asked.came_s for asked in batch)
        try:
            answer = self._inference.act(
                _joined([asked.observation for asked in batch]),
                _joined([asked.state for asked in batch]),
                np.concatenate([asked.is_first for asked in batch]),
            )
        except Exception as error:  # noqa: BLE001  it is the askers', who end their runs with it
            for asked in batch:
                asked.answer.set_exception(error)
            return 0
        begin = 0
        for asked in batch:
            part = slice(begin, begin := begin + asked.num_rows)
            state = {path: array[part] for path, array in answer.state.items()}
            asked.answer.set_result(Answer(answer.version, answer.action[part], answer.log_prob[part], state))
        self._num_batches += 1
        self._num_rows += begin
        return begin

    def _gather(self, timeout_s: float) -> list[_Asked]:
        try:
            batch = [self._next if self._next is not None else self._queue.get(timeout=timeout_s)]
        except queue.Empty:
            return []
        self._next = None
        num_rows, due = batch[0].num_rows, batch[0].came_s + self._max_wait_s
        while num_rows < self._max_rows:
            try:
                asked = self._queue.get(timeout=max(due - time.monotonic(), 0.0))
            except queue.Empty:
                break
            if num_rows + asked.num_rows > self._max_rows:
                self._next = asked
                break
            batch.append(asked)
            num_rows += asked.num_rows
        return batch

    def run(self, stop: threading.Event, wait_for_weights: bool) -> None:
        """Until ``stop``: answer, with weights pulled by a thread of its own.

        ``wait_for_weights``: answer nobody before the first pull, even with a policy that can act untrained.
        """
        while not self.pull(_PULL_WAIT_S) and (wait_for_weights or not self._inference.ready):
            self._turned_s = time.monotonic()
            if stop.wait(0.02):
                return
        puller = threading.Thread(target=self._pull_for_ever, args=(stop,), name="pull", daemon=True)
        puller.start()
        while not stop.is_set():
            self.run_once(0.25)
        puller.join()

    def _pull_for_ever(self, stop: threading.Event) -> None:
        while not stop.wait(0.001):  # a server that is away does not wait
            self.pull(_PULL_WAIT_S)

    def report(self) -> dict[str, Any]:
        """Totals: batches, rows, seconds that requests have waited for others, seconds in the policy. And
        ``still_s``: since its loop last came round, which takes a batch, or the wait for one.
        """
        return {
            "version": self.version,
            "batches": self._num_batches,
            "rows": self._num_rows,
            "waited_s": self._waited_s,
            "inference_s": self._inference.seconds,
            "still_s": time.monotonic() - self._turned_s,
        }


def _joined(parts: list[Columns]) -> Columns:
    if len(parts) == 1:  # what came through shared memory is read-only, which torch does not take
        return {path: array if array.flags.writeable else array.copy() for path, array in parts[0].items()}
    return {path: np.concatenate([part[path] for part in parts]) for path in parts[0]}
