"""Activations of two fins in, an agent each, what each fin feels and earns out: ``TandemFinsAgents``.

The simulation is ``distrl/TandemFins-v0``'s: docs/flow_control.md; the agents: docs/multi_agent_environments.md.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from distrl.envs.fluids.fin_case import Fidelity
from distrl.envs.fluids.fin_ray import OBSERVATION_NAMES
from distrl.envs.fluids.tandem_fins import TandemFins
from distrl.envs.multi_agent.simulation_agents import SimulationAgents

FINS = ("front", "rear")


class TandemFinsAgents(SimulationAgents):
    """Two fin rays one behind the other, each an agent that observes what it feels itself.

    Args:
        local_ratio: share of an agent's own reward: 0 makes a team of the fins, 1 two swimmers that do not care.
        fidelity, objective, gap, lag, frequency, episode_steps, muscle_recovery, render_mode, cache_directory, device,
            threads: as of ``TandemFins``.

    An agent's info has ``C_T`` and ``C_P`` of its fin.
    """

    metadata: ClassVar[dict[str, Any]] = SimulationAgents.metadata | {"name": "tandem_fins_agents_v0"}
    fidelities: ClassVar[Mapping[str, Fidelity]] = TandemFins.fidelities
    simulation: TandemFins

    def __init__(
        self,
        *,
        local_ratio: float = 0.0,
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
        simulation = TandemFins(
            fidelity=fidelity, objective=objective, gap=gap, lag=lag, frequency=frequency, episode_steps=episode_steps,
            muscle_recovery=muscle_recovery, render_mode=render_mode, cache_directory=cache_directory, device=device,
            threads=threads,
        )  # fmt: skip
        numbers = len(OBSERVATION_NAMES)
        super().__init__(
            simulation,
            FINS,
            seen=np.arange(len(FINS) * numbers).reshape(len(FINS), numbers),
            observation_names=OBSERVATION_NAMES,
            local_ratio=local_ratio,
        )

    @staticmethod
    def preload() -> None:
        """As of ``TandemFins``."""
        TandemFins.preload()

    def _own_rewards(self, info: Mapping[str, Any]) -> np.ndarray:
        return _of_each(info, "reward")

    def _own_infos(self, info: Mapping[str, Any]) -> dict[str, np.ndarray]:
        return {name: _of_each(info, name) for name in ("C_T", "C_P")}


def _of_each(info: Mapping[str, Any], name: str) -> np.ndarray:
    return np.array([info[f"{name}_{fin}"] for fin in FINS])
