"""Deterministic episodes on fixed seeds: a pool and something that acts in, one result per seed out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from distrl.core.contracts import EnvPool, Policy, Requests
from distrl.core.types import Columns, EnvSpec

Act = Callable[[Requests], np.ndarray]  # actions [N, …] for the rows of a request


@dataclass(frozen=True)
class EpisodeResult:
    """One episode. Attributes: seed: of its reset. episode_return: sum of rewards; NaN if it failed. length: env steps.
    info: the last step's scalars, with ``failed`` and the cause where the environment failed."""

    seed: int
    episode_return: float
    length: int
    info: dict[str, Any]


class EpisodeRunner:
    """Runs each environment of a pool with ``FixedSeeds`` through its own seeds, as often as asked.

    The pool resets by itself, so after the last episode every environment already waits in its first seed again.
    """

    def __init__(self, pool: EnvPool, seeds: tuple[int, ...]):
        self._pool = pool
        self._seeds = seeds
        self._waiting: list[tuple[int, Requests]] = []  # (position, requests copy) of rows that wait for the next call

    @property
    def spec(self) -> EnvSpec:
        """The environments' spaces."""
        return self._pool.spec

    def run(self, act: Act, stop: Callable[[], bool] = lambda: False) -> list[EpisodeResult]:
        """One episode per seed, in the order of the seeds; fewer if ``stop`` became true."""
        num_envs = self._pool.num_envs
        remaining = np.array([len(self._seeds[env::num_envs]) for env in range(num_envs)])
        returns, lengths = np.zeros(num_envs), np.zeros(num_envs, np.int64)
        order = [list(self._seeds[env::num_envs]) for env in range(num_envs)]
        results: list[EpisodeResult] = []

        def record(row: int, value: float, info: dict[str, Any]) -> None:
            if remaining[row] > 0:
                seed = order[row][len(order[row]) - remaining[row]]
                results.append(EpisodeResult(seed, value, int(lengths[row]), info))
                remaining[row] -= 1
            returns[row], lengths[row] = 0.0, 0

        held, self._waiting = self._waiting, []
        for position, requests in held:
            self._answer(act, requests, np.array([position]), remaining)
        while remaining.any() and not stop():
            outcomes, requests, faults = self._pool.recv(0.25)
            returns[outcomes.rows] += outcomes.reward
            lengths[outcomes.rows] += 1
            for k, position in enumerate(outcomes.ended):
                row = int(outcomes.rows[position])
                record(row, float(returns[row]), outcomes.info[k])
            for fault in faults:
                record(fault.row, float("nan"), {"failed": fault.message})
            if len(requests.rows):
                self._answer(act, requests, np.arange(len(requests.rows)), remaining)
        place = {seed: index for index, seed in enumerate(self._seeds)}
        return sorted(results, key=lambda result: place[result.seed])

    def close(self) -> None:
        """End the environments."""
        self._pool.close()

    def _answer(self, act: Act, requests: Requests, positions: np.ndarray, remaining: np.ndarray) -> None:
        goes_on = remaining[requests.rows[positions]] > 0
        for position in positions[~goes_on]:
            self._waiting.append((0, requests.select(np.array([position]))))
        if goes_on.any():
            chosen = requests.select(positions[goes_on])
            self._pool.send(act(chosen), chosen.rows)


def act_with(policy: Policy, num_rows: int) -> Act:
    """Acts with a policy, holding the recurrent state of ``num_rows`` rows."""
    store: Columns = policy.initial_state(num_rows)
    initial = policy.initial_state(1)

    def act(requests: Requests) -> np.ndarray:
        state = {path: array[requests.rows] for path, array in store.items()}
        for path, value in initial.items():
            state[path][requests.is_first] = value
        action, _, state = policy.step(requests.observation, state, requests.is_first)
        for path, array in state.items():
            store[path][requests.rows] = array
        return policy.env_action(action)

    return act


def mean_return(results: list[EpisodeResult]) -> float:
    """Mean over the episodes that did not fail; NaN where none is left."""
    values = [result.episode_return for result in results if np.isfinite(result.episode_return)]
    return float(np.mean(values)) if values else float("nan")
