"""The learners of a run, and the shards of the parameters that they share: started, wired, replaced, ended.

learner.mode = single            one learner
               all_reduce        learners in step: where one dies, all begin again from the first one's checkpoint
               parameter_server  learners and shards: who dies is replaced, and the others go on
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable, Set
from typing import Any

import ray

from distrl.cluster.learner_actor import LearnerActor
from distrl.cluster.learner_reports import together
from distrl.cluster.member import Member
from distrl.cluster.parameter_shard_actor import ParameterShardActor, forget_shards
from distrl.cluster.placement import in_group, on_another_node
from distrl.cluster.ray_links import start_actor
from distrl.cluster.resources import learner as learner_request
from distrl.core.config import RunConfig
from distrl.core.run_directory import RunDirectory
from distrl.core.types import EnvSpec


class LearnerSide:
    """Everybody who makes updates.

    Attributes:
        learners: by rank. shards: by number.
    """

    def __init__(self, config: RunConfig, spec: EnvSpec, run: RunDirectory, gpus: float):
        self._config, self._plain, self._spec, self._run, self._gpus = config, config.model_dump(), spec, run, gpus
        self._settings = config.learner
        self._server: Any = None
        self._reports: dict[int, dict[str, Any]] = {}  # of each learner, its newest
        self.learners: list[Member] = []
        self.shards: list[Member] = []
        self._shard_key = secrets.token_bytes(32)  # by which shards know the learners of this run
        self._names: dict[int, str] = {}  # by rank, as the shards know it
        self._left: set[int] = set()  # ranks of those that have left …
        self._joining: set[int] = set()  # … and of those that have come back, until they are heard
        self._retiring: dict[int, Any] = {}  # those that are leaving → their last report, once nobody feeds them

    def start(self, server: Any) -> None:
        """Start everybody; ``server``: where weights are published."""
        self._server = server
        sharded = self._settings.mode == "parameter_server"
        forget_shards(self._run.path, but=self._settings.shards if sharded else None)
        if sharded:
            self.shards = [self._start_shard(number) for number in range(self._settings.shards)]
        self.learners = [self._start_learner(rank) for rank in range(self._settings.count)]
        self._wire(self.learners)

    @property
    def members(self) -> list[Member]:
        """Learners and shards that can be asked."""
        asked = [rank for rank in self._present() if self._retiring.get(rank) is None]
        return [*(self.learners[rank] for rank in asked), *self.shards]

    @property
    def heard(self) -> bool:
        """Whether all have answered."""
        return all(member.heard for member in self.members)

    @property
    def updating(self) -> bool:
        """Whether the loop of any learner ran when it was last heard."""
        return len(self._reports) < len(self.learners) or any(report["running"] for report in self._reports.values())

    @property
    def actors(self) -> list[Any]:
        """Of the learners that have not left, by rank."""
        return [self.learners[rank].actor for rank in self._present()]

    def rank_of(self, worker: int) -> int:
        """Of the learner that an env worker is to feed: the same one for all of its lives, while none joins or
        leaves."""
        self._joining -= {rank for rank in self._joining if self.learners[rank].heard}
        fed = [rank for rank in self._present() if rank not in self._retiring and rank not in self._joining]
        return fed[worker % len(fed)]

    def of(self, rank: int) -> Any:
        """The actor of the learner of a rank; of one that has left, another's."""
        return self.learners[rank if rank not in self._left else self._present()[0]].actor

    def adjust(self, count: int, fed: Set[int]) -> list[tuple[str, int]]:
        """Let learners leave or join until there are so many; ("leave" or "join", rank) of those that just have.

        Args:
            fed: ranks that env workers send to, or have something under way to. Nobody leaves before.
        """
        changes = []
        for rank in sorted(self._left):
            if rank < count:
                self._left.discard(rank)
                self._joining.add(rank)
                self.learners[rank] = self._start_learner(rank)
                self._wire([self.learners[rank]])
                changes.append(("join", rank))
        for rank in self._present():
            if rank < count and self._retiring.get(rank, 0) is None:
                del self._retiring[rank]  # it had not gone yet
            elif rank >= count and self.learners[rank].heard:
                self._retiring.setdefault(rank, None)
                if self._retiring[rank] is None and rank not in fed:
                    self._retiring[rank] = self.learners[rank].actor.stop.remote()
        for rank, last in list(self._retiring.items()):
            if last is not None and ray.wait([last], timeout=0)[0]:
                with contextlib.suppress(ray.exceptions.RayActorError):  # it died: its log has everything
                    self._reports[rank] = ray.get(last)
                self._reports[rank] = self._reports[rank] | {"running": False}
                self._end(rank)
                del self._retiring[rank]
                self._left.add(rank)
                changes.append(("leave", rank))
        return changes

    def use_server(self, server: Any) -> None:
        """A new parameter server has taken the place of the old one."""
        self._server = server
        for actor in self.actors:
            actor.use_server.remote(server)

    def reported(self, learner: Member, report: dict[str, Any]) -> dict[str, Any] | None:
        """Take a learner's report; what they all amount to, or None until all have reported."""
        self._reports[self.learners.index(learner)] = report
        if len(self._reports) < len(self.learners):
            return None
        return together([self._reports[rank] for rank in range(len(self.learners))], self._settings.mode)

    def _present(self) -> list[int]:
        return [rank for rank in range(len(self.learners)) if rank not in self._left]

    def _end(self, rank: int) -> None:
        """Of a learner's process; nobody waits for its report or its gradients."""
        learner = self.learners[rank]
        ray.kill(learner.actor)  # Ray may have lost sight of it only: two learners must not write one log
        learner.answer = None
        for shard in self.shards:
            shard.actor.rest.remote(self._names[rank])

    def replace(self, member: Member) -> set[int]:
        """Start another in the place of a dead one, and of those that cannot go on without it; ranks of the learners
        that are new."""
        if member in self.shards:
            number = self.shards.index(member)
            ray.kill(member.actor)
            self.shards[number] = self._start_shard(number)
            for actor in self.actors:
                actor.use_shards.remote(self._shard_actors())
            return set()
        gone = list(self.learners) if self._settings.mode == "all_reduce" else [member]
        ranks = [self.learners.index(learner) for learner in gone]
        for rank in ranks:
            self._end(rank)
            self._reports.pop(rank, None)
            self.learners[rank] = self._start_learner(rank)
        self._wire([self.learners[rank] for rank in ranks])
        return set(ranks)

    def end(self, owes: Callable[[], bool], attend: Callable[[bool], None]) -> list[tuple[Member, dict[str, Any]]]:
        """Everybody does the updates that are owed, as long as ``owes`` says that they are wanted, and writes its
        checkpoint; the learners' last reports, or none where one of them was replaced meanwhile.

        Args:
            attend: hears everybody, or shards alone where it is given False, and replaces whoever has died.

        Raises:
            RayError: a learner has died since ``attend`` heard it.
        """
        learners = list(self.learners)
        for actor in self.actors:
            actor.finish.remote()
        while owes() and self.updating and self.learners == learners:
            attend(True)
        if self.learners != learners:
            return []
        present = [learners[rank] for rank in self._present()]
        answers = [actor.stop.remote() for actor in self.actors]
        while len(ray.wait(answers, num_returns=len(answers), timeout=0)[0]) < len(answers):
            attend(False)
        reports = ray.get(answers)
        for shard in self.shards:
            shard.actor.stop.remote()
        return list(zip(present, reports, strict=True))

    def _wire(self, learners: list[Member]) -> None:
        where = self.actors[0].meeting.remote() if self._settings.mode == "all_reduce" else None
        for learner in learners:
            learner.actor.start.remote(where, self._shard_actors(), self._shard_key)

    def _shard_actors(self) -> list[Any]:
        return [shard.actor for shard in self.shards]

    def _start_learner(self, rank: int) -> Member:
        several = self._settings.count > 1
        life = self._run.next_incarnation() if self.shards else 0
        self._names[rank] = f"{rank}.{life}"
        arguments = (self._plain, self._spec, str(self._run.path), self._server, rank, life)
        options = in_group(learner_request(self._config, self._gpus).options())
        return Member("learner", start_actor(LearnerActor, *arguments, **options), rank if several else None)

    def _start_shard(self, number: int) -> Member:
        arguments = (self._plain, str(self._run.path), number, self._shard_key)
        shard = start_actor(ParameterShardActor, *arguments, **on_another_node(number))
        return Member("parameter_shard", shard, number)
