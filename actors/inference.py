"""Observations go in, actions come out: of the env worker's own copy of the policy, or of an inference server, whose
stand-in that copy is.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import NamedTuple, Protocol

import numpy as np

from distrl.core.contracts import Policy, WeightsSource
from distrl.core.types import Columns, Observation

_PATIENCE_S = 10.0  # with a server that does not answer; then it is taken for gone


class Answer(NamedTuple):
    """Attributes: version: of the weights that chose. action: [N, …]. log_prob: float32 [N]. state: the next."""

    version: int
    action: np.ndarray
    log_prob: np.ndarray
    state: Columns


class _Asked(NamedTuple):
    since_s: float
    observation: Observation
    state: Columns
    is_first: np.ndarray


class Inference(Protocol):
    """What an env worker acts with, for one policy.

        if inference.remote:
            inference.ask(ticket, observation, state, is_first)        # which it keeps until the answer is there
        else:
            answer = inference.act(observation, state, is_first)
        for ticket, answer in inference.answers(timeout_s): …          # in any order

    Attributes:
        policy: for its initial state and what the environment is given; its weights may be elsewhere.
        version: of the newest weights that act; −1: none yet. ready: whether it may be asked.
        remote: whether ``ask`` is the faster way now; both always work.
        seconds: that rows have waited for actions.
    """

    policy: Policy

    @property
    def seconds(self) -> float: ...

    @property
    def version(self) -> int: ...

    @property
    def ready(self) -> bool: ...

    @property
    def remote(self) -> bool: ...

    def pull(self, wait_s: float = 0.0) -> bool:
        """Take newer weights where there are any, or come within the time; returns whether there were. Any thread."""

    def act(self, observation: Observation, state: Columns, is_first: np.ndarray) -> Answer: ...

    def ask(self, ticket: int, observation: Observation, state: Columns, is_first: np.ndarray) -> None: ...

    def answers(self, timeout_s: float) -> list[tuple[int, Answer]]:
        """What has come since the last call; waits for the first that long, where any is missing."""

    def close(self) -> None:
        """No more will be asked."""


class LocalInference:
    """The policy in the calling process, with weights that it pulls. Implements ``Inference`` but for ``ask``: nobody
    need."""

    remote = False

    def __init__(self, policy: Policy, source: WeightsSource):
        self.policy, self._source = policy, source
        self.version = -1
        self.seconds = 0.0
        self._lock = threading.Lock()

    @property
    def ready(self) -> bool:
        """See ``Inference``."""
        return self.policy.ready

    def pull(self, wait_s: float = 0.0) -> bool:
        """See ``Inference``."""
        newer = self._source.pull_if_newer(self.version, wait_s)
        if newer is None:
            return False
        version, weights = newer
        with self._lock:  # or an older version could be loaded after a newer one
            if version > self.version:
                self.policy.load(weights)
                self.version = version
        return True

    def act(self, observation: Observation, state: Columns, is_first: np.ndarray) -> Answer:
        """See ``Inference``."""
        version = max(self.version, 0)  # before the first weights, no update is behind the actions
        started = time.perf_counter()
        action, log_prob, following = self.policy.step(observation, state, is_first)
        self.seconds += time.perf_counter() - started
        return Answer(version, action, log_prob, following)

    def ask(self, ticket: int, observation: Observation, state: Columns, is_first: np.ndarray) -> None:
        """There is nobody to ask."""
        raise NotImplementedError

    def answers(self, timeout_s: float) -> list[tuple[int, Answer]]:
        """There are none."""
        return []

    def close(self) -> None:
        """See ``Inference``."""


class ThreadInference:
    """A policy that acts in a thread of its own, so that no other policy's rows wait for it; weights as
    ``LocalInference``. Implements ``Inference``."""

    remote = True

    def __init__(self, local: LocalInference):
        self._local = local
        self.policy, self.pull, self.act = local.policy, local.pull, local.act
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="inference")
        self._asked: dict[int, Future[Answer]] = {}

    @property
    def version(self) -> int:
        """See ``Inference``."""
        return self._local.version

    @property
    def ready(self) -> bool:
        """See ``Inference``."""
        return self._local.ready

    @property
    def seconds(self) -> float:
        """See ``Inference``."""
        return self._local.seconds

    def ask(self, ticket: int, observation: Observation, state: Columns, is_first: np.ndarray) -> None:
        """See ``Inference``."""
        self._asked[ticket] = self._thread.submit(self._local.act, observation, state, is_first)

    def answers(self, timeout_s: float) -> list[tuple[int, Answer]]:
        """See ``Inference``."""
        if timeout_s > 0.0:
            wait(self._asked.values(), timeout_s, FIRST_COMPLETED)
        there = [ticket for ticket, future in self._asked.items() if future.done()]
        return [(ticket, self._asked.pop(ticket).result()) for ticket in there]

    def close(self) -> None:
        """See ``Inference``."""
        self._thread.shutdown(cancel_futures=True)


class ServerLink(Protocol):
    """An inference server as an env worker reaches it.

    Attributes: alive: whether there is one; False once it is known to be gone, until another has taken its place.
    """

    alive: bool

    def ask(self, ticket: int, observation: Observation, state: Columns, is_first: np.ndarray, at_least: int) -> None:
        """See ``InferenceServer.ask``."""

    def answers(self, timeout_s: float) -> list[tuple[int, Answer | None]]:
        """See ``Inference``; None: the server has died."""

    def newer_version(self, version: int, wait_s: float) -> int | None:
        """That the server acts with, if it is newer than ``version`` or becomes it within the time."""


class ServerInference:
    """An inference server chooses; while there is none, the env worker's own copy does. Implements ``Inference``.

    No row waits for a server that has gone: what it has not answered, the copy answers, with weights that it pulls
    then. Whoever answers, versions never decrease.
    """

    def __init__(self, link: ServerLink, stand_in: LocalInference):
        self._link, self._stand_in = link, stand_in
        self.policy = stand_in.policy
        self.seconds = 0.0
        self._version = -1
        self._asked: dict[int, _Asked] = {}

    @property
    def version(self) -> int:
        """See ``Inference``."""
        return max(self._version, self._stand_in.version)

    @property
    def remote(self) -> bool:
        """See ``Inference``."""
        return self._link.alive

    @property
    def ready(self) -> bool:
        """See ``Inference``."""
        return self.policy.ready  # as the server's is before its first weights

    def pull(self, wait_s: float = 0.0) -> bool:
        """See ``Inference``."""
        if not self._link.alive:
            return self._stand_in.pull(wait_s)
        version = self._link.newer_version(self.version, wait_s)
        self._version = self._version if version is None else version
        return version is not None

    def act(self, observation: Observation, state: Columns, is_first: np.ndarray) -> Answer:
        """See ``Inference``: by the own copy."""
        # false before the first weights, and wherever the server has had newer ones
        while self._stand_in.version < self._version or not self._stand_in.ready:
            self._stand_in.pull(0.5)
        return self._stand_in.act(observation, state, is_first)

    def ask(self, ticket: int, observation: Observation, state: Columns, is_first: np.ndarray) -> None:
        """See ``Inference``: of the server, or of whoever answers for it."""
        self._asked[ticket] = _Asked(time.monotonic(), observation, state, is_first)
        if self._link.alive:
            self._link.ask(ticket, observation, state, is_first, self.version)

    def answers(self, timeout_s: float) -> list[tuple[int, Answer]]:
        """See ``Inference``."""
        found, lost = [], []
        for ticket, answer in self._link.answers(timeout_s if self._asked and self._link.alive else 0.0):
            asked = self._asked.pop(ticket, None)
            if asked is None:
                continue  # the copy was faster
            if answer is None:
                lost.append((ticket, asked))
                continue
            self.seconds += time.monotonic() - asked.since_s
            self._version = max(self._version, answer.version)
            found.append((ticket, answer))
        if self._asked and time.monotonic() - next(iter(self._asked.values())).since_s > _PATIENCE_S:
            self._link.alive = False
        if not self._link.alive:
            lost += self._asked.items()
            self._asked = {}
        if lost:
            self._stand_in.pull()
            found += [(ticket, self.act(*asked[1:])) for ticket, asked in lost]
        return found

    def close(self) -> None:
        """See ``Inference``."""
