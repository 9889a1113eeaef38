"""Two actions in, the observations of two fins and their mean reward out: the environment ``distrl/TandemFins-v0``.

A second fin swims in the wake of the first, both as in ``FinRay``. Options and figures: docs/flow_control.md.
"""

import os
from typing import ClassVar

from distrl.envs.fluids.fin_case import FinCase
from distrl.envs.fluids.fin_ray import FinRay


class TandemFins(FinRay):
    """Two fin rays one behind the other, each bending itself; the reward is the mean of both.

    Args:
        gap: from the tip of the front fin to the root of the rear one, in L.
        lag: phase by which the rear root follows the front one, in degrees.
        fidelity, objective, frequency, episode_steps, muscle_recovery, render_mode, cache_directory: as of ``FinRay``.

    Actions and observations are the front fin's, then the rear one's (names end in ``_front`` and ``_rear``). ``info``
    holds the means of ``FinRay``'s entries, and ``reward``, ``C_T`` and ``C_P`` of each fin.
    """

    baseline: ClassVar[str] = "distrl.envs.fluids.sinusoid"

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
    ) -> None:
        case = FinCase(fidelity, frequency=frequency, num_fins=2, gap=gap, lag=lag)
        self._set_up(case, objective, 0.0, episode_steps, muscle_recovery, render_mode, cache_directory)
