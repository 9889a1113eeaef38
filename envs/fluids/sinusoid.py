"""Observations of fin rays in, sinusoidal actions out: the open-loop baseline a = A sin(phase + phi), and its grid.

``baseline_candidates`` and ``baseline_policy`` are what ``distrl baseline`` looks for in the module that an
environment's
``baseline`` attribute names.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from distrl.envs.fluids.fin_case import ACTUATION_LIMIT, CONTROL_INTERVAL
from distrl.envs.fluids.fin_ray import OBSERVATION_NAMES

AMPLITUDES = (0.7, 1.4, 2.1, 2.4, 2.7, 3.0)
PHASES_DEGREES = (*range(0, 30, 30), *range(30, 151, 15), *range(180, 360, 30))
FREQUENCIES = (0.4, 0.6, 0.8, 1.0, 1.2)  # U/L, tried when the root is held and so sets none

NAME = "sinusoid"  # what one controller is called in tables
NOTHING: dict[str, float] = {"amplitude": 0.0, "phase": 0.0}  # the parameters of doing nothing

_SINE = OBSERVATION_NAMES.index("sin_phase")
_COSINE = OBSERVATION_NAMES.index("cos_phase")
_FREQUENCY = OBSERVATION_NAMES.index("root_frequency")


class Sinusoid:
    """a = amplitude sin(root phase + phase), with the phase read from the observation, so it follows any root
    frequency.

    Args:
        amplitude: A, up to 3.
        phase: phi in rad, one for all fins or one for each.
        frequency: in U/L, when the sinusoid keeps its own time from the episode's start instead; None follows the root.
    """

    def __init__(self, amplitude: float, phase: float | Sequence[float], frequency: float | None = None) -> None:
        self.amplitude = amplitude
        self.phase = np.asarray(phase, np.float64)
        self.frequency = frequency
        self._steps = 0

    def reset(self) -> None:
        """Start an episode."""
        self._steps = 0

    def act(self, observation: np.ndarray) -> np.ndarray:
        """The action, float32 [fins], for an observation of one or more fins, float32 [31 fins].

        The activation is reached at the end of the interval, so the phase is taken there.
        """
        fins = observation.reshape(-1, len(OBSERVATION_NAMES)).astype(np.float64)
        if self.frequency is None:
            rate = 2 * math.pi * (0.8 + 0.2 * fins[:, _FREQUENCY])
            at = np.arctan2(fins[:, _SINE], fins[:, _COSINE]) + rate * CONTROL_INTERVAL
        else:
            self._steps += 1
            at = np.full(len(fins), 2 * math.pi * self.frequency * CONTROL_INTERVAL * self._steps)
        return (self.amplitude / ACTUATION_LIMIT * np.sin(at + self.phase)).astype(np.float32)


def baseline_candidates(env_kwargs: dict[str, Any]) -> list[dict[str, float]]:
    """Parameters of every sinusoid worth trying for an environment's options; doing nothing comes first."""
    candidates: list[dict[str, float]] = [NOTHING]
    if env_kwargs.get("root", "both") == "held":
        # Nothing else keeps time there, so the phase only shifts the start.
        return candidates + [
            {"amplitude": a, "phase": 0.0, "frequency": f} for a in AMPLITUDES for f in FREQUENCIES
        ]  # fmt: skip
    return candidates + [{"amplitude": a, "phase": math.radians(p)} for a in AMPLITUDES for p in PHASES_DEGREES]


def baseline_policy(params: dict[str, float], env_kwargs: dict[str, Any]) -> Sinusoid:
    """The sinusoid of one candidate."""
    return Sinusoid(params["amplitude"], params["phase"], params.get("frequency"))
