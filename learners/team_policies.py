"""A team's observation flows in, an action of each agent flows out, in numpy alone: for VDN and QMIX."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from distrl.core.types import Columns, Observation, Weights
from distrl.learners.inputs import MASK
from distrl.learners.policies import mlp

OBSERVATION, ALIVE = "observation", "alive"  # entries of a team's observation (distrl.envs.multi_agent.team)
EPSILON = "epsilon"  # weights entry, float32 []: share of random actions


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
            number = allowed.sum(axis=2)
            chosen = (self._rng.random(number.shape) * number).astype(np.int64)  # the how-manieth of the allowed
            anything = (allowed.cumsum(axis=2) > chosen[:, :, None]).argmax(axis=2)
            action = np.where(self._rng.random(number.shape) < epsilon, anything, greedy)
            probability = epsilon / number + (1.0 - epsilon) * (action == greedy)
            log_prob = np.where(observation[ALIVE] != 0, np.log(probability), 0.0).sum(axis=1).astype(np.float32)
        return (action + self._lowest).astype(self._dtype), log_prob, {}

    def env_action(self, action: np.ndarray) -> np.ndarray:
        """The action itself."""
        return action


def team_inputs(observation: np.ndarray, agent_id: bool) -> np.ndarray:
    """Inputs of the agents' network, float32 [N · A, D], of observations [N, A, d]: D = d, or d + A with which agent it
    is."""
    num_rows, num_agents = observation.shape[:2]
    if agent_id:
        ids = np.broadcast_to(np.eye(num_agents, dtype=np.float32), (num_rows, num_agents, num_agents))
        observation = np.concatenate([observation, ids], axis=2)
    return observation.reshape(num_rows * num_agents, -1).astype(np.float32, copy=False)
