"""Two forces in, the distance of a viscous wave from its moving target out: ``distrl/Burgers-v0``.

u_t + (u^2)_x / 2 = nu u_xx + f on a periodic line of length 1. The problem: Liu & Wang, "Physics-informed Dyna-style
model-based deep reinforcement learning for dynamic control", Proc. R. Soc. A 477 (2021) 20210618, and its code
(github.com/Jianxun-Wang/PIMBRL). Every number: docs/dynamics.md.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numba
import numpy as np

from distrl.envs import options as check
from distrl.envs.dynamics import feedback, picture
from distrl.envs.simulation import Diverged, Simulation

POINTS = 150  # where the field is observed, at every fidelity
CENTRES = (0.25, 0.75)  # of the two forces
FORCE_MIDDLE, FORCE_HALF_RANGE = 0.025, 0.05  # so that actions in [-1, 1] are the literature's [-0.025, 0.075]
CONTROL_INTERVAL = 0.5
TARGET, TARGET_SWING, TARGET_PERIOD = 0.5, 0.05, 30.0
LARGEST_FIELD = 3.0  # forces and start keep it below 2 for any episode of 60 steps
VISCOSITIES = (0.005, 0.02)

_GHOSTS = 2


@dataclass(frozen=True)
class Level:
    """Points along the line, Runge–Kutta steps a control interval, and what that costs on one core."""

    points: int
    substeps: int
    seconds_per_step: float


# Stable up to |u| = 2: the shortest wave's rate, 16/3 nu / dx^2 of diffusion plus 4 |u| / dx of upwinding, times the
# time step stays below the 2.78 of classical Runge-Kutta steps.
FIDELITIES = {"default": Level(POINTS, 450, 0.0018), "fine": Level(2 * POINTS, 1400, 0.01)}


@numba.njit(cache=True)
def _tendency(u: np.ndarray, force: np.ndarray, viscosity: float, dx: float, out: np.ndarray) -> None:
    """``out`` = u_t of ``u``, float64 [n + 4], whose ghost cells are filled here."""
    n = u.shape[0] - 2 * _GHOSTS
    for i in range(_GHOSTS):
        u[i] = u[n + i]
        u[n + _GHOSTS + i] = u[_GHOSTS + i]
    a2, a1 = viscosity / dx**2, 0.5 / dx
    for i in range(_GHOSTS, n + _GHOSTS):
        second = -5 / 2 * u[i] + 4 / 3 * (u[i - 1] + u[i + 1]) - 1 / 12 * (u[i - 2] + u[i + 2])
        s = -1 if u[i] >= 0 else 1
        gradient = -s * (1.5 * u[i] ** 2 - 2 * u[i + s] ** 2 + 0.5 * u[i + 2 * s] ** 2)
        out[i] = a2 * second - a1 * gradient + force[i - _GHOSTS]


@numba.njit(cache=True)
def advance(field: np.ndarray, force: np.ndarray, viscosity: float, dx: float, dt: float, steps: int) -> None:
    """Advance ``field``, float64 [n], in place by classical Runge–Kutta steps under ``force``, float64 [n]."""
    n = field.shape[0]
    u = np.empty(n + 2 * _GHOSTS)
    stage, k, total = np.empty_like(u), np.zeros_like(u), np.zeros_like(u)
    u[_GHOSTS:-_GHOSTS] = field
    for _ in range(steps):
        _tendency(u, force, viscosity, dx, total)
        stage[:] = u + 0.5 * dt * total
        _tendency(stage, force, viscosity, dx, k)
        total += 2 * k
        stage[:] = u + 0.5 * dt * k
        _tendency(stage, force, viscosity, dx, k)
        total += 2 * k
        stage[:] = u + dt * k
        _tendency(stage, force, viscosity, dx, k)
        total += k
        u += dt / 6 * total
    field[:] = u[_GHOSTS:-_GHOSTS]


class Burgers(Simulation):
    """Viscous Burgers flow whose two Gaussian forces must bring it to a uniform, slowly swinging target.

    An action of -0.5 is no force; -1 and 1 are -0.025 and 0.075.

    Args:
        viscosity: between 0.005 and 0.02.
        fidelity: "default" (150 points, the literature's) or "fine" (300 points, for checking).
        episode_steps: control intervals of 0.5 time units after which the episode is truncated.
        render_mode: None or "rgb_array".

    ``info`` of a step: ``error``, the root mean square distance from the target.
    """

    fidelities: ClassVar[Mapping[str, Any]] = FIDELITIES
    baseline: ClassVar[str] = __name__
    diverged_reward: ClassVar[float] = -100.0  # below the worst episode
    averaged: ClassVar[tuple[str, ...]] = ("error",)

    def __init__(
        self,
        *,
        viscosity: float = 0.01,
        fidelity: str = "default",
        episode_steps: int = 60,
        render_mode: str | None = None,
    ) -> None:
        why = "below, shocks are thinner than two points of the default level; above, the flow was not checked"
        self.viscosity = check.number("Burgers", "viscosity", viscosity, *VISCOSITIES, why)
        super().__init__(
            num_actions=len(CENTRES),
            observation_names=[*(f"error_{i}" for i in range(POINTS)), "target", "target_rate"],
            episode_steps=episode_steps,
            options={"viscosity": self.viscosity},
            fidelity=fidelity,
            render_mode=render_mode,
        )
        self.level = FIDELITIES[fidelity]
        self.x = np.arange(self.level.points) / self.level.points
        self.field = np.zeros(self.level.points)
        self._shapes = np.exp(-225 * (self.x - np.array(CENTRES)[:, None]) ** 2)
        self._action = np.zeros(len(CENTRES))

    @staticmethod
    def preload() -> None:
        """Load the kernels before environment processes are forked."""
        Burgers()._run(np.zeros(POINTS))

    def _start(self) -> dict[str, Any]:
        share = self.np_random.uniform()
        bump, waves = 0.2 * np.exp(-25 * (self.x - 0.5) ** 2), 0.2 * np.sin(4 * math.pi * self.x)
        self.field = 0.2 + share * bump + (1 - share) * waves
        self._action = np.full(len(CENTRES), -FORCE_MIDDLE / FORCE_HALF_RANGE)
        return {}

    def _run(self, force: np.ndarray) -> None:
        substeps = math.ceil(self.level.substeps * max(self.viscosity / 0.01, 1.0))  # diffusion limits the step
        advance(self.field, force, self.viscosity, 1 / self.level.points, CONTROL_INTERVAL / substeps, substeps)

    @property
    def target(self) -> float:
        """What the whole field should be now."""
        return TARGET + TARGET_SWING * math.sin(self._phase)

    @property
    def _phase(self) -> float:
        return 2 * math.pi * self._steps * CONTROL_INTERVAL / TARGET_PERIOD

    def _advance(self, action: np.ndarray) -> tuple[float, dict[str, Any]]:
        self._action = action
        self._run((FORCE_MIDDLE + FORCE_HALF_RANGE * action) @ self._shapes)
        if not np.abs(self.field).max() < LARGEST_FIELD:
            raise Diverged("field_bounds")
        square = float(((self.field - self.target) ** 2).mean())
        return -10 * square, {"error": math.sqrt(square)}

    def _observe(self) -> np.ndarray:
        error = self.field[:: self.level.points // POINTS] - self.target
        return np.concatenate([5 * error, [math.sin(self._phase), math.cos(self._phase)]])

    def _state(self) -> dict[str, np.ndarray]:
        return {"field": self.field, "action": self._action}

    def _load(self, state: Mapping[str, np.ndarray]) -> None:
        self.field, self._action = state["field"], state["action"]

    def render(self) -> np.ndarray | None:  # type: ignore[override]
        """Field, target and forces, uint8 [240, 480, 3]; None without a render mode."""
        if self.render_mode is None:
            return None
        image = picture.curve(self.field, 0, 1, periodic=True)
        picture.add_curve(image, [self.target] * 2, 0, 1, picture.NEGATIVE)
        force = (FORCE_MIDDLE + FORCE_HALF_RANGE * self._action) / (FORCE_MIDDLE + FORCE_HALF_RANGE)
        return picture.bars(image, np.array(CENTRES), force)


def _mean_error(env_kwargs: dict[str, Any]) -> feedback.Features:
    """The mean distance from the target, for both forces."""
    return lambda observation: np.full(2, observation[:POINTS].mean() / 5)


NAME, NOTHING, baseline_candidates, baseline_policy = feedback.controls(
    _mean_error, gains=(2.0, 5.0, 10.0, 20.0, 50.0, 100.0), idle=-FORCE_MIDDLE / FORCE_HALF_RANGE
)
