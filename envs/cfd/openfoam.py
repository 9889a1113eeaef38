"""Actions in [-1, 1] in, observations and rewards of a cylinder in OpenFOAM out: ``distrl/OpenFOAMCylinder-v0``.

The cylinder in the channel of Schäfer & Turek at Reynolds number 100 turns about its axis; each control step is one run
of pimpleFoam from the files of the last. Observations, reward, figures and how to drive another code: docs/openfoam.md.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from distrl.core.errors import ConfigError, EnvironmentFault
from distrl.envs import constant_control
from distrl.envs import options as check
from distrl.envs.cfd import cylinder_picture, developed_flow
from distrl.envs.cfd.cylinder_case import FIDELITIES, PRESSURE_PROBES, VELOCITY_PROBES
from distrl.envs.cfd.cylinder_flow import CylinderFlow, missing
from distrl.envs.cfd.private_folder import PrivateFolder
from distrl.envs.simulation import Diverged, Simulation

ROTATION_LIMIT = 2.0  # U/D: the surface moves with at most U
LIFT_PRICE, POWER_PRICE = 0.1, 0.1  # of |C_L| and C_P, in units of C_D
_LOAD_LIMIT = 50.0  # a drag or lift coefficient beyond it is no flow round this cylinder

OBSERVATION_NAMES: tuple[str, ...] = (
    *(f"pressure_{45 * k}" for k in range(len(PRESSURE_PROBES))),
    *(f"velocity_{axis}_{k}" for k in range(len(VELOCITY_PROBES)) for axis in "xy"),
    "drag", "lift", "drag_before", "lift_before", "rotation",
)  # fmt: skip

NAME, NOTHING, baseline_candidates, baseline_policy = constant_control.controls(num_actions=1)


class OpenFOAMCylinder(Simulation):
    """A rotating cylinder in a channel at Reynolds number 100, computed by OpenFOAM's pimpleFoam (to be installed).

    Args:
        fidelity: "smoke", "default" or "fine"; see ``cylinder_case.Level``.
        episode_steps: control steps of 0.5 D/U after which the episode is truncated.
        ranks: MPI ranks of the solver; give the environment as many cores (``env.cores``).
        oversubscribe: allow more ranks than cores.
        timeout_s: wall seconds that one run of the solver may take.
        retries: times that a run which crashed or hung is begun again, from the state before the step.
        directory: where the working folder is made, best on a local disk; None: the system's temporary folder.
        cache_directory: where developed flows are kept; None: ``$XDG_CACHE_HOME/distrl`` or ``~/.cache/distrl``.
        render_mode: None or "rgb_array".

    ``info`` of a step: ``C_D``, ``C_L``, ``C_P`` (means over the control step, in units of rho U² D/2 and rho
    U³ D/2). An episode whose solver diverges is terminated.

    Raises:
        ConfigError: OpenFOAM is not installed, or an option is out of its range.
    """

    fidelities = FIDELITIES
    averaged = ("C_D", "C_L", "C_P")
    baseline = __name__

    def __init__(
        self,
        *,
        fidelity: str = "default",
        episode_steps: int = 60,
        ranks: int = 1,
        oversubscribe: bool = False,
        timeout_s: float = 600.0,
        retries: int = 1,
        directory: str | os.PathLike[str] | None = None,
        cache_directory: str | os.PathLike[str] | None = None,
        render_mode: str | None = None,
    ) -> None:
        super().__init__(
            num_actions=1,
            observation_names=OBSERVATION_NAMES,
            episode_steps=episode_steps,
            options={"ranks": ranks},
            fidelity=fidelity,
            render_mode=render_mode,
        )
        if problem := missing():
            raise ConfigError(problem)
        check.require(
            check.count(self.name, "ranks", ranks) <= 64,
            f"{self.name} needs ranks between 1 and 64, got {ranks}: its meshes are too small for more.",
        )
        self._folder = PrivateFolder("distrl-openfoam", directory)
        try:
            self.flow = CylinderFlow(
                self._folder.path,
                FIDELITIES[self.fidelity],
                ranks,
                check.number(self.name, "timeout_s", timeout_s, 1.0, 1e6, "a control step takes a second or so"),
                oversubscribe=check.flag(self.name, "oversubscribe", oversubscribe),
                retries=check.count(self.name, "retries", retries, 0),
            )
        except BaseException:
            self._folder.close()
            raise
        cache = None if cache_directory is None else Path(cache_directory)
        self.pool = developed_flow.flow_pool(self.flow.level, cache)
        self._reference = 0.0  # mean drag coefficient of the unactuated flow

    @staticmethod
    def missing() -> str | None:
        """What this machine lacks, in one sentence, or None; ``distrl envs`` shows it."""
        return missing()

    def close(self) -> None:
        """Remove the working folder."""
        self._folder.close()

    def render(self) -> np.ndarray | None:  # type: ignore[override]
        """Vorticity behind the cylinder, uint8 [164, 560, 3]; None without a render mode. Starts OpenFOAM once more."""
        return None if self.render_mode is None else cylinder_picture.image(self.flow)

    def _start(self) -> dict[str, Any]:
        index = int(self.np_random.integers(developed_flow.NUM_FLOWS))
        self._load(self.pool.flow(index))
        return {"flow": index}

    def _advance(self, action: np.ndarray) -> tuple[float, dict[str, Any]]:
        try:
            self.flow.advance(ROTATION_LIMIT * float(action[0]))
        except EnvironmentFault as fault:
            if fault.kind == "divergence":
                raise Diverged("solver") from fault
            raise
        drag, lift, power = self.flow.numbers[:3].tolist()
        if not (abs(drag) < _LOAD_LIMIT and abs(lift) < _LOAD_LIMIT):
            raise Diverged("loads")
        reward = self._reference - drag - LIFT_PRICE * abs(lift) - POWER_PRICE * power
        return reward, {"C_D": drag, "C_L": lift, "C_P": power}

    def _observe(self) -> np.ndarray:
        drag, lift, _, drag_before, lift_before, rotation = self.flow.numbers
        loads = [drag - self._reference, lift, drag_before - self._reference, lift_before]
        return np.array([*self.flow.probes, *loads, rotation / ROTATION_LIMIT])

    def _state(self) -> dict[str, np.ndarray]:
        return self.flow.state() | {"reference": np.array(self._reference)}

    def _load(self, state: Mapping[str, np.ndarray]) -> None:
        self._reference = float(state["reference"])
        self.flow.load(state)
