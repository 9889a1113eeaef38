"""Deterministic episodes on fixed seeds: a pool and something that acts in, one result per seed out."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from distrl.actors.agent_rows import SeveralAgents
from distrl.core.contracts import EnvPool, Outcomes, Policy, Requests
from distrl.core.types import Columns, EnvSpec
from distrl.envs.checks import flatten_observation

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


def act_together(
    spec: EnvSpec, num_envs: int, agents: Mapping[str, Sequence[int]], policies: Mapping[str, Policy]
) -> Act:
    """Acts in ``num_envs`` environments, each agent by its policy.

    Args:
        agents: policy → the indices of its agents. policies: by the same names.
    """
    if not spec.agents:
        return act_with(next(iter(policies.values())), num_envs)
    rows = SeveralAgents(spec, num_envs, agents, {})
    acts = [act_with(policies[its.policy_id], len(its.env_index)) for its in rows.policies]

    def act(requests: Requests) -> np.ndarray:
        actions = np.zeros((num_envs, *spec.action_space.shape))
        for number, (_, its_requests) in enumerate(rows.split(_nothing(requests), requests)):
            if len(its_requests.rows):
                joined, envs = rows.join(number, acts[number](its_requests), its_requests.rows)
                actions[envs] = joined
        return actions[requests.rows]

    return act


def act_alone(spec: EnvSpec, act: Act) -> Callable[[Any], np.ndarray]:
    """What acts in one environment's one episode: an observation as the environment gives it → its action."""
    steps = itertools.count()

    def one(observation: Any) -> np.ndarray:
        step = np.array([next(steps)], np.int32)
        flat = flatten_observation(spec.observation_space, observation)
        zero = np.zeros(1, np.int64)
        seen = {path: array[None] for path, array in flat.items()}
        return act(
            Requests(zero, seen, step == 0, step, np.zeros(1), zero.astype(np.uint64), zero, np.zeros(1, np.int16))
        )[0]

    return one


def _nothing(requests: Requests) -> Outcomes:
    """No outcomes, with final observations of the requests' shapes."""
    none, no_flags = np.zeros(0), np.zeros(0, bool)
    final = {path: array[:0] for path, array in requests.observation.items()}
    rows = np.zeros(0, np.int64)
    return Outcomes(rows, none, no_flags, no_flags, rows, final, none, none, none, rows.astype(np.int16), [])


def mean_return(results: list[EpisodeResult]) -> float:
    """Mean over the episodes that did not fail; NaN where none is left."""
    values = [result.episode_return for result in results if np.isfinite(result.episode_return)]
    return float(np.mean(values)) if values else float("nan")
