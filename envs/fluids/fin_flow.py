"""Activations, root phase and inflow over one control interval in, loads and powers out: the fins' flow, as one object.

``FinFlow`` is the state of the physics alone, without rewards, episodes or randomness; the environments and the pool of
developed flows both advance it. All coefficients are means over the interval: forces over rho U² L / 2, powers over
rho U³ L / 2.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from distrl.core.errors import EnvironmentFault
from distrl.envs.fluids.bodies import Drive, Filament
from distrl.envs.fluids.fin_case import ACTUATION_LIMIT, ACTUATION_RATE, CONTROL_INTERVAL, RANDOM_FREQUENCIES, FinCase
from distrl.envs.fluids.scene import NUM_FLOWS
from distrl.envs.simulation import Diverged

# The guards. Bang-bang actions make jets of 7 U at the tip that the solver survives (docs/fin_ray.md); beyond, it does
# not.
_LARGEST_SPEED = 9.0  # U
_DENSITIES = (0.75, 1.25)
_LARGEST_DISPLACEMENT = 0.3  # cells in a lattice step

_ENTRY_CYCLES = 1.0  # cycles over which a resting root is brought into motion
_WARM_UP = 50  # unactuated control intervals of a developed flow: four cycles at the default frequency


@dataclass(frozen=True)
class Loads:
    """What the fin did in one control interval, as coefficients."""

    thrust: float  # against the stream, positive when the fin is pushed forward
    lift: float
    root_power: float  # done by whatever moves the root
    muscle_power: float  # done by the muscle, negative where it brakes
    muscle_power_spent: float  # the positive part of it, taken at every lattice step
    fluid_power: float  # what the fin gave the fluid

    @property
    def power(self) -> float:
        """Net input power, muscle work recovered."""
        return self.root_power + self.muscle_power

    @property
    def felt(self) -> tuple[float, ...]:
        """What an observation is made of: thrust, lift, root power, muscle power, muscle power spent."""
        return self.thrust, self.lift, self.root_power, self.muscle_power, self.muscle_power_spent


class FinFlow:
    """The flow around driven fins: ``case`` fixes the physics, ``phase`` (rad) and ``rate`` (rad/step) the first root.

    ``activation`` float64 [num_fins]; ``inflow`` in U; ``intervals`` since the impulsive start.
    """

    def __init__(self, case: FinCase, device: str = "cpu", threads: int = 1) -> None:
        self.case = case
        self.scene = case.scene(device, threads)
        self.fluid = self.scene.fluid
        self.phase = 0.0
        self.rate = case.angular_rate(case.frequency)
        self.activation = np.zeros(case.num_fins)
        self.inflow = 1.0
        self.intervals = 0

    @property
    def fins(self) -> list[Filament]:
        """The fins, from the front."""
        return [fin for fin in self.scene.bodies.values() if isinstance(fin, Filament)]

    def advance(self, targets: np.ndarray, rate: float | None = None, inflow: float = 1.0) -> list[Loads]:
        """Advance one control interval; the loads of each fin.

        Args:
            targets: float64 [num_fins], activations to be reached at the end, linearly, as far as limit and rate limit
                allow.
            rate: the root's phase per lattice step at the end of the interval, reached linearly; None keeps it.
            inflow: the inlet velocity at the end of the interval, in U, reached linearly.

        Raises:
            Diverged: a guard tripped.
        """
        case, n = self.case, self.case.interval_steps
        rate = self.rate if rate is None else rate
        step = np.arange(1, n + 1, dtype=np.float64)
        phase = self.phase + self.rate * step + (rate - self.rate) * step**2 / (2 * n)
        cycles = (self.intervals + step / n) * CONTROL_INTERVAL * case.frequency
        entry = np.clip(cycles / _ENTRY_CYCLES, 0.0, 1.0)
        envelope = entry**2 * (3 - 2 * entry)
        reached = np.clip(targets, self.activation - ACTUATION_RATE, self.activation + ACTUATION_RATE)
        reached = np.clip(reached, -ACTUATION_LIMIT, ACTUATION_LIMIT)
        activation = self.activation + (reached - self.activation) * (step[:, None] - 1) / n
        speed = (self.inflow + (inflow - self.inflow) * step / n) * case.lattice_speed
        drives = {
            name: Drive(case.root_position(fin, phase, envelope), np.ascontiguousarray(activation[:, fin]))
            for fin, name in enumerate(self.scene.bodies)
        }
        loads = self.scene.advance(n, drives, inflow=speed, displacement_limit=_LARGEST_DISPLACEMENT)
        if loads.outcome != "fine":
            raise Diverged(loads.outcome)
        if self.scene.cells_out_of_bounds(*_DENSITIES, _LARGEST_SPEED * case.lattice_speed):
            raise Diverged("field_bounds")
        self.phase = math.remainder(float(phase[-1]), 2 * math.pi)
        self.rate, self.activation, self.inflow = rate, reached, inflow
        self.intervals += 1
        per_force = 2 / (case.lattice_speed**2 * case.cells * n)
        per_power = per_force / case.lattice_speed
        return [
            Loads(
                thrust=work["force_x"] * per_force,
                lift=-work["force_y"] * per_force,
                root_power=work["root_work"] * per_power,
                muscle_power=work["muscle_work"] * per_power,
                muscle_power_spent=work["muscle_work_spent"] * per_power,
                fluid_power=work["fluid_work"] * per_power,
            )
            for work in loads.work.values()
        ]

    @property
    def frequency(self) -> float:
        """The root's present frequency in U/L."""
        return self.rate * self.case.cells / (2 * math.pi * self.case.lattice_speed)

    def state(self) -> dict[str, np.ndarray]:
        """Everything that decides the future, as arrays; ``load`` takes it back bit by bit."""
        scalars = np.array([self.phase, self.rate, self.inflow, float(self.intervals)])
        return self.scene.state() | {"activation": self.activation, "scalars": scalars}

    def load(self, state: Mapping[str, np.ndarray]) -> None:
        """Take over a state of the same case."""
        self.scene.load(state)
        self.activation = np.array(state["activation"])
        self.phase, self.rate, self.inflow, intervals = state["scalars"].tolist()
        self.intervals = int(intervals)


