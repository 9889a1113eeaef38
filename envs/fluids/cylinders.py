"""A case of cylinders in a stream in, checked; its flow advanced under rotations or jets, with loads and probes out.

``CylinderCase`` is the physics of one case, ``CylinderFlow`` its state, without rewards, episodes or randomness, and
``develop`` its uncontrolled flows. Lengths are in diameters D, times in D/U, where U is the mean inflow; coefficients
are means over a control interval: forces over rho U² D / 2, powers over rho U³ D / 2.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from distrl.core.errors import EnvironmentFault
from distrl.envs import options as check
from distrl.envs.fluids import lattice
from distrl.envs.fluids.bodies import RigidBody
from distrl.envs.fluids.fluid import Fluid, graded_sponge
from distrl.envs.fluids.limits import check_lattice
from distrl.envs.fluids.scene import NUM_FLOWS, Scene
from distrl.envs.simulation import Diverged

JET_WIDTH = 20.0  # degrees: three markers or more at every level (the literature's 10 degrees would be one or two)

_SPONGE_LENGTHS = (2.0, 3.0)  # at inlet and outlet of a case with slip sides, in D
_REYNOLDS = (60.0, 200.0)
_REST_CYCLES = 4  # shedding periods over which the loads at rest are averaged

# The guards; the wildest actions stay inside (docs/flow_control.md).
_LARGEST_SPEED = 0.45  # cells a step
_DENSITIES = (0.75, 1.25)


@dataclass(frozen=True)
class Fidelity:
    """One resolution: cells per diameter, and about how long a control step takes on one core."""

    cells: int
    seconds_per_step: float


@dataclass(frozen=True)
class CylinderCase:
    """Everything that decides the flow.

    Attributes:
        owner: the environment that messages name.
        cells: per diameter.
        length, height: of the domain, in D.
        origin: of the coordinates, in D from the inlet and the lower side.
        centres: of the cylinders, in D from the origin.
        control: "rotation", every cylinder's surface speed in U, anticlockwise positive; or "jets", the flux out of
            the upper side of the first cylinder and into its lower side, at 90 degrees to the stream, in U D.
        limit: largest absolute value of a control.
        interval: control interval in D/U, over which a control goes linearly to its new value.
        channel: whether the sides are walls and the inflow a parabola of mean U; otherwise slip sides, uniform inflow.
        reynolds: U D / nu.
        lattice_speed: U in cells per lattice step: sets the time step and the Mach number.
        warm_up: D/U from the impulsive start to the developed flow.
        period: of vortex shedding at rest, about, in D/U.
    """

    owner: str
    cells: int
    length: float
    height: float
    origin: tuple[float, float]
    centres: tuple[tuple[float, float], ...]
    control: str
    limit: float
    interval: float
    warm_up: float
    period: float
    channel: bool = False
    reynolds: float = 100.0
    lattice_speed: float = 0.05

    def __post_init__(self) -> None:
        low, high = _REYNOLDS
        why = "below it the wake may be steady, above it the real one is three-dimensional"
        check.number(self.owner, "reynolds", self.reynolds, low, high, why)
        check_lattice(
            self.owner, cells=self.cells, reynolds=self.reynolds, lattice_speed=self.lattice_speed,
            interval=self.interval, fastest=1.5 if self.channel else 1.0,
        )  # fmt: skip

    @property
    def num_controls(self) -> int:
        """Numbers in an action."""
        return len(self.centres) if self.control == "rotation" else 1

    @property
    def interval_steps(self) -> int:
        """Lattice steps in a control interval."""
        return round(self.interval * self.cells / self.lattice_speed)

    @property
    def grid(self) -> tuple[int, int]:
        """Fluid cells along the stream and across it."""
        return round(self.length * self.cells), round(self.height * self.cells)

    def as_dict(self) -> dict[str, Any]:
        """The parameters by name, plain numbers and strings."""
        return asdict(self)

    def indices(self, points: ArrayLike) -> np.ndarray:
        """Array indices, float64 [n, 2], of points [n, 2] in D from the origin."""
        return (np.asarray(points, np.float64) + np.array(self.origin)) * self.cells + 0.5

    def scene(self, device: str = "cpu", threads: int = 1) -> Scene:
        """The cylinders at rest in the undisturbed stream, with a swirl behind them, without which it sheds later.

        ``device`` and ``threads``: see ``Scene``.
        """
        nx, ny = self.grid
        eta = (np.arange(ny) + 0.5) / ny
        profile = 6 * eta * (1 - eta) if self.channel else np.ones(ny)
        sponge: np.ndarray | float = 0.0
        if not self.channel:  # where walls hold the fluid back it would change the pressure
            sponge = graded_sponge(nx, *(length * self.cells for length in _SPONGE_LENGTHS))
        viscosity = self.lattice_speed * self.cells / self.reynolds
        fluid = Fluid(nx, ny, viscosity, self.lattice_speed, sponge=sponge)
        x, y = np.meshgrid(np.arange(nx + 2.0), np.arange(ny + 2.0), indexing="ij")
        at = self.indices([[1.5, 0.3]])[0]
        swirl = 0.3 * np.exp(-((x - at[0]) ** 2 + (y - at[1]) ** 2) / self.cells**2)
        stream = np.broadcast_to(np.pad(profile, 1, mode="edge"), x.shape)
        fluid.set_fields(np.ones_like(x), self.lattice_speed * stream, self.lattice_speed * swirl)
        bodies = {f"cylinder {i}": self._cylinder(*centre) for i, centre in enumerate(self.indices(self.centres))}
        sides = "no_slip" if self.channel else "slip"
        return Scene(fluid, bodies, sides=sides, profile=profile, device=device, threads=threads)

    def _cylinder(self, x: float, y: float) -> RigidBody:
        """One cylinder; unit ``blow`` is a flux of one cell² a step through its jets."""
        body = RigidBody.circle(x, y, self.cells)
        if self.control == "jets":
            angle = np.degrees(np.arctan2(body.outline[:, 1], body.outline[:, 0]))
            for side in (90.0, -90.0):
                speed = np.cos(np.pi * np.clip((angle - side) / JET_WIDTH, -0.5, 0.5))  # the literature's profile
                normal = body.outline / np.hypot(*body.outline.T)[:, None]
                spacing = np.pi * self.cells / len(angle)
                body.blowing += np.sign(side) * (speed / (speed.sum() * spacing))[:, None] * normal
        return body


class CylinderFlow:
    """The flow of one case; ``controls`` float64 [num_controls] are its present ones."""

    def __init__(self, case: CylinderCase, device: str = "cpu", threads: int = 1) -> None:
        self.case = case
        self.scene = case.scene(device, threads)
        self.fluid = self.scene.fluid
        self.controls = np.zeros(case.num_controls)
        self._inside = [_Inside(body, case.cells) for body in self.cylinders]

    @property
    def cylinders(self) -> list[RigidBody]:
        """The bodies, in the order of the case's centres."""
        return [body for body in self.scene.bodies.values() if isinstance(body, RigidBody)]

    def advance(self, controls: np.ndarray) -> np.ndarray:
        """Advance one control interval, over which the controls go linearly to new values.

        Args:
            controls: float64 [num_controls], in the case's units, within its limit.

        Returns:
            Drag, lift and power coefficients of each cylinder, float64 [cylinders, 3]; power is what turning it takes.

        Raises:
            Diverged: a guard tripped.
        """
        case, steps = self.case, self.case.interval_steps
        ramp = np.arange(1, steps + 1) / steps
        values = self.controls[:, None] + (controls - self.controls)[:, None] * ramp
        speed = case.lattice_speed
        motions = {name: body.resting() for name, body in self.scene.bodies.items() if isinstance(body, RigidBody)}
        if case.control == "rotation":
            values = values * speed / (case.cells / 2)
            for motion, spin in zip(motions.values(), values, strict=True):
                motion.spin = spin
        else:
            next(iter(motions.values())).blow = values[0] * speed * case.cells
        before = [inside.momentum(self.fluid.populations) for inside in self._inside]
        loads = self.scene.advance(steps, motions)
        if loads.outcome != "fine":
            raise Diverged(loads.outcome)
        if self.scene.cells_out_of_bounds(*_DENSITIES, _LARGEST_SPEED):
            raise Diverged("field_bounds")
        self.controls = np.array(controls, np.float64)
        found = np.zeros((len(before), 3))
        for i, (force, inside) in enumerate(zip(loads.forces.values(), self._inside, strict=True)):
            # The markers also accelerate the fluid inside, which no load on a real cylinder contains.
            gained = inside.momentum(self.fluid.populations) - before[i]
            found[i, :2] = (force[:, :2].sum(0) + gained[:2]) / (0.5 * speed**2 * case.cells * steps)
            if case.control == "rotation":
                work = -(force[:, 2] * values[i]).sum() - values[i].mean() * gained[2]
                found[i, 2] = work / (0.5 * speed**3 * case.cells * steps)
        return found

    def probe(self, points: np.ndarray) -> np.ndarray:
        """Pressure over rho U² / 2 (0 at the outlet) and velocity over U, float64 [n, 3], at points in D."""
        at = self.case.indices(points)
        low = np.floor(at).astype(int)
        part = at - low
        found = np.zeros((len(at), 3))
        for dx, dy in itertools.product((0, 1), (0, 1)):
            h = self.fluid.populations[:, low[:, 0] + dx, low[:, 1] + dy].astype(np.float64)
            excess = h.sum(0)
            weight = np.abs(1 - dx - part[:, 0]) * np.abs(1 - dy - part[:, 1])
            found += weight[:, None] * np.vstack([excess, lattice.VELOCITIES.T @ h / (1 + excess)]).T
        speed = self.case.lattice_speed
        return found / np.array([1.5 * speed**2, speed, speed])  # p = excess / 3

    def state(self) -> dict[str, np.ndarray]:
        """Everything that decides the future, as arrays; ``load`` takes it back bit by bit."""
        return self.scene.state() | {"controls": self.controls}

    def load(self, state: Mapping[str, np.ndarray]) -> None:
        """Take over a state of the same case."""
        self.scene.load(state)
        self.controls = np.array(state["controls"])


