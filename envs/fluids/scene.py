"""A fluid state and what its bodies are told to do in, the state some lattice steps later and the bodies' work out.

A time step of the whole scene: stream; read the fluid's velocity at the markers; let each body turn it into marker
forces; collide, with those forces where they act; fill the edges. ``advance_fin`` moves a flexible filament,
``advance_rigid`` bodies whose surface moves as prescribed, ``advance_channel`` a fluid under a body force between
walls.
"""

from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

import numba as nb
import numpy as np

from distrl.envs.fluids import beam as beam_term
from distrl.envs.fluids import boundaries, immersed_boundary, lattice
from distrl.envs.fluids.beam import REFACTOR_PERIOD, WORK_NAMES, Beam

# Why a run of steps ended; the index is what the kernels return.
OUTCOMES = ("fine", "displacement", "left_domain", "inextensibility")


def kernel_sources() -> int:
    """A digest of every kernel file. Numba's cache looks only at the file of the function that it compiled, so that an
    edit of ``lattice.py`` alone would leave old machine code inside ``advance_fin``: the digest is part of its key."""
    digest = sha256()
    for module in (lattice, boundaries, immersed_boundary, beam_term):
        digest.update(Path(module.__file__ or "").read_bytes())
    return int.from_bytes(digest.digest()[:6], "big")


@dataclass
class Fluid:
    """Populations and material of one domain of ``nx`` by ``ny`` cells.

    ``sponge`` is added to the viscosity: float64 [nx + 2] in cells²/step, or 0.
    """

    nx: int
    ny: int
    viscosity: float
    speed: float
    magic: float = 0.125
    sponge: np.ndarray | float = 0.0
    dtype: type = np.float32
    populations: np.ndarray = field(init=False)
    spare: np.ndarray = field(init=False)
    rates: np.ndarray = field(init=False)
    const: np.ndarray = field(init=False)
    scratch: np.ndarray = field(init=False)  # density, ux, uy, fx, fy, each [nx + 2, ny + 2]

    def __post_init__(self) -> None:
        shape = (self.nx + 2, self.ny + 2)
        self.rates = lattice.relaxation_rates(np.full(shape[0], self.viscosity) + self.sponge, self.magic, self.dtype)
        self.const = lattice.kernel_constants(self.dtype)
        self.scratch = np.zeros((5, *shape), self.dtype)
        self.spare = np.zeros((9, *shape), self.dtype)
        self.set_fields(np.ones(shape), np.full(shape, self.speed), np.zeros(shape))

    def set_fields(self, density: np.ndarray, ux: np.ndarray, uy: np.ndarray) -> None:
        """Set the populations to equilibrium with fields ``[nx + 2, ny + 2]``, ghost cells included."""
        self.populations = lattice.equilibrium(density, ux, uy, self.dtype)

    def swap(self, steps: int) -> None:
        """The kernels exchange the two buffers every step: after an odd number the result is in the spare one."""
        if steps % 2:
            self.populations, self.spare = self.spare, self.populations

    @property
    def arrays(self) -> tuple[np.ndarray, ...]:
        """What the kernels take: populations, spare, rates, const, scratch."""
        return self.populations, self.spare, self.rates, self.const, self.scratch


@dataclass
class Filament:
    """The state of one flexible body: shapes at this step and the last, tensions, and its root at both.

    ``root`` float64 [2, 4] holds position and direction of the root at the last step and at this one.
    """

    beam: Beam
    shape: np.ndarray
    shape_old: np.ndarray
    root: np.ndarray
    tension: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.tension = np.zeros(len(self.shape) - 1)

    @classmethod
    def straight(cls, beam: Beam, x: float, y: float, angle: float = 0.0) -> "Filament":
        """A resting straight filament with its root at (x, y), in array indices, and its direction at ``angle`` rad."""
        direction = np.array([np.cos(angle), np.sin(angle)])
        shape = np.array([x, y]) + np.arange(len(beam.mass))[:, None] * direction
        root = np.tile(np.array([x, y, *direction]), (2, 1))
        return cls(beam, shape, shape.copy(), root)