def frequencies(case: FinCase) -> np.ndarray:
    """Root frequency of every developed flow, float64 [NUM_FLOWS], in U/L: the middles of equal parts of the range, or
    one."""
    if not case.random_frequency:
        return np.full(NUM_FLOWS, case.frequency)
    low, high = RANDOM_FREQUENCIES
    return low + (high - low) * (np.arange(NUM_FLOWS) + 0.5) / NUM_FLOWS


def develop(case: FinCase) -> Iterator[dict[str, np.ndarray]]:
    """Unactuated flows at phases spread over a cycle, one after another.

    Each is the arrays of ``FinFlow.state``, with its last ``loads`` and their means over a ``cycle``, float64
    [num_fins, 5]: thrust, lift, root power, muscle power, muscle power spent, as coefficients.
    """
    flow: FinFlow | None = None
    history: list[np.ndarray] = []
    for index, frequency in enumerate(frequencies(case)):
        if flow is None or case.random_frequency:
            flow, history = FinFlow(case), []
            flow.rate = case.angular_rate(frequency)
        per_cycle = 10 / frequency
        until = _WARM_UP + int(index * per_cycle / NUM_FLOWS)
        while flow.intervals < until:
            try:
                loads = flow.advance(np.zeros(case.num_fins))
            except Diverged as guard:
                raise EnvironmentFault(
                    f"{case.owner} needs a case whose unactuated flow develops, but it diverged ({guard}) after "
                    f"{flow.intervals} control intervals: lower reynolds or choose a finer fidelity."
                ) from None
            history.append(np.array([load.felt for load in loads]))
        yield flow.state() | {"loads": history[-1], "cycle": np.mean(history[-round(per_cycle) :], axis=0)}
