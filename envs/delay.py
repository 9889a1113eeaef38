"""Makes a cheap environment slow: each step of the wrapped one also sleeps a time drawn from a seeded law.

For tests and benchmarks of asynchrony. SlowPendulum is Pendulum-v1 with
``{"kind": "lognormal", "median_s": 0.05, "sigma": 1.0}``.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np

from distrl.core.errors import ConfigError

_KEYS = {"constant": {"kind", "median_s"}, "lognormal": {"kind", "median_s", "sigma"}}


class Delay(gymnasium.Wrapper):
    """Sleeps inside ``step``.

    Config: ``kind`` "constant" (each step sleeps ``median_s`` seconds) or "lognormal" (exp of a normal with mean
    ln ``median_s`` and standard deviation ``sigma``, default 1.0). Drawn from a generator of its own, seeded by the
    seed of each ``reset``, so the wrapped environment's randomness is what it is without the delay.
    """

    def __init__(self, env: gymnasium.Env, config: Mapping[str, Any]):
        super().__init__(env)
        kind = config.get("kind", "constant")
        if kind not in _KEYS:
            raise ConfigError(f"env.delay.kind must be one of {', '.join(_KEYS)}; it is {kind!r}.")
        for key in config:
            if key not in _KEYS[kind]:
                raise ConfigError(f"env.delay: a {kind} delay takes {', '.join(sorted(_KEYS[kind]))}; not {key!r}.")
        self._kind = kind
        self._median_s = _number(config, "median_s", None)
        self._sigma = _number(config, "sigma", 1.0) if kind == "lognormal" else 0.0
        self._rng = np.random.default_rng(0)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        if seed is not None:
            self._rng = np.random.default_rng((seed, 0xDE1A))  # a stream apart from the environment's own
        return self.env.reset(seed=seed, options=options)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        time.sleep(self.next_delay_s())
        return self.env.step(action)

    def next_delay_s(self) -> float:
        """The sleep of the next step in seconds (drawing it)."""
        if self._kind == "constant":
            return self._median_s
        return self._median_s * math.exp(self._sigma * self._rng.standard_normal())


def _number(config: Mapping[str, Any], key: str, default: float | None) -> float:
    value = config.get(key, default)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not (0 <= value < math.inf):
        raise ConfigError(f"env.delay.{key} must be a finite number >= 0; it is {value!r}.")
    return float(value)
