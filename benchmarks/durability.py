"""Measures what durability costs and prints one JSON line: of a commit alone, and of an env worker's throughput.

    python -m benchmarks.durability [--commits 3000] [--seconds 10] [--directory /tmp]

``env_time_overhead``: by how much an env worker over 8 environments of 50 ms a step is slower when it commits each
transition than with durability off (1 − ratio of env steps a second; median of three alternations), without fsync
(``seconds``) and with one at each commit (``transition``).
Pieces are one step of one environment with an observation of 30 floats, each acknowledged 64 commits later, as by a
learner that is a little behind. ``commit_us``: ``{sync: [median, mean, 99th percentile]}`` of one commit of one piece,
``sixteen_us`` of one commit of 16 pieces; ``seconds`` syncs once a second, so its median is a commit without fsync, and
its mean has a share of the WAL's checkpoints in it. ``fdatasync_us``: what the disk takes for 12 kB overwritten and
synced without SQLite, which ``transition`` cannot undercut. ``file_kb``, ``wal_kb``: database and WAL at the end, 64
pieces being in it. ``adopt_us``: reading one piece of an orphan.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sqlite3
import statistics
import tempfile
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from distrl.actors.env_worker import build_env_worker, one_policy
from distrl.actors.process_pool import ProcessPool
from distrl.core.seeds import TrainingSeeds
from distrl.core.spool import Orphan, Spool, Sync, orphans
from distrl.core.types import EnvRecipe, Fragment
from tests.fakes.fragments import fragment

BEHIND = 64  # commits


def step(number: int) -> Fragment:
    """The piece of one commit: one step of one of 16 environments."""
    piece = fragment(steps=1, episode_uid=number % 16, first_step=number // 16, size=30)
    piece.columns["env_index"][:] = number % 16
    return piece


def summary(seconds: list[float]) -> list[float]:
    """[median, mean, 99th percentile] in microseconds."""
    seconds.sort()
    found = (statistics.median(seconds), statistics.fmean(seconds), seconds[int(0.99 * len(seconds))])
    return [round(value * 1e6, 1) for value in found]


def commit_s(spool: Spool, commits: int, pieces_each: int) -> list[float]:
    """Seconds of each of so many commits."""
    found = []
    for number in range(commits):
        pieces = [(number, step(number * pieces_each + index)) for index in range(pieces_each)]
        if number >= BEHIND:
            spool.forget(number - BEHIND)
        begin = time.perf_counter()
        spool.commit(pieces)
        found.append(time.perf_counter() - begin)
    return found


def fdatasync_us(directory: Path, repeats: int = 200) -> float:
    """Median of overwriting 12 kB in a file and syncing it, in microseconds."""
    found = []
    with (directory / "raw").open("w+b", buffering=0) as file:
        file.write(bytes(1 << 20))
        os.fsync(file.fileno())
        for index in range(repeats):
            begin = time.perf_counter()
            os.pwrite(file.fileno(), bytes(12_000), index % 80 * 12_000)
            os.fdatasync(file.fileno())
            found.append(time.perf_counter() - begin)
    return round(statistics.median(found) * 1e6, 1)


class Behind:
    """A sink whose learner secures each fragment when the next but seven has come."""

    def __init__(self) -> None:
        self._waiting: deque[Callable[[], None]] = deque()

    def publish(self, fragment: Fragment, secured: Callable[[], None]) -> None:
        self._waiting.append(secured)
        if len(self._waiting) > 8:
            self._waiting.popleft()()

    def keep_up(self) -> None:
        """Nothing is under way."""

    def flush(self, timeout_s: float) -> None:
        while self._waiting:
            self._waiting.popleft()()


class Constant:
    """A policy that costs nothing."""

    ready = True

    def initial_state(self, num_rows: int) -> dict[str, np.ndarray]:
        return {}

    def step(self, observation: Any, state: Any, is_first: np.ndarray, mask: Any) -> Any:
        return np.zeros((len(is_first), 1), np.float32), np.zeros(len(is_first), np.float32), {}

    def env_action(self, action: np.ndarray) -> np.ndarray:
        return action


class Nothing:
    """A parameter server without weights."""

    def pull_if_newer(self, version: int, wait_s: float = 0.0) -> None:
        return None


def steps_per_s(seconds: float, spool: Spool | None, scratch: Path) -> float:
    """Env steps a second of an env worker over 8 environments of 50 ms a step."""
    recipe = EnvRecipe("Pendulum-v1", delay={"kind": "constant", "median_s": 0.05})
    pool = ProcessPool(recipe, 8, TrainingSeeds(0), scratch_dir=str(scratch))
    sink = Behind()
    worker: Any = build_env_worker(
        pool,
        one_policy(Constant(), Nothing()),
        sink,
        fragment_steps=50,
        fragment_max_age_s=5.0,
        spool=spool,
        durability="always",
    )
    for _ in range(50):  # all environments are under way
        worker.run_once(0.25)
    begin, steps = time.monotonic(), 0
    while time.monotonic() - begin < seconds:
        steps += worker.run_once(0.25)
    rate = steps / (time.monotonic() - begin)
    worker.finish()
    sink.flush(0.0)
    worker.close()
    return rate


def overhead(seconds: float, directory: Path) -> dict[str, float]:
    """sync → by how much committing each transition slows an env worker down."""
    modes: tuple[Sync, ...] = ("seconds", "transition")
    found: dict[Sync, list[float]] = {sync: [] for sync in modes}
    for repeat in range(3):
        off = steps_per_s(seconds, None, directory / "scratch")
        for number, sync in enumerate(modes):
            with_spool = steps_per_s(
                seconds, Spool(directory, 100 + 2 * repeat + number, worker=0, sync=sync), directory
            )
            found[sync].append(1 - with_spool / off)
    return {sync: round(statistics.median(values), 4) for sync, values in found.items()}


def measure(commits: int, seconds: float, directory: Path) -> dict[str, object]:
    """All figures; ``directory`` is empty and on the disk that is measured."""
    single: dict[str, list[float]] = {}
    sixteen: dict[str, list[float]] = {}
    modes: tuple[Sync, ...] = ("seconds", "transition")
    for incarnation, sync in enumerate(modes):
        spool = Spool(directory, incarnation, worker=0, sync=sync)
        repeats = commits if sync == "seconds" else commits // 5
        single[sync] = summary(commit_s(spool, repeats, 1))
        files = [file.stat().st_size // 1000 for file in sorted(directory.glob(f"{incarnation}.sqlite*"))]
        spool.close()
        spool = Spool(directory, 10 + incarnation, worker=0, sync=sync)
        sixteen[sync] = summary(commit_s(spool, repeats // 5, 16))
        spool.close()
        if sync == "seconds":
            file_kb, wal_kb = files
    begin, pieces = time.perf_counter(), 0
    for path in orphans(directory):
        orphan = Orphan.adopt(path)
        assert orphan is not None
        with orphan:
            pieces += sum(1 for _ in orphan.pieces())
    adopt_us = round((time.perf_counter() - begin) / pieces * 1e6, 1)
    return {
        "env_time_overhead": overhead(seconds, directory),
        "commit_us": single,
        "sixteen_us": sixteen,
        "fdatasync_us": fdatasync_us(directory),
        "adopt_us": adopt_us,
        "file_kb": file_kb,
        "wal_kb": wal_kb,
        "sqlite": sqlite3.sqlite_version,
        "cores": os.cpu_count(),
        "machine": platform.processor() or platform.machine(),
        "load": os.getloadavg()[0],
    }


def main() -> None:
    """Parse the arguments, measure, print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--commits", type=int, default=3000)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each of the nine runs of an env worker")
    parser.add_argument(
        "--directory", type=Path, default=None, help="on the disk to measure; default: the temporary one"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="distrl-spool-", dir=options.directory) as directory:
        print(json.dumps(measure(options.commits, options.seconds, Path(directory))))


if __name__ == "__main__":
    main()
