"""Four forces in, the field and the dissipation of a chaotic flame front out: ``distrl/KuramotoSivashinsky-v0``.

u_t = -u_xxxx - u_xx - (u^2)_x / 2 + f on a periodic line of length 8 pi. The problem, its finite differences and its
reward: Liu & Wang, "Physics-informed Dyna-style model-based deep reinforcement learning for dynamic control", Proc. R.
Soc. A 477 (2021) 20210618, and the comparison in arXiv 2401.11349. Every number: docs/dynamics.md.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numba
import numpy as np

from distrl.envs.dynamics import feedback, picture
from distrl.envs.simulation import Diverged, Simulation

LENGTH = 8 * math.pi
POINTS = 64  # where the field is observed, and whose spacing scales the reward, at every fidelity
ACTUATORS = 4
FORCE_LIMIT = 0.5
CONTROL_INTERVAL = 0.25
LARGEST_FIELD = 20.0  # the attractor stays below 4
DISTURBANCE = 0.01  # of the initial field, in each of eight waves; at 0.1 most episodes fall to the dearest state early
LATEST_START = 40  # control intervals of the transient that an episode's start may lie in

_GHOSTS = 4  # cells copied at each end of the periodic field, so that the loops have no branches


@dataclass(frozen=True)
class Level:
    """Points along the line, Runge–Kutta steps a control interval, and what that costs on one core."""

    points: int
    substeps: int
    seconds_per_step: float


FIDELITIES = {"default": Level(POINTS, 250, 0.0007), "fine": Level(2 * POINTS, 3600, 0.019)}


@numba.njit(cache=True)
def _tendency(u: np.ndarray, force: np.ndarray, dx: float, out: np.ndarray) -> None:
    """``out`` = u_t of ``u``, float64 [n + 8], whose ghost cells are filled here."""
    n = u.shape[0] - 2 * _GHOSTS
    for i in range(_GHOSTS):
        u[i] = u[n + i]
        u[n + _GHOSTS + i] = u[_GHOSTS + i]
    a2, a4, a1 = 1 / dx**2, 1 / dx**4, 0.5 / dx
    for i in range(_GHOSTS, n + _GHOSTS):
        pair1, pair2, pair3, pair4 = u[i - 1] + u[i + 1], u[i - 2] + u[i + 2], u[i - 3] + u[i + 3], u[i - 4] + u[i + 4]
        second = -49 / 18 * u[i] + 3 / 2 * pair1 - 3 / 20 * pair2 + 1 / 90 * pair3
        fourth = 91 / 8 * u[i] - 122 / 15 * pair1 + 169 / 60 * pair2 - 2 / 5 * pair3 + 7 / 240 * pair4
        out[i] = -a4 * fourth - a2 * second - a1 * _square_gradient(u, i) + force[i - _GHOSTS]


@numba.njit(cache=True)
def _square_gradient(u: np.ndarray, i: int) -> float:
    """dx (u^2)_x at cell ``i`` from the side where the wave comes from, fourth order."""
    s = -1 if u[i] >= 0 else 1
    return -s * (
        25 / 12 * u[i] ** 2
        - 4 * u[i + s] ** 2
        + 3 * u[i + 2 * s] ** 2
        - 4 / 3 * u[i + 3 * s] ** 2
        + 1 / 4 * u[i + 4 * s] ** 2
    )


@numba.njit(cache=True)
def _costs(u: np.ndarray, force: np.ndarray, scale: float) -> tuple[float, float]:
    """Means of (dx0^2 u_xx)^2 + (dx0 (u^2)_x)^2 and of u f, dx0 = ``scale`` dx being the default level's spacing."""
    n = u.shape[0] - 2 * _GHOSTS
    dissipation, power = 0.0, 0.0
    for i in range(_GHOSTS, n + _GHOSTS):
        second = -49 / 18 * u[i] + 3 / 2 * (u[i - 1] + u[i + 1]) - 3 / 20 * (u[i - 2] + u[i + 2])
        second += 1 / 90 * (u[i - 3] + u[i + 3])
        dissipation += (scale**2 * second) ** 2 + (scale * _square_gradient(u, i)) ** 2
        power += u[i] * force[i - _GHOSTS]
    return dissipation / n, power / n


@numba.njit(cache=True)
def advance(
    field: np.ndarray, force: np.ndarray, dx: float, dt: float, steps: int, scale: float
) -> tuple[float, float]:
    """Advance ``field``, float64 [n], in place by classical Runge–Kutta steps; returns ``_costs``, means over them."""
    n = field.shape[0]
    u = np.empty(n + 2 * _GHOSTS)
    stage, k, total = np.empty_like(u), np.zeros_like(u), np.zeros_like(u)
    u[_GHOSTS:-_GHOSTS] = field
    dissipation, power = 0.0, 0.0
    for _ in range(steps):
        _tendency(u, force, dx, total)
        costs = _costs(u, force, scale)
        dissipation, power = dissipation + costs[0] / steps, power + costs[1] / steps
        stage[:] = u + 0.5 * dt * total
        _tendency(stage, force, dx, k)
        total += 2 * k
        stage[:] = u + 0.5 * dt * k
        _tendency(stage, force, dx, k)
        total += 2 * k
        stage[:] = u + dt * k
        _tendency(stage, force, dx, k)
        total += k
        u += dt / 6 * total
    field[:] = u[_GHOSTS:-_GHOSTS]
    return dissipation, power


