"""The components as Ray actors: each wraps a plain class, runs its loop in a thread, and answers the supervisor on its
main thread.

EnvWorkerActor ──receive(fragment)──► LearnerActor ──publish──► ParameterServerActor ◄──pull_if_newer── EnvWorkerActor,
EvaluatorActor
"""

from __future__ import annotations

import math
import os
import threading
import time
import traceback
from collections import deque
from pathlib import Path
from typing import Any

import ray

from distrl.cluster import components
from distrl.cluster.components import save_best
from distrl.core.config import RunConfig
from distrl.core.contracts import EnvPool
from distrl.core.errors import DistrlError, RunFailed
from distrl.core.limiter import WaitNotice
from distrl.core.types import EnvSpec, Fragment, PolicySpec, Weights
from distrl.parameter_server import ParameterServer


class ParameterServerActor(ParameterServer):
    """``ParameterServer`` behind Ray: nothing to add; it imports no torch."""

    def ready(self) -> int:
        """Its process id, once it is up."""
        return os.getpid()


class RaySource:
    """Pulls from a parameter server that may be away: then nothing is newer."""

    def __init__(self, server: Any):
        self.server = server

    def pull_if_newer(self, version: int) -> tuple[int, Weights] | None:
        """See ``ParameterServer.pull_if_newer``."""
        try:
            return ray.get(self.server.pull_if_newer.remote(version), timeout=30)
        except (ray.exceptions.RayActorError, ray.exceptions.GetTimeoutError):
            return None  # the supervisor starts a new one and tells us; until then the old weights act


class RaySink:
    """Sends fragments to the learner without waiting for it, up to a bound on what it has not acknowledged."""

    def __init__(self, learner: Any, max_bytes: float, who: str):
        self._learner, self._max_bytes = learner, max_bytes
        self._under_way: deque[tuple[Any, int]] = deque()  # (reference to the acknowledgement, bytes), oldest first
        self._bytes = 0
        self._notice = WaitNotice(who)

    def publish(self, fragment: Fragment) -> None:
        """See ``FragmentSink``."""
        self._under_way.append((self._learner.receive.remote(fragment), fragment.nbytes))
        self._bytes += fragment.nbytes
        self._acknowledged(0.0)
        while self._bytes > self._max_bytes:
            self._notice.waiting(
                lambda: (
                    f"{self._bytes / 1e6:.0f} MB of fragments are not acknowledged by the learner "
                    "(actors.max_unacknowledged_mb)"
                )
            )
            self._acknowledged(1.0)
        self._notice.over()

    def flush(self, timeout_s: float) -> None:
        """See ``FragmentSink``."""
        deadline = time.monotonic() + timeout_s
        while self._under_way and time.monotonic() < deadline:
            self._acknowledged(0.5)
        if self._under_way:
            raise RunFailed(f"the learner has not acknowledged {len(self._under_way)} fragments within {timeout_s:g} s")

    def _acknowledged(self, timeout_s: float) -> None:
        while self._under_way:
            reference, size = self._under_way[0]
            ready, _ = ray.wait([reference], timeout=timeout_s)
            if not ready:
                return
            try:
                ray.get(reference)
            except ray.exceptions.RayActorError:
                time.sleep(timeout_s)  # the learner is gone; whether the run goes on is the supervisor's to decide
                return
            except ray.exceptions.RayTaskError as error:
                raise error.cause from None  # the sentence of whoever refused, without Ray's traceback
            self._under_way.popleft()
            self._bytes -= size


def start_actor(kind: type, *arguments: Any, **options: Any) -> Any:
    """A Ray actor of a plain class. Ray never restarts one: the supervisor does."""
    remote: Any = ray.remote(kind)
    return remote.options(max_restarts=0, **{"num_cpus": 0, **options}).remote(*arguments)


def _whereabouts() -> dict[str, Any]:
    return {"pid": os.getpid(), "gpu_ids": ray.get_gpu_ids()}


class _LoopActor:
    """A loop in a daemon thread whose failure is told to the supervisor instead of being lost."""

    def __init__(self) -> None:
        self._stop = threading.Event()
        self._failure: str | None = None
        self._loop: threading.Thread | None = None

    def _begin(self, body: Any) -> None:
        def run() -> None:
            try:
                body()
            except DistrlError as error:
                self._failure = str(error)
            except Exception as error:  # noqa: BLE001  any other failure ends the run too, with its traceback in the log
                traceback.print_exc()
                self._failure = f"{type(error).__name__}: {error}"

        self._loop = threading.Thread(target=run, name="loop", daemon=True)
        self._loop.start()


