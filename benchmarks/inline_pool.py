"""Measures what an env step costs beside the environment where environments are cheap, and prints one JSON line.

    python -m benchmarks.inline_pool [--rows 1 16 64 256] [--repeats 5]

All times are CPU time of the one thread that works, in microseconds a row and step, the median of ``--repeats`` runs;
steps/s are those of one second of CPU time. Episodes have 200 steps in ``still``, and random actions in CartPole.

``still_us``: an environment whose ``step`` does nothing (its own time is taken off), by number of rows: ``pool`` (recv
and send of ``InlinePool``), ``builder`` (``FragmentBuilder``, fragments of 128 steps), ``policy`` (PPO's of 2 × 64
units, in numpy), ``worker``: all of it, as ``EnvWorker.run_once`` does it.
``cartpole_steps_per_s``: through pool and builder with random actions, by number of rows: ``vector_pool`` over
Gymnasium's vectorised CartPole (``vector_raw`` is that alone) and ``inline_pool`` over single ones (``sync_vector`` is
Gymnasium's SyncVectorEnv, ``single_raw`` a loop over one environment that is reset at its ends).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from distrl.actors.env_worker import build_env_worker, one_policy
from distrl.actors.fragment_builder import FragmentBuilder
from distrl.actors.inline_pool import InlinePool
from distrl.actors.vector_pool import VectorPool
from distrl.core.contracts import EnvPool, Policy
from distrl.core.seeds import TrainingSeeds
from distrl.core.spaces import action_leaf, observation_leaves
from distrl.core.types import EnvRecipe, EnvSpec, Fragment
from distrl.learners.registry import algorithm_config

FRAGMENT_STEPS = 128
ROUNDS, ROW_STEPS = 2_000, 40_000  # at most, of a run

clock = time.thread_time


class Still(gymnasium.Env):
    """Returns the same again and again, for 200 steps."""

    def __init__(self) -> None:
        self.observation_space = spaces.Box(-1, 1, (4,), np.float32)
        self.action_space = spaces.Discrete(2)
        self._observation, self._info, self._t = np.zeros(4, np.float32), {}, 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        self._t = 0
        return self._observation, {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        self._t += 1
        return self._observation, 1.0, False, self._t == 200, self._info


class Discard:
    """A sink of fragments; the weights' source that has none."""

    def publish(self, fragment: Fragment, secured: Callable[[], None]) -> None:
        secured()

    def keep_up(self) -> None: ...

    def flush(self, timeout_s: float) -> None: ...

    def lacking(self) -> dict[str, tuple[int, int]]:
        return {}

    def pull_if_newer(self, version: int, wait_s: float = 0.0) -> None: ...


def builder_of(pool: EnvPool) -> FragmentBuilder:
    """Of whole fragments."""
    action = action_leaf(pool.spec.action_space)
    return FragmentBuilder(
        pool.env_index,
        pool.agent_index,
        {path: (leaf.shape, leaf.dtype) for path, leaf in observation_leaves(pool.spec.observation_space).items()},
        (action.shape, action.dtype),
        max_steps=FRAGMENT_STEPS,
        max_age_s=None,
        whole=True,
    )


def ppo_policy(spec: EnvSpec) -> Policy:
    """PPO's policy with the weights of an untrained network."""
    algorithm = algorithm_config("ppo")(hidden=(64, 64)).build(spec)
    policy = algorithm.policy_spec().build(seed=0)
    policy.load(algorithm.policy_weights())
    return policy


def parts(pool: EnvPool) -> tuple[int, float, float]:
    """(steps, seconds in the pool, seconds in the builder) with random actions."""
    builder, num_envs = builder_of(pool), pool.num_envs
    actions = np.random.default_rng(0).integers(0, 2, (997, num_envs))
    log_prob = np.zeros(num_envs, np.float32)
    steps, in_pool, in_builder = 0, 0.0, 0.0
    for round_ in range(rounds_of(num_envs)):
        begin = clock()
        outcomes, requests, _ = pool.recv(0.0)
        action = actions[round_ % 997, : len(requests.rows)]
        pool.send(action, requests.rows)
        between = clock()
        builder.finished(outcomes, 0.0)
        builder.requested(requests, action, log_prob[: len(action)], 0, {})
        builder.take()
        builder.episodes = []
        in_pool += between - begin
        in_builder += clock() - between
        steps += len(outcomes.rows)
    pool.close()
    return steps, in_pool, in_builder


