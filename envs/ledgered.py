"""Actions in, a pendulum's steps out, each written to a ledger of its own: a stand-in for a simulator that keeps books.

For proving what distrl does with what a simulator has computed: the ledger knows nothing of distrl, and every line is
on the disk before the step returns.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from distrl.core.errors import ConfigError

_TORQUE, _GRAVITY, _DT, _SPEED = 2.0, 10.0, 0.05, 8.0
_LENGTH = 100


class LedgeredPendulum(gymnasium.Env):
    """Swing a pendulum up and hold it; observation (cos θ, sin θ, θ̇), float32 [3], action the torque in [-2, 2] N m.

    The reward is −(θ² + 0.1 θ̇² + 0.001 torque²), an episode is truncated after 100 steps. It has ``snapshot`` and
    ``restore``, as a solver with restart files would.

    Args:
        ledger: folder for the ledgers, one file a process, one line a step: seed, step, reward, Unix time.
        step_s: wall seconds that a step takes in the median. sigma: of the logarithm of its distribution.
    """

    def __init__(self, ledger: str, step_s: float = 0.05, sigma: float = 1.0):
        if not ledger:
            raise ConfigError("LedgeredPendulum needs a folder for its ledgers: set env.kwargs.ledger")
        self.observation_space = spaces.Box(-np.inf, np.inf, (3,), np.float32)
        self.action_space = spaces.Box(-_TORQUE, _TORQUE, (1,), np.float32)
        self._step_s, self._sigma = step_s, sigma
        path = Path(ledger)
        path.mkdir(parents=True, exist_ok=True)
        self._ledger = os.open(path / f"{os.getpid()}-{time.time_ns()}.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self._seed, self._step = seed or 0, 0
        self._angle, self._speed = self.np_random.uniform([-np.pi, -1.0], [np.pi, 1.0])
        self._times = np.random.default_rng((self._seed, 1))
        return self._observation(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        time.sleep(float(self._step_s * np.exp(self._sigma * self._times.standard_normal())))
        torque = float(np.clip(action[0], -_TORQUE, _TORQUE))
        angle = (self._angle + np.pi) % (2 * np.pi) - np.pi
        reward = -(angle**2 + 0.1 * self._speed**2 + 0.001 * torque**2)
        faster = self._speed + (1.5 * _GRAVITY * np.sin(self._angle) + 3.0 * torque) * _DT
        self._speed = float(np.clip(faster, -_SPEED, _SPEED))
        self._angle += self._speed * _DT
        entry = {"seed": self._seed, "step": self._step, "reward": reward, "time": time.time()}
        os.write(self._ledger, json.dumps(entry).encode() + b"\n")
        os.fdatasync(self._ledger)
        self._step += 1
        return self._observation(), reward, False, self._step >= _LENGTH, {}

    def snapshot(self, directory: str | os.PathLike[str]) -> None:
        """Write the complete state into a folder."""
        state = [self._seed, self._step, self._angle, self._speed, self._times.bit_generator.state]
        Path(directory, "state.json").write_text(json.dumps(state))

    def restore(self, directory: str | os.PathLike[str]) -> np.ndarray:
        """Continue from a ``snapshot``; returns its last observation."""
        self._seed, self._step, self._angle, self._speed, times = json.loads(Path(directory, "state.json").read_text())
        self._times = np.random.default_rng(0)
        self._times.bit_generator.state = times
        return self._observation()

    def close(self) -> None:
        os.close(self._ledger)

    def _observation(self) -> np.ndarray:
        return np.array([np.cos(self._angle), np.sin(self._angle), self._speed], np.float32)


def read_ledgers(folder: Path) -> list[tuple[int, int]]:
    """(seed, step) of every step computed, repetitions included."""
    lines = [line for path in sorted(folder.glob("*.jsonl")) for line in path.read_text().splitlines()]
    return [(entry["seed"], entry["step"]) for entry in map(json.loads, lines)]
