"""The learner's side as Ray actors, and what all actors share: each wraps a plain class, runs its loop in a thread, and
answers the supervisor on its main thread.

EnvWorkerActor ──receive(fragment)──► LearnerActor ──publish──► ParameterServerActor ◄──pull_if_newer── EnvWorkerActor,
EvaluatorActor
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import math
import os
import queue
import threading
import time
import traceback
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import ray

from distrl.cluster import components
from distrl.cluster.components import PolicySpecs, save_best
from distrl.cluster.inference_choice import choose
from distrl.cluster.policies import plan_policies
from distrl.cluster.ray_links import pull_all
from distrl.cluster.recorder import is_best
from distrl.core.config import RunConfig
from distrl.core.contracts import Receipt
from distrl.core.errors import DistrlError, StorageError
from distrl.core.limiter import WaitNotice
from distrl.core.types import DEFAULT_POLICY, EnvSpec, Fragment, Weights
from distrl.parameter_server import ParameterServer

_OTHER_LEARNER_S = 60.0


class ParameterServerActor(ParameterServer):
    """``ParameterServer`` behind Ray, where any number of env workers wait without a thread each; imports no torch."""

    def __init__(self) -> None:
        super().__init__()
        self._news = asyncio.Event()

    async def publish(  # type: ignore[override]
        self, version: int, weights: Weights, policy_id: str = DEFAULT_POLICY
    ) -> int:
        """See ``ParameterServer.publish``."""
        news, self._news = self._news, asyncio.Event()
        news.set()
        return super().publish(version, weights, policy_id)

    async def pull_if_newer(  # type: ignore[override]
        self, version: int, wait_s: float = 0.0, policy_id: str = DEFAULT_POLICY
    ) -> tuple[int, Weights] | None:
        """See ``ParameterServer.pull_if_newer``."""
        deadline = time.monotonic() + wait_s
        while (found := super().pull_if_newer(version, 0.0, policy_id)) is None and (
            left_s := deadline - time.monotonic()
        ) > 0:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), left_s)
        return found

    def report(self) -> dict[str, Any]:
        """Where it is, once it is up."""
        return whereabouts()


def whereabouts() -> dict[str, Any]:
    """Of the calling actor: process, GPUs, node, CPU seconds."""
    return {
        "pid": os.getpid(),
        "gpu_ids": ray.get_gpu_ids(),
        "node_id": ray.get_runtime_context().get_node_id(),
        "cpu_s": time.process_time(),
    }


class LoopActor:
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
    """Secures and inserts on its main thread while the loop updates."""

    def __init__(self, config: dict[str, Any], spec: EnvSpec, directory: str, server: Any):
        super().__init__()
        self._config = RunConfig.validated(config)
        self._server = server
        self._finish = threading.Event()
        self._asked = queue.SimpleQueue[Future[Path]]()  # checkpoints that the loop is to write
        self._begun_s: float | None = None
        self._inference: str = self._config.actors.inference
        self._refusal: DistrlError | None = None
        try:
            self._log = sole_writer(Path(directory) / "log")
            self._learner = components.build_learner(self._config, spec, Path(directory), self._publish)
        except DistrlError as error:  # raised here, Ray would bury its sentence in the report of a dead actor
            self._refusal = error
            return
        if self._inference == "auto":
            self._inference = self._choose_inference(spec)
        self._learner.publish()

    def _publish(self, version: int, weights: Weights, policy_id: str) -> None:
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

    def start(self) -> int:
        """Begin to update; returns the process id."""
        if self._refusal is not None or self._loop is not None:
            return os.getpid()  # the next report tells
        notice = WaitNotice("the learner")

        def body() -> None:
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

    def start(self, policies: PolicySpecs, server: Any, best: float | None) -> int:
        """Get ready; ``best`` is the best mean return so far. Returns the process id."""
        self._specs, self._server, self._best = policies, server, best
        self._policies = {name: policy.build(seed=0, deterministic=True) for name, policy in policies.items()}
        return os.getpid()

    def report(self) -> dict[str, Any]:
        """Where it is, when it does not evaluate."""
        return whereabouts()

    def use_server(self, server: Any) -> None:
        """A new parameter server has taken the place of the old one."""
        self._server = server

    def evaluate(self, env_steps: int) -> dict[str, Any] | None:
        """One episode on each seed; keeps the policy if it is the best. None before the first publication."""
        from distrl.actors.evaluator import mean_return

        pulled = pull_all(self._server, self._policies)
        if set(pulled) != set(self._policies):
            return None
        for name, (_, weights) in pulled.items():
            self._policies[name].load(weights)
        act = components.evaluation_act(self._config, self._runner.spec, self._policies, self._num_envs)
        results = self._runner.run(act)
        mean = mean_return(results)
        if math.isfinite(mean) and is_best(mean, self._best, self._config.league is not None):
            self._best = mean
            save_best(self._directory, pulled, self._specs, mean)
        return {
            "env_steps": env_steps,
            "updates": sum(version for version, _ in pulled.values()),
            "seeds": [result.seed for result in results],
            "returns": [result.episode_return for result in results],
            "lengths": [result.length for result in results],
        }

    def stop(self) -> None:
        """End the environments."""
        self._runner.close()