class _Inside:
    """The fluid inside one resting outline."""

    def __init__(self, body: RigidBody, diameter: int) -> None:
        low = np.floor(np.array([body.x, body.y]) - diameter / 2 - 1).astype(int)
        size = diameter + 3
        self._box = np.s_[:, low[0] : low[0] + size, low[1] : low[1] + size]
        cells = np.indices((size, size)) + low[:, None, None]
        self._arm = cells - np.array([body.x, body.y])[:, None, None]
        self._share = np.clip(diameter / 2 + 0.5 - np.hypot(*self._arm), 0, 1)  # of each cell that is inside

    def momentum(self, populations: np.ndarray) -> np.ndarray:
        """Momentum along x and y and angular momentum about the centre, float64 [3], in lattice units."""
        momentum = np.tensordot(lattice.VELOCITIES.T, populations[self._box].astype(np.float64), 1) * self._share
        turning = self._arm[0] * momentum[1] - self._arm[1] * momentum[0]
        return np.array([momentum[0].sum(), momentum[1].sum(), turning.sum()])


def develop(case: CylinderCase) -> Iterator[dict[str, np.ndarray]]:
    """Uncontrolled flows at phases spread over a shedding period.

    Each is the arrays of ``CylinderFlow.state``, with its last ``loads``, float64 [cylinders, 3], and their means over
    some periods as ``rest``, the same for all.
    """
    flow = CylinderFlow(case)
    per_period = case.period / case.interval
    first = round(case.warm_up / case.interval)
    at = [first + round(index * per_period / NUM_FLOWS) for index in range(NUM_FLOWS)]
    until = max(at[-1], first + round(_REST_CYCLES * per_period))
    flows, history = [], []
    for interval in range(1, until + 1):
        try:
            history.append(flow.advance(np.zeros(case.num_controls)))
        except Diverged as guard:
            raise EnvironmentFault(
                f"{case.owner} needs a case whose uncontrolled flow develops, but it diverged ({guard}) after "
                f"{interval} control intervals: lower reynolds or choose a finer fidelity."
            ) from None
        if interval in at:
            flows.append({name: array.copy() for name, array in flow.state().items()} | {"loads": history[-1]})
    rest = np.mean(history[first:], axis=0)
    for start in flows:
        yield start | {"rest": rest}
