"""Temperatures of wall segments in, the state and heat flux of a convecting layer out: ``distrl/RayleighBenard-v0``.

A fluid layer, periodic in x, is heated from below; ten segments of the lower plate can be warmer or colder than its
mean, and the heat flux is to become small. Geometry and segments: C. Vignon et al., "Effective control of
two-dimensional Rayleigh–Bénard convection: Invariant multi-agent reinforcement learning is all you need", Phys. Fluids
35 (2023) 065146; scaling of the wall temperatures: G. Beintema et al., J. Turbul. 21 (2020) 585; interval and episode:
Beacon (github.com/jviquerat/beacon). Equations: ``convection``. Every number: docs/dynamics.md.
"""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from distrl.envs import options as check
from distrl.envs.dynamics import feedback, picture
from distrl.envs.dynamics.convection import LARGEST_SPEED, TOP, Layer
from distrl.envs.simulation import Diverged, Simulation

WIDTH = math.pi  # over the height
PRANDTL = 0.7
SEGMENTS = 10
BANDS = 4  # of equal height, over which each segment's column is observed
WALL_LIMIT = 0.75  # largest deviation of a segment from the plate's mean temperature
CONTROL_INTERVAL = 2.0  # height over free-fall speed
QUANTITIES = (*(f"{name}_{band}" for name in ("temperature", "across", "upward") for band in range(BANDS)), "wall")
RAYLEIGH = (1e3, 1e5)

_WARM_UP = 200.0  # free-fall times after which free convection is steady


@dataclass(frozen=True)
class Level:
    """Cells (nx, ny), the Rayleigh number up to which its heat flux is within 3 %, and what a step costs on a core."""

    cells: tuple[int, int]
    accurate_up_to: float
    seconds_per_step: float


FIDELITIES = {
    "coarse": Level((40, 20), 1.5e4, 0.0025),
    "default": Level((60, 32), 4e4, 0.0092),
    "fine": Level((100, 52), 1e5, 0.083),
}


@functools.lru_cache(maxsize=8)
def developed_layer(rayleigh: float, fidelity: str) -> Layer:
    """Free convection in two pairs of rolls, ``_WARM_UP`` after a disturbance of conduction; not to be changed."""
    cells = FIDELITIES[fidelity].cells
    layer = Layer(WIDTH, cells, rayleigh, PRANDTL)
    x, y = (np.arange(cells[0]) + 0.5) / cells[0], (np.arange(cells[1]) + 0.5) / cells[1]
    layer.t[:, 1:-1] += 0.1 * np.cos(4 * math.pi * x)[:, None] * np.sin(math.pi * y)
    layer.advance(np.full(cells[0], 0.5), _WARM_UP)
    return layer


