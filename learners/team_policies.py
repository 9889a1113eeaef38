"""A team's observation flows in, an action of each agent flows out, in numpy alone: for VDN, QMIX and MASAC."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces

from distrl.core.errors import ConfigError
from distrl.core.types import Columns, EnvSpec, Observation, Weights
from distrl.learners.inputs import MASK, STATE
from distrl.learners.policies import SquashedGaussianPolicy, mlp
from distrl.learners.value_policies import EPSILON, explored

OBSERVATION, ALIVE = "observation", "alive"  # entries of a team's observation (distrl.envs.multi_agent.team)


@dataclass(frozen=True)
class Team:
    """What a team's observation space says.

    Attributes:
        num_agents: A. size: d, numbers that each observes. state_size: K, numbers of the global state, 0 without one.
    """

    num_agents: int
    size: int
    state_size: int


def team_of(env_spec: EnvSpec, algorithm: str) -> Team:
    """What an environment says of its team.

    Raises:
        ConfigError: it is none.
    """
    observed = env_spec.observation_space
    entries = observed.spaces if isinstance(observed, spaces.Dict) else {}
    shape = entries[OBSERVATION].shape if OBSERVATION in entries else None
    if ALIVE not in entries or shape is None or len(shape) != 2:
        raise ConfigError(
            f"{algorithm} needs a whole team as one row, but {env_spec.id} observes {observed}: set "
            "env.agents.team = true"
        )
    state = entries.get(STATE)
    return Team(shape[0], shape[1], 0 if state is None else math.prod(state.shape or ()))


class EpsilonGreedyTeam:
    """Each of A agents does what it values most of what it may do, but with probability ε anything that it may do.

    All agents have one network. ε comes with the weights, so that it is decided in one place, by how far the run has
    come.

    The noise of a row is decided by the seed and the order of calls and rows.

    Args:
        seed: of the random actions.
        deterministic: never a random one, for evaluation.
        lowest: lowest action of each agent, [A], in the action's own numbering.
        dtype: of the actions.
        num_layers: linear layers of the network, ReLU between.
        agent_id: whether its inputs have which agent it is, one-hot, behind the observation.
    """

    def __init__(
        self, seed: int, deterministic: bool, lowest: Sequence[int], dtype: str, num_layers: int, agent_id: bool
    ):
        self._rng = None if deterministic else np.random.default_rng(seed)
        self._lowest, self._dtype = np.asarray(lowest, np.int64), np.dtype(dtype)
        self._num_layers, self._agent_id = num_layers, agent_id
        self._loaded: tuple[list[tuple[np.ndarray, np.ndarray]], float] | None = None

    @property
    def ready(self) -> bool:
        """Whether it can act: with the first weights, which are the untrained network's."""
        return self._loaded is not None

    def load(self, weights: Weights) -> None:
        """``agent/<i>/weight`` float32 [in, out] and ``agent/<i>/bias`` float32 [out] of layer i, and ``epsilon``."""
        layers = [(weights[f"agent/{i}/weight"], weights[f"agent/{i}/bias"]) for i in range(self._num_layers)]
        self._loaded = (layers, float(weights[EPSILON]))  # one assignment: a step in another thread sees old or new

    def initial_state(self, num_rows: int) -> Columns:
        """Nothing is remembered."""
        return {}

    def step(
        self, observation: Observation, state: Columns, is_first: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, Columns]:
        """Actions [N, A], the log-probability float32 [N] of those of the living agents, and the empty state."""
        if self._loaded is None:
            raise RuntimeError("the policy needs weights before its first step: call load")
        layers, epsilon = self._loaded
        num_rows, num_agents = observation[OBSERVATION].shape[:2]
        values = mlp(team_inputs(observation[OBSERVATION], self._agent_id), layers)
        values = values.reshape(num_rows, num_agents, -1)
        allowed = np.ones(values.shape, bool)
        if MASK in observation:
            allowed = observation[MASK].reshape(values.shape).astype(bool)
        greedy = np.where(allowed, values, -np.inf).argmax(axis=2)
        action, log_prob = greedy, np.zeros(num_rows, np.float32)
        if self._rng is not None:
            action, probability = explored(greedy, allowed, epsilon, self._rng)
            log_prob = np.where(observation[ALIVE] != 0, np.log(probability), 0.0).sum(axis=1).astype(np.float32)
        return (action + self._lowest).astype(self._dtype), log_prob, {}

    def env_action(self, action: np.ndarray) -> np.ndarray:
        """The action itself."""
        return action


class SquashedGaussianTeam:
    """Each of A agents acts as a ``SquashedGaussianPolicy``, all with one network.

    Args:
        seed, deterministic: see there.
        agent_id: whether its inputs have which agent it is, one-hot, behind the observation.
        agent: what else that policy takes, for one agent's Box.
    """

    def __init__(self, seed: int, deterministic: bool, agent_id: bool, **agent: Any):
        self._agent_id = agent_id
        self._agent = SquashedGaussianPolicy(seed, deterministic, paths=(OBSERVATION,), **agent)
        self.load = self._agent.load

    @property
    def ready(self) -> bool:
        """Whether it can act: with weights, or uniformly before the first ones."""
        return self._agent.ready

    def initial_state(self, num_rows: int) -> Columns:
        """Nothing is remembered."""
        return {}

    def step(
        self, observation: Observation, state: Columns, is_first: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, Columns]:
        """Actions [N, A, …], the log-probability float32 [N] of those of the living agents, and the empty state."""
        lives = observation[ALIVE] != 0
        inputs = team_inputs(observation[OBSERVATION], self._agent_id)
        action, log_prob, _ = self._agent.step({OBSERVATION: inputs}, {}, is_first)
        total = np.where(lives, log_prob.reshape(lives.shape), np.float32(0)).sum(axis=1)
        return action.reshape(*lives.shape, *action.shape[1:]), total, {}

    def env_action(self, action: np.ndarray) -> np.ndarray:
        """The action itself, which lies in the Box."""
        return action


def team_inputs(observation: np.ndarray, agent_id: bool) -> np.ndarray:
    """Inputs of the agents' network, float32 [N · A, D], of observations [N, A, d]: D = d, or d + A with which agent it
    is."""
    num_rows, num_agents = observation.shape[:2]
    if agent_id:
        ids = np.broadcast_to(np.eye(num_agents, dtype=np.float32), (num_rows, num_agents, num_agents))
        observation = np.concatenate([observation, ids], axis=2)
    return observation.reshape(num_rows * num_agents, -1).astype(np.float32, copy=False)
