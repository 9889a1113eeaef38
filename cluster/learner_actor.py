"""A learner as a Ray actor: it secures and inserts what env workers send on its main thread while its loop updates.

EnvWorkerActor ──receive(fragment)──► LearnerActor ──publish──► ParameterServerActor
                              LearnerActor ◄──in step──► LearnerActor     (learner.mode = all_reduce)
                              LearnerActor ──push──► ParameterShardActor  (learner.mode = parameter_server)
"""

from __future__ import annotations

import fcntl
import os
import queue
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import ray

from distrl.cluster import components
from distrl.cluster.inference_choice import choose
from distrl.cluster.policies import plan_policies
from distrl.cluster.ray_actors import LoopActor, whereabouts
from distrl.cluster.shard_line import Address, ShardLine
from distrl.core.config import RunConfig
from distrl.core.contracts import Receipt
from distrl.core.errors import DistrlError, StorageError
from distrl.core.limiter import WaitNotice
from distrl.core.run_directory import learner_directory
from distrl.core.types import EnvSpec, Fragment, Weights

if TYPE_CHECKING:
    from torch.distributed import TCPStore

_OTHER_LEARNER_S = 60.0


def sole_writer(log: Path, timeout_s: float = _OTHER_LEARNER_S) -> int | None:
    """Until this process ends no other one gets past here: two learners would tear each other's records.

    Returns:
        What holds the lock; None on a file system without locks.

    Raises:
        StorageError: another learner of this run still lives after that time.
    """
    log.mkdir(parents=True, exist_ok=True)
    held = os.open(log / "learner.lock", os.O_RDWR | os.O_CREAT, 0o644)
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return held
        except BlockingIOError:
            if time.monotonic() > deadline:
                os.close(held)
                raise StorageError(
                    f"another process writes the experience log in {log}: a run has one learner at a time; end the run "
                    "that is still going on in that directory"
                ) from None
            time.sleep(0.1)
        except OSError:
            os.close(held)
            return None