class KuramotoSivashinsky(Simulation):
    """The chaotic Kuramoto–Sivashinsky equation, to be kept calm by four Gaussian forces.

    Args:
        fidelity: "default" (64 points, the literature's) or "fine" (128 points, for checking).
        episode_steps: control intervals of 0.25 time units after which the episode is truncated.
        render_mode: None or "rgb_array".

    ``info`` of a step: ``dissipation`` and ``power`` of the forces; the reward is the negative of their sum.
    """

    fidelities: ClassVar[Mapping[str, Any]] = FIDELITIES
    baseline: ClassVar[str] = __name__
    diverged_reward: ClassVar[float] = -7000.0  # below an episode with every force at its limit
    averaged: ClassVar[tuple[str, ...]] = ("dissipation", "power")

    def __init__(self, *, fidelity: str = "default", episode_steps: int = 400, render_mode: str | None = None) -> None:
        super().__init__(
            num_actions=ACTUATORS,
            observation_names=[f"field_{i}" for i in range(POINTS)],
            episode_steps=episode_steps,
            options={},
            fidelity=fidelity,
            render_mode=render_mode,
        )
        self.level = FIDELITIES[fidelity]
        self.field = np.zeros(self.level.points)
        self.x = np.arange(self.level.points) * LENGTH / self.level.points
        self._forces = force_shapes(self.x)
        self._action = np.zeros(ACTUATORS)

    @staticmethod
    def preload() -> None:
        """Load the kernels before environment processes are forked."""
        KuramotoSivashinsky().reset(seed=0)

    def _start(self) -> dict[str, Any]:
        """The classic cos(1 + sin) wave at a random place, slightly disturbed, at a random time of its transient."""
        waves = np.arange(1, 9)
        x = 2 * math.pi / LENGTH * self.x + self.np_random.uniform(0, 2 * math.pi)
        sizes, phases = self.np_random.uniform(-1, 1, waves.size), self.np_random.uniform(0, 2 * math.pi, waves.size)
        self.field = np.cos(x) * (1 + np.sin(x)) + DISTURBANCE * sizes @ np.sin(waves[:, None] * x + phases[:, None])
        self._action = np.zeros(ACTUATORS)
        self._run(np.zeros_like(self.x), int(self.np_random.integers(1, LATEST_START)))
        return {}

    def _run(self, force: np.ndarray, intervals: int = 1) -> tuple[float, float]:
        dx = LENGTH / self.level.points
        steps = intervals * self.level.substeps
        return advance(self.field, force, dx, CONTROL_INTERVAL / self.level.substeps, steps, self.level.points / POINTS)

    def _advance(self, action: np.ndarray) -> tuple[float, dict[str, Any]]:
        self._action = FORCE_LIMIT * action
        force = self._action @ self._forces
        dissipation, power = self._run(force)
        if not np.abs(self.field).max() < LARGEST_FIELD:
            raise Diverged("field_bounds")
        return -dissipation - power, {"dissipation": dissipation, "power": power}

    def _observe(self) -> np.ndarray:
        return self.field[:: self.level.points // POINTS]

    def _state(self) -> dict[str, np.ndarray]:
        return {"field": self.field, "action": self._action}

    def _load(self, state: Mapping[str, np.ndarray]) -> None:
        self.field, self._action = state["field"], state["action"]

    def render(self) -> np.ndarray | None:  # type: ignore[override]
        """The field as a curve with the forces below, uint8 [240, 480, 3]; None without a render mode."""
        if self.render_mode is None:
            return None
        image = picture.curve(self.field, -4, 4, periodic=True)
        return picture.bars(image, np.arange(ACTUATORS) / ACTUATORS, self._action / FORCE_LIMIT)


def force_shapes(x: np.ndarray) -> np.ndarray:
    """The four forces per unit of action, float64 [4, n]: unit Gaussians at multiples of a quarter of the line.

    As in the reference implementation the first one, at x = 0, is not continued beyond the period: its left half is
    missing.
    """
    centres = np.arange(ACTUATORS) * LENGTH / ACTUATORS
    return np.exp(-((x - centres[:, None]) ** 2) / 2) / math.sqrt(2 * math.pi)


def _at_actuators(env_kwargs: dict[str, Any]) -> feedback.Features:
    """The field weighted by each force's shape: what the forces' power is proportional to."""
    shapes = force_shapes(np.arange(POINTS) * LENGTH / POINTS)
    weights = shapes / shapes.sum(1, keepdims=True)
    return lambda observation: weights @ observation


NAME, NOTHING, baseline_candidates, baseline_policy = feedback.controls(
    _at_actuators, gains=(-0.5, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0)
)
