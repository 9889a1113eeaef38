"""Measures the process pool and prints one JSON line: start time, overhead a step, memory a process.

    python benchmarks/pool.py [--envs 16] [--seconds 3]

``overhead_us``: what a step costs outside the environment's own ``step``, one environment at a time (send → recv, wall
minus the time inside ``step``), so latency, not throughput. ``pool_us_per_row``: CPU time of this process in recv +
send per row, with all environments going. ``pss_mb``: proportional set size of each environment process of
SlowPendulum.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from distrl.actors.process_pool import ProcessPool
from distrl.core.seeds import TrainingSeeds
from distrl.core.types import EnvRecipe

SLOW = EnvRecipe("Pendulum-v1", delay={"kind": "lognormal", "median_s": 0.05, "sigma": 1.0})


def drive(pool: ProcessPool, seconds: float) -> tuple[int, float]:
    """(steps, CPU seconds of this thread) of serving the pool with constant actions."""
    steps, begin, cpu = 0, time.monotonic(), time.thread_time()
    action = np.zeros((pool.num_envs, 1), np.float32)
    while time.monotonic() - begin < seconds:
        outcomes, requests, _ = pool.recv(1.0)
        pool.send(action[: len(requests.rows)], requests.rows)
        steps += len(outcomes.rows)
    return steps, time.thread_time() - cpu


def latency_us(seconds: float, scratch: str) -> tuple[float, float]:
    """(median, 99th percentile) of a step's overhead in microseconds, one Pendulum-v1."""
    pool = ProcessPool(EnvRecipe("Pendulum-v1"), 1, TrainingSeeds(0), scratch_dir=scratch)
    try:
        found, end = [], time.monotonic() + seconds
        _, requests, _ = pool.recv(5.0)
        action = np.zeros((1, 1), np.float32)
        while time.monotonic() < end:
            begin = time.perf_counter()
            pool.send(action, requests.rows)
            outcomes, requests, _ = pool.recv(5.0)
            wall = time.perf_counter() - begin
            found.append(wall - float(outcomes.end_s[0] - outcomes.start_s[0]))
            if not len(requests.rows):
                _, requests, _ = pool.recv(5.0)
        found.sort()
        return statistics.median(found) * 1e6, found[int(0.99 * len(found))] * 1e6
    finally:
        pool.close()


def main() -> None:
    """Parse the arguments, measure, print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--envs", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=3.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(
        prefix="distrl-", dir="/dev/shm" if os.path.isdir("/dev/shm") else None
    ) as scratch:
        print(json.dumps(measure(options, scratch)))


def measure(options: argparse.Namespace, scratch: str) -> dict[str, object]:
    """All figures; ``scratch`` is a directory for the shared memory, in RAM where there is such a file system."""
    begin = time.monotonic()
    pool = ProcessPool(SLOW, options.envs, TrainingSeeds(0), scratch_dir=scratch)
    ready: set[int] = set()
    while len(ready) < options.envs:
        _, requests, _ = pool.recv(5.0)
        ready.update(requests.rows.tolist())
        pool.send(np.zeros((len(requests.rows), 1), np.float32), requests.rows)
    start_s = time.monotonic() - begin
    drive(pool, options.seconds)
    pss = []
    for pid in pool.pids():
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        pss.append(next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1000)
    stats = pool.stats()
    pool.close()

    fast = ProcessPool(EnvRecipe("Pendulum-v1"), options.envs, TrainingSeeds(0), scratch_dir=scratch)
    drive(fast, 0.5)
    steps, cpu = drive(fast, options.seconds)
    fast.close()
    median, p99 = latency_us(options.seconds, scratch)
    return {
        "envs": options.envs,
        "start_s": round(start_s, 3),
        "busy_slow_pendulum": round(stats.step_s / stats.lifetime_s, 4),
        "pss_mb_max": max(pss),
        "overhead_us_median": round(median, 1),
        "overhead_us_p99": round(p99, 1),
        "pool_us_per_row": round(cpu / steps * 1e6, 1),
        "steps_per_s_pendulum": round(steps / options.seconds),
        "cores": os.cpu_count(),
        "machine": platform.processor() or platform.machine(),
        "load": os.getloadavg()[0],
    }


if __name__ == "__main__":
    main()
