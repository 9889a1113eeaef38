"""One action goes in, one row's step comes out: a Gymnasium vector environment of a single row as a single environment.

What exists only vectorised is evaluated, tried out and filmed as this.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv

from distrl.envs.vector_envs import autoreset_mode, final_observation_of, row_info


class OneRow(gymnasium.Env):
    """A vector environment of one row. The observation of a step that ends an episode is the episode's last, whatever
    the autoreset mode, and only ``reset`` begins the next: one that the vector environment has begun by itself
    (SAME_STEP) is given up.

    Args:
        vector: it must have one row.
    """

    def __init__(self, vector: VectorEnv):
        assert vector.num_envs == 1, vector.num_envs
        self._vector, self._mode = vector, autoreset_mode(vector, type(vector).__name__)
        self.observation_space, self.action_space = vector.single_observation_space, vector.single_action_space
        self.metadata, self.render_mode = vector.metadata, vector.render_mode
        self.max_episode_steps: int | None = getattr(vector, "max_episode_steps", None)
        self.agent_specs = getattr(vector, "agent_specs", ())

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """See Gymnasium."""
        super().reset(seed=seed)
        observation, info = self._vector.reset(seed=seed, options=options)
        return _first(observation), row_info(0, info)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """See Gymnasium."""
        actions = np.asarray(action, self.action_space.dtype)[None]
        observation, reward, terminated, truncated, info = self._vector.step(actions)
        over = bool(terminated[0]), bool(truncated[0])
        if any(over) and self._mode is AutoresetMode.SAME_STEP:
            observation, info = final_observation_of(info), info.get("final_info", info)
        return _first(observation), float(reward[0]), *over, row_info(0, info)

    def render(self) -> Any:
        """See Gymnasium."""
        frames: Any = self._vector.render()
        return frames[0] if isinstance(frames, (tuple, list)) else frames

    def close(self) -> None:
        """See Gymnasium."""
        self._vector.close()


def _first(value: Any) -> Any:
    """The first row's part of a vector environment's observation, copied: many write into the same arrays again."""
    if isinstance(value, dict):
        return {key: _first(part) for key, part in value.items()}
    if isinstance(value, tuple):
        return tuple(_first(part) for part in value)
    first = value[0]
    return first if value.dtype == object else first.copy()
