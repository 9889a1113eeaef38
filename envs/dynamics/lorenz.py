"""A forcing in, the state of the Lorenz attractor out, to be held on its left wing: ``distrl/Lorenz-v0``.

x' = 10 (y - x), y' = x (28 - z) - y + a, z' = x y - 8/3 z (Lorenz, J. Atmos. Sci. 20 (1963) 130); the control problem
is that of Beacon (J. Viquerat et al., "Beacon, a lightweight deep reinforcement learning benchmark library for flow
control"; github.com/jviquerat/beacon). Every number: docs/dynamics.md.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import gymnasium as gym
import numba
import numpy as np

from distrl.core.errors import EnvironmentFault
from distrl.envs import options as check
from distrl.envs.dynamics import feedback, picture
from distrl.envs.simulation import Diverged, Simulation

SIGMA, RHO, BETA = 10.0, 28.0, 8 / 3
FORCE_LIMIT = 1.0
CONTROL_INTERVAL = 0.05
START, START_SPREAD = (10.0, 10.0, 10.0), 1.0
LARGEST_STATE = 200.0  # the attractor stays below 50

_SCALES = np.array([10.0, 10.0, 25.0, 100.0, 100.0, 100.0])  # of the observation
_TRAIL = 100  # control intervals that a picture shows


@dataclass(frozen=True)
class Level:
    """Runge–Kutta steps a control interval, and what that costs on one core."""

    substeps: int
    seconds_per_step: float


FIDELITIES = {"coarse": Level(1, 0.000017), "default": Level(5, 0.000018), "fine": Level(50, 0.000023)}


@numba.njit(cache=True)
def tendency(state: np.ndarray, force: float) -> np.ndarray:
    """The time derivative, float64 [3], of ``state`` (x, y, z) under a forcing of y."""
    x, y, z = state
    return np.array([SIGMA * (y - x), x * (RHO - z) - y + force, x * y - BETA * z])


@numba.njit(cache=True)
def advance(state: np.ndarray, force: float, dt: float, steps: int) -> np.ndarray:
    """``state``, float64 [3], after classical Runge–Kutta steps."""
    for _ in range(steps):
        k1 = tendency(state, force)
        k2 = tendency(state + 0.5 * dt * k1, force)
        k3 = tendency(state + 0.5 * dt * k2, force)
        k4 = tendency(state + dt * k3, force)
        state = state + dt / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    return state


class Lorenz(Simulation):
    """The Lorenz system, paid 1 for each step that ends at x < 0.

    Args:
        discrete: actions are 0, 1, 2 for a forcing of -1, 0, 1, as in the literature; else one number in [-1, 1].
        fidelity: "coarse" (one Runge–Kutta step a control interval, as in the literature), "default" (5), "fine" (50).
        episode_steps: control intervals of 0.05 time units after which the episode is truncated.
        render_mode: None or "rgb_array".

    ``info`` of a step: ``left``, 1 if x < 0.
    """

    fidelities: ClassVar[Mapping[str, Any]] = FIDELITIES
    baseline: ClassVar[str] = __name__
    diverged_reward: ClassVar[float] = 0.0  # the least that a step can bring
    averaged: ClassVar[tuple[str, ...]] = ("left",)

    def __init__(
        self,
        *,
        discrete: bool = False,
        fidelity: str = "default",
        episode_steps: int = 500,
        render_mode: str | None = None,
    ) -> None:
        super().__init__(
            num_actions=1,
            observation_names=("x", "y", "z", "x_rate", "y_rate", "z_rate"),
            episode_steps=episode_steps,
            options={"discrete": discrete},
            fidelity=fidelity,
            render_mode=render_mode,
        )
        self.discrete = check.flag("Lorenz", "discrete", discrete)
        if self.discrete:
            self.action_space = gym.spaces.Discrete(3)
        self.level = FIDELITIES[fidelity]
        self.state = np.zeros(3)
        self._force = 0.0
        self._trail = np.zeros((0, 3))

    @staticmethod
    def preload() -> None:
        """Load the kernels before environment processes are forked."""
        advance(np.ones(3), 0.0, 0.01, 1)

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Advance one control step; see ``Simulation.step``."""
        if self.discrete:
            if not self.action_space.contains(action):
                raise EnvironmentFault(f"Lorenz needs one of the actions 0, 1, 2, got {action!r}.", kind="protocol")
            action = np.asarray(action) - 1
        return super().step(action)

    def _start(self) -> dict[str, Any]:
        self.state = np.array(START) + self.np_random.uniform(-START_SPREAD, START_SPREAD, 3)
        self._force = 0.0
        self._trail = self.state[None].repeat(_TRAIL, 0)
        return {}

    def _advance(self, action: np.ndarray) -> tuple[float, dict[str, Any]]:
        self._force = FORCE_LIMIT * action.item()
        self.state = advance(self.state, self._force, CONTROL_INTERVAL / self.level.substeps, self.level.substeps)
        if not np.abs(self.state).max() < LARGEST_STATE:
            raise Diverged("state_bounds")
        self._trail = np.vstack([self._trail[1:], self.state])
        left = float(self.state[0] < 0)
        return left, {"left": left}

    def _observe(self) -> np.ndarray:
        return np.concatenate([self.state, tendency(self.state, self._force)]) / _SCALES

    def _state(self) -> dict[str, np.ndarray]:
        return {"state": self.state, "force": np.array(self._force), "trail": self._trail}

    def _load(self, state: Mapping[str, np.ndarray]) -> None:
        self.state, self._force, self._trail = state["state"], float(state["force"]), state["trail"]

    def render(self) -> np.ndarray | None:  # type: ignore[override]
        """x over the last 5 time units with the forcing below, uint8 [240, 480, 3]; None without a render mode."""
        if self.render_mode is None:
            return None
        return picture.bars(picture.curve(self._trail[:, 0], -20, 20), np.array([0.5]), np.array([self._force]))


def _swing(env_kwargs: dict[str, Any]) -> feedback.Features:
    """y from the wing's point of rest, its negative right: feedback damps the swings left and drives them right."""
    rest = math.sqrt(BETA * (RHO - 1))

    def features(observation: np.ndarray) -> np.ndarray:
        x, y = observation[:2] * _SCALES[:2]
        return np.array([y + rest if x < 0 else rest - y])

    return features


NAME, NOTHING, baseline_candidates, baseline_policy = feedback.controls(_swing, gains=(-0.3, 0.03, 0.1, 0.3, 1.0, 3.0))
