"""Prints one JSON line: what several agents cost, and how fast they are trained on beside RLlib.

    python benchmarks/multi_agent.py --case simple_spread [--seconds 40] [--seeds 0 1 2]
    python benchmarks/multi_agent.py --case population     # 16 … 256 agents with one policy
    python benchmarks/multi_agent.py --case slow           # two policies, one of them slow, in slow environments

simple_spread: PPO, one policy for three agents; trained agent steps a second of distrl over mpe2's own environment and
over distrl's form of it for many rows at once, and of RLlib over mpe2's (throughput_peers/rllib_multi_agent.py), one
after the other by the same clock. ``ratio_to_rllib`` is that of the faster form, ``ratio_on_mpe2`` of the other.

population: CPU time of an env worker for an agent step of PartnerGame, in all and outside of the game's own ``step``.

slow: one env worker, 8 environments in processes of their own whose steps take lognormal times, two policies of which
one needs ``--slow-ms`` for an inference. ``wait_s``: from an observation's arrival to the action, by policy.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks.throughput import DISTRL, Script, machine, middle, run
from distrl.actors.env_worker import EnvWorker, PolicyPart, build_env_worker
from distrl.actors.inline_pool import InlinePool
from distrl.actors.process_pool import ProcessPool
from distrl.core.contracts import EnvPool
from distrl.core.seeds import TrainingSeeds
from distrl.core.types import EnvRecipe, EnvSpec, Fragment
from distrl.learners.registry import algorithm_config

RLLIB = Script(sys.executable, ("rllib_multi_agent.py",), ("simple_spread",))
OWN = ["env.id=mpe2.simple_spread_v3", "env.hosting=inline", "actors.envs_per_worker=32", "actors.env_workers=2"]
_TIMEOUT_S = 300.0
_NUM_PLAYERS = (16, 64, 256)
_CANDIDATES = 8  # whom a player may choose from: observations do not grow with the population
_SLOW_ENVS, _MEDIAN_S, _SIGMA = 8, 0.25, 1.0


class Discard:
    """A sink, and a source without weights."""

    def publish(self, fragment: Fragment, secured: Any) -> None:
        secured()

    def keep_up(self) -> None:
        pass

    def flush(self, timeout_s: float) -> None:
        pass

    def lacking(self) -> dict[str, tuple[int, int]]:
        return {}

    def pull_if_newer(self, version: int, wait_s: float = 0.0) -> None:
        return None


class Slow:
    """A policy that thinks longer."""

    def __init__(self, policy: Any, seconds: float):
        self._policy, self._seconds = policy, seconds

    def __getattr__(self, name: str) -> Any:
        return getattr(self._policy, name)

    def step(self, *arguments: Any) -> Any:
        time.sleep(self._seconds)
        return self._policy.step(*arguments)


def policy_of(spec: EnvSpec, agent: int) -> Any:
    """An untrained policy of PPO's for an agent."""
    one = spec.agents[agent]
    alone = dataclasses.replace(spec, observation_space=one.observation_space, action_space=one.action_space, agents=())
    algorithm = algorithm_config("ppo")(hidden=(64, 64)).build(alone)
    policy = algorithm.policy_spec().build(seed=0)
    policy.load(algorithm.policy_weights())
    return policy


def worker_of(pool: EnvPool, parts: dict[str, PolicyPart]) -> EnvWorker:
    return build_env_worker(pool, parts, Discard(), fragment_steps=64, fragment_max_age_s=None)


