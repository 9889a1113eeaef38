"""The physical parameters of a fin-ray case in, checked, and the lattice quantities that the solver needs out.

Lengths are in fin lengths L, times in L/U, frequencies in U/L, where U is the mean inflow; densities in the fluid's.
The parameters of the default case and what bounds them: docs/fin_ray.md.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from distrl.envs import options as check
from distrl.envs.fluids.beam import make_beam
from distrl.envs.fluids.bodies import Filament
from distrl.envs.fluids.fluid import Fluid, graded_sponge
from distrl.envs.fluids.limits import check_lattice
from distrl.envs.fluids.scene import Scene

HEIGHT = 5.0  # of the domain, in L; the fins swim at its middle
INLET = 1.5  # from the inlet to the first root, in L
OUTLET = 3.5  # from the last fin's tip to the outlet, in L
CONTROL_INTERVAL = 0.1  # L/U
HEAVE_AMPLITUDE = 0.25  # L: the root is at 0.25 sin(phase)
PITCH_AMPLITUDE = 0.5  # rad: the root's angle is -0.5 cos(phase)
ACTUATION_LIMIT = 3.0  # largest |a|
ACTUATION_RATE = 1.5  # largest |change of a| in a control interval
ROOT_MOTIONS = ("both", "heave", "pitch", "held")
RANDOM_FREQUENCIES = (0.6, 1.0)  # U/L, the range of ``random_frequency``

_SPONGE_LENGTHS = (0.6, 1.0)  # at inlet and outlet, in L
_MAGIC = 0.125  # Lambda: 1/4 gives more drag bias and diverged at L = 16, 0.05 diverged too
_RESONANCE = math.sqrt(1 / 3) / 2  # frequency times height of the first transverse sound wave between the sides
_RESONANCE_BAND = 0.1  # refused on both sides of it, relative


@dataclass(frozen=True)
class Fidelity:
    """One resolution: cells per fin length, and about how long a control step takes on one core (docs/fin_ray.md)."""

    cells: int
    seconds_per_step: float


FIDELITIES: dict[str, Fidelity] = {
    "smoke": Fidelity(22, 0.0018),
    "default": Fidelity(24, 0.002),
    "check": Fidelity(32, 0.004),
    "expensive": Fidelity(48, 0.012),
}


@dataclass(frozen=True)
class FinCase:
    """The physics of one case: everything that decides the flow, and nothing about rewards or episodes.

    Attributes:
        fidelity: a name in ``FIDELITIES``.
        root: which motion is prescribed at the root, one of ``ROOT_MOTIONS``.
        frequency: of the root, in U/L; with ``random_frequency`` the middle of the range.
        random_frequency: whether each episode draws its frequency from ``RANDOM_FREQUENCIES``.
        reynolds: U L / nu.
        mass_ratio: mass of the fin per unit length over that of fluid in a square of side L, rho_s h / (rho L).
        stiffness: K_B = B / (rho U² L³).
        lattice_speed: U in cells per lattice step: sets the time step and the Mach number.
        num_fins: fins one behind the other.
        gap: from the tip of one to the root of the next, in L.
        lag: phase by which each root follows the one before, in degrees.
    """

    fidelity: str = "default"
    root: str = "both"
    frequency: float = 0.8
    random_frequency: bool = False
    reynolds: float = 200.0
    mass_ratio: float = 0.1
    stiffness: float = 1.0
    lattice_speed: float = 0.05
    num_fins: int = 1
    gap: float = 1.0
    lag: float = 0.0

    def __post_init__(self) -> None:
        owner = self.owner
        check.one_of(owner, "fidelity", self.fidelity, tuple(FIDELITIES))
        check.one_of(owner, "root", self.root, ROOT_MOTIONS)
        check.flag(owner, "random_frequency", self.random_frequency)
        check.number(owner, "frequency", self.frequency, 0.3, 1.5, "outside it the fin was never tried")
        check.require(
            not self.random_frequency or self.frequency == 0.8,
            f"{owner} needs frequency to stay at 0.8 with random_frequency, got {self.frequency!r}: "
            "the frequency is drawn between 0.6 and 1.0, so leave frequency out.",
        )
        check.number(owner, "mass_ratio", self.mass_ratio, 0.01, 2.0, "the coupling was tested in this range")
        check.number(owner, "stiffness", self.stiffness, 0.05, 10.0, "the beam was tested in this range")
        check.number(owner, "reynolds", self.reynolds, 20.0, 400.0, "above it this collision operator is not reliable")
        check.number(owner, "gap", self.gap, 0.2, 5.0, "closer fins may touch, and wakes further apart were not tried")
        check.number(owner, "lag", self.lag, -180.0, 180.0, "it is a phase in degrees")
        check_lattice(
            owner, cells=self.cells, reynolds=self.reynolds, lattice_speed=self.lattice_speed,
            interval=CONTROL_INTERVAL,
        )  # fmt: skip
        highest = RANDOM_FREQUENCIES[1] if self.random_frequency else self.frequency
        if self.root != "held":
            for f in {self.frequency, highest}:
                tone = f * self.lattice_speed * HEIGHT
                check.require(
                    abs(tone / _RESONANCE - 1) > _RESONANCE_BAND,
                    f"{owner} needs a root frequency away from the sound wave between the side walls, got "
                    f"frequency={f:g} at lattice_speed={self.lattice_speed:g}, which is {tone / _RESONANCE:.2f} of "
                    f"the wave's: change one of them so that this leaves {1 - _RESONANCE_BAND:g} "
                    f"to {1 + _RESONANCE_BAND:g}.",
                )

    @property
    def owner(self) -> str:
        """The environment that messages name."""
        return "FinRay" if self.num_fins == 1 else "TandemFins"

    @property
    def cells(self) -> int:
        """Cells per fin length, L in lattice units."""
        return FIDELITIES[self.fidelity].cells

    @property
    def grid(self) -> tuple[int, int]:
        """Fluid cells along the stream and across it."""
        length = INLET + self.num_fins + (self.num_fins - 1) * self.gap + OUTLET
        return round(length * self.cells), round(HEIGHT * self.cells)

    @property
    def interval_steps(self) -> int:
        """Lattice steps in a control interval."""
        return round(CONTROL_INTERVAL * self.cells / self.lattice_speed)

    @property
    def moves(self) -> tuple[float, float]:
        """Amplitudes of the root's heave (in L) and pitch (in rad)."""
        return (
            HEAVE_AMPLITUDE if self.root in ("both", "heave") else 0.0,
            PITCH_AMPLITUDE if self.root in ("both", "pitch") else 0.0,
        )

    def angular_rate(self, frequency: float) -> float:
        """Phase per lattice step, in rad, of a frequency in U/L."""
        return 2 * math.pi * frequency * self.lattice_speed / self.cells

    def phase_of(self, fin: int, phase: Any) -> Any:
        """Root phase of a fin, in rad, at the phase of the first."""
        return phase - fin * math.radians(self.lag)

    def as_dict(self) -> dict[str, Any]:
        """The parameters by name, plain numbers and strings."""
        return asdict(self)

    def scene(self, device: str = "cpu", threads: int = 1) -> Scene:
        """The fins at rest, straight along a uniform stream, with a sponge at inlet and outlet; see ``Scene``."""
        nx, ny = self.grid
        fluid = Fluid(
            nx, ny, self.lattice_speed * self.cells / self.reynolds, self.lattice_speed, magic=_MAGIC,
            sponge=graded_sponge(nx, *(length * self.cells for length in _SPONGE_LENGTHS)),
        )  # fmt: skip
        fins = {f"fin {fin}": self._filament(fin) for fin in range(self.num_fins)}
        return Scene(fluid, fins, device=device, threads=threads)

    def _filament(self, fin: int) -> Filament:
        """One fin; unit activation bends it by (1 - s/L)/L."""
        s = np.arange(self.cells) / self.cells
        beam = make_beam(
            self.cells,
            self.mass_ratio * self.cells,
            self.stiffness * self.lattice_speed**2 * self.cells**3,
            profile=(1 - s) / self.cells,
        )
        return Filament.straight(beam, *self.root_position(fin, np.zeros(1), np.zeros(1))[0, :2])

    def root_position(self, fin: int, phase: np.ndarray, envelope: np.ndarray) -> np.ndarray:
        """A fin's root ``[n, 4]``, position in array indices and direction, at the first fin's phases (rad).

        ``envelope`` scales the motion.
        """
        heave, pitch = self.moves
        phase = self.phase_of(fin, phase)
        angle = -pitch * envelope * np.cos(phase)
        x = np.full_like(phase, (INLET + fin * (1 + self.gap)) * self.cells + 0.5)
        y = (HEIGHT / 2 + heave * envelope * np.sin(phase)) * self.cells + 0.5
        return np.stack([x, y, np.cos(angle), np.sin(angle)], axis=1)
