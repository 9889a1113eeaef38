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

from distrl.cluster.acting_side import ActingSide
from distrl.cluster.components import PolicySpecs, spool_directory
from distrl.cluster.learner_side import LearnerSide
from distrl.cluster.member import Member, Worker
from distrl.cluster.ray_actors import EvaluatorActor, ParameterServerActor
from distrl.cluster.ray_links import start_actor, sweep
from distrl.cluster.recorder import Recorder
from distrl.core.config import RunConfig
from distrl.core.errors import RunFailed
from distrl.core.run_directory import RunDirectory
from distrl.core.types import EnvSpec

POLL_S = 0.5
_RESTARTS_IN_VAIN = 5  # of one component in a row, without a step or an update, before the run gives up
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
        self._learning = LearnerSide(config, spec, run, gpus)
        self._acting = ActingSide(
            config, run, policies, recorder, self._learning, inline=inline, inference_gpus=inference_gpus
        )
        self._in_vain: dict[str, int] = {}  # name → restarts in a row that came to nothing
        self._evaluation: Any = None
        self._began = False
        self.pids: dict[str, int] = {}
        self.gpu_ids: dict[str, list[int]] = {}

    # -- the run's phases ----------------------------------------------------------------------------------------------

    def start(self, env_workers: int, fresh: bool) -> None:
        """Start everybody; returns once the learners have reported. ``fresh``: nobody has ever acted in
        this run."""
        self._server = self._start_server()
        # before the learners, whose import of torch takes seconds
        self._acting.start(env_workers, self._server.actor, fresh)
        self._learning.start(self._server.actor)
        self._acting.wire_all()
        self._evaluator = self._start_evaluator()
        while not self._began:
            self.collect()
            if self._recorder.env_steps >= self._config.run.steps:  # a cheap environment, and a short run
                self.dismiss_workers()

    def collect(self, learners: bool = True) -> None:
        """The reports that have come; who is dead is started again. Nobody is waited for longer than a moment.

        ``learners``: ask them, too; one that ends does not answer.
        """
        learning = self._learning.members if learners else self._learning.shards
        prompt = [*self._acting.ask(), *learning, self._server]
        answers = [member.ask() for member in prompt]
        ready = set(ray.wait(answers, num_returns=len(answers), timeout=POLL_S)[0])
        ready.update(ray.wait([self._evaluator.ask()], timeout=0)[0])  # it does not answer while it evaluates
        for member in [*prompt, self._evaluator]:
            if member.answer is not None:  # else it has been replaced together with another
                self._hear(member, member.answer in ready)

    def adjust(self, env_workers: int, learners: int) -> None:
        """Start env workers and learners, or let them leave, until there are as many as there should be."""
        for change, rank in self._learning.adjust(learners, self._acting.fed):
            self._recorder.event(change, role="learner", number=rank)
        self._acting.feed_who_is_there()
        self._acting.adjust(env_workers)

    def leave_draining_nodes(self) -> None:
        """See ``ActingSide.leave_draining_nodes``."""
        self._acting.leave_draining_nodes()

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
                if self._acting.dismissed and self._learning.actors == learners:
                    raise
                time.sleep(POLL_S)  # until the run's thread has replaced it

    def dismiss_workers(self) -> None:
        """Every env worker publishes what has finished and leaves; what it had published is secured then."""
        self._acting.dismiss()
        while self._acting.workers:
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
                    found = ray.get(task.remote(spools, self._acting.learner_of(), from_worker))
                except (ray.exceptions.WorkerCrashedError, ray.exceptions.TaskUnschedulableError):
                    found = {}  # the node has gone, and with it what was not secured; a resume there sends it again
            self._recorder.adopted(found)

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
        self._acting.kill()
        others = [getattr(self, name) for name in ("_evaluator", "_server") if hasattr(self, name)]
        for member in (*self._learning.members, *others):
            ray.kill(member.actor)

    def note_lives(self) -> None:
        """See ``ActingSide.note_lives``."""
        self._acting.note_lives()

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
            useful = self._acting.reported(member, report)
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

    def _learner_reported(self, learner: Member, report: dict[str, Any]) -> bool:
        for note in report["notes"]:
            self._recorder.event("note", text=note if learner.number is None else f"{learner.name}: {note}")
        found = self._learning.reported(learner, report)
        if found is not None:
            if not self._began:
                self._began = True
                self._recorder.began(found, *self._acting.before)
            if found["inference"] == "server" and not self._acting.inference:
                self._acting.start_inference()
            self._recorder.learner_reported(found)
        return bool(report["update_s"])

    # -- starting and replacing ----------------------------------------------------------------------------------------

    def _start_server(self) -> Member:
        return Member("parameter_server", start_actor(ParameterServerActor))

    def _start_evaluator(self) -> Member:
        arguments = (self._plain, str(self._run.path), str(self._run.scratch()), self._inline)
        evaluator = start_actor(EvaluatorActor, *arguments)
        evaluator.start.remote(self._policies, self._server.actor, self._recorder.best_return)
        return Member("evaluator", evaluator)

    def _replace(self, member: Member, death: BaseException | str) -> None:
        """Start another in its place, unless it was leaving, and tell those of it who need it."""
        cause = death if isinstance(death, str) else str(death).splitlines()[0]
        numbers: dict[str, int] = {}  # for the event
        if isinstance(member, Worker):
            if not self._acting.ended(member):
                return
            if self._inline:
                cause += ' Its environments live in its process: env.hosting = "process" gives each one of its own'
        self._count_restart(member.name, cause)
        ray.kill(member.actor)  # Ray may have lost sight of it only
        if isinstance(member, Worker):
            new = self._acting.succeed(member)
            numbers = {"worker": new.number, "incarnation": new.incarnation}
        elif member.role in ("learner", "parameter_shard"):  # from what is on the disk
            self._acting.use_learners(self._learning.replace(member))
            if member.number is not None:
                numbers = {"number": member.number}
        elif member.role == "inference_server":
            numbers = {"server": self._acting.succeed_inference(member)}
        elif member.role == "evaluator":
            self._evaluation = None  # it died with it
            self._evaluator = self._start_evaluator()
        else:
            self._server = self._start_server()
            for side in (self._learning, self._acting):
                side.use_server(self._server.actor)
            self._evaluator.actor.use_server.remote(self._server.actor)
        self._recorder.event("restart", role=member.role, **numbers, cause=cause)

    def _count_restart(self, who: str, cause: str) -> None:
        self._in_vain[who] = self._in_vain.get(who, 0) + 1
        if self._in_vain[who] > _RESTARTS_IN_VAIN:
            raise RunFailed(
                f"{who} died {self._in_vain[who]} times in a row without getting anything done: {cause}. Everything "
                f"committed is kept: mend the cause and continue with --resume {self._run.path}"
            )
