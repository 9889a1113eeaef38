"""Activation, root phase and inflow over one control interval in, loads and powers out: the fin's flow, as one object.

``FinFlow`` is the state of the physics alone, without rewards, episodes or randomness; the environment and the pool of
developed flows both advance it. All coefficients are means over the interval: forces over rho U² L / 2, powers over
rho U³ L / 2.
"""

import math
from dataclasses import dataclass

import numpy as np

from distrl.envs.fluids import lattice
from distrl.envs.fluids.fin_case import ACTUATION_LIMIT, ACTUATION_RATE, CONTROL_INTERVAL, FinCase
from distrl.envs.fluids.scene import advance_fin

# The guards. Bang-bang actions make jets of 7 U at the tip that the solver survives (docs/fin_ray.md); beyond, it does
# not.
_LARGEST_SPEED = 9.0  # U
_DENSITIES = (0.75, 1.25)
_LARGEST_DISPLACEMENT = 0.3  # cells in a lattice step

_ENTRY_CYCLES = 1.0  # cycles over which a resting root is brought into motion


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


class FinFlow:
    """The flow around a driven fin: ``case`` fixes the physics, ``phase`` (rad) and ``rate`` (rad/step) the root."""

    def __init__(self, case: FinCase) -> None:
        self.case = case
        self.fluid = case.fluid()
        self.filament = case.filament()
        self.phase = 0.0
        self.rate = case.angular_rate(case.frequency)
        self.activation = 0.0
        self.inflow = 1.0  # in U
        self.intervals = 0  # since the impulsive start

    def advance(self, target: float, rate: float | None = None, inflow: float = 1.0) -> tuple[Loads | None, str]:
        """Advance one control interval; the second value says why, when there are no loads.

        Args:
            target: activation to be reached at the end, linearly, as far as limit and rate limit allow.
            rate: the root's phase per lattice step at the end of the interval, reached linearly; None keeps it.
            inflow: the inlet velocity at the end of the interval, in U, reached linearly.
        """
        case, n = self.case, self.case.interval_steps
        rate = self.rate if rate is None else rate
        step = np.arange(1, n + 1, dtype=np.float64)
        phase = self.phase + self.rate * step + (rate - self.rate) * step**2 / (2 * n)
        cycles = (self.intervals + step / n) * CONTROL_INTERVAL * case.frequency
        entry = np.clip(cycles / _ENTRY_CYCLES, 0.0, 1.0)
        roots = case.root_position(phase, entry**2 * (3 - 2 * entry))
        reached = float(np.clip(target, self.activation - ACTUATION_RATE, self.activation + ACTUATION_RATE))
        reached = min(max(reached, -ACTUATION_LIMIT), ACTUATION_LIMIT)
        activation = self.activation + (reached - self.activation) * (step - 1) / n
        speed = (self.inflow + (inflow - self.inflow) * step / n) * case.lattice_speed

        outcome, work = advance_fin(self.fluid, self.filament, roots, activation, speed, _LARGEST_DISPLACEMENT)
        if outcome != "fine":
            return None, outcome
        if lattice.cells_out_of_bounds(self.fluid.populations, *_DENSITIES, _LARGEST_SPEED * case.lattice_speed):
            return None, "field_bounds"
        self.phase = math.remainder(float(phase[-1]), 2 * math.pi)
        self.rate, self.activation, self.inflow = rate, reached, inflow
        self.intervals += 1
        per_force = 2 / (case.lattice_speed**2 * case.cells * n)
        per_power = per_force / case.lattice_speed
        return Loads(
            thrust=work["force_x"] * per_force,
            lift=-work["force_y"] * per_force,
            root_power=work["root_work"] * per_power,
            muscle_power=work["muscle_work"] * per_power,
            muscle_power_spent=work["muscle_work_spent"] * per_power,
            fluid_power=work["fluid_work"] * per_power,
        ), "fine"

    @property
    def frequency(self) -> float:
        """The root's present frequency in U/L."""
        return self.rate * self.case.cells / (2 * math.pi * self.case.lattice_speed)

    def state(self) -> dict[str, np.ndarray]:
        """Everything that decides the future, as arrays; ``load`` takes it back bit by bit."""
        return {
            "populations": self.fluid.populations,
            "shape": self.filament.shape,
            "shape_old": self.filament.shape_old,
            "root": self.filament.root,
            "tension": self.filament.tension,
            "scalars": np.array([self.phase, self.rate, self.activation, self.inflow, float(self.intervals)]),
        }

    def load(self, state: dict[str, np.ndarray]) -> None:
        """Take over a state of the same case."""
        self.fluid.populations[:] = state["populations"]
        self.filament.shape[:] = state["shape"]
        self.filament.shape_old[:] = state["shape_old"]
        self.filament.root[:] = state["root"]
        self.filament.tension[:] = state["tension"]
        self.phase, self.rate, self.activation, self.inflow, intervals = state["scalars"].tolist()
        self.intervals = int(intervals)
