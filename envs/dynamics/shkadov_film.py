"""Jets in, the flow rates and waves of a falling liquid film out: ``distrl/ShkadovFilm-v0``.

h_t = -q_x, q_t = -6/5 (q^2/h)_x + (h (1 + h_xxx) - q/h^2) / (5 delta) + f, with noise at the inlet. The control problem
is that of V. Belus et al., AIP Advances 9 (2019) 125014, in the parameters of Beacon (J. Viquerat et al., "Beacon, a
lightweight deep reinforcement learning benchmark library for flow control"; github.com/jviquerat/beacon).
Every number: docs/dynamics.md.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numba
import numpy as np

from distrl.envs import options as check
from distrl.envs.dynamics import feedback, picture
from distrl.envs.simulation import Diverged, Simulation

FIRST_JET, JET_SPACING, JET_HALF_WIDTH, JET_FORCE = 150, 10, 2, 5.0
CONTROL_INTERVAL, RAMP = 0.05, 0.02  # the jets reach their new force RAMP after the interval's begin
INLET_NOISE = 5e-4  # half range of h at the inlet, drawn anew every 0.001
PROBES = 10  # upstream of each jet, one apart; the reward counts as far downstream
THICKNESSES = (0.05, 6.0)  # of a film that can be believed; free waves stay in 0.4 to 2
DELTAS = (0.05, 0.15)

_POOL, _POOL_FIRST, _POOL_APART = 12, 150.0, 15.0  # developed films, and their times
_POOL_SEED = 0


@dataclass(frozen=True)
class Level:
    """Grid spacing, time steps a control interval, and what that costs on one core."""

    dx: float
    substeps: int
    seconds_per_step: float


FIDELITIES = {"coarse": Level(0.5, 20, 0.00015), "default": Level(0.2, 50, 0.0006)}


@numba.njit(cache=True)
def _limited(a: float, b: float) -> float:
    """The harmonic mean of two slopes, none where they disagree (van Leer, J. Comput. Phys. 14 (1974) 361)."""
    return 2 * a * b / (a + b) if a * b > 0.0 else 0.0


@numba.njit(cache=True)
def _gradient(u: np.ndarray, dx: float, out: np.ndarray) -> None:
    """``out`` = u_x of a field that travels to the right, limited second order; the ends are left alone."""
    left = u[0]  # value at the cell's left face
    for i in range(1, u.shape[0] - 1):
        right = u[i] + 0.5 * _limited(u[i + 1] - u[i], u[i] - u[i - 1])
        out[i] = (right - left) / dx
        left = right


@numba.njit(cache=True)
def advance(
    film: np.ndarray, dx: float, dt: float, delta: float, inlet: np.ndarray, old: np.ndarray, new: np.ndarray, ramp: int
) -> None:
    """Advance a film in place by Adams–Bashforth steps.

    Args:
        film: float64 [4, n]: h, q and their tendencies of the step before.
        dx, dt: spacing and time step. delta: the film's parameter.
        inlet: float64 [steps], h at the inlet in each step; q is 1 there. Both have no gradient at the outlet.
        old, new: float64 [n], force on q before and after ``ramp`` steps.
    """
    h, q, h_before, q_before = film[0], film[1], film[2], film[3]
    n = h.shape[0]
    flux, h_rate, q_rate = np.zeros(n), np.zeros(n), np.zeros(n)
    a3, p = 1 / dx**3, 1 / (5 * delta)
    for step in range(inlet.shape[0]):
        h[0], q[0], h[n - 1], q[n - 1] = inlet[step], 1.0, h[n - 2], q[n - 2]
        share = min(step / ramp, 1.0)
        _gradient(q, dx, h_rate)
        for i in range(n):
            flux[i] = q[i] * q[i] / h[i]
        _gradient(flux, dx, q_rate)
        for i in range(1, n - 1):
            if i < n - 3:  # second order, from the side where capillary waves run to
                third = 0.5 * (-3 * h[i - 1] + 10 * h[i] - 12 * h[i + 1] + 6 * h[i + 2] - h[i + 3])
            else:
                third = h[n - 1] - 3 * h[n - 2] + 3 * h[n - 3] - h[n - 4]
            balance = h[i] * (1 + a3 * third) - q[i] / h[i] ** 2
            force = (1 - share) * old[i] + share * new[i]
            h_rate[i] = -h_rate[i]
            q_rate[i] = -1.2 * q_rate[i] + p * balance + force
        for i in range(1, n - 1):
            h[i] += dt * (1.5 * h_rate[i] - 0.5 * h_before[i])
            q[i] += dt * (1.5 * q_rate[i] - 0.5 * q_before[i])
            h_before[i], q_before[i] = h_rate[i], q_rate[i]


def inlet_heights(random: np.random.Generator, dt: float, steps: int) -> np.ndarray:
    """h at the inlet, float64 [steps]: white noise of the same spectrum at any time step."""
    return 1 + INLET_NOISE * (0.001 / dt) ** 0.5 * random.uniform(-1, 1, steps)


@functools.lru_cache(maxsize=4)
def developed_films(length: int, delta: float, fidelity: str) -> np.ndarray:
    """Films with waves everywhere, float64 [12, 4, n], from one long run without jets; some seconds at first."""
    level = FIDELITIES[fidelity]
    dt = CONTROL_INTERVAL / level.substeps
    random = np.random.default_rng(_POOL_SEED)
    film = np.zeros((4, round(length / level.dx)))
    film[:2] = 1
    idle = np.zeros(film.shape[1])
    films = []
    for duration in (_POOL_FIRST, *[_POOL_APART] * (_POOL - 1)):
        advance(film, level.dx, dt, delta, inlet_heights(random, dt, round(duration / dt)), idle, idle, 1)
        films.append(film.copy())
    return np.array(films)


class ShkadovFilm(Simulation):
    """A film of liquid that falls down a wall, whose growing waves jets must flatten.

    Args:
        num_jets: 1 to 20, each 10 film thicknesses behind the one before.
        delta: the film's parameter, 0.05 to 0.15; the literature's is 0.1.
        fidelity: "coarse" (spacing 0.5) or "default" (0.2, the literature's).
        episode_steps: control intervals of 0.05 time units after which the episode is truncated.
        render_mode: None or "rgb_array".

    ``info`` of a step: ``wave_height``, the root mean square of h - 1 over the stretches that the reward counts.
    """

    fidelities: ClassVar[Mapping[str, Any]] = FIDELITIES
    baseline: ClassVar[str] = __name__
    diverged_reward: ClassVar[float] = -200.0  # below an episode with every jet at its limit
    averaged: ClassVar[tuple[str, ...]] = ("wave_height",)

    def __init__(
        self,
        *,
        num_jets: int = 5,
        delta: float = 0.1,
        fidelity: str = "default",
        episode_steps: int = 400,
        render_mode: str | None = None,
    ) -> None:
        self.num_jets = int(
            check.number(
                "ShkadovFilm",
                "num_jets",
                check.count("ShkadovFilm", "num_jets", num_jets),
                1,
                20,
                "more were not tried",
            )
        )
        why = "waves were followed there; below, the explicit time step is too long, above, waves break"
        self.delta = check.number("ShkadovFilm", "delta", delta, *DELTAS, why)
        super().__init__(
            num_actions=self.num_jets,
            observation_names=[f"flow_rate_{j}_{k}" for j in range(self.num_jets) for k in range(PROBES)],
            episode_steps=episode_steps,
            options={"num_jets": self.num_jets, "delta": self.delta},
            fidelity=fidelity,
            render_mode=render_mode,
        )
        self.level = FIDELITIES[fidelity]
        self.length = FIRST_JET + JET_SPACING * (self.num_jets + 2)
        n = round(self.length / self.level.dx)
        self.film = np.zeros((4, n))
        self._action = np.zeros(self.num_jets)
        x = np.arange(n) * self.level.dx
        self.jets = FIRST_JET + JET_SPACING * np.arange(self.num_jets)
        self._shapes = JET_FORCE * np.maximum(1 - ((x - self.jets[:, None]) / JET_HALF_WIDTH) ** 2, 0)
        self._probes = np.round((self.jets[:, None] + np.arange(-PROBES, 0)) / self.level.dx).astype(int)
        first, cells = np.round(self.jets / self.level.dx).astype(int), round(PROBES / self.level.dx)
        self._judged = first[:, None] + np.arange(cells)

    @staticmethod
    def preload() -> None:
        """Load the kernel and compute the developed films before environment processes are forked."""
        ShkadovFilm().reset(seed=0)

    def _start(self) -> dict[str, Any]:
        films = developed_films(self.length, self.delta, self.fidelity)
        self.film = films[self.np_random.integers(len(films))].copy()
        self._action = np.zeros(self.num_jets)
        for _ in range(self.np_random.integers(60)):
            self._run(self._action)
        return {}

    def _run(self, action: np.ndarray) -> None:
        level = self.level
        dt = CONTROL_INTERVAL / level.substeps
        inlet = inlet_heights(self.np_random, dt, level.substeps)
        old, new = self._action @ self._shapes, action @ self._shapes
        advance(self.film, level.dx, dt, self.delta, inlet, old, new, round(RAMP / dt))
        self._action = action

    def _advance(self, action: np.ndarray) -> tuple[float, dict[str, Any]]:
        self._run(action)
        heights = self.film[0]
        if not (heights.min() > THICKNESSES[0] and heights.max() < THICKNESSES[1]):
            raise Diverged("thickness")
        square = float(((heights[self._judged] - 1) ** 2).mean())
        return -square, {"wave_height": square**0.5}

    def jet_squares(self) -> np.ndarray:
        """The mean of (h - 1)² behind each jet, float64 [num_jets]; the mean over the jets is what is paid for."""
        return ((self.film[0, self._judged] - 1) ** 2).mean(1)

    def _observe(self) -> np.ndarray:
        return self.film[1, self._probes].ravel() - 1

    def _state(self) -> dict[str, np.ndarray]:
        return {"film": self.film, "action": self._action}

    def _load(self, state: Mapping[str, np.ndarray]) -> None:
        self.film, self._action = state["film"], state["action"]

    def render(self) -> np.ndarray | None:  # type: ignore[override]
        """The film's thickness with the jets below, uint8 [240, 480, 3]; None without a render mode."""
        if self.render_mode is None:
            return None
        return picture.bars(picture.curve(self.film[0], 0, 2), self.jets / self.length, self._action)


def _upstream(env_kwargs: dict[str, Any]) -> feedback.Features:
    """The excess flow rate over the three probes next to each jet."""
    return lambda observation: observation.reshape(-1, PROBES)[:, -3:].mean(1)


NAME, NOTHING, baseline_candidates, baseline_policy = feedback.controls(
    _upstream, gains=(-2.0, -1.0, -0.5, -0.2, -0.1, 0.1, 0.5), name="feedback gain"
)
