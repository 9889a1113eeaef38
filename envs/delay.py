"""Makes a cheap environment slow and unreliable: each step of the wrapped one also sleeps, and may hang or crash.

For tests and benchmarks of asynchrony: one table, ``env.delay``, by seeded laws. SlowPendulum is Pendulum-v1 with
``{"kind": "lognormal", "median_s": 0.05, "sigma": 1.0}``.
"""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np

from distrl.core.errors import ConfigError

_ALWAYS = {"kind", "median_s", "straggler_share", "straggler_factor", "hang_share", "crash_share"}
_KEYS = {"constant": _ALWAYS, "lognormal": _ALWAYS | {"sigma"}}


class Delay(gymnasium.Wrapper):
    """Sleeps inside ``step``; in some steps for good, or until SIGKILL.

    The sleeps come from a generator of its own that each ``reset`` seeds and a snapshot keeps, so the wrapped
    environment's randomness is what it is without the delay, and an episode that is continued sleeps as it would have.
    Hangs and crashes come from another one. Where a process continues an episode that an earlier one had begun, that
    generator is seeded by the process as well: with the snapshot's, the step that had failed would fail for ever.

    Args:
        config: ``kind`` "constant" (each step sleeps ``median_s`` seconds) or "lognormal" (exp of a normal with mean
            ln ``median_s`` and standard deviation ``sigma``, default 1.0); and for either, all with default 0 but the
            factor: ``straggler_share`` of the steps takes ``straggler_factor`` (default 10) times as long,
            ``hang_share`` never returns, ``crash_share`` ends the process by SIGKILL.
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
        self._straggler_share = _share(config, "straggler_share")
        self._straggler_factor = _number(config, "straggler_factor", 10.0)
        self._hang_share, self._crash_share = _share(config, "hang_share"), _share(config, "crash_share")
        if self._hang_share + self._crash_share > 1:
            raise ConfigError("env.delay: hang_share and crash_share must not exceed 1 together.")
        self._begin(0)

    def _begin(self, seed: int) -> None:
        self._seed, self._pid = seed, os.getpid()
        self._rng = np.random.default_rng((seed, 0xDE1A))  # streams apart from the environment's own
        self._fates = np.random.default_rng((seed, 0xFA7E))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        if seed is not None:
            self._begin(seed)
        return self.env.reset(seed=seed, options=options)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        time.sleep(self.next_delay_s())
        fate = self.next_fate()
        if fate == "crash":
            os.kill(os.getpid(), signal.SIGKILL)
        while fate == "hang":
            time.sleep(3600.0)
        return self.env.step(action)

    def next_delay_s(self) -> float:
        """The sleep of the next step in seconds (drawing it)."""
        delay_s = self._median_s
        if self._kind == "lognormal":
            delay_s *= math.exp(self._sigma * self._rng.standard_normal())
        if self._straggler_share and self._rng.random() < self._straggler_share:
            delay_s *= self._straggler_factor
        return delay_s

    def next_fate(self) -> str:
        """What the next step does (drawing it): "return", "hang" or "crash"."""
        if self._pid != os.getpid():  # a snapshot of another process was restored
            self._pid = os.getpid()
            self._fates = np.random.default_rng((self._seed, self._pid, 0xFA7E))
        draw = self._fates.random()
        if draw < self._crash_share:
            return "crash"
        return "hang" if draw < self._crash_share + self._hang_share else "return"


def without_failures(config: Mapping[str, Any]) -> dict[str, Any]:
    """The same delay without its hangs and crashes."""
    return {key: value for key, value in config.items() if key not in ("hang_share", "crash_share")}


def _number(config: Mapping[str, Any], key: str, default: float | None) -> float:
    value = config.get(key, default)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not (0 <= value < math.inf):
        raise ConfigError(f"env.delay.{key} must be a finite number >= 0; it is {value!r}.")
    return float(value)


def _share(config: Mapping[str, Any], key: str) -> float:
    value = _number(config, key, 0.0)
    if value > 1:
        raise ConfigError(f"env.delay.{key} is a share of the steps and must be at most 1; it is {value!r}.")
    return value
