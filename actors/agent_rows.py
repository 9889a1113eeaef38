"""Rows of environments in, rows of agents out, for each policy its own; and agents' actions in, environments' out.

A pool hosts environments, one row each; a policy acts for agents. With one agent these are the same rows
(``OneAgent``); with several, an environment's row holds all of them together (``distrl.core.joint``) and is taken apart
here (``SeveralAgents``). Behind this, nothing of distrl knows whether there are several.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from distrl.core.contracts import Fault, Outcomes, Requests
from distrl.core.joint import ASKS, ENDED, FINISHED, RETURN, REWARD, STEP, TERMINATED, TRUNCATED, JointLayout
from distrl.core.types import DEFAULT_POLICY, EnvSpec, Observation


@dataclasses.dataclass(frozen=True)
class PolicyRows:
    """The rows of one policy.

    Attributes:
        policy_id: whose. spec: of one of its agents, as if that were alone.
        env_index, agent_index: int32 [rows].
    """

    policy_id: str
    spec: EnvSpec
    env_index: np.ndarray
    agent_index: np.ndarray


class Seats(Protocol):
    """Who acts for which agent, where that is not the same in every episode; see ``distrl.actors.seating``.

    Attributes: stream: int [environments, agents], the number of whoever's row the agent's is.
    """

    stream: np.ndarray

    def begin(self, requests: Requests) -> None: ...

    def players(self, env: int) -> tuple[str, ...]: ...

    def scores(self, returns: np.ndarray) -> tuple[float, ...]: ...


class AgentRows(Protocol):
    """Between a pool and the policies.

    outcomes, requests, faults = pool.recv(timeout_s)
    for policy, (its_outcomes, its_requests) in enumerate(rows.split(outcomes, requests)): …
    pool.send(*rows.join(policy, actions, rows_of_the_policy))    # environments whose agents have all answered
    """

    policies: list[PolicyRows]
    in_flight: np.ndarray  # bool [environments]: has been sent an action and not come back

    def split(self, outcomes: Outcomes, requests: Requests) -> list[tuple[Outcomes, Requests]]:
        """What a pool has given, for each policy in its own rows. Views of ``requests`` where possible."""

    def faults(self, policy: int, faults: Sequence[Fault]) -> list[Fault]:
        """Environments' faults, as those of all rows of the policy in them."""

    def join(self, policy: int, actions: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Take a policy's actions [N, …] for its rows; (actions, environments) of those that can step now."""

    def take_episodes(self, found: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The environments' episodes that have ended, ``found`` being those of the policies' rows."""


class OneAgent:
    """``AgentRows`` of environments of one agent: nothing is to be done."""

    def __init__(self, spec: EnvSpec, num_envs: int):
        rows = np.arange(num_envs, dtype=np.int32)
        self.policies = [PolicyRows(DEFAULT_POLICY, spec, rows, np.zeros_like(rows))]
        self.in_flight = np.zeros(num_envs, bool)

    def split(self, outcomes: Outcomes, requests: Requests) -> list[tuple[Outcomes, Requests]]:
        """See ``AgentRows``."""
        self.in_flight[outcomes.rows] = False
        return [(outcomes, requests)]

    def faults(self, policy: int, faults: Sequence[Fault]) -> list[Fault]:
        """See ``AgentRows``."""
        self.in_flight[[fault.row for fault in faults if fault.cut]] = False
        return list(faults)

    def join(self, policy: int, actions: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See ``AgentRows``."""
        self.in_flight[rows] = True
        return actions, rows

    def take_episodes(self, found: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """See ``AgentRows``."""
        return found


class SeveralAgents:
    """``AgentRows`` of environments of several agents. A policy's row is environment × (its agents) + agent.

    Args:
        spec: with ``agents``. num_envs: environments of the pool.
        policies: policy → its agents' indices, of equal spaces; every agent has one, or several to choose from.
        origin: what every episode's record says of the env worker.
        seats: who acts in an episode; None: each agent's one policy. With it ``self.policies`` has each policy twice:
            behind all of them, again for the rows in which its opponents act.
    """

    def __init__(
        self,
        spec: EnvSpec,
        num_envs: int,
        policies: Mapping[str, Sequence[int]],
        origin: Mapping[str, Any],
        seats: Seats | None = None,
    ):
        layout = JointLayout(spec.agents)
        num_agents = len(spec.agents)
        self._origin, self._seats = dict(origin), seats
        names = list(policies) * (1 if seats is None else 2)
        self._agents = [np.array(policies[name], np.int64) for name in names]
        self._positions = [np.array([layout.places[agent].position for agent in agents]) for agents in self._agents]
        self._whole = [
            agents.tolist() == layout.groups[layout.places[agents[0]].group] for agents in self._agents
        ]  # the policy acts for the whole group, in its order: its rows are the group's stack
        self._prefix = [f"{layout.places[agents[0]].group}/" for agents in self._agents]
        self._columns = []  # of each policy's agents' actions in the joint action, [agents, size]
        for agents in self._agents:
            size = math.prod(layout.actions[agents[0]].shape)
            self._columns.append(np.array([layout.places[agent].offset + np.arange(size) for agent in agents]))
        self.policies = [
            PolicyRows(
                name,
                dataclasses.replace(
                    spec,
                    observation_space=spec.agents[agents[0]].observation_space,
                    action_space=spec.agents[agents[0]].action_space,
                    agents=(),
                ),
                np.repeat(np.arange(num_envs, dtype=np.int32), len(agents)),
                np.tile(agents.astype(np.int32), num_envs),
            )
            for name, agents in zip(names, self._agents, strict=True)
        ]
        self._num_learning = len(policies)
        self.in_flight = np.zeros(num_envs, bool)
        self._actions = np.zeros((num_envs, layout.action_size))
        self._unanswered = np.zeros(num_envs, np.int64)  # agents that act next and whose action has not come
        self._begun_s = np.full((num_envs, num_agents), np.nan)  # of each agent's step that is under way
        self._core_s = np.zeros(num_envs)  # of steps that finished no agent's
        self._seed, self._fidelity = np.zeros(num_envs, np.int64), np.zeros(num_envs, np.int16)
        self._steps = np.zeros(num_envs, np.int64)  # of the environment, before the one that is asked for
        self._episodes: list[dict[str, Any]] = []

    def split(self, outcomes: Outcomes, requests: Requests) -> list[tuple[Outcomes, Requests]]:
        """See ``AgentRows``."""
        envs = outcomes.rows
        self.in_flight[envs] = False
        after = self._after(outcomes, requests)
        begun = self._begun_s[envs]
        self._begun_s[envs] = begun = np.where(np.isnan(begun), outcomes.start_s[:, None], begun)
        finished, ended = after[FINISHED].astype(bool), after[ENDED]
        num_finished = finished.sum(1)
        core_s = (self._core_s[envs] + outcomes.core_s) / np.maximum(num_finished, 1)
        self._core_s[envs] = np.where(num_finished, 0.0, core_s)
        last: dict[int, dict[str, Any]] = dict(zip(envs[outcomes.ended].tolist(), outcomes.info, strict=True))
        self._end_episodes(outcomes)
        seated = None if self._seats is None else self._seats.stream[envs]  # before others sit down
        if self._seats is not None:
            self._seats.begin(requests)
        asks = requests.observation[ASKS].astype(bool)
        self._unanswered[requests.rows] = asks.sum(1)
        self._seed[requests.rows], self._fidelity[requests.rows] = requests.seed, requests.fidelity
        self._steps[requests.rows] = requests.step
        found = []
        for policy, agents in enumerate(self._agents):
            its = finished[:, agents] if seated is None else finished[:, agents] & (seated[:, agents] == policy)
            at, agent = np.nonzero(its)
            which = agents[agent]
            how = ended[at, which]
            over = np.flatnonzero(how)
            its_outcomes = Outcomes(
                rows=envs[at] * len(agents) + agent,
                reward=after[REWARD][at, which],
                terminated=how == TERMINATED,
                truncated=how == TRUNCATED,
                ended=over,
                final_observation=self._observations(policy, after, at[over], agent[over]),
                start_s=begun[at, which],
                end_s=outcomes.end_s[at],
                core_s=core_s[at].astype(np.float32),
                attempt=outcomes.attempt[at],
                info=[last.get(env, {}) for env in envs[at[over]].tolist()],
            )
            found.append((its_outcomes, self._requests(policy, requests, asks)))
        return found

    def faults(self, policy: int, faults: Sequence[Fault]) -> list[Fault]:
        """See ``AgentRows``."""
        num_agents = len(self._agents[policy])
        self.in_flight[[fault.row for fault in faults if fault.cut]] = False
        return [
            dataclasses.replace(fault, row=fault.row * num_agents + agent)
            for fault in faults
            for agent in range(num_agents)
        ]

    def join(self, policy: int, actions: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See ``AgentRows``."""
        agents = self._agents[policy]
        envs, agent = np.divmod(rows, len(agents))
        self._actions[envs[:, None], self._columns[policy][agent]] = actions.reshape(len(rows), -1)
        self._begun_s[envs, agents[agent]] = np.nan
        self._unanswered -= np.bincount(envs, minlength=len(self._unanswered))
        ready = np.unique(envs)
        ready = ready[self._unanswered[ready] == 0]
        self.in_flight[ready] = True
        return self._actions[ready], ready

    def take_episodes(self, found: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """See ``AgentRows``: a return is that of all agents together, those of each policy's agents are beside it."""
        episodes, self._episodes = self._episodes, []
        return episodes

    def _after(self, outcomes: Outcomes, requests: Requests) -> Observation:
        """The joint observation after each step, path → [S, …]: the last one of an episode that has ended."""
        if not len(outcomes.ended) and np.array_equal(outcomes.rows, requests.rows):
            return requests.observation
        goes_on = np.ones(len(outcomes.rows), bool)
        goes_on[outcomes.ended] = False
        order = np.argsort(requests.rows)
        at = order[np.searchsorted(requests.rows, outcomes.rows[goes_on], sorter=order)]
        assert (requests.rows[at] == outcomes.rows[goes_on]).all(), "whose step is over and not the last asks"
        joined = {}
        for path, array in requests.observation.items():
            joined[path] = np.empty((len(outcomes.rows), *array.shape[1:]), array.dtype)
            joined[path][goes_on] = array[at]
            joined[path][outcomes.ended] = outcomes.final_observation[path]
        return joined

    def _observations(self, policy: int, joint: Observation, at: np.ndarray, agent: np.ndarray) -> Observation:
        """path → [N, …] of agents (by their number in the policy) at entries of a joint observation."""
        prefix, position = self._prefix[policy], self._positions[policy][agent]
        return {
            path.removeprefix(prefix): array[at, position] for path, array in joint.items() if path.startswith(prefix)
        }

    def _requests(self, policy: int, requests: Requests, asks: np.ndarray) -> Requests:
        agents, prefix = self._agents[policy], self._prefix[policy]
        its_asks = asks[:, agents]
        if self._seats is not None:
            its_asks &= self._seats.stream[requests.rows[:, None], agents] == policy
        at, agent = np.nonzero(its_asks)
        which = agents[agent]
        if self._whole[policy] and len(at) == its_asks.size:
            observation = {
                path.removeprefix(prefix): array.reshape(-1, *array.shape[2:])
                for path, array in requests.observation.items()
                if path.startswith(prefix)
            }
        else:
            observation = self._observations(policy, requests.observation, at, agent)
        step = requests.observation[STEP][at, which]
        return Requests(
            rows=requests.rows[at] * len(agents) + agent,
            observation=observation,
            is_first=step == 0,
            step=step,
            episode_return=requests.observation[RETURN][at, which],
            episode_uid=requests.episode_uid[at],
            seed=requests.seed[at],
            fidelity=requests.fidelity[at],
        )

    def _end_episodes(self, outcomes: Outcomes) -> None:
        terminated = outcomes.terminated[outcomes.ended].tolist()
        for k, env in enumerate(outcomes.rows[outcomes.ended].tolist()):
            returns = outcomes.final_observation[RETURN][k]
            self._episodes.append(
                {
                    "return": float(returns.sum()),
                    "returns": self._returns(env, returns),
                    "terminated": terminated[k],
                    "length": int(self._steps[env]) + 1,
                    "seed": int(self._seed[env]),
                    "fidelity": int(self._fidelity[env]),
                    "env_index": env,
                    **self._origin,
                    **self._match(env, returns),
                    "info": outcomes.info[k],
                }
            )

    def _returns(self, env: int, returns: np.ndarray) -> dict[str, float]:
        """Policy → mean over its agents that learn in this episode."""
        found = {}
        for number, agents in enumerate(self._agents[: self._num_learning]):
            its = agents if self._seats is None else agents[self._seats.stream[env, agents] == number]
            if len(its):
                found[self.policies[number].policy_id] = float(returns[its].mean())
        return found

    def _match(self, env: int, returns: np.ndarray) -> dict[str, Any]:
        if self._seats is None:
            return {}
        return {"players": self._seats.players(env), "scores": self._seats.scores(returns)}


def agent_rows(
    spec: EnvSpec,
    num_envs: int,
    policies: Mapping[str, Sequence[int]] | None,
    origin: Mapping[str, Any],
    seats: Seats | None = None,
) -> AgentRows:
    """What suits an environment; ``policies`` and ``seats`` as ``SeveralAgents`` takes them."""
    if not spec.agents:
        return OneAgent(spec, num_envs)
    assert policies is not None
    return SeveralAgents(spec, num_envs, policies, origin, seats)