def rounds_of(rows: int) -> int:
    """Of a run."""
    return min(ROUNDS, ROW_STEPS // rows)


def still_step_s() -> float:
    """Seconds of a ``step`` of Still."""
    env, begin = Still(), clock()
    for _ in range(ROW_STEPS):
        env.step(0)
    return (clock() - begin) / ROW_STEPS


def worker_s(rows: int) -> tuple[float, float]:
    """(seconds of a step in the policy, in all) of an env worker over Still."""
    pool = InlinePool(EnvRecipe("benchmarks.inline_pool:Still"), rows, TrainingSeeds(0))
    policy = ppo_policy(pool.spec)
    sink = Discard()
    worker = build_env_worker(
        pool, one_policy(policy, sink), sink, fragment_steps=FRAGMENT_STEPS, fragment_max_age_s=None
    )
    rounds, begin = rounds_of(rows), clock()
    for _ in range(rounds):
        worker.run_once(0.0)
        worker.report()
    all_s = clock() - begin
    observation, first = {"array": np.zeros((rows, 4), np.float32)}, np.zeros(rows, bool)
    begin = clock()
    for _ in range(rounds):
        policy.step(observation, {}, first)
    policy_s = clock() - begin
    pool.close()
    return policy_s / (rounds * rows), all_s / (rounds * rows)


def still(rows: int) -> dict[str, float]:
    """Microseconds a row."""
    step_s = still_step_s()
    steps, in_pool, in_builder = parts(InlinePool(EnvRecipe("benchmarks.inline_pool:Still"), rows, TrainingSeeds(0)))
    policy_s, all_s = worker_s(rows)
    found = {
        "pool": in_pool / steps - step_s,
        "builder": in_builder / steps,
        "policy": policy_s,
        "worker": all_s - step_s,
    }
    return {name: seconds * 1e6 for name, seconds in found.items()}


def vector_s(env: gymnasium.vector.VectorEnv) -> float:
    """Seconds of a step of one row of a vector environment."""
    actions = np.random.default_rng(0).integers(0, 2, (997, env.num_envs))
    rounds = rounds_of(env.num_envs)
    env.reset(seed=0)
    begin = clock()
    for round_ in range(rounds):
        env.step(actions[round_ % 997])
    spent = clock() - begin
    env.close()
    return spent / (rounds * env.num_envs)


def single_s() -> float:
    """Seconds of a step of one environment, resets included."""
    env, actions = gymnasium.make("CartPole-v1"), np.random.default_rng(0).integers(0, 2, ROW_STEPS).tolist()
    env.reset(seed=0)
    begin = clock()
    for action in actions:
        _, _, terminated, truncated, _ = env.step(action)
        if terminated or truncated:
            env.reset()
    return (clock() - begin) / ROW_STEPS


def cartpole(rows: int) -> dict[str, float]:
    """Steps a second of CPU time."""
    recipe = EnvRecipe("CartPole-v1")
    found = {}
    for name, pool in (("vector_pool", VectorPool), ("inline_pool", InlinePool)):
        steps, in_pool, in_builder = parts(pool(recipe, rows, TrainingSeeds(0)))
        found[name] = steps / (in_pool + in_builder)
    native = gymnasium.make_vec("CartPole-v1", num_envs=rows, vectorization_mode="vector_entry_point")
    sync = gymnasium.make_vec("CartPole-v1", num_envs=rows, vectorization_mode="sync")
    return found | {"vector_raw": 1 / vector_s(native), "sync_vector": 1 / vector_s(sync), "single_raw": 1 / single_s()}


def medians(measure: Callable[[int], dict[str, float]], rows: int, repeats: int, digits: int) -> dict[str, float]:
    """Of each figure over the repeats."""
    found = [measure(rows) for _ in range(repeats)]
    return {name: round(statistics.median(run[name] for run in found), digits) for name in found[0]}


def main() -> None:
    """Parse the arguments, measure, print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 16, 64, 256])
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    print(
        json.dumps(
            {
                "still_us": {rows: medians(still, rows, options.repeats, 2) for rows in options.rows},
                "cartpole_steps_per_s": {
                    rows: medians(cartpole, rows, options.repeats, 0) for rows in options.rows if rows > 1
                },
                "cores": os.cpu_count(),
                "machine": platform.processor() or platform.machine(),
                "load": os.getloadavg()[0],
            }
        )
    )


if __name__ == "__main__":
    main()
