"""Starts every component of a run on Ray, watches, restarts what dies, and ends it: the only one that restarts.

start: ParameterServer, Learner, EnvWorkers, Evaluator in parallel → wire → loop: collect reports, evaluate, restart
end:   env workers flush → learner does the updates it owes → checkpoint → summary
"""

from __future__ import annotations

import os
import shutil
import threading
import time
import traceback
from pathlib import Path
from typing import Any

import ray

from distrl.cluster.ray_actors import EnvWorkerActor, EvaluatorActor, LearnerActor, ParameterServerActor, start_actor
from distrl.cluster.recorder import Recorder
from distrl.core.checkpoint import list_checkpoints
from distrl.core.config import RunConfig
from distrl.core.errors import DistrlError, RunFailed
from distrl.core.run_directory import RunDirectory
from distrl.core.types import EnvSpec, PolicySpec

_POLL_S = 0.5
_RESTARTS_WITHOUT_STEP = 5  # of one env worker in a row, before the run gives up
_DEATHS = (ray.exceptions.RayActorError, ray.exceptions.WorkerCrashedError)


class Supervisor:
    """One run. A named Ray actor; it neither calls ``ray.init`` nor installs signal handlers.

    ``begin`` returns at once; ``status`` tells the driver how far the run is; ``stop`` ends it early, with a
    checkpoint.
    """

    def __init__(
        self, config: dict[str, Any], directory: str, spec: EnvSpec, policy: PolicySpec, inline: bool, gpus: float
    ):
        self._config = RunConfig.validated(config)
        self._plain = config
        self._run = RunDirectory.open(Path(directory))
        self._spec, self._policy, self._inline, self._gpus = spec, policy, inline, gpus
        self._scratch = self._run.scratch()
        self._recorder = Recorder(self._run.path, max(self._config.evaluation.period // 10, 1))
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._failure: str | None = None
        self._summary: dict[str, Any] | None = None
        self._phase = "starting"
        self._workers: dict[int, tuple[Any, int]] = {}  # number → (actor, incarnation)
        self._fruitless: dict[int, int] = {}  # number → restarts in a row without a step
        self._pids: dict[str, int] = {}
        self._gpu_ids: dict[str, list[int]] = {}

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
                f"the learner died: {str(error).splitlines()[0]}. Everything secured is in {self._run.path}: continue "
                "with --resume"
            )
        except Exception as error:  # noqa: BLE001  a fault of our own must end the run too, not leave it waiting
            traceback.print_exc()
            self._fail(
                f"{type(error).__name__}: {error} (a defect of distrl; its traceback is in the supervisor's log)"
            )
        finally:
            self._recorder.close()
            shutil.rmtree(self._scratch, ignore_errors=True)
            self._phase = ended  # last: the driver ends this process once it reads that

    def _fail(self, message: str) -> None:
        self._failure = message
        self._recorder.event("failed", message=message)
        for actor in [*(actor for actor, _ in self._workers.values()), *self._others()]:
            ray.kill(actor)

    def _others(self) -> list[Any]:
        return [getattr(self, name) for name in ("_evaluator", "_learner", "_server") if hasattr(self, name)]

    def _execute(self) -> None:
        self._server = self._start_server()
        for number in range(self._config.actors.env_workers):  # before the learner, whose import of torch takes seconds
            self._workers[number] = self._start_worker(number)
        self._learner = start_actor(
            LearnerActor, self._plain, self._spec, str(self._run.path), self._server, num_gpus=self._gpus
        )
        # in a new run, a policy that can act untrained does not wait for the learner
        fresh = not list_checkpoints(self._run.path / "checkpoints")
        if fresh:
            self._wire_workers(wait_for_weights=False)
        self._evaluator = self._start_evaluator()
        first, notes = ray.get(self._learner.ready.remote())
        for note in notes:
            self._recorder.event("note", text=note)
        self._recorder.began(first)
        self._pids["learner"] = ray.get(self._learner.start.remote())
        self._pids["parameter_server"] = ray.get(self._server.ready.remote())
        if not fresh:
            self._wire_workers(wait_for_weights=True)
        wired = self._evaluator.start.remote(self._policy, self._server, self._recorder.best_return)
        self._phase = "training"
        self._pids["evaluator"] = ray.get(wired)
        self._watch()
        self._end()

    def _watch(self) -> None:
        """Until all steps are made, the time is over or the driver says stop."""
        config, recorder = self._config, self._recorder
        period = config.evaluation.period
        next_evaluation = (recorder.env_steps // period + 1) * period
        evaluation, tick = None, 0.0
        while recorder.env_steps < config.run.steps and not self._stop.is_set():
            if config.run.wall_limit_s is not None and recorder.wall_s > config.run.wall_limit_s:
                break
            self._collect()
            if evaluation is None and recorder.env_steps >= next_evaluation:
                next_evaluation = (recorder.env_steps // period + 1) * period
                evaluation = self._evaluator.evaluate.remote(recorder.env_steps)
            if evaluation is not None and ray.wait([evaluation], timeout=0)[0]:
                self._take_evaluation(evaluation)
                evaluation = None
            if time.monotonic() - tick > 2.0:
                tick = time.monotonic()
                recorder.tick()
            self._stop.wait(_POLL_S)
        self._evaluation_under_way = evaluation

    def _collect(self) -> None:
        """One report of everybody; who is dead is started again."""
        asked = {number: actor.report.remote() for number, (actor, _) in self._workers.items()}
        for number, reference in asked.items():
            _, incarnation = self._workers[number]
            try:
                report = ray.get(reference)
            except _DEATHS as error:
                self._replace_worker(number, str(error).splitlines()[0])
                continue
            self._recorder.worker_reported(incarnation, report)
            self._pids[f"env_worker_{number}"] = report["pid"]
            self._gpu_ids[f"env_worker_{number}"] = report["gpu_ids"]
            if report["produced"]:
                self._fruitless[number] = 0
            if report["failure"]:
                raise RunFailed(f"env worker {number}: {report['failure']}")
        report = ray.get(self._learner.report.remote())
        self._recorder.learner_reported(report)
        self._gpu_ids["learner"] = report["gpu_ids"]
        if report["failure"]:
            raise RunFailed(f"the learner: {report['failure']}")
        try:
            ray.get(self._server.ready.remote())
        except _DEATHS:
            self._replace_server()

    def _take_evaluation(self, reference: Any) -> None:
        try:
            result = ray.get(reference)
        except _DEATHS as error:
            self._recorder.event("restart", role="evaluator", cause=str(error).splitlines()[0])
            self._evaluator = self._start_evaluator()
            self._evaluator.start.remote(self._policy, self._server, self._recorder.best_return)
            return
        if result is not None:
            self._recorder.evaluated(**result)

    def _end(self) -> None:
        """Everybody finishes what was begun, in the order of the data."""
        self._phase = "finishing"
        asked = {number: actor.stop.remote(90.0) for number, (actor, _) in self._workers.items()}
        for number, reference in asked.items():
            _, incarnation = self._workers[number]
            try:
                report = ray.get(reference)
                self._recorder.worker_reported(incarnation, report)
                self._recorder.worker_ended(incarnation)
            except _DEATHS:
                self._recorder.worker_ended(incarnation, self._counted(incarnation))
        ray.get(self._learner.finish.remote())
        while self._config.learner.finish_updates and not self._stop.is_set():
            report = ray.get(self._learner.report.remote())
            self._recorder.learner_reported(report)
            if report["failure"]:
                raise RunFailed(f"the learner: {report['failure']}")
            if not report["running"] or self._config.replay.samples_per_insert is None:
                break
            time.sleep(_POLL_S)
        self._recorder.learner_reported(ray.get(self._learner.stop.remote()))
        if self._evaluation_under_way is not None:
            self._take_evaluation(self._evaluation_under_way)
        if not self._stop.is_set():
            self._take_evaluation(self._evaluator.evaluate.remote(self._recorder.env_steps))
        ray.wait([self._evaluator.stop.remote()], timeout=10)
        self._summary = self._recorder.summary()

    # -- starting and restarting ---------------------------------------------------------------------------------------

    def _start_server(self) -> Any:
        return start_actor(ParameterServerActor)

    def _start_evaluator(self) -> Any:
        return start_actor(EvaluatorActor, self._plain, str(self._run.path), str(self._scratch), self._inline)

    def _start_worker(self, number: int) -> tuple[Any, int]:
        incarnation = self._run.next_incarnation()
        cpus = self._config.actors.envs_per_worker * self._config.env.cores
        actor = start_actor(
            EnvWorkerActor, self._plain, number, incarnation, str(self._scratch), self._inline, num_cpus=cpus
        )
        self._recorder.event("start", role="env_worker", worker=number, incarnation=incarnation)
        return actor, incarnation

    def _wire_workers(self, wait_for_weights: bool) -> None:
        for actor, _ in self._workers.values():
            actor.start.remote(self._policy, self._learner, self._server, wait_for_weights)

    def _replace_worker(self, number: int, cause: str) -> None:
        _, incarnation = self._workers[number]
        self._recorder.worker_ended(incarnation, self._counted(incarnation))
        self._fruitless[number] = self._fruitless.get(number, 0) + 1
        if self._fruitless[number] > _RESTARTS_WITHOUT_STEP:
            raise RunFailed(
                f"env worker {number} died {self._fruitless[number]} times in a row without finishing a step: {cause}"
            )
        actor, new = self._workers[number] = self._start_worker(number)
        self._recorder.event("restart", role="env_worker", worker=number, incarnation=new, cause=cause)
        actor.start.remote(self._policy, self._learner, self._server, True)

    def _replace_server(self) -> None:
        self._server = self._start_server()
        self._recorder.event("restart", role="parameter_server")
        self._learner.use_server.remote(self._server)
        self._evaluator.use_server.remote(self._server)
        for actor, _ in self._workers.values():
            actor.use_server.remote(self._server)

    def _counted(self, incarnation: int) -> int | None:
        """What the environments of a dead worker had counted in shared memory (on this node)."""
        from distrl.actors.shared_rows import read_produced

        return read_produced(self._scratch / f"worker-{incarnation}")
