"""Actions in [-1, 1] in, observations and rewards of a controlled wake out: what the cylinder environments share.

``CylinderRotation``, ``CylinderJets`` and ``Pinball`` give it a case, the probes and the reward. Every observation,
option and figure: docs/flow_control.md.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from distrl.envs.flow_pool import FlowPool
from distrl.envs.fluids import picture
from distrl.envs.fluids.cylinders import CylinderCase, CylinderFlow, develop
from distrl.envs.fluids.scene import NUM_FLOWS, solver_version
from distrl.envs.simulation import Simulation

_QUANTITIES = ("p", "u", "v")  # the columns of ``CylinderFlow.probe``


class WakeControl(Simulation):
    """Cylinders in a stream whose rotations or jets are controlled.

    An action is the controls to be reached at the end of the control interval, linearly, over the case's limit. The
    reward of a step is ``C_D at rest - C_D - lift_price |mean C_L| - C_P``, where coefficients are sums over the
    cylinders and means over the interval, and mean C_L has a memory of one shedding period.

    Args:
        case: the physics.
        probes: where the flow is observed, float64 [n, 2], in D.
        quantities: what is observed there: "p" (pressure over rho U² / 2, 0 at the outlet), "u", "v" (velocity over U).
        fidelity, episode_steps, render_mode: see ``Simulation``.
        cache_directory: where developed flows are kept; see ``FlowPool``.
        device, threads: what computes the flow and on how many cores, see docs/devices.md.

    ``info`` of a step: ``C_D``, ``C_L`` and ``C_P``; at an episode's end their means and ``episode_drag_reduction``,
    the share of the drag at rest that the mean drag is below it.
    """

    averaged: ClassVar[tuple[str, ...]] = ("C_D", "C_L", "C_P")
    lift_price: ClassVar[float] = 0.2
    #: what tells the cylinders' names apart
    suffixes: ClassVar[tuple[str, ...]] = ("",)

    def __init__(
        self,
        case: CylinderCase,
        probes: np.ndarray,
        quantities: tuple[str, ...],
        *,
        fidelity: str,
        episode_steps: int,
        render_mode: str | None,
        cache_directory: str | os.PathLike[str] | None,
        device: str,
        threads: int,
    ) -> None:
        self.case = case
        self.probes = np.asarray(probes, np.float64)
        self._columns = [_QUANTITIES.index(quantity) for quantity in quantities]
        names = [f"{quantity}_{x:g}_{y:g}" for x, y in self.probes for quantity in quantities]
        names += [f"{load}{suffix}" for suffix in self.suffixes for load in ("drag", "lift")]
        names += [f"control{suffix}" for suffix in self.suffixes]
        names += ["mean_drag", "mean_lift"]
        super().__init__(
            num_actions=case.num_controls, observation_names=names, episode_steps=episode_steps,
            options=case.as_dict() | {"probes": self.probes.tolist(), "device": device}, fidelity=fidelity,
            render_mode=render_mode,
        )  # fmt: skip
        directory = None if cache_directory is None else Path(cache_directory)
        version = solver_version("cylinders.py")
        self.pool = FlowPool(case.owner, case.as_dict(), lambda: develop(case), version, directory)
        self.flow = CylinderFlow(case, device, threads)
        self._loads = np.zeros((len(case.centres), 3))  # drag, lift and power of the last interval
        self._rest = self._loads  # their means without control
        self._memory = np.zeros(2)  # total drag and lift, averaged with a memory of one shedding period

    @classmethod
    def preload(cls) -> None:
        """Load every kernel before environment processes are forked, so that they share the code."""
        env = cls(fidelity="smoke")  # type: ignore[call-arg]
        env.flow.advance(env.flow.controls)  # not reset(), which would compute a pool of flows for this fidelity

    @property
    def drag_at_rest(self) -> float:
        """Mean C_D of all cylinders without control; known after the first reset."""
        return float(self._rest[:, 0].sum())

    def _start(self) -> dict[str, Any]:
        """A developed flow at a phase of its shedding period drawn from the seed."""
        start = self.pool.flow(int(self.np_random.integers(NUM_FLOWS)))
        self._loads, self._rest = start["loads"], start["rest"]
        self._memory = self._rest.sum(0)[:2]
        self.flow.load(start)
        return {"drag_at_rest": self.drag_at_rest}

    def _advance(self, action: np.ndarray) -> tuple[float, dict[str, Any]]:
        self._loads = self.flow.advance(self.case.limit * action)
        drag, lift, power = self._loads.sum(0).tolist()
        self._memory = self._memory + self.case.interval / self.case.period * (np.array([drag, lift]) - self._memory)
        reward = self.drag_at_rest - drag - self.lift_price * abs(float(self._memory[1])) - power
        return reward, {"C_D": drag, "C_L": lift, "C_P": power}

    def _summary(self, means: dict[str, float]) -> dict[str, float]:
        return super()._summary(means) | {"episode_drag_reduction": 1 - means["C_D"] / self.drag_at_rest}

    def _observe(self) -> np.ndarray:
        """Probes, loads, controls and memory, in the order of ``observation_names``; drags are relative to rest."""
        seen = self.flow.probe(self.probes)[:, self._columns]
        loads = self._loads[:, :2] - self._rest[:, :2] * (1, 0)
        memory = self._memory - (self.drag_at_rest, 0)
        return np.concatenate([seen.ravel(), loads.ravel(), self.flow.controls / self.case.limit, memory])

    def render(self) -> np.ndarray | None:  # type: ignore[override]
        """Vorticity, cylinders and controls as an image, uint8 [h, w, 3]; None without a render mode."""
        if self.render_mode is None:
            return None
        outlines = [body.outline + np.array([body.x, body.y]) for body in self.flow.cylinders]
        time_scale = self.case.cells / self.case.lattice_speed
        gauges = self.flow.controls / self.case.limit
        return picture.flow(self.flow.fluid.populations, time_scale, outlines=outlines, gauges=gauges)

    def _state(self) -> dict[str, np.ndarray]:
        return self.flow.state() | {"loads": self._loads, "rest": self._rest, "memory": self._memory}

    def _load(self, state: Mapping[str, np.ndarray]) -> None:
        self.flow.load(state)
        self._loads, self._rest, self._memory = (np.array(state[name]) for name in ("loads", "rest", "memory"))
