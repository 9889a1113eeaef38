"""Starts every component of a run on Ray, restarts what dies, lets env workers join and leave, and ends the run.

The only one that restarts.

start: ParameterServer, EnvWorkers, Learner, Evaluator in parallel → wire → loop: collect reports, evaluate, restart
end:   env workers flush → spools of the dead are swept → learner does the updates it owes → checkpoint → summary
"""

from __future__ import annotations

import os
import shutil
import threading
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from distrl.cluster.components import spool_directory
from distrl.cluster.ray_actors import EnvWorkerActor, EvaluatorActor, LearnerActor, ParameterServerActor
from distrl.cluster.ray_links import start_actor, sweep
from distrl.cluster.recorder import Recorder
from distrl.core.checkpoint import list_checkpoints
from distrl.core.config import RunConfig
from distrl.core.errors import ConfigError, DistrlError, RunFailed
from distrl.core.run_directory import RunDirectory
from distrl.core.types import EnvSpec, PolicySpec

_POLL_S = 0.5
_SILENCE_S = 60.0  # an env worker that has reported before and does not for so long is taken for dead
_RESTARTS_IN_VAIN = 5  # of one component in a row, without a step or an update, before the run gives up
_STOP_S = 90.0
_DRAIN_MARGIN_S = 2.0  # before a node's deadline: to publish what has finished
_DEATHS = (ray.exceptions.RayActorError, ray.exceptions.WorkerCrashedError)


@dataclass
class _Asked:
    """An actor and the answer that it owes us; nothing waits for it."""

    actor: Any
    answer: Any = None  # reference, or None: nothing is asked
    since: float = 0.0
    heard: bool = False  # whether it has ever answered

    def ask(self) -> Any:
        if self.answer is None:
            self.answer, self.since = self.actor.report.remote(), time.monotonic()
        return self.answer

    def take(self) -> Any:
        answer, self.answer = self.answer, None
        self.heard = True
        return ray.get(answer)


@dataclass
class _Worker(_Asked):
    """An env worker's life."""

    incarnation: int = -1
    node_id: str = ""
    leaving: bool = False  # its answer is then the last report