def population(seconds: float) -> dict[str, Any]:
    """Per number of players: CPU µs an agent step."""
    found: dict[int, list[tuple[float, float]]] = defaultdict(list)
    for _ in range(3):
        for players in _NUM_PLAYERS:
            kwargs = {"num_players": players, "candidates": _CANDIDATES}
            pool = InlinePool(EnvRecipe("distrl/PartnerGame-v0", kwargs), max(256 // players, 1), TrainingSeeds(0))
            part = PolicyPart(policy_of(pool.spec, 0), Discard(), range(players))
            worker = worker_of(pool, {"default": part})
            games = [env.unwrapped.agents_env for env in pool._envs]
            inside = [0.0]
            for game in games:
                game.step = _timed(game.step, inside)
            for _ in range(3):
                worker.run_once(0.0)
            before, begin, inside[0] = pool.stats().transitions, time.thread_time(), 0.0
            while time.thread_time() - begin < seconds / 9:
                worker.run_once(0.0)
                worker.report()
            used, steps = time.thread_time() - begin, pool.stats().transitions - before
            found[players].append((1e6 * used / steps, 1e6 * (used - inside[0]) / steps))
            worker.close()
    medians = {
        players: [statistics.median(values) for values in zip(*found[players], strict=True)] for players in found
    }
    least, most = _NUM_PLAYERS[0], _NUM_PLAYERS[-1]
    return {
        "us_per_agent_step": {str(players): values[0] for players, values in medians.items()},
        "us_per_agent_step_outside_the_game": {str(players): values[1] for players, values in medians.items()},
        "ratio_256_to_16": medians[most][0] / medians[least][0],
    }


def _timed(step: Any, inside: list[float]) -> Any:
    def timed(actions: Any) -> Any:
        begin = time.thread_time()
        result = step(actions)
        inside[0] += time.thread_time() - begin
        return result

    return timed


def slow(seconds: float, slow_s: float) -> dict[str, Any]:
    """Busy, and how long rows of each policy wait."""
    delay = {"kind": "lognormal", "median_s": _MEDIAN_S, "sigma": _SIGMA}
    recipe = EnvRecipe("mpe2.simple_adversary_v3", delay=delay)
    with tempfile.TemporaryDirectory(prefix="multi-agent-") as folder:
        pool = ProcessPool(recipe, _SLOW_ENVS, TrainingSeeds(0), scratch_dir=folder)
        parts = {
            "fast": PolicyPart(policy_of(pool.spec, 1), Discard(), (1, 2)),
            "slow": PolicyPart(Slow(policy_of(pool.spec, 0), slow_s), Discard(), (0,)),
        }
        worker = worker_of(pool, parts)
        waits: dict[str, list[float]] = {}
        for stream in worker.streams:
            waits[stream.policy_id] = _watched(stream)
        deadline = time.monotonic() + 2.0  # all have begun
        while time.monotonic() < deadline:
            worker.run_once(0.25)
        before, deadline = pool.stats(), time.monotonic() + seconds
        while time.monotonic() < deadline:
            worker.run_once(0.25)
        after = pool.stats()
        worker.close()
    busy = (after.step_s - before.step_s) / (after.lifetime_s - before.lifetime_s)
    return {
        "environments": _SLOW_ENVS,
        "step_median_s": _MEDIAN_S,
        "step_sigma": _SIGMA,
        "slow_inference_s": slow_s,
        "busy": busy,
        "env_steps": after.produced - before.produced,
        "wait_s": {name: {"p50": float(np.median(v)), "p99": float(np.quantile(v, 0.99))} for name, v in waits.items()},
    }


def _watched(stream: Any) -> list[float]:
    """Seconds from each row's request to its action, as they come."""
    asked: dict[int, float] = {}
    waits: list[float] = []
    act, send = stream.act, stream._send_actions

    def watched_act(requests: Any) -> None:
        asked.update(dict.fromkeys(requests.rows.tolist(), time.monotonic()))
        act(requests)

    def watched_send(actions: np.ndarray, rows: np.ndarray) -> None:
        send(actions, rows)
        waits.extend(time.monotonic() - asked[row] for row in rows.tolist())

    stream.act, stream._send_actions = watched_act, watched_send
    return waits


def simple_spread(seconds: float, seeds: list[int]) -> dict[str, Any]:
    """distrl over both forms of the environment, and RLlib, in turns."""
    cases = {"distrl": (DISTRL, []), "distrl_on_mpe2": (DISTRL, ["--set", *OWN]), "rllib": (RLLIB, [])}
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in cases}
    for seed in seeds:
        for name, (script, extra) in cases.items():
            print(f"simple_spread {name} seed {seed}", file=sys.stderr)
            asked = ["--case", "simple_spread", f"--seconds={seconds}", f"--seed={seed}", *extra]
            runs[name].append(run(script, asked, _TIMEOUT_S + seconds))
    rates = {name: middle(found, "trained_env_steps_per_s") for name, found in runs.items()}
    theirs = rates["rllib"]
    return {
        "trained_agent_steps_per_s": rates,
        "ratio_to_rllib": rates["distrl"] / theirs if rates["distrl"] and theirs else None,
        "ratio_on_mpe2": rates["distrl_on_mpe2"] / theirs if rates["distrl_on_mpe2"] and theirs else None,
        "return_mean": middle(runs["distrl"], "return_mean"),
        "runs": runs,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=("simple_spread", "population", "slow"), required=True)
    parser.add_argument("--seconds", type=float, default=40.0, help="of measuring, for each")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of simple_spread")
    parser.add_argument("--slow-ms", type=float, default=10.0, help="that the slow policy of 'slow' needs")
    options = parser.parse_args()
    if options.case == "simple_spread":
        found = simple_spread(options.seconds, options.seeds)
    elif options.case == "population":
        found = population(options.seconds)
    else:
        found = slow(options.seconds, options.slow_ms / 1e3)
    print(json.dumps({"benchmark": "multi_agent", "case": options.case, **found, "machine": machine()}))


if __name__ == "__main__":
    main()