def _build_advance_fin(sources: int):
    @nb.njit(cache=True)
    def advance(fluid, beam, x, x_old, root, tension, driven, inflow, displacement_limit, work):  # pragma: no cover
        marker = sources  # part of the cache key, see kernel_sources
        f, out, rates, const, scratch = fluid
        roots, activation = driven
        density, ux, uy, fx, fy = scratch[0], scratch[1], scratch[2], scratch[3], scratch[4]
        nx, ny = f.shape[1] - 2, f.shape[2] - 2
        count = x.shape[0]
        nodes = np.empty((count, 2), np.int64)
        weights = np.empty((count, 2, 3))
        slip = np.empty((count, 2))
        force = np.empty((count, 2))
        x_new = np.empty((count, 2))
        space = beam_term.workspace(count - 1)
        limit = displacement_limit * displacement_limit
        for n in range(roots.shape[0]):
            immersed_boundary.kernel_weights(x, nodes, weights)
            box = immersed_boundary.support(nodes, nx, ny)
            if box[1] == 0:
                return 2, n
            lattice.streamed_fields(f, density, ux, uy, box)
            immersed_boundary.interpolate(ux, uy, nodes, weights, slip)
            refactor = n % REFACTOR_PERIOD == 0 and marker >= 0
            shapes = (x_old, x, x_new)
            turns = (root[0], root[1], roots[n])
            if not beam_term.step(beam, shapes, turns, tension, activation[n], slip, refactor, force, space):
                return 3, n
            for i in range(count):
                moved = (x_new[i, 0] - x[i, 0]) ** 2 + (x_new[i, 1] - x[i, 1]) ** 2
                if not moved < limit:
                    return 1, n
            beam_term.account(beam, shapes, turns, tension, activation[n], force, work, space)
            fx[box[0] : box[1], box[2] : box[3]] = 0
            fy[box[0] : box[1], box[2] : box[3]] = 0
            immersed_boundary.spread(force, nodes, weights, fx, fy)
            lattice.collide(f, out, rates, const)
            lattice.collide_forced(f, out, rates, const, fx, fy, box)
            boundaries.fill_slip_sides(out)
            boundaries.fill_velocity_inlet(out, inflow[n])
            boundaries.fill_pressure_outlet(out)
            f, out = out, f
            x_old[:] = x
            x[:] = x_new
            root[0] = root[1]
            root[1] = roots[n]
        return 0, roots.shape[0]

    return advance


_advance_fin = _build_advance_fin(kernel_sources())


def advance_fin(
    fluid: Fluid,
    filament: Filament,
    roots: np.ndarray,
    activation: np.ndarray,
    inflow: np.ndarray,
    displacement_limit: float = 0.3,
) -> tuple[str, dict[str, float]]:
    """Advance a filament in an open channel with slip sides, and say how that ended and what work was done.

    Args:
        roots: float64 [steps, 4], position (array indices) and direction of the root after each step.
        activation: float64 [steps], active curvature in units of the beam's profile, at the start of each step.
        inflow: float64 [steps], inlet velocity in cells per step.
        displacement_limit: cells that a node may move in a step.

    Returns:
        one of ``OUTCOMES``, and the sums over the steps of ``WORK_NAMES`` in lattice units. After anything but ``fine``
        the state is not to be used any more.
    """
    work = np.zeros(len(WORK_NAMES))
    code, steps = _advance_fin(
        fluid.arrays, filament.beam.arrays, filament.shape, filament.shape_old, filament.root, filament.tension,
        (roots, activation), inflow, displacement_limit, work,
    )  # fmt: skip
    fluid.swap(steps)
    return OUTCOMES[code], dict(zip(WORK_NAMES, work.tolist(), strict=True))


