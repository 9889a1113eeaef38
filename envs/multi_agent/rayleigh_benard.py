"""Segment temperatures in, an agent each; the layer as each sees it and its heat flux out: ``RayleighBenardAgents``.

The simulation is ``distrl/RayleighBenard-v0``'s; agents, observations and rewards are those of C. Vignon et al.,
"Effective control of two-dimensional Rayleigh–Bénard convection: Invariant multi-agent reinforcement learning is all
you need", Phys. Fluids 35 (2023) 065146, and of its code. What differs: docs/multi_agent_environments.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from distrl.envs.dynamics.rayleigh_benard import FIDELITIES, QUANTITIES, SEGMENTS, RayleighBenard
from distrl.envs.multi_agent.simulation_agents import SimulationAgents

OWN_PLACE = SEGMENTS // 2  # of an agent's own segment among those that it observes
LOCAL_RATIO = 0.0015  # Vignon et al.


class RayleighBenardAgents(SimulationAgents):
    """Ten wall segments below a convecting layer, each an agent, paid the negative Nusselt number.

    Every agent observes the whole layer, the segments in their order along the plate with its own in the middle: a
    flow that is shifted by a segment looks to each agent as it did to its neighbour, so that all can share one policy.

    Args:
        local_ratio: share of the Nusselt number of an agent's own column in its reward; the rest is the layer's.
        rayleigh, fidelity, episode_steps, render_mode: as of ``RayleighBenard``.

    An agent's info has ``nusselt``, of its own column.
    """

    metadata: ClassVar[dict[str, Any]] = SimulationAgents.metadata | {"name": "rayleigh_benard_agents_v0"}
    fidelities: ClassVar[Mapping[str, Any]] = FIDELITIES
    simulation: RayleighBenard

    def __init__(
        self,
        *,
        local_ratio: float = LOCAL_RATIO,
        rayleigh: float = 1e4,
        fidelity: str = "default",
        episode_steps: int = 100,
        render_mode: str | None = None,
    ) -> None:
        offsets = np.arange(SEGMENTS) - OWN_PLACE
        segments = (np.arange(SEGMENTS)[:, None] + offsets) % SEGMENTS  # [agent, place]
        seen = segments[:, :, None] * len(QUANTITIES) + np.arange(len(QUANTITIES))
        super().__init__(
            RayleighBenard(rayleigh=rayleigh, fidelity=fidelity, episode_steps=episode_steps, render_mode=render_mode),
            [f"segment_{segment}" for segment in range(SEGMENTS)],
            seen=seen.reshape(SEGMENTS, -1),
            observation_names=[f"{name}_at_{offset:+d}" for offset in offsets for name in QUANTITIES],
            local_ratio=local_ratio,
        )

    @staticmethod
    def preload() -> None:
        """As of ``RayleighBenard``."""
        RayleighBenard.preload()

    def _own_rewards(self, info: Mapping[str, Any]) -> np.ndarray:
        return -self.simulation.segment_nusselt

    def _own_infos(self, info: Mapping[str, Any]) -> dict[str, np.ndarray]:
        return {"nusselt": self.simulation.segment_nusselt}