class RayleighBenard(Simulation):
    """Rayleigh–Bénard convection, paid the negative Nusselt number of each control interval.

    Args:
        rayleigh: with the full height, 1e3 to 1e5; a warning where the level's heat flux is off by more than 3 %.
        fidelity: "coarse", "default" or "fine" (40x20, 60x32, 100x52 cells).
        episode_steps: control intervals of 2 free-fall times after which the episode is truncated.
        render_mode: None or "rgb_array".

    Attributes:
        segment_nusselt: float64 [10], last interval's Nusselt number of each segment's column; their mean is global.
        wall: float64 [10], deviation of each segment's temperature from the plate's mean.

    ``info`` of a step: ``nusselt``.
    """

    fidelities: ClassVar[Mapping[str, Any]] = FIDELITIES
    baseline: ClassVar[str] = __name__
    diverged_reward: ClassVar[float] = -500.0
    averaged: ClassVar[tuple[str, ...]] = ("nusselt",)

    def __init__(
        self,
        *,
        rayleigh: float = 1e4,
        fidelity: str = "default",
        episode_steps: int = 100,
        render_mode: str | None = None,
    ) -> None:
        why = "well below the onset at 1708 nothing convects, above 1e5 no level resolves the plumes"
        self.rayleigh = check.number("RayleighBenard", "rayleigh", rayleigh, *RAYLEIGH, why)
        super().__init__(
            num_actions=SEGMENTS,
            observation_names=[f"{name}_segment_{s}" for s in range(SEGMENTS) for name in QUANTITIES],
            episode_steps=episode_steps,
            options={"rayleigh": self.rayleigh},
            fidelity=fidelity,
            render_mode=render_mode,
        )
        level = FIDELITIES[fidelity]
        if self.rayleigh > level.accurate_up_to:
            warnings.warn(
                f"RayleighBenard at fidelity {fidelity!r} was checked up to rayleigh = {level.accurate_up_to:g}, "
                f"got {self.rayleigh:g}: its heat flux may be off by more than 3 %; choose a finer fidelity.",
                stacklevel=2,
            )
        self.layer = Layer(WIDTH, level.cells, self.rayleigh, PRANDTL)
        self.wall = np.zeros(SEGMENTS)
        self.segment_nusselt = np.ones(SEGMENTS)

    @staticmethod
    def preload() -> None:
        """Load the kernels and compute free convection before environment processes are forked."""
        RayleighBenard().reset(seed=0)

    def _start(self) -> dict[str, Any]:
        """Steady free convection, shifted along the plates and mirrored at random."""
        layer, free = self.layer, developed_layer(self.rayleigh, self.fidelity)
        shift = int(self.np_random.integers(len(free.u)))
        mirrored = bool(self.np_random.integers(2))
        for name in ("u", "v", "t"):
            array = np.roll(getattr(free, name), shift, 0)
            if mirrored:  # u lies on faces, of which the first is its own mirror image
                array = -np.roll(array[::-1], 1, 0) if name == "u" else array[::-1]
            getattr(layer, name)[:] = array
        layer.first = True
        self.wall = np.zeros(SEGMENTS)
        self.segment_nusselt = np.full(SEGMENTS, np.nan)
        self._heat(0.05)  # so that there is a heat flux to tell of
        return {}

    def _heat(self, duration: float) -> None:
        bottom = 0.5 + self.wall.repeat(len(self.layer.u) // SEGMENTS)
        flux = self.layer.advance(bottom, duration)
        self.segment_nusselt = self.layer.nusselt(flux).reshape(SEGMENTS, -1).mean(1)

    def _advance(self, action: np.ndarray) -> tuple[float, dict[str, Any]]:
        wall = WALL_LIMIT * (action - action.mean())  # the plate's mean temperature stays
        self.wall = wall / max(1.0, np.abs(wall).max() / WALL_LIMIT)
        self._heat(CONTROL_INTERVAL)
        if not max(np.abs(self.layer.u).max(), np.abs(self.layer.v).max()) < LARGEST_SPEED:
            raise Diverged("speed")
        nusselt = float(self.segment_nusselt.mean())
        return -nusselt, {"nusselt": nusselt}

    def segment_observations(self) -> np.ndarray:
        """What is above each segment, float64 [10, 13], as ``QUANTITIES``: means over its column's bands."""
        layer = self.layer

        def bands(field: np.ndarray) -> np.ndarray:
            return field.reshape(SEGMENTS, len(field) // SEGMENTS, BANDS, -1).mean((1, 3))

        across = (layer.u + np.roll(layer.u, -1, 0))[:, 1:-1] / 2
        upward = (layer.v[:, 1:] + layer.v[:, :-1]) / 2
        values = [2 * bands(layer.t[:, 1:-1]), 4 * bands(across), 4 * bands(upward), self.wall[:, None] / WALL_LIMIT]
        return np.concatenate(values, 1)

    def _observe(self) -> np.ndarray:
        return self.segment_observations().ravel()

    def _state(self) -> dict[str, np.ndarray]:
        layer = self.layer
        arrays = {"u": layer.u, "v": layer.v, "t": layer.t, "before": layer.before, "first": np.array(layer.first)}
        return arrays | {"wall": self.wall, "segment_nusselt": self.segment_nusselt}

    def _load(self, state: Mapping[str, np.ndarray]) -> None:
        for name in ("u", "v", "t", "before"):
            getattr(self.layer, name)[:] = state[name]
        self.layer.first = bool(state["first"])
        self.wall, self.segment_nusselt = state["wall"], state["segment_nusselt"]

    def render(self) -> np.ndarray | None:  # type: ignore[override]
        """Temperature, with the segments' below, uint8 [even, even, 3]; None without a render mode."""
        if self.render_mode is None:
            return None
        scale = 2 * round(240 / len(self.layer.u))
        image = picture.heat(self.layer.t[:, 1:-1], TOP - 0.25, -TOP + 0.25, scale)
        plate = np.zeros((2 * picture.BAR_HEIGHT + 4, image.shape[1], 3), np.uint8)
        plate[:] = picture.GROUND
        return picture.bars(np.vstack([image, plate]), (np.arange(SEGMENTS) + 0.5) / SEGMENTS, self.wall / WALL_LIMIT)


def _rising(env_kwargs: dict[str, Any]) -> feedback.Features:
    """The upward velocity above each segment, over all heights: what its wall temperature is set against."""
    first = QUANTITIES.index("upward_0")
    return lambda observation: observation.reshape(SEGMENTS, -1)[:, first : first + BANDS].mean(1)


NAME, NOTHING, baseline_candidates, baseline_policy = feedback.controls(
    _rising, gains=(-2.0, -1.0, -0.5, 0.2, 0.5, 1.0, 2.0, 5.0), name="proportional gain"
)
