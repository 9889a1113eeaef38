"""The size and material of a flow domain in, its populations and everything else that the kernels take out."""

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from distrl.envs.fluids import lattice


def graded_sponge(nx: int, inlet: float, outlet: float, viscosity: float = 0.1) -> np.ndarray:
    """Viscosity to add near inlet and outlet, float64 [nx + 2], in cells²/step.

    It falls with the square of the distance from ``viscosity`` at the edge to nothing ``inlet`` cells behind the inlet
    and ``outlet`` cells before the outlet. Without it sound waves and vortices that reach an edge make it diverge.
    """
    x = np.arange(nx + 2) - 0.5  # distance of the cell centres from the inlet
    depth = np.zeros(nx + 2)
    for distance, length in ((x, inlet), (nx - x, outlet)):
        if length > 0:
            depth = np.maximum(depth, np.clip(1 - distance / length, 0, 1))
    return viscosity * depth**2


class Device(Protocol):
    """What holds a fluid's populations where numpy does not see them."""

    def fetch(self, populations: np.ndarray) -> None:
        """Write them to ``populations`` [9, nx + 2, ny + 2]."""


@dataclass
class Fluid:
    """Populations and material of one domain of ``nx`` by ``ny`` cells.

    ``speed`` is the inflow velocity in cells per step, at which the fluid starts; ``viscosity`` in cells²/step;
    ``sponge`` is added to it, float64 [nx + 2], or 0.
    """

    nx: int
    ny: int
    viscosity: float
    speed: float
    magic: float = 0.125
    sponge: np.ndarray | float = 0.0
    dtype: type = np.float32
    ahead: Device | None = field(init=False, default=None)  # has advanced the populations since they were last here
    spare: np.ndarray = field(init=False)
    rates: np.ndarray = field(init=False)
    const: np.ndarray = field(init=False)
    scratch: np.ndarray = field(init=False)  # density, ux, uy, fx, fy, each [nx + 2, ny + 2]
    _populations: np.ndarray = field(init=False, repr=False)

    def __post_init__(self) -> None:
        shape = (self.nx + 2, self.ny + 2)
        self.rates = lattice.relaxation_rates(np.full(shape[0], self.viscosity) + self.sponge, self.magic, self.dtype)
        self.const = lattice.kernel_constants(self.dtype)
        self.scratch = np.zeros((5, *shape), self.dtype)
        self.spare = np.zeros((9, *shape), self.dtype)
        self.set_fields(np.ones(shape), np.full(shape, self.speed), np.zeros(shape))

    def set_fields(self, density: np.ndarray, ux: np.ndarray, uy: np.ndarray) -> None:
        """Set the populations to equilibrium with fields ``[nx + 2, ny + 2]``, ghost cells included."""
        self._populations, self.ahead = lattice.equilibrium(density, ux, uy, self.dtype), None

    @property
    def populations(self) -> np.ndarray:
        """Collided populations [9, nx + 2, ny + 2], to be read or written; fetched from a device that is ahead."""
        if self.ahead is not None:
            self.ahead.fetch(self._populations)
            self.ahead = None
        return self._populations

    def swap(self, steps: int) -> None:
        """The kernels exchange the two buffers every step: after an odd number the result is in the spare one."""
        if steps % 2:
            self._populations, self.spare = self.spare, self._populations

    @property
    def arrays(self) -> tuple[np.ndarray, ...]:
        """What the kernels take: populations, spare, rates, const, scratch."""
        return self.populations, self.spare, self.rates, self.const, self.scratch
