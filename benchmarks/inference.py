"""Measures what an inference server on Ray adds to a policy's own step, and prints one JSON line.

    python -m benchmarks.inference [--rows 1 16 64] [--repeats 200]

One env worker's link asks one server, one request after the other, with no wait for company: ``round_trip_ms`` is the
time from the request to the answer, the median over ``--repeats``; ``policy_ms`` the policy's step of as many rows in
this process; by what the observation is (``flat``: 17 numbers, two layers of 64; ``pictures``: 84 × 84 × 4 bytes) and
the number of rows.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from typing import Any

import numpy as np
from gymnasium import spaces

os.environ.setdefault("OMP_NUM_THREADS", "1")

import ray

from distrl.cluster.inference import InferenceServerActor, RayServerLink
from distrl.cluster.inference_choice import step_s
from distrl.cluster.ray_actors import ParameterServerActor
from distrl.cluster.ray_links import start_actor
from distrl.core.config import RunConfig
from distrl.core.spaces import observation_leaves
from distrl.core.types import DEFAULT_POLICY, EnvSpec
from distrl.learners.registry import algorithm_config

CASES = {
    "flat": (spaces.Box(-np.inf, np.inf, (17,), np.float32), {}),
    "pictures": (spaces.Box(0, 255, (84, 84, 4), np.uint8), {"convolutions": "large"}),
}


def measure(name: str, rows: list[int], repeats: int) -> dict[str, dict[str, float]]:
    """Milliseconds, by number of rows."""
    space, options = CASES[name]
    spec = EnvSpec("benchmark", space, spaces.Discrete(6))
    algorithm = algorithm_config("ppo")(hidden=(64, 64), **options).build(spec)
    policy = algorithm.policy_spec().build(seed=0)
    policy.load(algorithm.policy_weights())
    server = start_actor(ParameterServerActor)
    ray.get(server.publish.remote(0, algorithm.policy_weights()))
    config = RunConfig(env={"id": "benchmark"}, actors={"inference_wait_s": 0.0}).model_dump()
    arguments = (config, {DEFAULT_POLICY: algorithm.policy_spec()}, 0, 0, server, True, "cpu")
    inference = start_actor(InferenceServerActor, *arguments, max_concurrency=100)
    link, found = RayServerLink(inference), {}
    for count in rows:
        observation = {
            path: np.zeros((count, *leaf.shape), leaf.dtype) for path, leaf in observation_leaves(space).items()
        }
        found[str(count)] = {
            "round_trip_ms": round(1e3 * round_trip_s(link, observation, count, repeats), 3),
            "policy_ms": round(1e3 * step_s(policy, spec, count), 3),
        }
    for actor in (inference, server):
        ray.kill(actor)
    return found


def round_trip_s(link: RayServerLink, observation: dict[str, np.ndarray], rows: int, repeats: int) -> float:
    """The median, after a warm-up."""
    seconds = []
    for ticket in range(20 + repeats):
        began = time.perf_counter()
        link.ask(ticket, observation, {}, np.zeros(rows, bool), 0)
        while not link.answers(60.0):
            pass
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds[20:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 16, 64])
    parser.add_argument("--repeats", type=int, default=200)
    options = parser.parse_args()
    ray.init(num_cpus=4, include_dashboard=False, object_store_memory=128 << 20, namespace="distrl", logging_level=40)
    line: dict[str, Any] = {"benchmark": "inference", "cores": os.cpu_count()}
    for name in CASES:
        line[name] = measure(name, options.rows, options.repeats)
    ray.shutdown()
    print(json.dumps(line))


if __name__ == "__main__":
    main()
