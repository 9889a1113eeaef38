"""mpe2's simple_spread for many rows at once: actions of all agents of all rows in, everybody's observations out.

N agents are to cover N landmarks without touching each other; the world, its constants and its numbers are those of
``mpe2.simple_spread_v3`` with discrete actions (Lowe et al. 2017, arXiv 1706.02275; Terry et al. 2021, arXiv
2009.14471), and a test holds them together. A policy that was trained here acts there, and renders there.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from distrl.core.errors import ConfigError
from distrl.core.joint import ASKS, ENDED, FINISHED, RETURN, REWARD, STEP, TRUNCATED, JointLayout
from distrl.core.types import AgentSpec

_DT, _DAMPING = 0.1, 0.25
_CONTACT_FORCE, _CONTACT_MARGIN = 100.0, 1e-3
_SENSITIVITY = 5.0
_TOUCH = 0.3  # between two agents' centres
_MOVES = np.array([[0, 0], [-1, 0], [1, 0], [0, -1], [0, 1]], np.float64)  # by action


class SimpleSpread(VectorEnv):
    """mpe2's simple_spread: agents cover landmarks without touching each other; many rows at once.

    Agents ``agent_0`` … each observe float32 [6 N]: own velocity (2) and position (2), landmarks (2 N) and other
    agents (2 N − 2) relative to themselves, and as many zeros (2 N − 2) for messages that nobody sends; lengths in
    half widths of the field that all begin in. Actions: 0 stay, 1 left, 2 right, 3 down, 4 up.

    Rewards: (1 − local_ratio) · −Σ over landmarks of the distance to the nearest agent + local_ratio · −(agents
    touched). Episodes are truncated after ``max_cycles`` steps.

    Args:
        num_envs: rows. N: agents and landmarks. local_ratio: 0 … 1. max_cycles: env steps of an episode.
        state: observations are Dicts of ``observation`` and ``state``, all agents' observations one behind the other.

    Raises:
        ConfigError: an argument outside its range.
    """

    def __init__(
        self, num_envs: int = 1, N: int = 3, local_ratio: float = 0.5, max_cycles: int = 25, state: bool = False
    ):
        for name, value, good, range_ in (
            ("N", N, N >= 1, "at least 1"),
            ("local_ratio", local_ratio, 0 <= local_ratio <= 1, "in 0 … 1"),
            ("max_cycles", max_cycles, max_cycles >= 1, "at least 1"),
        ):
            if not good:
                raise ConfigError(f"SimpleSpread's {name} must be {range_}; got {value}")
        self.metadata = {"autoreset_mode": AutoresetMode.DISABLED, "render_modes": []}
        self.num_envs, self.max_episode_steps, self._local_ratio = num_envs, max_cycles, local_ratio
        self._with_state = state
        seen: spaces.Space = spaces.Box(-np.inf, np.inf, (6 * N,), np.float32)
        if state:
            seen = spaces.Dict({"observation": seen, "state": spaces.Box(-np.inf, np.inf, (6 * N * N,), np.float32)})
        self.agent_specs = tuple(AgentSpec(f"agent_{k}", seen, spaces.Discrete(5)) for k in range(N))
        layout = JointLayout(self.agent_specs)
        self.single_observation_space, self.single_action_space = layout.observation_space, layout.action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._position, self._velocity, self._landmarks = (np.zeros((num_envs, N, 2)) for _ in range(3))
        self._pairs = np.triu_indices(N, 1)
        self._others = np.array([[other for other in range(N) if other != k] for k in range(N)], np.int64)
        self._steps = np.zeros(num_envs, np.int32)
        self._return = np.zeros((num_envs, N))
        self._generators: list[np.random.Generator] = []

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """See Gymnasium: row k is seeded with ``seed`` + k, as mpe2 would be; ``options["reset_mask"]``: rows."""
        rows = range(self.num_envs)
        if seed is not None or not self._generators:
            seeds = [None if seed is None else seed + k for k in rows] if np.ndim(seed) == 0 else seed
            self._generators = [seeding.np_random(one)[0] for one in seeds]
        mask = (options or {}).get("reset_mask")
        for row in rows if mask is None else np.flatnonzero(mask).tolist():
            places = self._generators[row].uniform(-1, 1, (2 * self._position.shape[1], 2))
            self._position[row], self._landmarks[row] = np.split(places, 2)
            self._velocity[row], self._steps[row], self._return[row] = 0.0, 0, 0.0
        return self._observation(np.zeros_like(self._return), finished=False), {}

    def step(self, actions: np.ndarray) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """See Gymnasium.

        Args:
            actions: [rows, N].
        """
        force = _MOVES[np.asarray(actions).astype(np.int64)] * _SENSITIVITY
        first, second = self._pairs
        apart = self._position[:, first] - self._position[:, second]
        distance = np.sqrt(np.square(apart).sum(-1))
        depth = np.logaddexp(0.0, -(distance - _TOUCH) / _CONTACT_MARGIN) * _CONTACT_MARGIN
        push = _CONTACT_FORCE * apart / distance[..., None] * depth[..., None]
        for pair, (one, other) in enumerate(zip(first.tolist(), second.tolist(), strict=True)):
            force[:, one] += push[:, pair]
            force[:, other] -= push[:, pair]
        self._position += self._velocity * _DT
        self._velocity *= 1 - _DAMPING
        self._velocity += force * _DT
        self._steps += 1
        rewards = self._rewards()
        self._return += rewards
        over = self._steps >= self.max_episode_steps
        return self._observation(rewards, finished=True), rewards.sum(1), np.zeros_like(over), over, {}

    def _rewards(self) -> np.ndarray:
        """[rows, N]."""
        uncovered = _distances(self._position, self._landmarks).min(1).sum(1)
        touched = (_distances(self._position, self._position) < _TOUCH).sum(2) - 1
        return -uncovered[:, None] * (1 - self._local_ratio) - touched * self._local_ratio

    def _observation(self, rewards: np.ndarray, finished: bool) -> dict[str, Any]:
        rows, number = self._return.shape
        seen = np.zeros((rows, number, 6 * number), np.float32)
        seen[..., :2], seen[..., 2:4] = self._velocity, self._position
        marks = self._landmarks[:, None] - self._position[:, :, None]
        seen[..., 4 : 4 + 2 * number] = marks.reshape(rows, number, -1)
        others = self._position[:, self._others] - self._position[:, :, None]
        seen[..., 4 + 2 * number : 2 + 4 * number] = others.reshape(rows, number, -1)
        over = (self._steps >= self.max_episode_steps)[:, None]
        flags = np.zeros((rows, number), np.uint8)
        group = {"array": seen}
        if self._with_state:
            together = np.broadcast_to(seen.reshape(rows, 1, -1), (rows, number, 6 * number * number))
            group = {"observation": seen, "state": together.copy()}
        return {
            "0": group,
            FINISHED: flags + finished,
            REWARD: rewards.astype(np.float32),
            ENDED: flags + over * np.uint8(TRUNCATED),
            ASKS: flags + ~over,
            STEP: np.broadcast_to(self._steps[:, None], flags.shape).copy(),
            RETURN: self._return.copy(),
        }


def _distances(ones: np.ndarray, others: np.ndarray) -> np.ndarray:
    """[rows, N, M] of points [rows, N, 2] and [rows, M, 2]."""
    return np.sqrt(np.square(ones[:, :, None] - others[:, None]).sum(-1))
