"""Two actions in, the observations of two fins and their mean reward out: the environment ``distrl/TandemFins-v0``.

A second fin swims in the wake of the first, both as in ``FinRay``. Options and figures: docs/flow_control.md. Also the
baseline of sinusoids with a phase for each fin.
"""

import math
import os
from collections.abc import Mapping
from typing import Any, ClassVar

from distrl.envs.fluids.fin_case import FIDELITIES, Fidelity, FinCase
from distrl.envs.fluids.fin_ray import FinRay
from distrl.envs.fluids.sinusoid import Sinusoid


class TandemFins(FinRay):
    """Two fin rays one behind the other, each bending itself; the reward is the mean of both.

    Args:
        gap: from the tip of the front fin to the root of the rear one, in L.
        lag: phase by which the rear root follows the front one, in degrees.
        fidelity, objective, frequency, episode_steps, muscle_recovery, render_mode, cache_directory, device, threads:
            as of ``FinRay``.

    Actions and observations are the front fin's, then the rear one's (names end in ``_front`` and ``_rear``). ``info``
    holds the means of ``FinRay``'s entries, and ``reward``, ``C_T`` and ``C_P`` of each fin.
    """

    #: twice the fins in a domain a third longer: about 1.5 times a single fin's cost
    fidelities: ClassVar[Mapping[str, Fidelity]] = {
        name: Fidelity(level.cells, 1.5 * level.seconds_per_step) for name, level in FIDELITIES.items()
    }
    baseline: ClassVar[str] = "distrl.envs.fluids.tandem_fins"

    def __init__(
        self,
        fidelity: str = "default",
        objective: str = "thrust_minus_power",
        gap: float = 1.0,
        lag: float = 0.0,
        frequency: float = 0.8,
        episode_steps: int = 200,
        muscle_recovery: bool = True,
        render_mode: str | None = None,
        cache_directory: str | os.PathLike[str] | None = None,
        device: str = "cpu",
        threads: int = 1,
    ) -> None:
        case = FinCase(fidelity, frequency=frequency, num_fins=2, gap=gap, lag=lag)
        self._set_up(
            case, objective, 0.0, episode_steps, muscle_recovery, render_mode, cache_directory, device, threads
        )


# The baseline (docs/environments.md): each fin's activation is a sinusoid with a phase of its own.
NAME = "sinusoid"
NOTHING: dict[str, float] = {"amplitude": 0.0, "front_phase": 0.0, "rear_phase": 0.0}
AMPLITUDES = (2.1, 3.0)
PHASES_DEGREES = (60, 75, 90, 105, 120)


def baseline_candidates(env_kwargs: dict[str, Any]) -> list[dict[str, float]]:
    """Every pair of phases, relative to each fin's own root; doing nothing comes first."""
    return [
        NOTHING,
        *(
            {"amplitude": a, "front_phase": math.radians(front), "rear_phase": math.radians(rear)}
            for a in AMPLITUDES
            for front in PHASES_DEGREES
            for rear in PHASES_DEGREES
        ),
    ]


def baseline_policy(params: dict[str, float], env_kwargs: dict[str, Any]) -> Sinusoid:
    """The sinusoids of one candidate."""
    return Sinusoid(params["amplitude"], [params["front_phase"], params["rear_phase"]])
