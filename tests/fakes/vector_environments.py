"""Actions of all rows in, exactly known answers out: vector environments in each of Gymnasium's autoreset modes."""

from __future__ import annotations

import types
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv

from tests.fakes.environments import Composite

MODES = tuple(mode.value for mode in AutoresetMode)


def counted_episode(index: int, episode: int) -> tuple[int, bool]:
    """(length in steps, whether it ends by termination) of an episode of the ``index``-th environment; some have one
    step."""
    return 1 + (index + episode) % 4, (index + episode) % 3 == 0


class Counted(gymnasium.Env):
    """Everything is a function of the environment's index, the number of the episode, the step and the action.

    Observation float32 [4]: (index, episode, t, action that led here); reward 100 · index + 10 · episode + t + action.
    """

    def __init__(self, index: int):
        self.observation_space = spaces.Box(-np.inf, np.inf, (4,), np.float32)
        self.action_space = spaces.Box(-1, 1, (1,), np.float32)
        self.index, self.episode, self.t = index, -1, 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        self.episode, self.t = self.episode + 1, 0
        return np.array([self.index, self.episode, 0, 0], np.float32), {"first": True}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.t += 1
        a = float(action[0])
        length, terminates = counted_episode(self.index, self.episode)
        ended = self.t == length
        reward = 100 * self.index + 10 * self.episode + self.t + a
        observation = np.array([self.index, self.episode, self.t, a], np.float32)
        info = {"length": self.t, "array": np.zeros(3)} if ended else {}
        return observation, reward, ended and terminates, ended and not terminates, info


class CountedVector(SyncVectorEnv):
    """Rows of Counted, stepped by Gymnasium's own code; its observations are one buffer that it writes again and again.

    Args:
        modes: the autoreset modes that it has; it refuses the others, and the last one is the default.
    """

    def __init__(self, num_envs: int, autoreset_mode: Any = None, modes: tuple[str, ...] = MODES):
        mode = AutoresetMode(autoreset_mode or modes[-1])
        if mode.value not in modes:
            raise ValueError(f"no mode {mode}")
        super().__init__([lambda row=row: Counted(row) for row in range(num_envs)], copy=False, autoreset_mode=mode)


class CompositeVector(SyncVectorEnv):
    """Rows of Composite: nested observations with an image."""

    def __init__(self, num_envs: int, mode: str):
        super().__init__([Composite] * num_envs, copy=False, autoreset_mode=mode)


class Native(VectorEnv):
    """All rows in a few numpy operations, as Counted; in SAME_STEP ``final_obs`` is one array of all rows.

    Args:
        mode: its autoreset mode, or none in its metadata.
        bad: what goes wrong: ``reward``, ``observation``, ``shape`` or ``raise`` in the third step, ``reset`` in the
            first reset of some rows, ``any reset`` in every reset.
    """

    def __init__(self, num_envs: int, mode: str = "Disabled", bad: str = ""):
        self.num_envs, self.metadata = num_envs, {"autoreset_mode": AutoresetMode(mode)} if mode else {}
        self.single_observation_space = spaces.Box(-np.inf, np.inf, (4,), np.float32)
        self.single_action_space = spaces.Box(-1, 1, (1,), np.float32)
        self._mode, self._bad = mode, bad
        self._episode, self._t = np.full(num_envs, -1), np.zeros(num_envs, int)
        self._index, self._calls = np.arange(num_envs), 0

    def _observation(self, actions: np.ndarray) -> np.ndarray:
        return np.stack([self._index, self._episode, self._t, actions], axis=1).astype(np.float32)

    def _begin(self, mask: np.ndarray) -> None:
        self._episode[mask] += 1
        self._t[mask] = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        mask = (options or {}).get("reset_mask", np.ones(self.num_envs, bool))
        if self._bad == "any reset" or (self._bad == "reset" and seed is None):
            raise RuntimeError("the scripted fault")
        self._begin(mask)
        self._last = np.where(mask, 0, getattr(self, "_last", 0))
        return self._observation(self._last), {}

    def step(self, actions: np.ndarray) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, dict]:
        self._calls += 1
        self._t += 1
        self._last = actions[:, 0]
        episodes = [counted_episode(row, episode) for row, episode in enumerate(self._episode.tolist())]
        over = self._t == [length for length, _ in episodes]
        terminated = over & [terminates for _, terminates in episodes]
        observation, info = self._observation(self._last), {}
        reward = 100 * self._index + 10 * self._episode + self._t + self._last
        if self._mode == "SameStep" and over.any():
            info = {"final_obs": observation}
            self._begin(over)
            observation = self._observation(np.where(over, 0, self._last))
        if self._calls == 3:
            match self._bad:
                case "raise":
                    raise RuntimeError("the scripted fault")
                case "reward":
                    reward[1] = np.nan
                case "observation":
                    observation[1, 2] = np.inf
                case "shape":
                    observation = observation[:, :3]
        return observation, reward, terminated, over & ~terminated, info


def fake_envpool() -> types.ModuleType:
    """A module with the part of the EnvPool library's interface that is used, and its way to reset: in the call after
    an end, whose action it ignores, or at once where ``reset`` is given the rows."""
    module = types.ModuleType("envpool")

    class Rows:
        def __init__(self, num_envs: int, seed: int):
            self.num_envs, self.seed = num_envs, seed
            self.observation_space = spaces.Box(-np.inf, np.inf, (4,), np.float32)
            self.action_space = spaces.Box(-1, 1, (1,), np.float32)
            self.envs = [Counted(row) for row in range(num_envs)]
            self.over = np.zeros(num_envs, bool)

        def reset(self, env_id: np.ndarray | None = None) -> tuple[np.ndarray, dict]:
            rows = np.arange(self.num_envs) if env_id is None else env_id[::-1]  # in any order
            self.over[rows] = False
            return np.array([self.envs[row].reset()[0] for row in rows]), {"env_id": rows.astype(np.int32)}

        def step(self, action: np.ndarray) -> tuple[np.ndarray, ...]:
            values: list[Any] = [
                (env.reset()[0], 0.0, False, False) if over else env.step(value)[:4]
                for env, over, value in zip(self.envs, self.over, action, strict=True)
            ]
            observation, reward, terminated, truncated = (np.array(column) for column in zip(*values, strict=True))
            self.over = terminated | truncated
            return observation, reward.astype(np.float32), terminated, truncated, {}

        def close(self) -> None:
            self.envs = []

    def make(task_id: str, env_type: str, num_envs: int, seed: int) -> Rows:
        assert (task_id, env_type) == ("Counted-v0", "gymnasium")
        return Rows(num_envs, seed)

    module.make, module.list_all_envs = make, lambda: ["Counted-v0"]  # type: ignore[attr-defined]
    return module