class LearnerActor(LoopActor):
    """Secures and inserts on its main thread while the loop updates.

    Args:
        rank: which of the run's learners it is. life: how many there have been of it.
    """

    concurrency_groups: ClassVar = {"news": 1}  # what is heard while the main thread waits

    def __init__(
        self, config: dict[str, Any], spec: EnvSpec, directory: str, server: Any, rank: int = 0, life: int = 0
    ):
        super().__init__()
        self._config = RunConfig.validated(config)
        self._server, self._rank, self._life = server, rank, life
        self._meeting: TCPStore | None = None
        self._shards: list[Any] = []
        self._shard_key = b""
        self._addresses: dict[Any, Address] = {}  # of the newest shards, as far as they were asked
        self._lost: str | None = None
        self._finish = threading.Event()
        self._asked = queue.SimpleQueue[Future[Path]]()  # checkpoints that the loop is to write
        self._begun_s: float | None = None
        self._inference: str = self._config.actors.inference
        self._refusal: DistrlError | None = None
        try:
            self._log = sole_writer(learner_directory(Path(directory), rank) / "log")
            self._learner = components.build_learner(self._config, spec, Path(directory), self._publish, rank=rank)
        except DistrlError as error:  # raised here, Ray would bury its sentence in the report of a dead actor
            self._refusal = error
            return
        if self._inference == "auto":
            self._inference = self._choose_inference(spec)
        if self._config.learner.mode == "single":
            self._learner.publish()

    def _publish(self, version: int, weights: Weights, policy_id: str) -> None:
        if self._config.learner.mode != "all_reduce" or self._rank == 0:  # the others' are the same
            self._server.publish.remote(version, weights, policy_id)

    def _choose_inference(self, spec: EnvSpec) -> str:
        if len(self._learner.trainers) > 1 or self._config.league is not None:  # a server serves one policy
            return "local"
        (trainer,) = self._learner.trainers.values()
        (plan,) = plan_policies(self._config, spec)
        choice = choose(trainer.policy(), plan.spec, self._config)
        self._learner.notes.append(choice.reason)
        return choice.where

    def use_server(self, server: Any) -> None:
        """A new parameter server has taken the place of the old one: it gets the newest weights."""
        self._server = server
        if self._refusal is None:
            self._learner.publish()

    @ray.method(concurrency_group="news")  # whoever waits for a dead shard hears of its successor
    def use_shards(self, shards: Sequence[Any]) -> None:
        """The parameter shards there are now, by number."""
        self._shards = list(shards)

    def meeting(self) -> tuple[str, int]:
        """Where the other learners find this first one: host and port."""
        from distrl.learners.together import meeting

        host = ray.util.get_node_ip_address()
        if self._meeting is None:
            self._meeting = meeting(host)
        return host, self._meeting.port

    def start(self, where: tuple[str, int] | None = None, shards: Sequence[Any] = (), key: bytes = b"") -> int:
        """Begin to update; returns the process id.

        Args:
            where: see ``meeting``. shards: see ``use_shards``. key: by which they know us.
        """
        if self._refusal is not None or self._loop is not None:
            return os.getpid()  # the next report tells
        self._shards, self._shard_key = self._shards or list(shards), key
        notice = WaitNotice("the learner" if self._config.learner.count == 1 else f"learner {self._rank}")

        def body() -> None:
            from distrl.learners.together import LearnerLost

            try:
                self._join(where)
                updates()
                self._learner.leave()
            except LearnerLost as error:  # no failure of the run: all of the group are started again
                self._lost = str(error)

        def updates() -> None:
            while not self._stop.is_set():
                self._write_asked()
                if self._learner.update():
                    if self._begun_s is None:
                        self._begun_s = time.monotonic()
                    notice.over()
                    continue
                if self._finish.is_set():
                    return
                notice.waiting(self._learner.waits_for)
                self._learner.wait(0.25)

        self._begin(body)
        return os.getpid()

    def _join(self, where: tuple[str, int] | None) -> None:
        """The other learners, where there are any to be."""
        from distrl.learners.together import Group, meeting

        learner = self._config.learner
        if learner.mode == "single":
            return
        (trainer,) = self._learner.trainers.values()
        if learner.mode == "all_reduce":
            assert where is not None
            store = self._meeting or meeting(*where)
            device, host = components.pick_device(learner.device), ray.util.get_node_ip_address()
            trainer.join(Group(store, self._rank, learner.count, device, host=host))
        else:
            links = [
                ShardLine(partial(self._address_of_shard, number), self._shard_key) for number in range(learner.shards)
            ]
            trainer.share(links, f"{self._rank}.{self._life}", first=self._rank == 0)
        self._learner.publish()

    def _address_of_shard(self, number: int) -> Address | None:
        """Of the newest one, once it is up; None where it has died and we have not been told of its successor."""
        shard = self._shards[number]
        if shard not in self._addresses:
            try:
                self._addresses[shard] = ray.get(shard.address.remote())
            except ray.exceptions.RayActorError:
                return None
        return self._addresses[shard]

    def receive(self, fragment: Fragment) -> Receipt:
        """See ``Learner.receive``."""
        return self._learner.receive(fragment)

    def lacking(self) -> dict[str, tuple[int, int]]:
        """See ``FragmentSink``."""
        return self._learner.lacking()

    def secure(self) -> int:
        """See ``Learner.secure``."""
        return self._learner.secure()

    def report(self) -> dict[str, Any]:
        """See ``Learner.report``; ``notes``: what the user should know about a resume, told once; ``inference``:
        ``actors.inference``, decided.

        Raises:
            DistrlError: why there can be no learner.
        """
        if self._refusal is not None:
            raise self._refusal
        notes, self._learner.notes = self._learner.notes, []
        training_s = time.monotonic() - self._begun_s if self._begun_s is not None else 0.0
        return self._learner.report() | {
            "failure": self._failure,
            "lost": self._lost,
            "notes": notes,
            "inference": self._inference,
            "training_s": training_s,
            "running": self._loop is not None and self._loop.is_alive(),
            **whereabouts(),
        }

    def options(self) -> dict[str, dict[str, Any]]:
        """Policy → the hyperparameters in force."""
        return {name: trainer.options() for name, trainer in self._learner.trainers.items()}

    def checkpoint(self, timeout_s: float) -> str:
        """Write a checkpoint now, between two updates; where it is."""
        asked = Future[Path]()
        self._asked.put(asked)
        if self._loop is None or not self._loop.is_alive():
            self._write_asked()
        return str(asked.result(timeout_s))

    def _write_asked(self) -> None:
        while not self._asked.empty():
            asked = self._asked.get()
            try:
                asked.set_result(self._learner.checkpoint())
            except StorageError as error:  # whoever asked is told; the loop goes on to its own next checkpoint
                asked.set_exception(error)

    def finish(self) -> None:
        """No more fragments will come: end after the updates that are still owed."""
        self._finish.set()

    def stop(self) -> dict[str, Any]:
        """End the loop, publish, write a checkpoint; the last report."""
        if not self._stop.is_set():
            self._stop.set()
            if self._loop is not None:
                self._loop.join()
            self._learner.publish()
            self._learner.checkpoint()
            self._learner.close()
        return self.report()
