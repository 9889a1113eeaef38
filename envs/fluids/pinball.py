"""The surface speeds of three cylinders in a stream in, what drag and turning cost out: ``distrl/Pinball-v0``.

The fluidic pinball of Deng, Noack, Morzynski & Pastur, J. Fluid Mech. 884 (2020) at Reynolds number 100, for net drag
power as in Li et al., J. Fluid Mech. 932 (2022), arXiv 1905.12036. Options and figures: docs/flow_control.md. Also the
baseline of constant symmetric rotations: boat tailing and base bleed (Cornejo Maceda et al., J. Fluid Mech. 917, 2021).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from distrl.envs import options as check
from distrl.envs.constant_control import Constant
from distrl.envs.fluids.cylinders import CylinderCase, Fidelity
from distrl.envs.fluids.wake_control import WakeControl

LIMIT = 2.0  # largest surface speed, in U
INTERVAL = 0.5  # D/U
FIDELITIES: dict[str, Fidelity] = {
    "smoke": Fidelity(12, 0.013),
    "default": Fidelity(20, 0.048),
    "expensive": Fidelity(30, 0.2),
}
CENTRES = ((-0.75 * 3**0.5, 0.0), (0.0, -0.75), (0.0, 0.75))  # front, bottom, top; sides of 1.5 D
PROBES = np.array([(x, y) for x in (1.5, 3.0, 5.0) for y in (-1.25, 0.0, 1.25)])


class Pinball(WakeControl):
    """Three cylinders that turn, on a triangle pointing upstream, in a stream of 26 by 12 D with slip sides.

    Args:
        fidelity: "smoke", "default" or "expensive" (12, 20, 30 cells per diameter).
        episode_steps: control intervals of 0.5 D/U after which the episode is truncated; 100 are about six shedding
            periods.
        reynolds: U D / nu, 60 to 200, and as far as the fidelity allows.
        lattice_speed: U in cells per lattice step.
        render_mode: None or "rgb_array".
        cache_directory: where developed flows are kept.
        device, threads: what computes the flow and on how many cores, see docs/devices.md.

    The actions are the surface speeds of the front, bottom and top cylinder over 2 U, anticlockwise positive. The lift
    costs nothing.
    """

    fidelities: ClassVar[Mapping[str, Fidelity]] = FIDELITIES
    baseline: ClassVar[str] = "distrl.envs.fluids.pinball"
    diverged_reward: ClassVar[float] = -1500.0
    lift_price: ClassVar[float] = 0.0
    suffixes: ClassVar[tuple[str, ...]] = ("_front", "_bottom", "_top")

    def __init__(
        self,
        fidelity: str = "default",
        episode_steps: int = 100,
        reynolds: float = 100.0,
        lattice_speed: float = 0.05,
        render_mode: str | None = None,
        cache_directory: str | os.PathLike[str] | None = None,
        device: str = "cpu",
        threads: int = 1,
    ) -> None:
        check.one_of("Pinball", "fidelity", fidelity, tuple(FIDELITIES))
        case = CylinderCase(
            "Pinball", FIDELITIES[fidelity].cells, 26.0, 12.0, (6.0, 6.0), CENTRES, "rotation", LIMIT, INTERVAL,
            warm_up=100.0, period=9.0, reynolds=reynolds, lattice_speed=lattice_speed,
        )  # fmt: skip
        super().__init__(
            case, PROBES, ("u", "v"), fidelity=fidelity, episode_steps=episode_steps, render_mode=render_mode,
            cache_directory=cache_directory, device=device, threads=threads,
        )  # fmt: skip


# The baseline (docs/environments.md): the rear cylinders turn against each other, the front one rests.
NAME = "symmetric rotation"
NOTHING: dict[str, float] = {"rear": 0.0}
REAR = (-2.0, -1.0, -0.5, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0)  # of the bottom cylinder, in U; > 0 is boat tailing


def baseline_candidates(env_kwargs: dict[str, Any]) -> list[dict[str, float]]:
    """Doing nothing, base bleed and boat tailing."""
    return [NOTHING, *({"rear": speed} for speed in REAR)]


def baseline_policy(params: dict[str, float], env_kwargs: dict[str, Any]) -> Constant:
    """The bottom cylinder at ``rear``, the top one at its opposite."""
    return Constant([0.0, params["rear"] / LIMIT, -params["rear"] / LIMIT])
