"""A hosting and a ladder of rows go in; what one env worker then makes of the environment comes out, rung by rung.

A real env worker with the run's policy and a sink that keeps only times, in a process of its own, so that nothing leaks
into the next hosting or the caller and a crash ends nothing else.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from distrl.core.config import RunConfig
from distrl.core.errors import DistrlError, EnvironmentFault
from distrl.core.run_directory import scratch_directory
from distrl.core.types import Fragment, PolicySpec, Weights
from distrl.envs.light_process import TREE, describe_exit, die_with_parent, kill_tree, light_command, light_environment

PAYS = 1.1  # a rung that gains less is the ladder's last
_DEAR = 20  # times as long as it is measured, and making the environments costs more than knowing about more of them
_KEPT_BYTES = 32 << 20  # of fragments
_START_S = 60.0  # for a process to start and import, beside what the environment itself takes


@dataclass(frozen=True)
class Rung:
    """What one env worker made with so many rows.

    Attributes:
        hosting: as in ``env.hosting``. rows: ``actors.envs_per_worker``.
        env_steps_per_s: of wall time, resets and inference included. Where everything happens in turn (inline, vector,
            one row) the time spent waiting for a core is left out, so that a busy machine does not change it.
        cpu_s: CPU seconds of an env step in all processes. worker_cpu_s: in the env worker's own.
        memory_bytes: of an environment: proportional set size that came with the pool, divided by its rows.
        step_s: float64 [K], wall seconds inside single steps, ascending.
        reset_s: mean wall seconds of a reset.
        fragments: what the worker published.
    """

    hosting: str
    rows: int
    env_steps_per_s: float
    cpu_s: float
    worker_cpu_s: float
    memory_bytes: float
    step_s: np.ndarray
    reset_s: float
    fragments: list[Fragment] = field(default_factory=list, repr=False)

    def most_per_s(self, cores: float) -> float:
        """Env steps a second on so many cores."""
        return min(self.env_steps_per_s, cores / max(self.cpu_s, 1e-9))


@dataclass(frozen=True)
class Ladder:
    """What a process measures: ``rows`` ascending, until a rung no longer pays, for about ``seconds`` each.

    Attributes:
        config: of the run; ``env.hosting`` is decided. weights: what the policy acts with.
        cores, memory_bytes: more than these are not there. keep: whether fragments come back.
    """

    config: dict[str, Any]
    policy: PolicySpec
    weights: Weights
    rows: Sequence[int]
    seconds: float
    cores: float
    memory_bytes: float
    keep: bool = False


def climb(ladder: Ladder, patience_s: float) -> Iterator[Rung]:
    """Each rung as soon as it is measured. May be left early.

    Args:
        patience_s: wall seconds for making and resetting environments and for their first steps, in all.

    Raises:
        DistrlError: a rung cannot be measured.
    """
    tree = uuid.uuid4().hex
    read, write = os.pipe()
    limit_s = _START_S + patience_s + 2 * ladder.seconds * len(ladder.rows)
    with tempfile.TemporaryFile() as question, os.fdopen(read, "rb") as answer:
        pickle.dump((ladder, tree), question)
        question.seek(0)
        process = subprocess.Popen(
            light_command("distrl.cluster.pool_trials:_child", str(write), str(os.getpid())),
            stdin=question,
            stdout=2,  # an environment that prints must not mix with our own output
            pass_fds=(write,),
            env=light_environment({TREE: tree}),
            start_new_session=True,
        )
        os.close(write)
        until = time.monotonic() + limit_s
        late = threading.Timer(limit_s, kill_tree, [tree])
        late.start()
        try:
            while (item := pickle.load(answer)) is not None:
                if isinstance(item, BaseException):
                    raise item
                yield item
        except (EOFError, pickle.UnpicklingError):
            status = process.wait()
            name, hosting = ladder.config["env"]["id"], ladder.config["env"]["hosting"]
            how = describe_exit(status) if time.monotonic() < until else f"{limit_s:.0f} s were not enough"
            raise EnvironmentFault(
                f"{name} with env.hosting = {hosting!r} must get so far that it can be measured; it did not: {how}.",
                "crash",
            ) from None
        finally:
            late.cancel()
            process.kill()
            kill_tree(tree)
            process.wait()
            shutil.rmtree(scratch_directory(tree), ignore_errors=True)


def _child(answer_fd: str, parent: str) -> None:
    die_with_parent(int(parent))
    ladder, tree = pickle.load(sys.stdin.buffer)
    with os.fdopen(int(answer_fd), "wb") as answer:

        def tell(item: Any) -> None:
            pickle.dump(item, answer)
            answer.flush()

        try:
            before = 0.0
            for number, rows in enumerate(ladder.rows):
                begin = time.monotonic()
                rung = measure(ladder, rows, scratch_directory(tree))
                tell(rung)
                now = rung.most_per_s(ladder.cores)
                if now < PAYS * before or 4 * rows * rung.memory_bytes > ladder.memory_bytes:
                    break
                if number and time.monotonic() - begin > _DEAR * ladder.seconds:  # the first one imports
                    break
                before = now
            tell(None)
        except DistrlError as error:
            tell(error)
    sys.stderr.flush()
    os._exit(0)  # an environment's leftover threads must not keep this process


class _Times:
    """A sink that keeps how long steps took and, where asked, the first fragments; the source of one set of weights."""

    def __init__(self, weights: Weights, keep: bool):
        self._weights, self._keep = weights, keep
        self.step_s: list[np.ndarray] = []
        self.fragments: list[Fragment] = []
        self._bytes = 0

    def publish(self, fragment: Fragment, secured: Callable[[], None]) -> None:
        if len(self.step_s) < 10_000:
            self.step_s.append((fragment.columns["end_s"] - fragment.columns["start_s"]).ravel())
        if self._keep and self._bytes + fragment.nbytes <= _KEPT_BYTES:
            self.fragments.append(fragment)
            self._bytes += fragment.nbytes
        secured()

    def keep_up(self) -> None: ...

    def flush(self, timeout_s: float) -> None: ...

    def lacking(self) -> dict[str, tuple[int, int]]:
        return {}

    def pull_if_newer(self, version: int, wait_s: float = 0.0) -> tuple[int, Weights] | None:
        return (0, self._weights) if version < 0 else None


def measure(ladder: Ladder, rows: int, scratch: Path) -> Rung:
    """One rung, in this process.

    Raises:
        ConfigError, EnvironmentFault: the environments cannot be made, or fail again and again.
    """
    from distrl.actors.env_worker import build_env_worker, one_policy
    from distrl.cluster import components
    from distrl.core.limiter import Admission
    from distrl.learners.registry import algorithm_config

    config = RunConfig.validated(ladder.config)
    config = config.model_copy(update={"actors": config.actors.model_copy(update={"envs_per_worker": rows})})
    times = _Times(ladder.weights, ladder.keep)
    inline = config.env.hosting != "process"
    before_bytes = _memory_bytes()
    pool = components.build_training_pool(config, 0, 0, scratch, inline=inline, env_steps=0)
    model = algorithm_config(config.algorithm.name)
    waits = model.on_policy and not model.episodic
    worker = build_env_worker(
        pool,
        one_policy(ladder.policy.build(seed=0), times, Admission(sys.maxsize, 0) if waits else None),
        times,
        fragment_steps=config.actors.fragment_steps,
        fragment_max_age_s=config.actors.fragment_max_age_s,
    )
    try:
        worker.pull()
        until, warm = time.monotonic() + 0.2 * ladder.seconds, 0
        while warm < rows or time.monotonic() < until:
            warm += worker.run_once(0.05)
        worker.report()
        watch = Stopwatch([process.pid for process in _tree()] if inline or rows == 1 else [])
        cpu_s, own_s, steps = _cpu_s(), time.process_time(), 0
        until = time.monotonic() + ladder.seconds
        while time.monotonic() < until:
            steps += worker.run_once(0.05)
            worker.report()
        spent_s, cpu_s, own_s = watch.seconds(), _cpu_s() - cpu_s, time.process_time() - own_s
        memory = (_memory_bytes() - before_bytes) / rows
        stats = pool.stats()
        worker.finish()
    finally:
        worker.close()
    step_s = np.sort(np.concatenate(times.step_s)) if times.step_s else np.zeros(0)
    rate = steps / max(spent_s, 1e-3)
    if steps < rows and len(step_s):  # steps so long that few ended meanwhile
        rate = rows / float(step_s.mean())
    made = max(rate * spent_s, 1e-9)
    return Rung(
        config.env.hosting,
        rows,
        rate,
        cpu_s / made,
        own_s / made,
        max(memory, 0.0),
        step_s[:: max(1, len(step_s) // 20_000)],
        stats.reset_s / max(stats.resets, 1),
        times.fragments,
    )


def _tree() -> list[Any]:
    import psutil

    process = psutil.Process()
    return [process, *process.children(recursive=True)]


class Stopwatch:
    """Wall seconds since it was made, without those in which processes that work in turn waited for a core, so that a
    busy machine does not change what is measured.

    Args:
        pids: of the processes, this one among them; none: nothing is left out.
    """

    def __init__(self, pids: Sequence[int]):
        self._pids = pids
        self._computed_s, self._waited_s = self._schedule()
        self._begin = time.monotonic()

    def seconds(self) -> float:
        """Up to now; not less than they have computed, since two of them may have waited at the same time."""
        wall_s = time.monotonic() - self._begin
        computed_s, waited_s = self._schedule()
        return max(wall_s - (waited_s - self._waited_s), min(wall_s, computed_s - self._computed_s))

    def _schedule(self) -> tuple[float, float]:
        """Seconds that all threads have computed, and that they have waited for a core: of each process its first
        thread, which works in turn with the others, and the longest of these (Linux's schedstat, in nanoseconds)."""
        computed_s = waited_s = 0.0
        for pid in self._pids:
            waits = []
            for path in sorted(Path(f"/proc/{pid}/task").glob("*/schedstat"), key=lambda path: int(path.parent.name)):
                with contextlib.suppress(OSError, ValueError):
                    computed, waited, *_ = (1e-9 * int(word) for word in path.read_text().split())
                    computed_s += computed
                    waits.append(waited)
            waited_s += sum(waits[:1]) + max(waits[1:], default=0.0)
        return computed_s, waited_s


def _cpu_s() -> float:
    """CPU seconds of this process and all below it, those that have ended included."""
    import psutil

    total = 0.0
    for process in _tree():
        with contextlib.suppress(psutil.Error):
            times = process.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
    return total


def _memory_bytes() -> float:
    """Proportional set size of this process and all below it."""
    total = 0.0
    for process in _tree():
        with contextlib.suppress(OSError, StopIteration), open(f"/proc/{process.pid}/smaps_rollup") as lines:
            total += 1024.0 * next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total
