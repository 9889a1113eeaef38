"""Actions of all rows go in, their steps come out: an environment of the EnvPool library as a Gymnasium vector
environment.

EnvPool (Weng et al. 2022, arXiv 2206.10558) resets a row in the call after its end and ignores the action there, so
rows would fall out of step. Its synchronous mode can also reset some rows alone, by ``reset(env_id)``: asked to do so
at once after an end, it keeps all rows in step. Its asynchronous mode (``batch_size`` smaller than the number of rows)
is not used.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv

from distrl.core.errors import ConfigError


class EnvpoolLibrary(VectorEnv):
    """One task of the library, with Gymnasium's autoreset mode DISABLED.

    The library's own threads step the rows; ``num_threads`` in ``kwargs`` says how many there are. Its seed is given
    when the rows are made, so ``reset(seed=…)`` makes them anew.

    Args:
        task: its name in the library, as Pong-v5. num_envs: rows. kwargs: of ``envpool.make``.

    Raises:
        ConfigError: the library is not installed or does not have the task; arguments that are decided here.
    """

    metadata = {"autoreset_mode": AutoresetMode.DISABLED}  # noqa: RUF012 - Gymnasium's class attribute

    def __init__(self, task: str, num_envs: int, **kwargs: Any):
        self._rows: Any = None
        decided = sorted({"batch_size", "seed", "env_type"} & set(kwargs))
        if decided:
            raise ConfigError(f"envpool/{task} is given {', '.join(decided)} by the pool: leave it out of env.kwargs")
        self._make: Callable[..., Any] = partial(
            _library().make, task, env_type="gymnasium", num_envs=num_envs, **kwargs
        )
        self.num_envs = num_envs
        self._rows = self._begin(0)
        self.single_observation_space = self._rows.observation_space
        self.single_action_space = self._rows.action_space
        self._observation: Any = None  # of all rows, the newest

    @classmethod
    def of_task(cls, task: str) -> Callable[..., EnvpoolLibrary]:
        """A constructor that takes ``num_envs`` and the library's arguments.

        Raises:
            ConfigError: the library does not have the task, or is not installed.
        """
        known = _library().list_all_envs()
        if task not in known:
            raise ConfigError(f"env.id = 'envpool/{task}' must be one of EnvPool's {len(known)} tasks, as {known[0]}")
        return partial(cls, task)

    def _begin(self, seed: int) -> Any:
        return self._make(seed=seed)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset all rows, or those in ``options["reset_mask"]``; the observation is that of all rows."""
        if seed is not None:
            self._rows.close()
            self._rows = self._begin(seed)
        mask = (options or {}).get("reset_mask")
        if mask is None:
            self._observation, info = self._rows.reset()
            return self._observation, info
        first, info = self._rows.reset(np.flatnonzero(mask).astype(np.int32))
        _put(self._observation, info["env_id"], first)
        return self._observation, {}

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """See Gymnasium."""
        self._observation, reward, terminated, truncated, info = self._rows.step(actions)
        return self._observation, reward, terminated, truncated, info

    def close_extras(self, **kwargs: Any) -> None:
        """End the library's threads."""
        if self._rows is not None:  # Gymnasium closes also what could not be constructed
            self._rows.close()


def _library() -> Any:
    try:
        import envpool
    except ImportError as error:
        raise ConfigError(
            f"an env.id that begins with envpool/ needs the EnvPool library, and importing it failed: {error}; "
            "pip install envpool"
        ) from error
    return envpool


def _put(whole: Any, rows: np.ndarray, part: Any) -> None:
    if isinstance(whole, dict):
        for key, value in whole.items():
            _put(value, rows, part[key])
    else:
        whole[rows] = part