class EnvWorkerActor(_LoopActor):
    """Hosts a pool; its environments start while the rest of the run does."""

    def __init__(self, config: dict[str, Any], worker: int, incarnation: int, scratch: str, inline: bool):
        super().__init__()
        self._config = RunConfig.validated(config)
        self._identity = {"worker": worker, "incarnation": incarnation}
        self._refusal: DistrlError | None = None
        try:
            self._pool = self._host(worker, incarnation, scratch, inline)
        except DistrlError as error:  # raised here, Ray would bury its sentence in the report of a dead actor
            self._refusal = error

    def _host(self, worker: int, incarnation: int, scratch: str, inline: bool) -> EnvPool:
        return components.build_training_pool(self._config, worker, incarnation, Path(scratch), inline=inline)

    def start(self, policy: PolicySpec, learner: Any, server: Any, wait_for_weights: bool) -> int:
        """Begin to act, see ``EnvWorker.run``; returns the process id."""
        if self._refusal is not None:
            return os.getpid()  # the next report tells
        name = f"env worker {self._identity['worker']}"
        self._sink = RaySink(learner, self._config.actors.max_unacknowledged_mb * 1e6, name)
        self._source = RaySource(server)
        self._worker = components.build_worker(
            self._config, self._pool, policy, self._sink, self._source, timed=True, **self._identity
        )

        def body() -> None:
            self._worker.run(self._stop, self._config.actors.pull_period_s, wait_for_weights)
            self._sink.flush(timeout_s=60.0)

        self._begin(body)
        return os.getpid()

    def use_server(self, server: Any) -> None:
        """A new parameter server has taken the place of the old one."""
        self._source.server = server

    def report(self) -> dict[str, Any]:
        """See ``EnvWorker.report``; ``failure`` where the loop has ended in one.

        Raises:
            DistrlError: why there are no environments.
        """
        if self._refusal is not None:
            raise self._refusal
        return self._worker.report() | {"failure": self._failure, "cpu_s": time.process_time(), **_whereabouts()}

    def stop(self, timeout_s: float) -> dict[str, Any]:
        """Publish what is finished, wait for its acknowledgement, end the environments; the last report."""
        self._stop.set()
        if self._loop is not None:
            self._loop.join(timeout_s)
        report = self.report()
        self._worker.close()
        return report


class LearnerActor(_LoopActor):
    """Secures and inserts on its main thread while the loop updates."""

    def __init__(self, config: dict[str, Any], spec: EnvSpec, directory: str, server: Any):
        super().__init__()
        self._config = RunConfig.validated(config)
        self._server = server
        self._finish = threading.Event()
        self._begun_s: float | None = None
        self._refusal: DistrlError | None = None
        try:
            self._learner = components.build_learner(self._config, spec, Path(directory), self._publish)
        except DistrlError as error:  # raised here, Ray would bury its sentence in the report of a dead actor
            self._refusal = error
            return
        self._learner.publish()

    def _publish(self, version: int, weights: Weights) -> None:
        self._server.publish.remote(version, weights)

    def use_server(self, server: Any) -> None:
        """A new parameter server has taken the place of the old one: it gets the newest weights."""
        self._server = server
        self._learner.publish()

    def ready(self) -> tuple[dict[str, Any], list[str]]:
        """The first report, and what the user should know about a resume.

        Raises:
            DistrlError: why there can be no learner.
        """
        if self._refusal is not None:
            raise self._refusal
        return self.report(), self._learner.notes

    def start(self) -> int:
        """Begin to update; returns the process id."""
        notice = WaitNotice("the learner")

        def body() -> None:
            while not self._stop.is_set():
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

    def receive(self, fragment: Fragment) -> int:
        """See ``Learner.receive``."""
        return self._learner.receive(fragment)

    def report(self) -> dict[str, Any]:
        """See ``Learner.report``."""
        training_s = time.monotonic() - self._begun_s if self._begun_s is not None else 0.0
        return self._learner.report() | {
            "failure": self._failure,
            "cpu_s": time.process_time(),
            "training_s": training_s,
            "running": self._loop is not None and self._loop.is_alive(),
            **_whereabouts(),
        }

    def finish(self) -> None:
        """No more fragments will come: end after the updates that are still owed."""
        self._finish.set()

    def stop(self) -> dict[str, Any]:
        """End the loop, publish, write a checkpoint; the last report."""
        self._stop.set()
        if self._loop is not None:
            self._loop.join()
        report = self.report()
        self._learner.publish()
        self._learner.checkpoint()
        self._learner.close()
        return report


class EvaluatorActor:
    """Runs deterministic episodes with the newest weights, at low priority, when asked."""

    def __init__(self, config: dict[str, Any], directory: str, scratch: str, inline: bool):
        os.nice(10)  # never in the way of env workers
        self._config = RunConfig.validated(config)
        self._directory = Path(directory)
        evaluation = self._config.evaluation
        self._num_envs = min(evaluation.envs, evaluation.episodes)
        self._runner = components.evaluation_runner(
            self._config, components.SELECTION_SEEDS, evaluation.episodes, self._num_envs, Path(scratch), inline=inline
        )

    def start(self, spec: PolicySpec, server: Any, best: float | None) -> int:
        """Get ready; ``best`` is the best mean return so far. Returns the process id."""
        self._spec, self._source, self._best = spec, RaySource(server), best
        self._policy = spec.build(seed=0, deterministic=True)
        return os.getpid()

    def use_server(self, server: Any) -> None:
        """A new parameter server has taken the place of the old one."""
        self._source.server = server

    def evaluate(self, env_steps: int) -> dict[str, Any] | None:
        """One episode on each seed; keeps the policy if it is the best. None before the first publication."""
        from distrl.actors.evaluator import act_with, mean_return

        pulled = self._source.pull_if_newer(-1)
        if pulled is None:
            return None
        version, weights = pulled
        self._policy.load(weights)
        results = self._runner.run(act_with(self._policy, self._num_envs))
        mean = mean_return(results)
        if math.isfinite(mean) and (self._best is None or mean > self._best):
            self._best = mean
            save_best(self._directory, version, weights, self._spec, mean)
        return {
            "env_steps": env_steps,
            "updates": version,
            "seeds": [result.seed for result in results],
            "returns": [result.episode_return for result in results],
            "lengths": [result.length for result in results],
        }

    def stop(self) -> None:
        """End the environments."""
        self._runner.close()
