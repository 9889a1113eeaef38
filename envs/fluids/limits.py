"""What a case asks of the lattice in, refused where the solver is not stable or accurate: one rule for every case."""

from __future__ import annotations

import math

from distrl.envs import options as check

_SMALLEST_TAU_EXCESS = 0.016  # tau - 1/2; at 0.015 one wild episode of a fin in forty diverged, at 0.0165 none did
_LARGEST_MACH = 0.15


def check_lattice(
    owner: str, *, cells: int, reynolds: float, lattice_speed: float, interval: float, fastest: float = 1.0
) -> None:
    """Refuse a Mach number or a relaxation time out of range, and control intervals that are not whole lattice steps.

    Args:
        owner: the environment that messages name.
        cells: per length of reference.
        lattice_speed: U in cells per lattice step.
        interval: control interval in lengths of reference over U.
        fastest: the inflow's largest velocity over U.

    Raises:
        ConfigError: with the range and the reason.
    """
    check.number(
        owner, "lattice_speed", lattice_speed, 0.02, _LARGEST_MACH * math.sqrt(1 / 3) / fastest,
        f"the Mach number of the fastest inflow must stay below {_LARGEST_MACH}",
    )  # fmt: skip
    steps = interval * cells / lattice_speed
    check.require(
        abs(steps - round(steps)) < 1e-9,
        f"{owner} needs a whole number of lattice steps in a control interval, got {steps:.3f} from "
        f"lattice_speed={lattice_speed:g}: try {interval * cells / math.ceil(steps):.6g}.",
    )
    excess = 3 * lattice_speed * cells / reynolds
    check.require(
        excess >= _SMALLEST_TAU_EXCESS,
        f"{owner} needs a relaxation time of at least {0.5 + _SMALLEST_TAU_EXCESS:g} for stability, got "
        f"{0.5 + excess:.4f} from reynolds={reynolds:g} and lattice_speed={lattice_speed:g} with {cells} cells per "
        f"length: choose reynolds <= {math.floor(reynolds * excess / _SMALLEST_TAU_EXCESS)}, a finer fidelity or a "
        "higher lattice_speed.",
    )