class Supervisor:
    """One run. A named Ray actor; it neither calls ``ray.init`` nor installs signal handlers.

    ``begin`` returns at once; ``status`` tells the driver how far the run is; ``scale`` changes the number of env
    workers; ``stop`` ends the run early, with a checkpoint.
    """

    def __init__(
        self, config: dict[str, Any], directory: str, spec: EnvSpec, policy: PolicySpec, inline: bool, gpus: float
    ):
        self._config = RunConfig.validated(config)
        self._plain = config
        self._run = RunDirectory.open(Path(directory))
        self._spec, self._policy, self._inline, self._gpus = spec, policy, inline, gpus
        self._scratch = self._run.scratch()
        self._spools = spool_directory(self._config, self._run.id)
        self._recorder = Recorder(self._run.path, max(self._config.evaluation.period // 10, 1))
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._failure: str | None = None
        self._summary: dict[str, Any] | None = None
        self._phase = "starting"
        self._target = self._config.actors.env_workers
        self._workers: dict[int, _Worker] = {}  # by number
        self._in_vain: dict[str, int] = {}  # component → restarts in a row that came to nothing
        self._pids: dict[str, int] = {}
        self._gpu_ids: dict[str, list[int]] = {}
        self._evaluation: Any = None

    # -- asked by the driver -------------------------------------------------------------------------------------------

    def begin(self) -> int:
        """Start the run in a thread; returns the process id."""
        self._thread = threading.Thread(target=self._guarded, name="run", daemon=True)
        self._thread.start()
        return os.getpid()

    def status(self) -> dict[str, Any]:
        """How far the run is; ``summary`` or ``failure`` once it has ended."""
        status = self._recorder.status() if self._phase != "starting" else {}
        return {
            **status,
            "phase": self._phase,
            "failure": self._failure,
            "summary": self._summary,
            "pids": dict(self._pids),
            "gpu_ids": dict(self._gpu_ids),
        }

    def scale(self, env_workers: int) -> int:
        """Let env workers join or leave until there are so many; returns how many there were to be before.

        Raises:
            ConfigError: fewer than one, or the run is not training.
        """
        if env_workers < 1:
            raise ConfigError(f"a run needs at least 1 env worker, but {env_workers} were asked for")
        if self._phase != "training":
            raise ConfigError(f"env workers join and leave while a run is training; this one is {self._phase}")
        before, self._target = self._target, env_workers
        self._recorder.event("scale", env_workers=env_workers, before=before)
        return before

    def stop(self) -> None:
        """End the run now, with a checkpoint; ``status`` tells when it has."""
        self._stop.set()

    # -- the run -------------------------------------------------------------------------------------------------------

    def _guarded(self) -> None:
        ended = "failed"
        try:
            self._execute()
            ended = "ended"
        except ray.exceptions.RayTaskError as error:  # it is also of the cause's type, but words it as a traceback
            self._fail(str(error.cause) if isinstance(error.cause, DistrlError) else str(error))
        except DistrlError as error:
            self._fail(str(error))
        except _DEATHS as error:
            self._fail(
                f"a component died while the run was {self._phase}: {str(error).splitlines()[0]}. Everything committed "
                f"is kept: continue with --resume {self._run.path}"
            )
        except Exception as error:  # noqa: BLE001  a fault of our own must end the run too, not leave it waiting
            traceback.print_exc()
            self._fail(
                f"{type(error).__name__}: {error} (a defect of distrl; its traceback is in the supervisor's log)"
            )
        finally:
            self._note_lives()
            self._recorder.close()
            shutil.rmtree(self._scratch, ignore_errors=True)
            self._phase = ended  # last: the driver ends this process once it reads that

    def _note_lives(self) -> None:
        """What each env worker's life came to outlives us too, whenever one has ended."""
        self._run.note(produced=self._recorder.produced, committed=self._recorder.committed)

    def _fail(self, message: str) -> None:
        self._failure = message
        self._recorder.event("failed", message=message)
        others = [getattr(self, name).actor for name in ("_evaluator", "_learner", "_server") if hasattr(self, name)]
        for actor in [*(worker.actor for worker in self._workers.values()), *others]:
            ray.kill(actor)

    def _execute(self) -> None:
        fresh = not list_checkpoints(self._run.path / "checkpoints")
        self._server = self._start_server()
        for number in range(self._target):  # before the learner, whose import of torch takes seconds
            self._workers[number] = self._start_worker(number)
        self._learner = self._start_learner()
        for worker in self._workers.values():
            # in a new run, a policy that can act untrained does not wait for the learner
            self._wire(worker, wait_for_weights=not fresh)
        self._evaluator = self._start_evaluator()
        while not self._learner.heard:
            self._collect()
        if not fresh:
            self._sweep(from_worker=self._target)  # of numbers that this session does not have
        self._phase = "training"
        self._watch()
        self._end()

    def _watch(self) -> None:
        """Until all steps are made, the time is over or the driver says stop."""
        config, recorder = self._config, self._recorder
        period = config.evaluation.period
        next_evaluation = (recorder.env_steps // period + 1) * period
        tick = drains_seen_at = 0.0
        while recorder.env_steps < config.run.steps and not self._stop.is_set():
            if config.run.wall_limit_s is not None and recorder.wall_s > config.run.wall_limit_s:
                break
            began = time.monotonic()
            self._collect()
            if began - drains_seen_at > 1.0:
                drains_seen_at = began
                self._leave_draining_nodes()
            self._adjust()
            if self._evaluation is None and recorder.env_steps >= next_evaluation:
                next_evaluation = (recorder.env_steps // period + 1) * period
                self._evaluation = self._evaluator.actor.evaluate.remote(recorder.env_steps)
            if self._evaluation is not None and ray.wait([self._evaluation], timeout=0)[0]:
                self._take_evaluation()
            if began - tick > 2.0:
                tick = began
                recorder.tick()
            self._stop.wait(max(began + _POLL_S - time.monotonic(), 0.0))

    def _collect(self) -> None:
        """The reports that have come; who is dead is started again. Nobody is waited for longer than a moment."""
        asked = {number: worker.ask() for number, worker in self._workers.items()}
        learner, server, evaluator = self._learner.ask(), self._server.ask(), self._evaluator.ask()
        everything = [*asked.values(), learner, server]  # the evaluator does not answer while it evaluates
        ready = set(ray.wait(everything, num_returns=len(everything), timeout=_POLL_S)[0])
        for number, answer in asked.items():
            self._hear_worker(number, answer in ready)
        if learner in ready:
            try:
                self._hear_learner(self._learner.take())
            except _DEATHS as error:
                self._replace_learner(str(error).splitlines()[0])
        if server in ready:
            try:
                self._pids["parameter_server"] = self._server.take()["pid"]
                self._in_vain.pop("the parameter server", None)
            except _DEATHS:
                self._replace_server()
        if ray.wait([evaluator], timeout=0)[0]:
            try:
                self._pids["evaluator"] = self._evaluator.take()["pid"]
            except _DEATHS as error:
                self._replace_evaluator(str(error).splitlines()[0])

    def _hear_worker(self, number: int, answered: bool) -> None:
        worker = self._workers[number]
        if not answered:
            if worker.heard and not worker.leaving and time.monotonic() - worker.since > _SILENCE_S:
                ray.kill(worker.actor)
                self._replace_worker(number, f"it has not answered for {_SILENCE_S:g} s")
            return
        try:
            report = worker.take()
        except _DEATHS as error:
            self._replace_worker(number, str(error).splitlines()[0])
            return
        self._recorder.worker_reported(worker.incarnation, report)
        if self._recorder.adopted(report["adopted"]):
            self._note_lives()
        worker.node_id = report["node_id"]
        if report["failure"]:
            raise RunFailed(f"env worker {number}: {report['failure']}")
        if worker.leaving:
            self._recorder.worker_ended(worker.incarnation)
            self._recorder.event("leave", role="env_worker", worker=number, incarnation=worker.incarnation)
            self._gone(number)
            return
        self._pids[f"env_worker_{number}"] = report["pid"]
        self._gpu_ids[f"env_worker_{number}"] = report["gpu_ids"]
        if report["produced"]:
            self._in_vain.pop(f"env worker {number}", None)

    def _gone(self, number: int) -> None:
        """A worker has left in order."""
        ray.kill(self._workers.pop(number).actor)
        self._pids.pop(f"env_worker_{number}", None)

    def _hear_learner(self, report: dict[str, Any]) -> None:
        if self._phase == "starting":
            self._recorder.began(report, self._run.lives("produced"), self._run.lives("committed"))
        for note in report["notes"]:
            self._recorder.event("note", text=note)
        self._recorder.learner_reported(report)
        self._gpu_ids["learner"] = report["gpu_ids"]
        self._pids["learner"] = report["pid"]
        if report["failure"]:
            raise RunFailed(f"the learner: {report['failure']}")
        if report["update_s"]:
            self._in_vain.pop("the learner", None)

    def _take_evaluation(self) -> None:
        evaluation, self._evaluation = self._evaluation, None
        try:
            result = ray.get(evaluation)
        except _DEATHS as error:
            self._replace_evaluator(str(error).splitlines()[0])
            return
        self._in_vain.pop("the evaluator", None)
        if result is not None:
            self._recorder.evaluated(**result)

    def _end(self) -> None:
        """Everybody finishes what was begun, in the order of the data."""
        self._phase = "finishing"
        for worker in self._workers.values():
            if not worker.leaving:
                worker.answer = worker.actor.stop.remote(_STOP_S)
        for worker in self._workers.values():
            try:
                report = worker.take()
                self._recorder.worker_reported(worker.incarnation, report)
                self._recorder.worker_ended(worker.incarnation)
                if report["failure"]:  # what is not secured is in its spool, which is swept just below
                    self._recorder.event("note", text=f"at the end: {report['failure']}")
            except _DEATHS:
                self._recorder.worker_ended(worker.incarnation, self._counted(worker.incarnation))
        while not self._learner_finished():
            pass
        if self._evaluation is not None:
            self._take_evaluation()
        if not self._stop.is_set():
            self._evaluation = self._evaluator.actor.evaluate.remote(self._recorder.env_steps)
            self._take_evaluation()
        ray.wait([self._evaluator.actor.stop.remote()], timeout=10)
        self._summary = self._recorder.summary()

    def _learner_finished(self) -> bool:
        """The learner does the updates it owes and writes its checkpoint; False if it died and there is a new one."""
        learner = self._learner.actor
        try:
            self._sweep(from_worker=0)
            ray.get(learner.finish.remote())
            while self._config.learner.finish_updates and not self._stop.is_set():
                report = ray.get(learner.report.remote())
                self._hear_learner(report)
                if not report["running"] or self._config.replay.samples_per_insert is None:
                    break
                time.sleep(_POLL_S)
            self._hear_learner(ray.get(learner.stop.remote()))
        except _DEATHS as error:
            self._replace_learner(str(error).splitlines()[0])
            return False
        return True

    def _sweep(self, from_worker: int) -> None:
        """On every node, send again what dead env workers have left in their spools and nobody has adopted."""
        for node in ray.nodes():
            if not node["Alive"]:
                continue
            where = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            task = ray.remote(sweep).options(num_cpus=0, scheduling_strategy=where, max_retries=0)
            try:
                found = ray.get(task.remote(str(self._spools), self._learner.actor, from_worker))
            except (*_DEATHS, ray.exceptions.TaskUnschedulableError):
                continue  # the node has gone, and with it what was not secured; a resume there sends it again
            self._recorder.adopted(found)

    # -- starting, restarting, joining and leaving ---------------------------------------------------------------------

    def _start_server(self) -> _Asked:
        return _Asked(start_actor(ParameterServerActor))

    def _start_learner(self) -> _Asked:
        arguments = (self._plain, self._spec, str(self._run.path), self._server.actor)
        learner = start_actor(LearnerActor, *arguments, num_gpus=self._gpus)
        learner.start.remote()
        return _Asked(learner)

    def _start_evaluator(self) -> _Asked:
        arguments = (self._plain, str(self._run.path), str(self._scratch), self._inline)
        evaluator = start_actor(EvaluatorActor, *arguments)
        evaluator.start.remote(self._policy, self._server.actor, self._recorder.best_return)
        return _Asked(evaluator)

    def _start_worker(self, number: int) -> _Worker:
        incarnation = self._run.next_incarnation()
        cpus = self._config.actors.envs_per_worker * self._config.env.cores
        arguments = (self._plain, number, incarnation, str(self._run.path), self._run.id, self._inline)
        actor = start_actor(EnvWorkerActor, *arguments, num_cpus=cpus)
        self._recorder.event("start", role="env_worker", worker=number, incarnation=incarnation)
        return _Worker(actor, incarnation=incarnation)

    def _wire(self, worker: _Worker, wait_for_weights: bool) -> None:
        worker.actor.start.remote(self._policy, self._learner.actor, self._server.actor, wait_for_weights)

    def _adjust(self) -> None:
        """Start and stop env workers until there are as many as there should be."""
        for number in range(self._target):
            if number not in self._workers:
                self._workers[number] = self._start_worker(number)
                self._wire(self._workers[number], wait_for_weights=True)
        for number, worker in self._workers.items():
            if number >= self._target and not worker.leaving and worker.answer is None:
                self._let_leave(worker, self._config.actors.drain_grace_s)

    def _let_leave(self, worker: _Worker, grace_s: float) -> None:
        worker.leaving, worker.since = True, time.monotonic()
        worker.answer = worker.actor.stop.remote(grace_s + _STOP_S, grace_s)

    def _leave_draining_nodes(self) -> None:
        """Env workers leave a node that is about to be preempted; others take their places elsewhere."""
        from ray._private import state  # the only place where Ray 2.60 tells a job

        for node_id, deadline_ms in state.state.get_draining_nodes().items():
            for number, worker in self._workers.items():
                if worker.node_id == node_id and not worker.leaving and worker.answer is None:
                    left_s = deadline_ms / 1000 - time.time() if deadline_ms else float("inf")
                    grace_s = max(min(self._config.actors.drain_grace_s, left_s - _DRAIN_MARGIN_S), 0.0)
                    self._recorder.event("drain", worker=number, node_id=node_id, grace_s=grace_s)
                    self._let_leave(worker, grace_s)

    def _replace_worker(self, number: int, cause: str) -> None:
        worker = self._workers[number]
        self._recorder.worker_ended(worker.incarnation, self._counted(worker.incarnation))
        if worker.leaving:
            self._gone(number)
            return
        self._note_lives()
        self._count_restart(f"env worker {number}", cause)
        new = self._workers[number] = self._start_worker(number)
        self._recorder.event("restart", role="env_worker", worker=number, incarnation=new.incarnation, cause=cause)
        self._wire(new, wait_for_weights=True)

    def _replace_learner(self, cause: str) -> None:
        """From the newest checkpoint and the log; meanwhile env workers act on and keep what is not yet secured."""
        self._count_restart("the learner", cause)
        self._learner = self._start_learner()
        self._recorder.event("restart", role="learner", cause=cause)
        for worker in self._workers.values():
            worker.actor.use_learner.remote(self._learner.actor)

    def _replace_evaluator(self, cause: str) -> None:
        self._evaluation = None  # it died with it
        self._count_restart("the evaluator", cause)
        self._recorder.event("restart", role="evaluator", cause=cause)
        self._evaluator = self._start_evaluator()

    def _replace_server(self) -> None:
        self._count_restart("the parameter server", "its process died")
        self._server = self._start_server()
        self._recorder.event("restart", role="parameter_server")
        self._learner.actor.use_server.remote(self._server.actor)
        self._evaluator.actor.use_server.remote(self._server.actor)
        for worker in self._workers.values():
            worker.actor.use_server.remote(self._server.actor)

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

        return read_produced(self._scratch / f"worker-{incarnation}")
