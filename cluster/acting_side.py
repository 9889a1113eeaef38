"""Env workers of a run, and the inference servers that choose actions for them: started, wired, let go.

Each env worker feeds one learner, and acts by one inference server, where there are any.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import ray

from distrl.cluster.components import PolicySpecs
from distrl.cluster.env_worker_actor import EnvWorkerActor
from distrl.cluster.inference import InferenceServerActor
from distrl.cluster.learner_side import LearnerSide
from distrl.cluster.member import Member, Worker
from distrl.cluster.placement import Placement
from distrl.cluster.ray_links import start_actor
from distrl.cluster.recorder import Recorder
from distrl.core.config import RunConfig
from distrl.core.limiter import WaitNotice
from distrl.core.run_directory import RunDirectory

_DRAIN_MARGIN_S = 2.0  # before a node's deadline: to publish what has finished


class ActingSide:
    """Everybody who acts in the environments.

    Attributes:
        workers: env workers by number. inference: servers by number; env worker i asks server i modulo these.
        before: what env workers of earlier sessions have produced and committed, by life.
        fresh: whether nobody has ever acted in this run, and no inference server has died.
        dismissed: whether the run is over for all env workers.
    """

    def __init__(
        self,
        config: RunConfig,
        run: RunDirectory,
        policies: PolicySpecs,
        recorder: Recorder,
        learning: LearnerSide,
        *,
        inline: bool,
        inference_gpus: float,
    ):
        self._config, self._plain, self._run, self._recorder = config, config.model_dump(), run, recorder
        self._policies, self._learning = policies, learning
        self._inline, self._inference_gpus = inline, inference_gpus
        self._placement = Placement(config)
        self._server: Any = None
        # env worker → rank of the learner that it feeds, where learners have left or joined; its successors do, too
        self._fed = {int(number): rank for number, rank in run.facts.get("fed", {}).items()}
        self._unplaced = WaitNotice("the run", self._say)
        self.before = run.lives("produced"), run.lives("committed")
        self.workers: dict[int, Worker] = {}
        self.inference: list[Member] = []
        self.fresh = self.dismissed = False

    @property
    def env_steps(self) -> int:
        """Of the run: what the supervisor tells env workers, for the fidelity of their next episodes."""
        return max(self._recorder.known_env_steps, sum(self.before[0].values()))

    def ask(self) -> list[Member]:
        """Ask everybody for a report; who that is."""
        env_steps = self.env_steps
        for worker in self.workers.values():
            worker.ask(env_steps)
        return [*self.inference, *self.workers.values()]

    # -- starting ------------------------------------------------------------------------------------------------------

    def start(self, env_workers: int, server: Any, fresh: bool) -> None:
        """Start everybody, who wait to be wired; ``server``: where weights are published."""
        self._server, self.fresh = server, fresh
        if self._config.actors.inference == "server":
            self.start_inference()
        for number in range(env_workers):
            self.workers[number] = self._started(number)

    def wire_all(self) -> None:
        """Once there are learners."""
        for worker in self.workers.values():
            # in a new run, a policy that can act untrained does not wait for the learner
            self._wire(worker, wait_for_weights=not self.fresh)

    def use_server(self, server: Any) -> None:
        """A new parameter server has taken the place of the old one."""
        self._server = server
        for member in (*self.inference, *self.workers.values()):
            member.actor.use_server.remote(server)

    def start_inference(self) -> None:
        """The servers that env workers ask once they are up."""
        servers = range(self._config.actors.inference_servers)
        self.inference = [self._inference_server(number) for number in servers]

    def _inference_server(self, number: int) -> Member:
        device = "cuda" if self._inference_gpus else "cpu"
        life, wait = self._run.next_incarnation(), not self.fresh
        arguments = (self._plain, self._policies, number, life, self._server, wait, device)
        options = {"num_gpus": self._inference_gpus, "max_concurrency": 10_000}
        return Member("inference_server", start_actor(InferenceServerActor, *arguments, **options), number)

    def _inference_of(self, worker: Worker) -> Member | None:
        return self.inference[worker.number % len(self.inference)] if self.inference else None

    def _started(self, number: int) -> Worker:
        incarnation = self._run.next_incarnation()
        arguments = (self._plain, number, incarnation, str(self._run.path), self._run.id, self._inline, self.env_steps)
        actor = start_actor(EnvWorkerActor, *arguments, **self._placement.options())
        self._recorder.event("start", role="env_worker", worker=number, incarnation=incarnation)
        return Worker("env_worker", actor, number, incarnation=incarnation)

    def _wire(self, worker: Worker, wait_for_weights: bool) -> None:
        server = self._inference_of(worker)
        inference = None if server is None else server.actor
        worker.rank = self._fed.get(worker.number, self._learning.rank_of(worker.number))
        learner = self._learning.of(worker.rank)
        worker.actor.start.remote(self._policies, learner, self._server, inference, wait_for_weights, worker.rank)

    # -- who is there, and feeds whom ----------------------------------------------------------------------------------

    def adjust(self, env_workers: int) -> None:
        """Start env workers, or let them leave, until there are as many as there should be."""
        for number in range(env_workers):
            if number not in self.workers:
                self.workers[number] = self._started(number)
                self._wire(self.workers[number], wait_for_weights=True)
        for worker in [worker for worker in self.workers.values() if worker.number >= env_workers]:
            self._let_leave(worker, self._config.actors.drain_grace_s)
        waiting = [number for number, worker in self.workers.items() if not worker.heard]
        if not waiting:
            return self._unplaced.over()
        self._unplaced.waiting(
            lambda: (
                f"env workers {', '.join(map(str, waiting))} have not started: each asks Ray for "
                f"{self._placement.asked} on one node, and {ray.available_resources().get('CPU', 0):g} of "
                f"{ray.cluster_resources().get('CPU', 0):g} CPUs are free"
            )
        )

    @property
    def fed(self) -> set[int]:
        """Ranks of the learners that something is sent to, or under way to."""
        return {rank for worker in self.workers.values() for rank in (worker.rank, *worker.feeds)}

    def feed_who_is_there(self) -> None:
        """Learners have left or joined: env workers feed those that there are now."""
        for worker in self.workers.values():
            rank = self._learning.rank_of(worker.number)
            if rank != worker.rank:  # what is under way stays where it is: nothing comes to two learners
                worker.actor.feed.remote(self._learning.of(rank), rank)
                worker.rank = self._fed[worker.number] = rank
                worker.feeds |= {rank}
                self._run.note(fed={str(number): fed for number, fed in self._fed.items()})

    def learner_of(self) -> Callable[[int], Any]:
        """Env worker → the actor of the learner that it has fed; for another process, too."""
        ranks = dict(self._fed)
        present = [self._learning.of(rank) for rank in range(len(self._learning.learners))]
        return lambda number: present[ranks.get(number, number % len(present))]

    # -- leaving and dying ---------------------------------------------------------------------------------------------

    def leave_draining_nodes(self) -> None:
        """Env workers leave a node that is about to be preempted; others take their places elsewhere."""
        from ray._private import state  # the only place where Ray 2.60 tells a job

        for node_id, deadline_ms in state.state.get_draining_nodes().items():
            for worker in [worker for worker in self.workers.values() if worker.node_id == node_id]:
                if worker.leaving:
                    continue
                left_s = deadline_ms / 1000 - time.time() if deadline_ms else float("inf")
                grace_s = max(min(self._config.actors.drain_grace_s, left_s - _DRAIN_MARGIN_S), 0.0)
                self._recorder.event("drain", worker=worker.number, node_id=node_id, grace_s=grace_s)
                self._let_leave(worker, grace_s)

    def dismiss(self) -> None:
        """Every env worker publishes what has finished and leaves, and is gone once it has reported that."""
        self.dismissed = True
        for worker in list(self.workers.values()):
            self._let_leave(worker, 0.0)

    def _let_leave(self, worker: Worker, grace_s: float) -> None:
        if worker.leaving:
            return
        if not worker.heard:  # Ray may never find a place for it, and it has nothing to leave in order
            self._recorder.worker_ended(worker.incarnation)
            self._gone(worker)
            return
        worker.leaving = True
        worker.actor.stop.remote(grace_s)

    def _gone(self, worker: Worker) -> None:
        ray.kill(self.workers.pop(worker.number).actor)

    def ended(self, worker: Worker) -> bool:
        """A worker's life has ended by itself; whether it needs a successor."""
        self._recorder.worker_ended(worker.incarnation, self._counted(worker.incarnation))
        self.note_lives()
        if worker.leaving:
            self._gone(worker)
        return not worker.leaving

    def succeed(self, worker: Worker) -> Worker:
        """Another in the place of a dead one."""
        new = self.workers[worker.number] = self._started(worker.number)
        self._wire(new, wait_for_weights=True)
        return new

    def succeed_inference(self, server: Member) -> int:
        """The same; env workers act with their own copies, and hear of it once it is up."""
        self.fresh = False
        number = self.inference.index(server)
        self.inference[number] = self._inference_server(number)
        return number

    def use_learners(self, ranks: set[int]) -> None:
        """Learners of these ranks are new: env workers act on, and keep what is not yet secured."""
        for worker in self.workers.values():
            for rank in ranks & {worker.rank, *worker.feeds}:
                worker.actor.use_learner.remote(self._learning.of(rank), rank)

    def kill(self) -> None:
        """Everybody, at once: the run has failed."""
        for member in (*self.workers.values(), *self.inference):
            ray.kill(member.actor)
        for worker in self.workers.values():
            self._recorder.worker_ended(worker.incarnation, self._counted(worker.incarnation))

    # -- what they report ----------------------------------------------------------------------------------------------

    def reported(self, worker: Worker, report: dict[str, Any]) -> bool:
        """Take an env worker's report; whether it has got anything done."""
        self._recorder.worker_reported(worker.incarnation, report)
        for note in report["notes"]:
            self._recorder.event("note", text=note)
        if self._recorder.adopted(report["adopted"]):
            self.note_lives()
        worker.node_id, worker.feeds = report["node_id"], frozenset(report["feeds"])
        server = self._inference_of(worker)
        if not report["asks"] and server is not None and server.is_prompt:  # it is new, or was taken for gone
            worker.actor.use_inference.remote(server.actor)
        if worker.leaving and report["failure"]:  # what is not secured is in its spool, for whoever adopts or sweeps it
            self._recorder.event("note", text=f"{worker.name}, while it left: {report['failure']}")
        if worker.leaving and (report["failure"] or report["left"]):
            self._recorder.worker_ended(worker.incarnation)
            if not self.dismissed:
                self._recorder.event("leave", role=worker.role, worker=worker.number, incarnation=worker.incarnation)
            self._gone(worker)
        return report["produced"] > 0

    def note_lives(self) -> None:
        """What each env worker's life came to outlives us too, whenever one has ended."""
        produced, committed = self.before  # the recorder knows of them only once the learner is up
        self._run.note(produced=produced | self._recorder.produced, committed=committed | self._recorder.committed)

    def _counted(self, incarnation: int) -> int | None:
        """What the environments of a dead worker had counted in shared memory (on this node)."""
        from distrl.actors.shared_rows import read_produced

        return read_produced(self._run.scratch() / f"worker-{incarnation}")

    def _say(self, text: str) -> None:
        print(text)  # shown by the driver
        self._recorder.event("waiting", text=text)