def _build_advance_rigid(sources: int):
    @nb.njit(cache=True)
    def advance(fluid, markers, velocity, inflow, iterations, no_slip, forces):  # pragma: no cover
        marker = sources  # part of the cache key, see kernel_sources
        f, out, rates, const, scratch = fluid
        density, ux, uy, fx, fy = scratch[0], scratch[1], scratch[2], scratch[3], scratch[4]
        nx, ny = f.shape[1] - 2, f.shape[2] - 2
        count = markers.shape[0]
        nodes = np.empty((count, 2), np.int64)
        weights = np.empty((count, 2, 3))
        seen = np.empty((count, 2))
        push = np.empty((count, 2))
        immersed_boundary.kernel_weights(markers, nodes, weights)
        box = immersed_boundary.support(nodes, nx, ny)
        if box[1] == 0 or marker < 0:
            return 2, 0
        x0, x1, y0, y1 = box
        for n in range(forces.shape[0]):
            lattice.streamed_fields(f, density, ux, uy, box)
            fx[x0:x1, y0:y1] = 0
            fy[x0:x1, y0:y1] = 0
            for _ in range(iterations):
                immersed_boundary.interpolate(ux, uy, nodes, weights, seen)
                for i in range(count):
                    for axis in range(2):
                        push[i, axis] = 2 * (velocity[i, axis] - seen[i, axis])
                        forces[n, axis] += push[i, axis]
                # The velocity of a cell rises by half the force density added to it (Guo forcing).
                immersed_boundary.spread(push, nodes, weights, fx, fy)
                push *= 0.5
                immersed_boundary.spread(push, nodes, weights, ux, uy)
            lattice.collide(f, out, rates, const)
            lattice.collide_forced(f, out, rates, const, fx, fy, box)
            if no_slip:
                boundaries.fill_no_slip_sides(out)
            else:
                boundaries.fill_slip_sides(out)
            boundaries.fill_velocity_inlet(out, inflow)
            boundaries.fill_pressure_outlet(out)
            f, out = out, f
        return 0, forces.shape[0]

    return advance


_advance_rigid = _build_advance_rigid(kernel_sources())


def advance_rigid(
    fluid: Fluid, markers: np.ndarray, velocity: np.ndarray, steps: int, *, iterations: int = 5, no_slip: bool = False
) -> np.ndarray:
    """Advance an open channel around markers that stay where they are, and return the force on the fluid [steps, 2].

    Args:
        markers: float64 [n, 2], about one cell apart, in array indices.
        velocity: float64 [n, 2], of the surface, in cells per step (a turning cylinder's, or zero).
        iterations: of the direct forcing (Luo et al., Phys. Rev. E 76, 2007); each halves the slip.
        no_slip: whether the sides are resting walls instead of slip walls.
    """
    forces = np.zeros((steps, 2))
    code, advanced = _advance_rigid(fluid.arrays, markers, velocity, fluid.speed, iterations, no_slip, forces)
    if code:
        raise ValueError(
            "every marker must lie at least 1.5 cells inside the domain; move the body or enlarge the domain"
        )
    fluid.swap(advanced)
    return forces


def _build_advance_channel(sources: int):
    @nb.njit(cache=True)
    def advance(fluid, force, walls, steps):  # pragma: no cover
        marker = sources  # part of the cache key, see kernel_sources
        f, out, rates, const, scratch = fluid
        fx, fy = scratch[3], scratch[4]
        fx[:] = force
        fy[:] = 0
        box = (1, f.shape[1] - 1, 1, f.shape[2] - 1)
        for _ in range(steps if marker >= 0 else 0):
            if force == 0:
                lattice.collide(f, out, rates, const)
            else:
                lattice.collide_forced(f, out, rates, const, fx, fy, box)
            boundaries.fill_periodic_x(out)
            if walls:
                boundaries.fill_no_slip_sides(out)
            else:
                boundaries.fill_periodic_y(out)
            f, out = out, f

    return advance


_advance_channel = _build_advance_channel(kernel_sources())


def advance_channel(fluid: Fluid, steps: int, *, force: float = 0.0, walls: bool = True) -> None:
    """Advance a fluid, periodic in x and between walls or periodic in y, under a force density along x."""
    f = fluid.populations
    boundaries.fill_periodic_x(f)
    (boundaries.fill_no_slip_sides if walls else boundaries.fill_periodic_y)(f)
    _advance_channel(fluid.arrays, force, walls, steps)
    fluid.swap(steps)
