"""Jets in, an agent each, the film upstream of each and the waves behind it out: ``ShkadovAgents``.

The simulation is ``distrl/ShkadovFilm-v0``'s; that each jet is an agent of the same policy with a window and a reward
of its own is V. Belus et al., "Exploiting locality and translational invariance to design effective deep reinforcement
learning control of the 1-dimensional unstable falling liquid film", AIP Advances 9 (2019) 125014. What differs:
docs/multi_agent_environments.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from distrl.envs.dynamics.shkadov_film import FIDELITIES, PROBES, ShkadovFilm
from distrl.envs.multi_agent.simulation_agents import SimulationAgents


class ShkadovAgents(SimulationAgents):
    """Jets along a falling liquid film, each an agent, paid for how flat the film is behind it.

    Args:
        local_ratio: share of an agent's own stretch in its reward; the rest is the mean over all jets'.
        num_jets, delta, fidelity, episode_steps, render_mode: as of ``ShkadovFilm``.

    An agent's info has ``wave_height``, of its own stretch.
    """

    metadata: ClassVar[dict[str, Any]] = SimulationAgents.metadata | {"name": "shkadov_agents_v0"}
    fidelities: ClassVar[Mapping[str, Any]] = FIDELITIES
    simulation: ShkadovFilm

    def __init__(
        self,
        *,
        local_ratio: float = 1.0,
        num_jets: int = 5,
        delta: float = 0.1,
        fidelity: str = "default",
        episode_steps: int = 400,
        render_mode: str | None = None,
    ) -> None:
        simulation = ShkadovFilm(
            num_jets=num_jets, delta=delta, fidelity=fidelity, episode_steps=episode_steps, render_mode=render_mode
        )
        super().__init__(
            simulation,
            [f"jet_{jet}" for jet in range(num_jets)],
            seen=np.arange(num_jets * PROBES).reshape(num_jets, PROBES),
            observation_names=[f"flow_rate_{probe}" for probe in range(PROBES)],
            local_ratio=local_ratio,
        )

    @staticmethod
    def preload() -> None:
        """As of ``ShkadovFilm``."""
        ShkadovFilm.preload()

    def _own_rewards(self, info: Mapping[str, Any]) -> np.ndarray:
        return -self.simulation.jet_squares()

    def _own_infos(self, info: Mapping[str, Any]) -> dict[str, np.ndarray]:
        return {"wave_height": np.sqrt(self.simulation.jet_squares())}
