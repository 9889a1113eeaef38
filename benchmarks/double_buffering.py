"""Does it pay that half of an env worker's rows step while the other half's actions are computed? One JSON line.

    python benchmarks/double_buffering.py [--case cartpole halfcheetah pong server] [--cores 1 2] [--seconds 1.5]

Three ways to step the same number of rows on the same cores with an untrained policy, without fragments: ``one`` worker
that turns from policy to environments and back; ``double``: one worker with two pools, a thread that steps one of them
while the main thread computes the other's actions; ``two`` such workers as ``one``, each in a process of its own with
half of the rows. Figures are medians over the repeats, which take turns. ``double_to_best``: double over the better of
the other two, in env steps a second. ``at_most``: the same, computed from the CPU time that an env step takes, which
other work on the machine changes less: one worker on a core of its own, two on ``cores`` of them, and double as if its
two threads never waited for each other. ``server``: HalfCheetah whose policy waits ``SERVER_S`` for an inference server
that computes elsewhere, so CPU time decides nothing there.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import os
import platform
import queue
import statistics
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import numpy as np

from distrl.actors.inline_pool import InlinePool
from distrl.actors.vector_pool import VectorPool
from distrl.core.contracts import EnvPool
from distrl.core.seeds import TrainingSeeds
from distrl.core.types import EnvRecipe
from distrl.learners.registry import algorithm_config

Act = Callable[[Any], np.ndarray]
Turn = Callable[[], int]  # acts once; env steps that finished


class Figures(NamedTuple):
    """Attributes: env_steps_per_s: of wall time. main_us, other_us: CPU microseconds an env step of the main thread and
    of the one that steps."""

    env_steps_per_s: float
    main_us: float
    other_us: float


SERVER_S = 0.002
CASES: dict[str, tuple[str, type[Any], int]] = {  # environment, pool, rows
    "cartpole": ("CartPole-v1", VectorPool, 128),
    "halfcheetah": ("HalfCheetah-v5", InlinePool, 16),
    "pong": ("distrl/Atari-v0", VectorPool, 16),
    "server": ("HalfCheetah-v5", InlinePool, 16),
}


def make(case: str, rows: int, seed: int) -> tuple[EnvPool, Act]:
    """A pool and what answers its requests."""
    id_, pool_class, _ = CASES[case]
    pool = pool_class(EnvRecipe(id_), rows, TrainingSeeds(seed))
    algorithm = algorithm_config("ppo")().build(pool.spec)
    policy = algorithm.policy_spec().build(seed=seed)
    policy.load(algorithm.policy_weights())

    def act(requests: Any) -> np.ndarray:
        if case == "server":
            time.sleep(SERVER_S)
        action, *_ = policy.step(requests.observation, {}, requests.is_first)
        return policy.env_action(action)

    return pool, act


def one(case: str, rows: int, seed: int) -> Turn:
    """Policy and environments in turn."""
    pool, act = make(case, rows, seed)

    def turn() -> int:
        outcomes, requests, _ = pool.recv(0.0)
        pool.send(act(requests), requests.rows)
        return len(outcomes.rows)

    return turn


def double(case: str, rows: int) -> Turn:
    """Two pools of half the rows, which a thread steps."""
    halves = [make(case, rows // 2, half) for half in range(2)]
    todo: queue.SimpleQueue[int] = queue.SimpleQueue()
    ready: queue.SimpleQueue[tuple[int, Any]] = queue.SimpleQueue()

    def step() -> None:
        while True:
            half = todo.get()
            ready.put((half, halves[half][0].recv(0.0)))

    def turn() -> int:
        half, (outcomes, requests, _) = ready.get()
        pool, act = halves[half]
        pool.send(act(requests), requests.rows)
        todo.put(half)
        return len(outcomes.rows)

    threading.Thread(target=step, daemon=True).start()
    todo.put(0)
    todo.put(1)
    return turn


def figures(turn: Turn, seconds: float) -> Figures:
    """Of turns for so long."""
    begin, cpu_s, main_s, steps = time.monotonic(), time.process_time(), time.thread_time(), 0
    while time.monotonic() < begin + seconds:
        steps += turn()
    wall_s, cpu_s, main_s = time.monotonic() - begin, time.process_time() - cpu_s, time.thread_time() - main_s
    return Figures(steps / wall_s, 1e6 * main_s / max(steps, 1), 1e6 * (cpu_s - main_s) / max(steps, 1))


def child(way: str, case: str, rows: int, cores: int, seed: int, seconds: float, parent: Connection) -> None:
    """Measures once for each message, in a process of its own on the first ``cores`` cores; a false one ends it."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    import torch

    torch.set_num_threads(1)
    turn = double(case, rows) if way == "double" else one(case, rows, seed)
    for _ in range(10):
        turn()
    parent.send(None)
    while parent.recv():
        parent.send(figures(turn, seconds))
    os._exit(0)  # the thread that steps


def compare(case: str, cores: int, seconds: float, repeats: int) -> dict[str, Any]:
    """A case on so many cores, as printed."""
    context, rows = multiprocessing.get_context("spawn"), CASES[case][2]
    ways: dict[str, list[Connection]] = {}
    for way, count in (("one", 1), ("double", 1), ("two", 2)):
        ways[way] = []
        for seed in range(count):
            mine, its = context.Pipe()
            context.Process(target=child, args=(way, case, rows // count, cores, seed, seconds, its)).start()
            mine.recv()
            ways[way].append(mine)
    runs: dict[str, list[Figures]] = {way: [] for way in ways}
    for _ in range(repeats):
        for way, children in ways.items():
            for connection in children:
                connection.send(True)
            found = [connection.recv() for connection in children]
            rates, main_us, other_us = zip(*found, strict=True)
            runs[way].append(Figures(sum(rates), statistics.mean(main_us), statistics.mean(other_us)))
    for connection in itertools.chain(*ways.values()):
        connection.send(False)
    median = {way: Figures(*map(statistics.median, zip(*found, strict=True))) for way, found in runs.items()}
    alone, both, two = (median[way] for way in ("one", "double", "two"))
    busiest_us = both.main_us + both.other_us if cores == 1 else max(both.main_us, both.other_us)
    others_us = min(alone.main_us + alone.other_us, (two.main_us + two.other_us) / cores)
    return {
        "case": case,
        "cores": cores,
        "rows": rows,
        "env_steps_per_s": {way: round(found.env_steps_per_s) for way, found in median.items()},
        "cpu_us": {way: [round(found.main_us, 2), round(found.other_us, 2)] for way, found in median.items()},
        "double_to_one": round(both.env_steps_per_s / alone.env_steps_per_s, 2),
        "double_to_best": round(both.env_steps_per_s / max(alone.env_steps_per_s, two.env_steps_per_s), 2),
        "at_most": None if case == "server" else round(others_us / busiest_us, 2),
    }


def main() -> None:
    """Parse the arguments, measure, print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--case", choices=CASES, nargs="+", default=list(CASES))
    parser.add_argument("--cores", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--seconds", type=float, default=1.5, help="of each of the repeats")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    found = [compare(case, cores, options.seconds, options.repeats) for case in options.case for cores in options.cores]
    print(
        json.dumps(
            {
                "cases": found,
                "cores": os.cpu_count(),
                "machine": platform.processor() or platform.machine(),
                "load": os.getloadavg()[0],
            }
        )
    )


if __name__ == "__main__":
    main()
