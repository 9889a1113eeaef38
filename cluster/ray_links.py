"""What travels between Ray actors: fragments to the learner and again to its successor, weights from the parameter
server, and what dead env workers have left in their spools.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import ray

from distrl.core.contracts import FragmentSink
from distrl.core.errors import RunFailed
from distrl.core.fragments import join
from distrl.core.limiter import WaitNotice
from distrl.core.spool import Orphan, orphans
from distrl.core.spool_files import is_held
from distrl.core.types import DEFAULT_POLICY, Fragment, Weights

_DYING_S = 10.0  # within which a killed process has let go of its files


def start_actor(kind: type, *arguments: Any, **options: Any) -> Any:
    """A Ray actor of a plain class. Ray never restarts one: the supervisor does.

    A call whose message or answer was lost on its way is made again, so every method must bear being called twice.
    """
    groups = getattr(kind, "concurrency_groups", None)  # of methods that do not wait for the others
    actor: Any = ray.remote  # whose annotations know nothing of groups
    remote = actor(kind) if groups is None else actor(concurrency_groups=groups)(kind)
    return remote.options(max_restarts=0, max_task_retries=-1, **{"num_cpus": 0, **options}).remote(*arguments)


class RaySource:
    """Pulls one policy's weights from a parameter server that may be away: then nothing is newer.

    Args:
        server: tells which one there is now.
    """

    def __init__(self, server: Callable[[], Any], policy_id: str = DEFAULT_POLICY):
        self._server, self._policy_id = server, policy_id

    def pull_if_newer(self, version: int, wait_s: float = 0.0) -> tuple[int, Weights] | None:
        """See ``ParameterServer.pull_if_newer``."""
        try:  # ray.get would complain in a thread of an asynchronous actor
            answer = self._server().pull_if_newer.remote(version, wait_s, self._policy_id)
            return answer.future().result(timeout=30 + wait_s)
        except (ray.exceptions.RayActorError, ray.exceptions.ObjectLostError, TimeoutError):
            return None  # the supervisor starts a new one and tells us; until then the old weights act


def pull_all(server: Any, policy_ids: Collection[str]) -> dict[str, tuple[int, Weights]]:
    """policy → (version, weights); none where the parameter server is away."""
    try:
        return ray.get(server.pull_all.remote(list(policy_ids)), timeout=30)
    except (ray.exceptions.RayActorError, ray.exceptions.ObjectLostError, ray.exceptions.GetTimeoutError):
        return {}


@dataclass
class _Sent:
    fragment: Fragment
    secured: Callable[[], None]
    reply: Any  # reference to the learner's receipt
    records: int | None = None  # of the log, up to this fragment: known from the receipt on


class _Lane:
    """What is under way to one learner, and to its successors."""

    def __init__(self, learner: Any):
        self.learner = learner
        self.under_way: deque[_Sent] = deque()  # not secured, oldest first
        self.num_bytes = 0
        self._secured = 0  # records of the log that are

    def send(self, fragment: Fragment, secured: Callable[[], None]) -> None:
        self.under_way.append(_Sent(fragment, secured, self.learner.receive.remote(fragment)))
        self.num_bytes += fragment.nbytes

    def switch(self, learner: Any) -> None:
        self.learner = learner
        self._secured = 0  # of its log, this learner tells anew
        for sent in self.under_way:
            sent.reply, sent.records = learner.receive.remote(sent.fragment), None

    def hear(self, timeout_s: float) -> None:
        """Take the receipts that have come; wait for the oldest missing one."""
        for sent in self.under_way:
            if sent.records is not None:
                continue
            ready, _ = ray.wait([sent.reply], timeout=timeout_s)
            if not ready:
                break
            try:
                receipt = ray.get(sent.reply)
            except ray.exceptions.RayActorError:
                time.sleep(min(timeout_s, 0.1))  # the supervisor starts another learner and tells us
                break
            except ray.exceptions.RayTaskError as error:
                raise error.cause from None  # the sentence of whoever refused, without Ray's traceback
            sent.records = receipt.records
            self._secured = max(self._secured, receipt.secured)
        self._settle()

    def ask(self) -> None:
        """Where everything has been received: have it secured now."""
        if self.under_way and self.under_way[-1].records is not None:
            try:
                self._secured = max(self._secured, ray.get(self.learner.secure.remote(), timeout=30))
            except (ray.exceptions.RayActorError, ray.exceptions.GetTimeoutError):
                return
            except ray.exceptions.RayTaskError as error:
                raise error.cause from None
            self._settle()

    def _settle(self) -> None:
        while self.under_way and (records := self.under_way[0].records) is not None and records <= self._secured:
            sent = self.under_way.popleft()
            self.num_bytes -= sent.fragment.nbytes
            sent.secured()


class RaySink:
    """Sends fragments to a learner without waiting for it, up to a bound on what is not yet secured; what a dead
    learner has left unsecured is sent again to its successor.

    Args:
        learner: where to, and ``rank``: which of the run's it is.
    """

    def __init__(self, learner: Any, max_bytes: float, who: str, rank: int = 0):
        self._lanes, self._rank = {rank: _Lane(learner)}, rank
        self._told: deque[tuple[int, Any, bool]] = deque()  # from another thread: see ``_switch``
        self._max_bytes = max_bytes
        self._notice = WaitNotice(who)

    def use_learner(self, learner: Any, rank: int = 0) -> None:
        """A new learner has taken the place of the old one of this rank (any thread)."""
        self._told.append((rank, learner, False))

    def feed(self, learner: Any, rank: int) -> None:
        """Send what comes from now on to this learner; what is under way stays where it is (any thread)."""
        self._told.append((rank, learner, True))

    @property
    def feeds(self) -> list[int]:
        """Ranks of the learners that something is sent to, or under way to."""
        under_way = {rank for rank, lane in self._lanes.copy().items() if lane.under_way}
        return sorted(under_way | {self._rank} | {rank for rank, _, _ in self._told.copy()})

    @property
    def is_full(self) -> bool:
        """Whether publishing waits for the learner."""
        return sum(lane.num_bytes for lane in self._lanes.copy().values()) > self._max_bytes

    def publish(self, fragment: Fragment, secured: Callable[[], None]) -> None:
        """See ``FragmentSink``."""
        self._switch()
        self._lanes[self._rank].send(fragment, secured)
        self._hear(0.0)
        while self.is_full:
            self._switch()
            self._notice.waiting(
                lambda: (
                    f"{sum(lane.num_bytes for lane in self._lanes.values()) / 1e6:.0f} MB of fragments are not "
                    "acknowledged by the learner (actors.max_unacknowledged_mb)"
                )
            )
            self._hear(1.0)
            self._ask()
        self._notice.over()

    def keep_up(self) -> None:
        """See ``FragmentSink``."""
        self._switch()
        self._hear(0.0)

    def flush(self, timeout_s: float) -> None:
        """See ``FragmentSink``."""
        deadline = time.monotonic() + timeout_s
        while (left := sum(len(lane.under_way) for lane in self._lanes.values())) and time.monotonic() < deadline:
            self._switch()
            self._hear(0.5)
            self._ask()
        if left:
            raise RunFailed(f"the learner has not acknowledged {left} fragments within {timeout_s:g} s")

    def lacking(self) -> dict[str, tuple[int, int]]:
        """See ``FragmentSink``; nothing of a learner that is away."""
        try:
            return ray.get(self._lanes[self._rank].learner.lacking.remote(), timeout=30)
        except (ray.exceptions.RayActorError, ray.exceptions.GetTimeoutError):
            return {}

    def _switch(self) -> None:
        """Do what other threads have told."""
        while self._told:
            rank, learner, from_now_on = self._told[0]
            if rank not in self._lanes:
                self._lanes[rank] = _Lane(learner)
            elif not from_now_on:
                self._lanes[rank].switch(learner)
            if from_now_on:
                self._rank = rank
            self._told.popleft()
        for rank, lane in list(self._lanes.items()):
            if rank != self._rank:  # nothing follows by whose receipt we would hear that the last is secured
                lane.ask()
                if not lane.under_way:
                    del self._lanes[rank]

    def _hear(self, timeout_s: float) -> None:
        for lane in self._lanes.values():
            lane.hear(timeout_s)

    def _ask(self) -> None:
        for lane in self._lanes.values():
            lane.ask()


def send_again(orphans: list[Orphan], sink: FragmentSink) -> None:
    """Publish what dead lives have left in their spools; each spool goes once all of it is secured."""
    for orphan in orphans:
        for number, pieces in groupby(orphan.pieces(), key=itemgetter(0)):
            stretches = _stretches([piece for _, piece in pieces])
            secured = _countdown(len(stretches), partial(orphan.forget, number))
            for stretch in stretches:
                sink.publish(stretch, secured)


def _countdown(count: int, then: Callable[[], None]) -> Callable[[], None]:
    """What calls ``then`` when it has been called ``count`` times."""
    left = iter(range(count - 1, -1, -1))

    def once() -> None:
        if next(left) == 0:
            then()

    return once


def _stretches(pieces: list[Fragment]) -> list[Fragment]:
    """Pieces of one row joined, as far as their steps follow each other (a damaged one leaves a gap)."""
    groups: list[list[Fragment]] = []
    for piece in pieces:
        if groups and _follows(groups[-1][-1], piece):
            groups[-1].append(piece)
        else:
            groups.append([piece])
    return [join(group) for group in groups]


def _follows(before: Fragment, after: Fragment) -> bool:
    uid, step = before.columns["episode_uid"], before.columns["step"]
    return (
        before.num_rows == after.num_rows == 1
        and uid[-1, 0] == after.columns["episode_uid"][0, 0]
        and step[-1, 0] + 1 == after.columns["step"][0, 0]
    )


class _AtOnce:
    """A sink that waits for every receipt, and fails with its learner."""

    def __init__(self, learner: Any):
        self._learner = learner
        self._secured: list[Callable[[], None]] = []

    def publish(self, fragment: Fragment, secured: Callable[[], None]) -> None:
        ray.get(self._learner.receive.remote(fragment))
        self._secured.append(secured)

    def keep_up(self) -> None:
        """Nothing is under way."""

    def lacking(self) -> dict[str, tuple[int, int]]:
        """Nobody waits for newer weights here."""
        return {}

    def flush(self, timeout_s: float) -> None:
        ray.get(self._learner.secure.remote(), timeout=timeout_s)
        for secured in self._secured:
            secured()


def sweep(directory: str, learner_of: Callable[[int], Any], from_worker: int) -> dict[int, int] | None:
    """Send again whatever dead env workers have left on this node; for numbers that nobody will start again, or at
    the end of a run.

    Returns:
        incarnation → transitions that it had committed. None: a learner died; its successor must be sent it all.
    """
    folders = [path for path in Path(directory).glob("worker-*") if _number(path) >= from_worker]
    deadline = time.monotonic() + _DYING_S
    while (
        any(is_held(spool) for folder in folders for spool in folder.glob("*.sqlite")) and time.monotonic() < deadline
    ):
        time.sleep(0.1)  # an env worker that was killed a moment ago lets go with its death
    by_folder = {folder: adopt_all(folder) for folder in folders}
    found = [orphan for orphans_there in by_folder.values() for orphan in orphans_there]
    try:
        for folder, orphans_there in by_folder.items():
            sink = _AtOnce(learner_of(_number(folder)))
            send_again(orphans_there, sink)
            sink.flush(timeout_s=60.0)
    except ray.exceptions.RayActorError:
        return None
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
    finally:
        for orphan in found:
            orphan.close()
        for folder in [*folders, Path(directory)]:
            with contextlib.suppress(OSError):  # somebody's spool is still in it
                folder.rmdir()
    return {orphan.incarnation: orphan.num_committed for orphan in found}


def _number(folder: Path) -> int:
    """Of the env worker whose spools are in this folder."""
    return int(folder.name.partition("-")[2])


def adopt_all(folder: Path) -> list[Orphan]:
    """The spools of dead lives in a folder, oldest first, held by us from now on."""
    return [orphan for path in orphans(folder) if (orphan := Orphan.adopt(path)) is not None]
