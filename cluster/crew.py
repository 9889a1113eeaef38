"""Everybody who works on one run, as Ray actors: started, asked for reports, replaced when they die, let go.

No answer is waited for: each actor is asked once, and asked again when it has answered. Whoever has died is found by
the answer that it owes.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from distrl.cluster.components import PolicySpecs, spool_directory
from distrl.cluster.env_worker_actor import EnvWorkerActor
from distrl.cluster.inference import InferenceServerActor
from distrl.cluster.learner_side import LearnerSide
from distrl.cluster.member import Member, Worker
from distrl.cluster.placement import Placement
from distrl.cluster.ray_actors import EvaluatorActor, ParameterServerActor
from distrl.cluster.ray_links import start_actor, sweep
from distrl.cluster.recorder import Recorder
from distrl.core.config import RunConfig
from distrl.core.errors import RunFailed
from distrl.core.limiter import WaitNotice
from distrl.core.run_directory import RunDirectory
from distrl.core.types import EnvSpec

POLL_S = 0.5
_RESTARTS_IN_VAIN = 5  # of one component in a row, without a step or an update, before the run gives up
_DRAIN_MARGIN_S = 2.0  # before a node's deadline: to publish what has finished
DEATHS = (ray.exceptions.RayActorError, ray.exceptions.WorkerCrashedError)


class Crew:
    """Every component of a run.

        crew.start(env_workers, fresh)
        while …: crew.collect(); crew.adjust(env_workers)
        crew.dismiss_workers(); crew.sweep(); crew.end_learners(); crew.evaluate()

    Attributes:
        pids: component → process id when it was last heard. gpu_ids: component → the GPUs that Ray gave it.
    """

    def __init__(
        self,
        config: RunConfig,
        run: RunDirectory,
        spec: EnvSpec,
        policies: PolicySpecs,
        recorder: Recorder,
        *,
        inline: bool,
        gpus: float,
        inference_gpus: float = 0.0,
    ):
        self._config, self._plain, self._run, self._recorder = config, config.model_dump(), run, recorder
        self._policies, self._inline = policies, inline
        self._inference_gpus = inference_gpus
        self._learning = LearnerSide(config, spec, run, gpus)
        self._placement = Placement(config)
        self._workers: dict[int, Worker] = {}  # by number
        self._inference: list[Member] = []  # inference servers, by number; env worker i asks server i modulo these
        self._in_vain: dict[str, int] = {}  # name → restarts in a row that came to nothing
        self._evaluation: Any = None
        self._before = run.lives("produced"), run.lives("committed")  # of earlier sessions
        self._began = False
        self._dismissed = False  # the run is over for all env workers
        # env worker → rank of the learner that it feeds, where learners have left or joined; its successors do, too
        self._fed = {int(number): rank for number, rank in run.facts.get("fed", {}).items()}
        self._unplaced = WaitNotice("the run", self._say)
        self.pids: dict[str, int] = {}
        self.gpu_ids: dict[str, list[int]] = {}

    # -- the run's phases ----------------------------------------------------------------------------------------------

    def start(self, env_workers: int, fresh: bool) -> None:
        """Start everybody; returns once the learners have reported. ``fresh``: nobody has ever acted in
        this run."""
        self._server, self._fresh = self._start_server(), fresh
        if self._config.actors.inference == "server":
            self._start_inference()
        for number in range(env_workers):  # before the learner, whose import of torch takes seconds
            self._workers[number] = self._start_worker(number)
        self._learning.start(self._server.actor)
        for worker in self._workers.values():
            # in a new run, a policy that can act untrained does not wait for the learner
            self._wire(worker, wait_for_weights=not fresh)
        self._evaluator = self._start_evaluator()
        while not self._began:
            self.collect()
            if self._recorder.env_steps >= self._config.run.steps:  # a cheap environment, and a short run
                self.dismiss_workers()

    def collect(self, learners: bool = True) -> None:
        """The reports that have come; who is dead is started again. Nobody is waited for longer than a moment.

        ``learners``: ask them, too; one that ends does not answer.
        """
        env_steps = self._env_steps
        for worker in self._workers.values():
            worker.ask(env_steps)
        learning = self._learning.members if learners else self._learning.shards
        prompt = [*self._inference, *self._workers.values(), *learning, self._server]
        answers = [member.ask() for member in prompt]
        ready = set(ray.wait(answers, num_returns=len(answers), timeout=POLL_S)[0])
        ready.update(ray.wait([self._evaluator.ask()], timeout=0)[0])  # it does not answer while it evaluates
        for member in [*prompt, self._evaluator]:
            if member.answer is not None:  # else it has been replaced together with another
                self._hear(member, member.answer in ready)

    def adjust(self, env_workers: int, learners: int) -> None:
        """Start env workers and learners, or let them leave, until there are as many as there should be."""
        self._adjust_learners(learners)
        for number in range(env_workers):
            if number not in self._workers:
                self._workers[number] = self._start_worker(number)
                self._wire(self._workers[number], wait_for_weights=True)
        for worker in [worker for worker in self._workers.values() if worker.number >= env_workers]:
            self._let_leave(worker, self._config.actors.drain_grace_s)
        waiting = [number for number, worker in self._workers.items() if not worker.heard]
        if not waiting:
            return self._unplaced.over()
        self._unplaced.waiting(
            lambda: (
                f"env workers {', '.join(map(str, waiting))} have not started: each asks Ray for "
                f"{self._placement.asked} on one node, and {ray.available_resources().get('CPU', 0):g} of "
                f"{ray.cluster_resources().get('CPU', 0):g} CPUs are free"
            )
        )

    def _adjust_learners(self, learners: int) -> None:
        fed = {rank for worker in self._workers.values() for rank in (worker.rank, *worker.feeds)}
        for change, rank in self._learning.adjust(learners, fed):
            self._recorder.event(change, role="learner", number=rank)
        for worker in self._workers.values():
            rank = self._learning.rank_of(worker.number)
            if rank != worker.rank:  # what is under way stays where it is: nothing comes to two learners
                worker.actor.feed.remote(self._learning.of(rank), rank)
                worker.rank = self._fed[worker.number] = rank
                worker.feeds |= {rank}
                self._run.note(fed={str(number): fed for number, fed in self._fed.items()})

    def leave_draining_nodes(self) -> None:
        """Env workers leave a node that is about to be preempted; others take their places elsewhere."""
        from ray._private import state  # the only place where Ray 2.60 tells a job

        for node_id, deadline_ms in state.state.get_draining_nodes().items():
            for worker in [worker for worker in self._workers.values() if worker.node_id == node_id]:
                if worker.leaving:
                    continue
                left_s = deadline_ms / 1000 - time.time() if deadline_ms else float("inf")
                grace_s = max(min(self._config.actors.drain_grace_s, left_s - _DRAIN_MARGIN_S), 0.0)
                self._recorder.event("drain", worker=worker.number, node_id=node_id, grace_s=grace_s)
                self._let_leave(worker, grace_s)

    def evaluate(self) -> None:
        """Begin an evaluation with the newest weights."""
        self._evaluation = self._evaluator.actor.evaluate.remote(self._recorder.env_steps)

    def evaluated(self, wait: bool = False) -> bool:
        """Whether none is under way; its result is recorded. One whose evaluator has died is over too, without."""
        if self._evaluation is None:
            return True
        if not wait and not ray.wait([self._evaluation], timeout=0)[0]:
            return False
        evaluation, self._evaluation = self._evaluation, None
        try:
            result = ray.get(evaluation)
        except DEATHS as error:
            self._replace(self._evaluator, error)
            return True
        self._in_vain.pop(self._evaluator.name, None)
        if result is not None:
            self._recorder.evaluated(**result)
        return True

    def ask_learner(self, method: str, *arguments: Any) -> Any:
        """The learner's answer, or its successor's (any thread); of several learners the first one's, once all have
        answered."""
        while True:
            learners = self._learning.actors
            try:
                return ray.get([getattr(learner, method).remote(*arguments) for learner in learners])[0]
            except DEATHS:
                if self._dismissed and self._learning.actors == learners:
                    raise
                time.sleep(POLL_S)  # until the run's thread has replaced it

    def dismiss_workers(self) -> None:
        """Every env worker publishes what has finished and leaves; what it had published is secured then."""
        self._dismissed = True
        for worker in list(self._workers.values()):
            self._let_leave(worker, 0.0)
        while self._workers:
            self.collect()

    def sweep(self, from_worker: int) -> None:
        """On every node, send again what dead env workers have left in their spools and nobody has adopted."""
        spools = str(spool_directory(self._config, self._run.id))
        for node in ray.nodes():
            if not node["Alive"]:
                continue
            where = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            task = ray.remote(sweep).options(num_cpus=0, scheduling_strategy=where, max_retries=0)
            found = None
            while found is None:  # the learner died meanwhile: again, with its successor
                self.collect()
                try:
                    found = ray.get(task.remote(spools, self._learner_of(), from_worker))
                except (ray.exceptions.WorkerCrashedError, ray.exceptions.TaskUnschedulableError):
                    found = {}  # the node has gone, and with it what was not secured; a resume there sends it again
            self._recorder.adopted(found)

    def _learner_of(self) -> Callable[[int], Any]:
        """Env worker → the actor of the learner that it has fed."""
        ranks = dict(self._fed)
        present = [self._learning.of(rank) for rank in range(len(self._learning.learners))]
        return lambda number: present[ranks.get(number, number % len(present))]

    def end_learners(self, owes: Callable[[], bool]) -> None:
        """They do the updates that are owed, as long as ``owes`` says that they are wanted, and write their
        checkpoints; one that dies meanwhile is replaced and does the rest.
        """

        def attend(learners: bool) -> None:
            self.collect(learners)
            time.sleep(POLL_S)

        reports: list[tuple[Member, dict[str, Any]]] = []
        while not reports:
            try:
                reports = self._learning.end(owes, attend)
            except DEATHS:
                self.collect()  # who it was, and another
        for learner, report in reports:
            self._reported(learner, report)

    def end_evaluator(self) -> None:
        """The evaluator's environments end."""
        ray.wait([self._evaluator.actor.stop.remote()], timeout=10)

    def kill(self) -> None:
        """Everybody, at once: the run has failed."""
        others = [getattr(self, name).actor for name in ("_evaluator", "_server") if hasattr(self, name)]
        others += [member.actor for member in (*self._inference, *self._learning.members)]
        for actor in [*(worker.actor for worker in self._workers.values()), *others]:
            ray.kill(actor)
        for worker in self._workers.values():
            self._recorder.worker_ended(worker.incarnation, self._counted(worker.incarnation))

    def note_lives(self) -> None:
        """What each env worker's life came to outlives us too, whenever one has ended."""
        produced, committed = self._before  # the recorder knows of them only once the learner is up
        self._run.note(produced=produced | self._recorder.produced, committed=committed | self._recorder.committed)

    # -- what they report ----------------------------------------------------------------------------------------------

    def _hear(self, member: Member, answered: bool) -> None:
        """What it reports; or it is replaced."""
        if not answered:
            if member.is_silent:
                self._replace(member, f"it has not answered for {member.patience_s:g} s")
            return
        try:
            report = member.take()
        except DEATHS as error:
            return self._replace(member, error)
        self._reported(member, report)
        if member.stands_still:
            self._replace(member, f"its loop has stood still for {member.still_s:.0f} s")

    def _reported(self, member: Member, report: dict[str, Any]) -> None:
        self.pids[member.key], self.gpu_ids[member.key] = report["pid"], report["gpu_ids"]
        if isinstance(member, Worker):
            useful = self._worker_reported(member, report)
        elif member.role == "learner":
            if report["lost"]:
                return self._replace(member, report["lost"])
            useful = self._learner_reported(member, report)
        elif member.role == "inference_server":
            useful = report["batches"] > 0
            self._recorder.inference_reported(report)
        elif member.role == "parameter_shard":
            useful = report["pushes"] > 0
            self._recorder.shard_reported(member.key, report)
        else:
            useful = member.role == "parameter_server"
        if useful:
            self._in_vain.pop(member.name, None)
        if report.get("failure") and not member.leaving:
            raise RunFailed(f"{member.name}: {report['failure']}")

    def _worker_reported(self, worker: Worker, report: dict[str, Any]) -> bool:
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
            if not self._dismissed:
                self._recorder.event("leave", role=worker.role, worker=worker.number, incarnation=worker.incarnation)
            self._gone(worker)
        return report["produced"] > 0

    def _learner_reported(self, learner: Member, report: dict[str, Any]) -> bool:
        for note in report["notes"]:
            self._recorder.event("note", text=note if learner.number is None else f"{learner.name}: {note}")
        found = self._learning.reported(learner, report)
        if found is not None:
            if not self._began:
                self._began = True
                self._recorder.began(found, *self._before)
            if found["inference"] == "server" and not self._inference:
                self._start_inference()
            self._recorder.learner_reported(found)
        return bool(report["update_s"])

    def _say(self, text: str) -> None:
        print(text)  # shown by the driver
        self._recorder.event("waiting", text=text)

    @property
    def _env_steps(self) -> int:
        """Of the run: what the supervisor tells env workers, for the fidelity of their next episodes."""
        return max(self._recorder.known_env_steps, sum(self._before[0].values()))

    # -- starting, leaving and replacing -------------------------------------------------------------------------------

    def _start_server(self) -> Member:
        return Member("parameter_server", start_actor(ParameterServerActor))

    def _start_inference(self) -> None:
        self._inference = [
            self._start_inference_server(number) for number in range(self._config.actors.inference_servers)
        ]

    def _start_inference_server(self, number: int) -> Member:
        device = "cuda" if self._inference_gpus else "cpu"
        life, wait = self._run.next_incarnation(), not self._fresh
        arguments = (self._plain, self._policies, number, life, self._server.actor, wait, device)
        options = {"num_gpus": self._inference_gpus, "max_concurrency": 10_000}
        return Member("inference_server", start_actor(InferenceServerActor, *arguments, **options), number)

    def _inference_of(self, worker: Worker) -> Member | None:
        return self._inference[worker.number % len(self._inference)] if self._inference else None

    def _start_evaluator(self) -> Member:
        arguments = (self._plain, str(self._run.path), str(self._run.scratch()), self._inline)
        evaluator = start_actor(EvaluatorActor, *arguments)
        evaluator.start.remote(self._policies, self._server.actor, self._recorder.best_return)
        return Member("evaluator", evaluator)

    def _start_worker(self, number: int) -> Worker:
        incarnation = self._run.next_incarnation()
        arguments = (self._plain, number, incarnation, str(self._run.path), self._run.id, self._inline, self._env_steps)
        actor = start_actor(EnvWorkerActor, *arguments, **self._placement.options())
        self._recorder.event("start", role="env_worker", worker=number, incarnation=incarnation)
        return Worker("env_worker", actor, number, incarnation=incarnation)

    def _wire(self, worker: Worker, wait_for_weights: bool) -> None:
        server = self._inference_of(worker)
        inference = None if server is None else server.actor
        worker.rank = self._fed.get(worker.number, self._learning.rank_of(worker.number))
        learner = self._learning.of(worker.rank)
        worker.actor.start.remote(self._policies, learner, self._server.actor, inference, wait_for_weights, worker.rank)

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
        ray.kill(self._workers.pop(worker.number).actor)

    def _replace(self, member: Member, death: BaseException | str) -> None:
        """Start another in its place, unless it was leaving, and tell those of it who need it."""
        cause = death if isinstance(death, str) else str(death).splitlines()[0]
        numbers: dict[str, int] = {}  # for the event
        if isinstance(member, Worker):
            self._recorder.worker_ended(member.incarnation, self._counted(member.incarnation))
            self.note_lives()
            if member.leaving:
                return self._gone(member)
            if self._inline:
                cause += ' Its environments live in its process: env.hosting = "process" gives each one of its own'
        self._count_restart(member.name, cause)
        ray.kill(member.actor)  # Ray may have lost sight of it only
        workers = list(self._workers.values())
        if isinstance(member, Worker):
            new = self._workers[member.number] = self._start_worker(member.number)
            self._wire(new, wait_for_weights=True)
            numbers = {"worker": new.number, "incarnation": new.incarnation}
        elif member.role in ("learner", "parameter_shard"):  # from what is on the disk
            ranks = self._learning.replace(member)
            for worker in workers:  # they act on, and keep what is not yet secured
                for rank in ranks & {worker.rank, *worker.feeds}:
                    worker.actor.use_learner.remote(self._learning.of(rank), rank)
            if member.number is not None:
                numbers = {"number": member.number}
        elif member.role == "inference_server":  # env workers act with their own copies, and hear of it once it is up
            self._fresh = False
            number = self._inference.index(member)
            self._inference[number] = self._start_inference_server(number)
            numbers = {"server": number}
        elif member.role == "evaluator":
            self._evaluation = None  # it died with it
            self._evaluator = self._start_evaluator()
        else:
            self._server = self._start_server()
            self._learning.use_server(self._server.actor)
            for other in (self._evaluator, *self._inference, *workers):
                other.actor.use_server.remote(self._server.actor)
        self._recorder.event("restart", role=member.role, **numbers, cause=cause)

    def _count_restart(self, who: str, cause: str) -> None:
        self._in_vain[who] = self._in_vain.get(who, 0) + 1
        if self._in_vain[who] > _RESTARTS_IN_VAIN:
            raise RunFailed(
                f"{who} died {self._in_vain[who]} times in a row without getting anything done: {cause}. Everything "
                f"committed is kept: mend the cause and continue with --resume {self._run.path}"
            )

    def _counted(self, incarnation: int) -> int | None:
        """What the environments of a dead worker had counted in shared memory (on this node)."""
        from distrl.actors.shared_rows import read_produced

        return read_produced(self._run.scratch() / f"worker-{incarnation}")
