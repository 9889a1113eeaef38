"""A run's phases: everybody starts, the run trains, everybody finishes what was begun; and what the driver asks.

start: the crew in parallel → wire → loop: collect reports, restart who died, evaluate
end:   env workers leave → spools of the dead are swept → learner does the updates it owes → checkpoint → summary
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

from distrl.cluster.components import PolicySpecs
from distrl.cluster.crew import DEATHS, POLL_S, Crew
from distrl.cluster.prometheus import PrometheusSink
from distrl.cluster.recorder import Recorder
from distrl.core.config import RunConfig
from distrl.core.errors import ConfigError, DistrlError
from distrl.core.run_directory import RunDirectory
from distrl.core.types import EnvSpec

_CHECKPOINT_S = 300.0  # within which an update under way has ended, and a checkpoint is on the disk


class Supervisor:
    """One run. A named Ray actor; it neither calls ``ray.init`` nor installs signal handlers.

    ``begin`` returns at once; ``status`` tells the driver how far the run is; ``scale`` changes the number of env
    workers; ``stop`` ends the run early, with a checkpoint.
    """

    def __init__(
        self,
        config: dict[str, Any],
        directory: str,
        spec: EnvSpec,
        policies: PolicySpecs,
        inline: bool,
        gpus: float,
        inference_gpus: float,
    ):
        self._config = RunConfig.validated(config)
        self._run = RunDirectory.open(Path(directory))
        self._recorder = Recorder(
            self._run.path,
            max(self._config.evaluation.period // 10, 1),
            self._config.env.fidelity,
            self._config.league is not None,
        )
        self._crew = Crew(
            self._config,
            self._run,
            spec,
            policies,
            self._recorder,
            inline=inline,
            gpus=gpus,
            inference_gpus=inference_gpus,
        )
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._failure: str | None = None
        self._summary: dict[str, Any] | None = None
        self._phase = "starting"
        self._target, self._learners = self._config.actors.env_workers, self._config.learner.count

    # -- asked by the driver -------------------------------------------------------------------------------------------

    def begin(self) -> int:
        """Start the run in a thread; returns the process id."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._guarded, name="run", daemon=True)
            self._thread.start()
        return os.getpid()

    def status(self) -> dict[str, Any]:
        """How far the run is; ``summary`` or ``failure`` once it has ended."""
        status = self._recorder.status() if self._phase != "starting" else {}
        return {
            **status,
            "phase": self._phase,
            "steps": self._config.run.steps,
            "failure": self._failure,
            "summary": self._summary,
            "pids": dict(self._crew.pids),
            "gpu_ids": dict(self._crew.gpu_ids),
        }

    def scale(self, env_workers: int | None = None, learners: int | None = None) -> dict[str, tuple[int, int]]:
        """Let env workers or learners join or leave until there are so many; name → how many there were to be before,
        and now.

        Raises:
            ConfigError: too few or too many, or the run is not training.
        """
        settings = self._config.learner
        if env_workers is not None and env_workers < 1:
            raise ConfigError(f"a run needs at least 1 env worker, but {env_workers} were asked for")
        if learners is not None and settings.mode != "parameter_server":
            raise ConfigError(
                f"learners join and leave where learner.mode = parameter_server, but this run has {settings.mode}"
            )
        if learners is not None and not 1 <= learners <= settings.count:
            raise ConfigError(
                f"this run has 1 to learner.count = {settings.count} learners, but {learners} were asked for"
            )
        self._must_train("env workers and learners join and leave")
        changes = {}
        if env_workers is not None:
            changes["env_workers"] = self._target, env_workers
            self._target = env_workers
        if learners is not None:
            changes["learners"] = self._learners, learners
            self._learners = learners
        for name, (before, now) in changes.items():
            self._recorder.event("scale", **{name: now}, before=before)
        return changes

    def checkpoint(self) -> str:
        """Write a checkpoint now; where it is.

        Raises:
            ConfigError: the run is not training.
        """
        self._must_train("a checkpoint is written")
        return self._crew.ask_learner("checkpoint", _CHECKPOINT_S)

    def options(self) -> dict[str, dict[str, Any]]:
        """Policy → the hyperparameters that its algorithm holds.

        Raises:
            ConfigError: the run is not training.
        """
        self._must_train("hyperparameters are asked for")
        return self._crew.ask_learner("options")

    def _must_train(self, what: str) -> None:
        if self._phase != "training":
            raise ConfigError(f"{what} while a run is training; this one is {self._phase}")

    def stop(self) -> None:
        """End the run now, with a checkpoint; ``status`` tells when it has."""
        self._stop.set()

    # -- the run -------------------------------------------------------------------------------------------------------

    def _guarded(self) -> None:
        ended = "failed"
        gauges = None
        try:
            if "prometheus" in self._config.monitor.sinks:
                gauges = PrometheusSink(self._run.path, self._run.id)
            self._execute()
            ended = "ended"
        except ray.exceptions.RayTaskError as error:  # it is also of the cause's type, but words it as a traceback
            self._fail(str(error.cause) if isinstance(error.cause, DistrlError) else str(error))
        except DistrlError as error:
            self._fail(str(error))
        except DEATHS as error:
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
            self._crew.note_lives()
            self._recorder.close()
            if gauges is not None:
                gauges.close()
            shutil.rmtree(self._run.scratch(), ignore_errors=True)
            self._phase = ended  # last: the driver ends this process once it reads that

    def _fail(self, message: str) -> None:
        self._failure = message
        self._recorder.event("failed", message=message)
        self._crew.kill()

    def _execute(self) -> None:
        fresh = self._run.facts["sessions"] == 1
        self._crew.start(self._target, fresh)
        if not fresh:
            self._crew.sweep(from_worker=self._target)  # of numbers that this session does not have
        self._phase = "training"
        self._watch()
        self._phase = "finishing"
        self._finish()

    def _watch(self) -> None:
        """Until all steps are made, the time is over or the driver says stop."""
        config, recorder, crew = self._config, self._recorder, self._crew
        period = config.evaluation.period
        next_evaluation = (recorder.env_steps // period + 1) * period
        tick = drains_seen_at = 0.0
        while recorder.env_steps < config.run.steps and not self._stop.is_set():
            if config.run.wall_limit_s is not None and recorder.wall_s > config.run.wall_limit_s:
                break
            if config.run.core_hours is not None and recorder.core_hours > config.run.core_hours:
                break
            began = time.monotonic()
            crew.collect()
            if began - drains_seen_at > 1.0:
                drains_seen_at = began
                crew.leave_draining_nodes()
            crew.adjust(self._target, self._learners)
            if crew.evaluated() and recorder.env_steps >= next_evaluation:
                next_evaluation = (recorder.env_steps // period + 1) * period
                crew.evaluate()
            if began - tick > 2.0:
                tick = began
                recorder.tick()
            self._stop.wait(max(began + POLL_S - time.monotonic(), 0.0))

    def _finish(self) -> None:
        """Everybody finishes what was begun, in the order of the data."""
        crew, config = self._crew, self._config
        crew.dismiss_workers()
        crew.sweep(from_worker=0)
        bounded = config.learner.finish_updates and config.replay.samples_per_insert is not None
        crew.end_learners(lambda: bounded and not self._stop.is_set())
        crew.evaluated(wait=True)
        if not self._stop.is_set():
            crew.evaluate()
            crew.evaluated(wait=True)
        crew.end_evaluator()
        if not self._stop.is_set():  # nobody will continue these episodes
            shutil.rmtree(self._run.path / "snapshots", ignore_errors=True)
        self._summary = self._recorder.summary()
