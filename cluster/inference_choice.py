"""What a policy's step costs goes in; whether env workers act with their own copies or ask a server comes out."""

from __future__ import annotations

import math
import statistics
import time
from typing import Any, NamedTuple

import numpy as np

from distrl.core.config import RunConfig
from distrl.core.contracts import Policy
from distrl.core.spaces import observation_leaves
from distrl.core.types import EnvSpec

_ROUND_TRIP_S = 3e-3  # of a request and its answer through Ray, on one machine: benchmarks/inference.py
_WORTH = 2.0  # times as fast a server must be, before its process and its copies of the observations are worth it
_MEASURE_S = 0.1


class Choice(NamedTuple):
    """Attributes: where: ``local`` or ``server``. reason: in words, with the figures."""

    where: str
    reason: str


def choose(policy: Policy, spec: EnvSpec, config: RunConfig) -> Choice:
    """By the time in which every row of the run gets one action.

    With their own copies, env workers work side by side; a process pool's rows come one by one, those of other pools
    together. A server gets the rows of all.

    Args:
        policy: with weights, as env workers have it; measured here.
    """
    actors = config.actors
    together = 1 if config.env.hosting == "process" else actors.envs_per_worker
    num_rows = actors.env_workers * actors.envs_per_worker
    batch = min(math.ceil(num_rows / actors.inference_servers), actors.inference_batch)
    own_s = actors.envs_per_worker / together * step_s(policy, spec, together)
    batches = math.ceil(num_rows / (batch * actors.inference_servers))
    server_s = _ROUND_TRIP_S + batches * step_s(policy, spec, batch)
    where = "server" if _WORTH * server_s < own_s else "local"
    return Choice(
        where,
        f"actors.inference = {where}: all {num_rows} rows get an action in about {own_s * 1e3:.2g} ms from the env "
        f"workers' own copies of the policy, in {server_s * 1e3:.2g} ms from "
        + ("a server" if actors.inference_servers == 1 else f"{actors.inference_servers} servers"),
    )


def step_s(policy: Policy, spec: EnvSpec, rows: int) -> float:
    """Seconds of a step of so many rows, in this process: the median of what there is time for."""
    observation = {
        path: np.zeros((rows, *leaf.shape), leaf.dtype)
        for path, leaf in observation_leaves(spec.observation_space).items()
    }
    observation |= {path: np.ones_like(array) for path, array in observation.items() if path.endswith("action_mask")}
    arguments: Any = observation, policy.initial_state(rows), np.zeros(rows, bool)
    policy.step(*arguments)  # the first allocates
    found: list[float] = []
    while len(found) < 3 or (sum(found) < _MEASURE_S and len(found) < 100):
        began = time.perf_counter()
        policy.step(*arguments)
        found.append(time.perf_counter() - began)
    return statistics.median(found)
