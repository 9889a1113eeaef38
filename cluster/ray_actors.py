"""The components as Ray actors: each wraps a plain class, runs its loop in a thread, and answers the supervisor on its
main thread.

EnvWorkerActor ──receive(fragment)──► LearnerActor ──publish──► ParameterServerActor ◄──pull_if_newer── EnvWorkerActor,
EvaluatorActor
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import math
import os
import threading
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray

from distrl.cluster import components
from distrl.cluster.components import save_best
from distrl.cluster.inference_choice import choose
from distrl.cluster.ray_links import RaySink, RaySource, adopt_all, send_again
from distrl.core.config import RunConfig
from distrl.core.contracts import EnvPool, Receipt
from distrl.core.errors import DistrlError, RunFailed, StorageError
from distrl.core.limiter import WaitNotice
from distrl.core.metrics import write_json
from distrl.core.run_directory import scratch_directory
from distrl.core.spool import Orphan, Spool
from distrl.core.types import Cursor, EnvSpec, Fragment, PolicySpec, Weights
from distrl.parameter_server import ParameterServer

if TYPE_CHECKING:
    from distrl.cluster.inference import RayServerLink

_SECURED_S = 600.0  # for what an env worker that leaves has published: a new learner first refills its replay
_OTHER_LEARNER_S = 60.0


class ParameterServerActor(ParameterServer):
    """``ParameterServer`` behind Ray, where any number of env workers wait without a thread each; imports no torch."""

    def __init__(self) -> None:
        super().__init__()
        self._news = asyncio.Event()

    async def publish(self, version: int, weights: Weights) -> int:  # type: ignore[override]
        """See ``ParameterServer.publish``."""
        news, self._news = self._news, asyncio.Event()
        news.set()
        return super().publish(version, weights)

    async def pull_if_newer(self, version: int, wait_s: float = 0.0) -> tuple[int, Weights] | None:  # type: ignore[override]
        """See ``ParameterServer.pull_if_newer``."""
        deadline = time.monotonic() + wait_s
        while (found := super().pull_if_newer(version)) is None and (left_s := deadline - time.monotonic()) > 0:
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


class EnvWorkerActor(LoopActor):
    """Hosts a pool; its environments start while the rest of the run does.

    It adopts the spools that earlier lives of its number have left on this node: what they had not seen secured is
    sent again, and their episodes continue where a snapshot allows it.
    """

    def __init__(
        self, config: dict[str, Any], worker: int, incarnation: int, run: str, run_id: str, inline: bool, env_steps: int
    ):
        super().__init__()
        self._config = RunConfig.validated(config)
        self._identity = {"worker": worker, "incarnation": incarnation}
        self._grace_s = 0.0
        self._left = False
        self._sink: RaySink | None = None
        self._link: RayServerLink | None = None
        self._refusal: DistrlError | None = None
        self._snapshots = Path(run) / "snapshots" / f"worker-{worker}"
        self._spools = components.spool_directory(self._config, run_id) / f"worker-{worker}"
        self._orphans: list[Orphan] = []
        self._adopted: dict[int, int] = {}
        self._told = 0  # complaints of orphans
        try:
            self._orphans = adopt_all(self._spools)
            self._adopted = {orphan.incarnation: orphan.num_committed for orphan in self._orphans}
            self._spool = self._new_spool(inline)
            self._inherited = read_cursors(self._snapshots)
            for orphan in self._orphans:
                self._inherited |= orphan.cursors
            if self._spool is not None:
                self._spool.inherit(self._inherited)
            self._pool = self._host(scratch_directory(run_id), inline, env_steps)
        except DistrlError as error:  # raised here, Ray would bury its sentence in the report of a dead actor
            self._refusal = error

    def _new_spool(self, inline: bool) -> Spool | None:
        run = self._config.run
        if run.durability == "off" or (run.durability == "auto" and inline):
            return None
        return Spool(self._spools, self._identity["incarnation"], worker=self._identity["worker"], sync=run.sync)

    def _host(self, scratch: Path, inline: bool, env_steps: int) -> EnvPool:
        return components.build_training_pool(
            self._config,
            **self._identity,
            scratch=scratch,
            inline=inline,
            env_steps=env_steps,
            snapshots=self._snapshots,
            cursors=self._inherited,
        )

    def start(self, policy: PolicySpec, learner: Any, server: Any, inference: Any, wait_for_weights: bool) -> int:
        """Begin to act, see ``EnvWorker.run``; ``inference``: a server to ask, or None. Returns the process id."""
        if self._refusal is not None or self._loop is not None:
            return os.getpid()  # the next report tells
        name = f"env worker {self._identity['worker']}"
        sink = self._sink = RaySink(learner, self._config.actors.max_unacknowledged_mb * 1e6, name)
        self._source = RaySource(server)
        if self._config.actors.inference != "local":
            from distrl.cluster.inference import RayServerLink

            self._link = RayServerLink(inference)
        try:
            self._worker = components.build_worker(
                self._config,
                self._pool,
                policy,
                sink,
                self._source,
                timed=True,
                spool=self._spool,
                server=self._link,
                worker=self._identity["worker"],
                incarnation=self._identity["incarnation"],
            )
        except Exception as error:  # noqa: BLE001  nobody waits for this call's answer: the next report tells
            traceback.print_exc()
            self._refusal = RunFailed(
                f"env worker {self._identity['worker']} cannot begin: {type(error).__name__}: {error}"
            )
            return os.getpid()

        def body() -> None:
            send_again(self._orphans, sink)
            self._worker.run(
                self._stop, self._config.actors.pull_period_s, wait_for_weights, grace_s=lambda: self._grace_s
            )
            sink.flush(_SECURED_S)
            begun = self._pool.stats().produced > 0
            write_cursors(self._snapshots, self._worker.cursors() if begun else self._inherited)
            self._worker.close()
            for orphan in self._orphans:
                orphan.close()
            self._left = True

        self._begin(body)
        return os.getpid()

    def use_server(self, server: Any) -> None:
        """A new parameter server has taken the place of the old one."""
        if self._sink is not None:
            self._source.server = server

    def use_learner(self, learner: Any) -> None:
        """A new learner has taken the place of the old one."""
        if self._sink is not None:
            self._sink.use_learner(learner)

    def use_inference(self, server: Any) -> None:
        """Ask this inference server from now on."""
        if self._link is not None:
            self._link.use(server)

    def report(self, env_steps: int) -> dict[str, Any]:
        """See ``EnvWorker.progress`` and ``EnvWorker.report``.

        Returns:
            Also ``failure`` where the loop has ended in one, ``left`` where this is the last report of one that was
            told to stop, ``adopted``: incarnation → transitions committed by the lives whose spools it took over,
            ``notes``: what of these could not be read, told once. ``asks``: whether an inference server chooses the
            actions.

        Raises:
            DistrlError: why there are no environments.
        """
        if self._refusal is not None:
            raise self._refusal
        self._worker.progress(env_steps)
        complaints = [complaint for orphan in self._orphans for complaint in orphan.complaints]
        notes, self._told = complaints[self._told :], len(complaints)
        # before the rest: it is final
        facts = {"failure": self._failure, "left": self._left, "adopted": self._adopted, "notes": notes}
        facts["asks"] = self._link is not None and self._link.alive
        return self._worker.report() | facts | whereabouts()

    def stop(self, grace_s: float) -> None:
        """Let steps under way finish within the grace, publish what is finished, wait until it is secured, end the
        environments. Where the episodes stand is left beside their snapshots. Reports go on, until one says ``left``.
        """
        self._grace_s = grace_s
        self._stop.set()


def write_cursors(folder: Path, cursors: dict[int, Cursor]) -> None:
    """Where a worker that leaves in order had come to; only beside snapshots, from which its successor continues."""
    if folder.exists():
        write_json(folder / "cursors.json", {str(env): [c.episode_uid, c.step] for env, c in cursors.items()})


def read_cursors(folder: Path) -> dict[int, Cursor]:
    """What ``write_cursors`` left, once."""
    path = folder / "cursors.json"
    try:
        found = json.loads(path.read_text())
        path.unlink()
    except FileNotFoundError:
        return {}
    return {int(env): Cursor(uid, step) for env, (uid, step) in found.items()}


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
        self._begun_s: float | None = None
        self._inference: str = self._config.actors.inference
        self._refusal: DistrlError | None = None
        try:
            self._log = sole_writer(Path(directory) / "log")
            self._learner = components.build_learner(self._config, spec, Path(directory), self._publish)
        except DistrlError as error:  # raised here, Ray would bury its sentence in the report of a dead actor
            self._refusal = error
            return
        if self._config.actors.inference == "auto":
            choice = choose(self._learner.policy(), spec, self._config)
            self._inference = choice.where
            self._learner.notes.append(choice.reason)
        self._learner.publish()

    def _publish(self, version: int, weights: Weights) -> None:
        self._server.publish.remote(version, weights)

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

    def start(self, spec: PolicySpec, server: Any, best: float | None) -> int:
        """Get ready; ``best`` is the best mean return so far. Returns the process id."""
        self._spec, self._source, self._best = spec, RaySource(server), best
        self._policy = spec.build(seed=0, deterministic=True)
        return os.getpid()

    def report(self) -> dict[str, Any]:
        """Where it is, when it does not evaluate."""
        return whereabouts()

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
