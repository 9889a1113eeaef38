"""A fluid, its bodies and what they are told to do in; the state some lattice steps later and the bodies' loads out.

The step itself is in ``coupling``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from distrl.core.errors import ConfigError
from distrl.envs.flow_pool import digest
from distrl.envs.fluids import coupling, devices, lattice
from distrl.envs.fluids.beam import WORK_NAMES, make_beam
from distrl.envs.fluids.bodies import Drive, Filament, Motion, RigidBody
from distrl.envs.fluids.coupling import OUTCOMES, SIDES
from distrl.envs.fluids.fluid import Fluid
from distrl.envs.fluids.team import Team

NUM_FLOWS = 8  # developed flows of a case, at phases spread over a cycle
_ITERATIONS = 5  # of the direct forcing of rigid bodies (Luo et al., Phys. Rev. E 76, 2007); each halves the slip


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
        threads: int = 1,
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
        self._team = Team(threads, fluid.nx + 2)
        self._gpu: Any = None
        if self.device != "cpu":
            from distrl.envs.fluids.warp_scene import WarpScene  # imports Warp

            sizes = [len(fin.shape) for fin in self._fins.values()]
            self._gpu = WarpScene(self.device, fluid, self._edges, self._first, sizes, _ITERATIONS)
        self.fill_edges()

    def fill_edges(self) -> None:
        """Make the edges fit the fields inside: after the populations were set from outside."""
        coupling.fill_edges(self.fluid.populations, self._edges, self.fluid.speed)

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
            scene = (self.fluid.arrays, self._edges, speeds, float(push), rigid, fins or _no_fins(), len(fins))
            boxes = np.zeros((len(self.bodies), 4), np.int64)  # what the bodies' forces touch, shared by the threads
            code, done = self._team.run(
                lambda *thread: coupling.advance(*thread, *scene, displacement_limit, boxes, loads)
            )
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


def solver_version(*cases: str) -> list[Any]:
    """``FlowPool.version`` of flows of this solver; ``cases`` are the files of this folder that set them up."""
    files = ("scene.py", "coupling.py", "bodies.py", "fluid.py", *cases)
    return [coupling.kernel_sources(), *(digest(Path(__file__).with_name(name)) for name in files)]


def _no_fins() -> tuple:
    """A filament that is not there: numba cannot give a type to the elements of an empty tuple."""
    fin = Filament.straight(make_beam(2, 1.0, 1.0), 0.0, 0.0)
    return (fin.arrays(fin.resting(1)),)
