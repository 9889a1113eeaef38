"""The surface speed of a cylinder in an unconfined stream in, its drag out: ``distrl/CylinderRotation-v0``.

Cylinders that turn back and forth at Reynolds number 100, by learning: Tokarev, Palkin & Mullyadzhanov, Energies 13
(2020) 5920. Options and figures: docs/flow_control.md. Also the baseline of constant and harmonic rotations and of
proportional feedback.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from distrl.envs import options as check
from distrl.envs.fluids.cylinders import CylinderCase, Fidelity
from distrl.envs.fluids.wake_control import WakeControl

LIMIT = 0.5  # largest surface speed, in U: what suppresses shedding takes less
INTERVAL = 0.5  # D/U
FIDELITIES: dict[str, Fidelity] = {
    "smoke": Fidelity(12, 0.010),
    "default": Fidelity(20, 0.052),
    "expensive": Fidelity(30, 0.22),
}
PROBES = np.array([(x, y) for x in (1.0, 2.0, 3.0, 4.0) for y in (-0.75, 0.0, 0.75)])


class CylinderRotation(WakeControl):
    """A cylinder that turns about its axis, in a stream without walls (22 by 16 D, slip sides).

    Args:
        fidelity: "smoke", "default" or "expensive" (12, 20, 30 cells per diameter).
        episode_steps: control intervals of 0.5 D/U after which the episode is truncated; 120 are ten shedding periods.
        reynolds: U D / nu, 60 to 200, and as far as the fidelity allows.
        lattice_speed: U in cells per lattice step.
        render_mode: None or "rgb_array".
        cache_directory: where developed flows are kept.
        device, threads: what computes the flow and on how many cores, see docs/devices.md.

    The action is the surface speed over U / 2, anticlockwise positive.
    """

    fidelities: ClassVar[Mapping[str, Fidelity]] = FIDELITIES
    baseline: ClassVar[str] = "distrl.envs.fluids.cylinder_rotation"
    diverged_reward: ClassVar[float] = -200.0

    def __init__(
        self,
        fidelity: str = "default",
        episode_steps: int = 120,
        reynolds: float = 100.0,
        lattice_speed: float = 0.05,
        render_mode: str | None = None,
        cache_directory: str | os.PathLike[str] | None = None,
        device: str = "cpu",
        threads: int = 1,
    ) -> None:
        check.one_of("CylinderRotation", "fidelity", fidelity, tuple(FIDELITIES))
        case = CylinderCase(
            "CylinderRotation", FIDELITIES[fidelity].cells, 22.0, 16.0, (6.0, 8.0), ((0.0, 0.0),), "rotation", LIMIT,
            INTERVAL, warm_up=60.0, period=5.8, reynolds=reynolds, lattice_speed=lattice_speed,
        )  # fmt: skip
        super().__init__(
            case, PROBES, ("u", "v"), fidelity=fidelity, episode_steps=episode_steps, render_mode=render_mode,
            cache_directory=cache_directory, device=device, threads=threads,
        )  # fmt: skip


# The baseline (docs/environments.md): constant and harmonic rotations, and feedback of the cross-flow in the wake.
NAME = "rotation"
NOTHING: dict[str, float] = {"constant": 0.0, "amplitude": 0.0, "frequency": 0.0, "gain": 0.0}
CONSTANTS = (0.125, 0.25, 0.5)  # U; the other sense is the mirror image
AMPLITUDES = (0.1, 0.25, 0.5)  # U
FREQUENCIES = (0.1, 0.15, 0.175, 0.2, 0.3, 0.4, 0.6)  # U/D; the cylinder at rest sheds at 0.17
GAINS = (0.2, 0.3, 0.4, 0.5, 0.6)
STATION = 2.0  # D behind the centre; the gain's best sign and size depend on it


class Rotation:
    """Speed = constant + amplitude sin(2 pi frequency t) + gain v(STATION, 0), in U; t counts from the reset."""

    def __init__(self, constant: float, amplitude: float, frequency: float, gain: float) -> None:
        self.constant = constant
        self.amplitude = amplitude
        self.frequency = frequency
        self.gain = gain
        self._index = 2 * PROBES.tolist().index([STATION, 0.0]) + 1  # u and v alternate
        self._steps = 0

    def reset(self) -> None:
        """Start an episode."""
        self._steps = 0

    def act(self, observation: np.ndarray) -> np.ndarray:
        """The action, float32 [1], for the end of the next interval."""
        self._steps += 1
        wave = self.amplitude * math.sin(2 * math.pi * self.frequency * INTERVAL * self._steps)
        speed = self.constant + wave + self.gain * float(observation[self._index])
        return np.clip([speed / LIMIT], -1, 1).astype(np.float32)


def baseline_candidates(env_kwargs: dict[str, Any]) -> list[dict[str, float]]:
    """Parameters of every rotation worth trying; doing nothing comes first."""
    return [
        NOTHING,
        *(NOTHING | {"constant": speed} for speed in CONSTANTS),
        *(NOTHING | {"amplitude": a, "frequency": f} for a in AMPLITUDES for f in FREQUENCIES),
        *(NOTHING | {"gain": gain} for gain in GAINS),
    ]


def baseline_policy(params: dict[str, float], env_kwargs: dict[str, Any]) -> Rotation:
    """The rotation of one candidate."""
    return Rotation(**params)
