"""A fluid, its bodies and what they are told to do in; the state some lattice steps later and the bodies' loads out.

A time step of the whole scene: read the fluid's velocity at the markers, after streaming; let each body turn it into
marker forces; collide, with those forces where they act; fill the edges. Each line of the kernel below is one term of
the equations, in a file of its own: ``lattice``, ``immersed_boundary``, ``beam``, ``boundaries``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numba as nb
import numpy as np

from distrl.core.errors import ConfigError
from distrl.envs.fluids import beam as beam_term
from distrl.envs.fluids import boundaries, devices, immersed_boundary, lattice
from distrl.envs.fluids.beam import REFACTOR_PERIOD, WORK_NAMES, make_beam
from distrl.envs.fluids.bodies import Drive, Filament, Motion, RigidBody
from distrl.envs.fluids.fluid import Fluid

# Why a run of steps ended; the index is what the kernel returns.
OUTCOMES = ("fine", "displacement", "left_domain", "inextensibility")

SIDES = {"slip": 0, "no_slip": 1, "periodic": 2}
_ITERATIONS = 5  # of the direct forcing of rigid bodies (Luo et al., Phys. Rev. E 76, 2007); each halves the slip


def kernel_sources() -> int:
    """A digest of every kernel file. Numba's cache looks only at the file of the function that it compiled, so that an
    edit of ``lattice.py`` alone would leave old machine code inside the scene's kernel: the digest is part of its
    key."""
    digest = sha256()
    for module in (lattice, boundaries, immersed_boundary, beam_term):
        digest.update(Path(module.__file__ or "").read_bytes())
    return int.from_bytes(digest.digest()[:6], "big")


@nb.njit(cache=True)
def place(outline, poses, n, markers, velocity, blowing):  # pragma: no cover
    """Write position and velocity of the markers of one rigid body at step ``n``."""
    x, y, angle, vx, vy, spin, blow = poses[n]
    cosine, sine = np.cos(angle), np.sin(angle)
    for i in range(outline.shape[0]):
        rx = cosine * outline[i, 0] - sine * outline[i, 1]
        ry = sine * outline[i, 0] + cosine * outline[i, 1]
        markers[i, 0] = x + rx
        markers[i, 1] = y + ry
        velocity[i, 0] = vx - spin * ry + blow * (cosine * blowing[i, 0] - sine * blowing[i, 1])
        velocity[i, 1] = vy + spin * rx + blow * (sine * blowing[i, 0] + cosine * blowing[i, 1])


# Each kernel's closure holds ``sources`` alone: numba's cache key has the closure in it, and one that held another
# kernel would be another key in every process, which would compile all of them again.


def _build_parts(sources: int):
    @nb.njit(cache=True)
    def fill_edges(f, edges, speed):  # pragma: no cover
        if sources < 0:  # part of the cache key
            return
        periodic, sides, profile = edges
        if periodic:
            boundaries.fill_periodic_x(f)
        if sides == 0:
            boundaries.fill_slip_sides(f)
        elif sides == 1:
            boundaries.fill_no_slip_sides(f)
        else:
            boundaries.fill_periodic_y(f)
        if not periodic:
            boundaries.fill_velocity_inlet(f, speed, profile)
            boundaries.fill_pressure_outlet(f)

    @nb.njit(cache=True)
    def move_filament(fin, n, displacement_limit):  # pragma: no cover
        """One step of a filament whose slip velocity is known; the index of an outcome."""
        if sources < 0:  # part of the cache key
            return 0
        beam, x, x_old, root, tension, roots, activation, work, (_, _, slip, force, x_new, space) = fin
        shapes = (x_old, x, x_new)
        turns = (root[0], root[1], roots[n])
        refactor = n % REFACTOR_PERIOD == 0
        if not beam_term.step(beam, shapes, turns, tension, activation[n], slip, refactor, force, space):
            return 3
        limit = displacement_limit * displacement_limit
        for i in range(x.shape[0]):
            moved = (x_new[i, 0] - x[i, 0]) ** 2 + (x_new[i, 1] - x[i, 1]) ** 2
            if not moved < limit:
                return 1
        beam_term.account(beam, shapes, turns, tension, activation[n], force, work, space)
        x_old[:] = x
        x[:] = x_new
        root[0] = root[1]
        root[1] = roots[n]
        return 0

    return fill_edges, move_filament


_fill_edges, move_filament = _build_parts(kernel_sources())


def _build_advance(sources: int):
    @nb.njit(cache=True)
    def advance(fluid, edges, inflow, push, rigid, fins, num_fins, displacement_limit, loads):  # pragma: no cover
        marker = sources  # part of the cache key, see kernel_sources
        f, out, rates, const, scratch = fluid
        outline, blowing, first, poses, moves, iterations = rigid
        density, ux, uy, fx, fy = scratch[0], scratch[1], scratch[2], scratch[3], scratch[4]
        nx, ny = f.shape[1] - 2, f.shape[2] - 2
        num_rigid = first.shape[0] - 1
        count = outline.shape[0]
        markers = np.empty((count, 2))
        velocity = np.empty((count, 2))
        nodes = np.empty((count, 2), np.int64)
        weights = np.empty((count, 2, 3))
        seen = np.empty((count, 2))
        force = np.empty((count, 2))
        boxes = np.empty((num_rigid + num_fins, 4), np.int64)
        for n in range(inflow.shape[0] if marker >= 0 else 0):
            for b in range(num_rigid):
                part = slice(first[b], first[b + 1])
                place(outline[part], poses[b], n, markers[part], velocity[part], blowing[part])
                if n == 0 or moves[b]:
                    immersed_boundary.kernel_weights(markers[part], nodes[part], weights[part])
                    boxes[b] = immersed_boundary.support(nodes[part], nx, ny)
            for b in range(num_fins):
                fin = fins[b]
                fin_nodes, fin_weights = fin[8][0], fin[8][1]
                immersed_boundary.kernel_weights(fin[1], fin_nodes, fin_weights)
                boxes[num_rigid + b] = immersed_boundary.support(fin_nodes, nx, ny)
            for b in range(boxes.shape[0]):
                x0, x1, y0, y1 = boxes[b]
                if x1 == 0:
                    return 2, n
                lattice.streamed_fields(f, density, ux, uy, (x0, x1, y0, y1))
                fx[x0:x1, y0:y1] = 0
                fy[x0:x1, y0:y1] = 0
            if push != 0:
                fx[:] = push
            for b in range(num_fins):
                fin = fins[b]
                fin_nodes, fin_weights, slip, fin_force = fin[8][0], fin[8][1], fin[8][2], fin[8][3]
                immersed_boundary.interpolate(ux, uy, fin_nodes, fin_weights, slip)
                code = move_filament(fin, n, displacement_limit)
                if code:
                    return code, n
                immersed_boundary.spread(fin_force, fin_nodes, fin_weights, fx, fy, 1.0)
            for b in range(num_fins if num_rigid else 0):
                # The velocity of a cell rises by half the force density added to it (Guo forcing). Rigid bodies see
                # that; filaments do not see each other's, whatever their order.
                fin_nodes, fin_weights, fin_force = fins[b][8][0], fins[b][8][1], fins[b][8][3]
                immersed_boundary.spread(fin_force, fin_nodes, fin_weights, ux, uy, 0.5)
            for _ in range(iterations if num_rigid else 0):
                immersed_boundary.interpolate(ux, uy, nodes, weights, seen)
                for b in range(num_rigid):
                    for i in range(first[b], first[b + 1]):
                        force[i, 0] = 2 * (velocity[i, 0] - seen[i, 0])
                        force[i, 1] = 2 * (velocity[i, 1] - seen[i, 1])
                        rx, ry = markers[i, 0] - poses[b, n, 0], markers[i, 1] - poses[b, n, 1]
                        loads[b, n, 0] += force[i, 0]
                        loads[b, n, 1] += force[i, 1]
                        loads[b, n, 2] += rx * force[i, 1] - ry * force[i, 0]
                immersed_boundary.spread(force, nodes, weights, fx, fy, 1.0)
                immersed_boundary.spread(force, nodes, weights, ux, uy, 0.5)
            if push != 0:
                lattice.collide_forced(f, out, rates, const, fx, fy, (1, nx + 1, 1, ny + 1))
            else:
                lattice.collide(f, out, rates, const)
                for b in range(boxes.shape[0]):
                    x0, x1, y0, y1 = boxes[b]
                    lattice.collide_forced(f, out, rates, const, fx, fy, (x0, x1, y0, y1))
            _fill_edges(out, edges, inflow[n])
            f, out = out, f
        return 0, inflow.shape[0]

    return advance


_advance = _build_advance(kernel_sources())


@dataclass(frozen=True)
class Loads:
    """What the bodies did to the fluid and the fluid to them in a run of lattice steps, in lattice units.

    Attributes:
        outcome: one of ``OUTCOMES``; after anything but ``fine`` neither loads nor state are to be used.
        forces: of the fluid on each rigid body, by name: float64 [steps, 3], along x, along y, and the torque about its
            centre. The inertia of the fluid inside the outline is taken out of the forces (not out of the torque).
        work: of each filament, by name: sums over the steps of ``beam.WORK_NAMES``.
    """

    outcome: str
    forces: dict[str, np.ndarray]
    work: dict[str, dict[str, float]]


class Scene:
    """A channel and the bodies in it.

    Args:
        fluid: populations and material.
        bodies: by name; a ``RigidBody`` or a ``Filament``.
        sides: what the fluid meets at both y edges: "slip" (no friction), "no_slip" (resting walls) or "periodic".
        periodic: whether what leaves through one x edge comes in through the other; otherwise the fluid enters at the
            low x edge with the inflow's velocity and leaves at the high one at density 1.
        profile: of the inflow over y, float [ny], relative to the inflow's speed; None is uniform.
        device: what advances it, see ``devices.resolve``; the attribute says which one that is. Devices round
            differently, so their results agree for some time, not bit by bit.
    """

    def __init__(
        self,
        fluid: Fluid,
        bodies: Mapping[str, RigidBody | Filament] | None = None,
        *,
        sides: str = "slip",
        periodic: bool = False,
        profile: np.ndarray | None = None,
        device: str = "cpu",
    ) -> None:
        if sides not in SIDES or (sides == "periodic" and not periodic):
            raise ConfigError(
                f"a scene needs sides to be one of {', '.join(SIDES)}, and periodic ones only with periodic=True; "
                f"got {sides!r}."
            )
        self.fluid = fluid
        self.bodies = dict(bodies or {})
        self._rigid = {name: body for name, body in self.bodies.items() if isinstance(body, RigidBody)}
        self._fins = {name: body for name, body in self.bodies.items() if isinstance(body, Filament)}
        self._outline = np.concatenate([np.zeros((0, 2)), *(body.outline for body in self._rigid.values())])
        self._blowing = np.concatenate([np.zeros((0, 2)), *(body.blowing for body in self._rigid.values())])
        self._first = np.cumsum([0, *(len(body.outline) for body in self._rigid.values())])
        shape = np.ones(fluid.ny) if profile is None else np.asarray(profile, np.float64)
        self._edges = (periodic, SIDES[sides], np.pad(shape, 1, mode="edge"))
        self.device = devices.resolve(device, fluid)
        self._gpu: Any = None
        if self.device != "cpu":
            from distrl.envs.fluids.warp_scene import WarpScene  # imports Warp

            sizes = [len(fin.shape) for fin in self._fins.values()]
            self._gpu = WarpScene(self.device, fluid, self._edges, self._first, sizes, _ITERATIONS)
        self.fill_edges()

    def fill_edges(self) -> None:
        """Make the edges fit the fields inside: after the populations were set from outside."""
        _fill_edges(self.fluid.populations, self._edges, self.fluid.speed)

    def advance(
        self,
        steps: int,
        motions: Mapping[str, Motion | Drive] | None = None,
        *,
        inflow: np.ndarray | float | None = None,
        push: float = 0.0,
        displacement_limit: float = 0.3,
    ) -> Loads:
        """Advance every body and the fluid by ``steps`` lattice steps.

        Args:
            motions: by body: a ``Motion`` of a rigid body, a ``Drive`` of a filament. Bodies left out rest.
            inflow: velocity at the inlet, in cells per step: one, or float64 [steps]; None is ``fluid.speed``.
            push: force density along x everywhere (what drives a periodic channel).
            displacement_limit: cells that a filament's node may move in a step.

        Raises:
            ConfigError: a motion for a body that is not there.
        """
        motions = dict(motions or {})
        for name in motions:
            if name not in self.bodies:
                raise ConfigError(f"a motion was given for {name!r}, but the scene has {', '.join(self.bodies)}.")
        moves: list[Any] = [motions.get(name) or body.resting() for name, body in self._rigid.items()]
        drives: list[Any] = [motions.get(name) or body.resting(steps) for name, body in self._fins.items()]
        poses = np.stack([np.zeros((steps, 7)), *(move.table(steps) for move in moves)])[1:]
        speed = self.fluid.speed if inflow is None else inflow
        speeds = np.full(steps, speed, np.float64)  # a writable array: a view of the caller's would be another kernel
        for fin in self._fins.values():
            fin.work[:] = 0
        fins = tuple(fin.arrays(drive) for fin, drive in zip(self._fins.values(), drives, strict=True))
        loads = np.zeros((len(self._rigid), steps, 3))
        moving = np.array([move.moves for move in moves], np.bool_)
        rigid = (self._outline, self._blowing, self._first, np.ascontiguousarray(poses), moving, _ITERATIONS)
        if self._gpu is None:
            code, done = _advance(
                self.fluid.arrays, self._edges, speeds, float(push), rigid, fins or _no_fins(), len(fins),
                displacement_limit, loads,
            )  # fmt: skip
            self.fluid.swap(done)
        else:
            code = self._gpu.advance(speeds, float(push), rigid, fins, displacement_limit, loads)
        forces = {}
        for index, (name, body) in enumerate(self._rigid.items()):
            velocity = np.concatenate([body.velocity[None], poses[index, :, 3:5]])
            body.velocity = velocity[-1]
            force = -loads[index]
            # The markers also move the fluid inside, as if it were rigid (Feng & Michaelides, J. Comput. Phys. 2009).
            force[:, :2] += body.area * np.diff(velocity, axis=0)
            forces[name] = force
        work = {name: dict(zip(WORK_NAMES, fin.work.tolist(), strict=True)) for name, fin in self._fins.items()}
        return Loads(OUTCOMES[code], forces, work)

    def cells_out_of_bounds(self, lowest_density: float, highest_density: float, highest_speed: float) -> int:
        """How many cells have a density or a speed (cells per step) outside the bounds, or either not finite; on a GPU
        without fetching the populations."""
        if self.fluid.ahead is not None:
            return self._gpu.cells_out_of_bounds(lowest_density, highest_density, highest_speed)
        return lattice.cells_out_of_bounds(self.fluid.populations, lowest_density, highest_density, highest_speed)

    def state(self) -> dict[str, np.ndarray]:
        """Everything that decides the future, as arrays; ``load`` takes it back bit by bit."""
        arrays = {"populations": self.fluid.populations}
        for name, fin in self._fins.items():
            arrays |= {f"{name}/{part}": getattr(fin, part) for part in ("shape", "shape_old", "root", "tension")}
        return arrays | {f"{name}/velocity": body.velocity for name, body in self._rigid.items()}

    def load(self, state: Mapping[str, np.ndarray]) -> None:
        """Take over a state of the same scene."""
        for name, array in self.state().items():
            array[:] = state[name]


def _no_fins() -> tuple:
    """A filament that is not there: numba cannot give a type to the elements of an empty tuple."""
    fin = Filament.straight(make_beam(2, 1.0, 1.0), 0.0, 0.0)
    return (fin.arrays(fin.resting(1)),)
