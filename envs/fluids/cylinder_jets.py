"""The flux of two jets on a cylinder in a channel in, its drag out: the environment ``distrl/CylinderJets-v0``.

The case of Rabault, Kuchta, Jensen, Reglade & Cerardi, J. Fluid Mech. 865 (2019), arXiv 1808.07664, which is Schaefer &
Turek's channel with two jets. What differs from it, options and figures: docs/flow_control.md. Also the baseline of
proportional feedback.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from distrl.envs import options as check
from distrl.envs.fluids.cylinders import CylinderCase, Fidelity
from distrl.envs.fluids.wake_control import WakeControl

LIMIT = 0.1  # largest flux of a jet, in U D: 0.068 of the flux that meets the cylinder
INTERVAL = 0.25  # D/U
FIDELITIES: dict[str, Fidelity] = {
    "smoke": Fidelity(16, 0.0055),
    "default": Fidelity(20, 0.0095),
    "expensive": Fidelity(40, 0.06),
}
_RING = [(r * np.cos(a), r * np.sin(a)) for r in (0.7, 1.0) for a in np.radians(np.arange(0, 360, 10))]
#: where the pressure is observed, in D from the cylinder's centre: all of the paper's, or 20 of those in the wake
PROBES: dict[str, np.ndarray] = {
    "wake": np.array([(x, y) for x in (0.75, 1.5, 2.5, 3.5) for y in (-1.0, -0.5, 0.0, 0.5, 1.0)]),
    "all": np.array([
        *((x, y) for x in (0.75, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5) for y in (-1.5, -1, -0.5, 0, 0.5, 1, 1.5)),
        *((x, y) for x in (-0.25, 0.0, 0.25, 0.5) for y in (-1.5, -1.0, 1.0, 1.5)),
        *_RING,
    ]),
}  # fmt: skip


class CylinderJets(WakeControl):
    """A cylinder in a channel of 22 by 4.1 D with a jet on either side, one blowing what the other sucks in.

    Args:
        fidelity: "smoke", "default" or "expensive" (16, 20, 40 cells per diameter).
        probes: "wake" (20 of the literature's pressure probes) or "all" (its 151).
        episode_steps: control intervals of 0.25 D/U after which the episode is truncated, the literature's 80.
        reynolds: U D / nu with the mean velocity U, 60 to 200, and as far as the fidelity allows.
        lattice_speed: U in cells per lattice step.
        render_mode: None or "rgb_array".
        cache_directory: where developed flows are kept.
        device, threads: what computes the flow and on how many cores, see docs/devices.md.

    The action is the flux out of the upper jet over 0.1 U D, which is the flux into the lower one.
    """

    fidelities: ClassVar[Mapping[str, Fidelity]] = FIDELITIES
    baseline: ClassVar[str] = "distrl.envs.fluids.cylinder_jets"
    diverged_reward: ClassVar[float] = -200.0  # feedback of the wrong sign costs 75 in an episode

    def __init__(
        self,
        fidelity: str = "default",
        probes: str = "wake",
        episode_steps: int = 80,
        reynolds: float = 100.0,
        lattice_speed: float = 0.05,
        render_mode: str | None = None,
        cache_directory: str | os.PathLike[str] | None = None,
        device: str = "cpu",
        threads: int = 1,
    ) -> None:
        check.one_of("CylinderJets", "fidelity", fidelity, tuple(FIDELITIES))
        check.one_of("CylinderJets", "probes", probes, tuple(PROBES))
        case = CylinderCase(
            "CylinderJets", FIDELITIES[fidelity].cells, 22.0, 4.1, (2.0, 2.0), ((0.0, 0.0),), "jets", LIMIT, INTERVAL,
            warm_up=50.0, period=3.3, channel=True, reynolds=reynolds, lattice_speed=lattice_speed,
        )  # fmt: skip
        super().__init__(
            case, PROBES[probes], ("p",), fidelity=fidelity, episode_steps=episode_steps, render_mode=render_mode,
            cache_directory=cache_directory, device=device, threads=threads,
        )  # fmt: skip


# The baseline (docs/environments.md): feedback of the pressure difference across the wake.
NAME = "feedback"
NOTHING: dict[str, float] = {"station": 0.75, "gain": 0.0}
GAINS = (-2.0, -1.0, -0.5, -0.25, -0.1, 0.1, 0.25, 0.5, 1.0)


class Feedback:
    """action = gain (p(station, -1/2) - p(station, 1/2)), clipped; the stations are those of the "wake" probes."""

    def __init__(self, station: float, gain: float, probes: str) -> None:
        self.gain = gain
        below, above = ([station, y] for y in (-0.5, 0.5))
        self._pair = [PROBES[probes].tolist().index(point) for point in (below, above)]

    def reset(self) -> None:
        """Start an episode: nothing is kept between steps."""

    def act(self, observation: np.ndarray) -> np.ndarray:
        """The action, float32 [1]."""
        below, above = observation[self._pair]
        return np.clip([self.gain * (below - above)], -1, 1).astype(np.float32)


def baseline_candidates(env_kwargs: dict[str, Any]) -> list[dict[str, float]]:
    """Every station, which sets the phase, with every gain; doing nothing comes first."""
    stations = sorted(set(PROBES["wake"][:, 0].tolist()))
    return [NOTHING, *({"station": x, "gain": gain} for x in stations for gain in GAINS)]


def baseline_policy(params: dict[str, float], env_kwargs: dict[str, Any]) -> Feedback:
    """The feedback of one candidate."""
    return Feedback(params["station"], params["gain"], env_kwargs.get("probes", "wake"))
