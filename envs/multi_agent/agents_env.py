"""The one form in which an environment of several agents is driven; adapters bring PettingZoo's and RLlib's to it.

Whoever is to act next is told by whose observation comes: all living agents of a simultaneous game, one of a turn-based
game, any others of whatever lies between.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import gymnasium
import numpy as np


@dataclass
class AgentsStep:
    """What a step of an environment of several agents gave.

    Attributes:
        observations: agent → observation, of those that act next, and the last one of each that has ended now.
        rewards: agent → float, of any agent that has begun and not ended before; nobody else's is due.
        terminated: agents whose episode ended now by the environment's rules. truncated: those cut now.
        info: plain scalars about the environment; about one agent under "agent/name".

    No agent ends twice, and whoever has ended does not come back before ``reset``. The environment's episode is over
    when nobody acts next: every agent that had begun must have ended by then.
    """

    observations: Mapping[str, Any]
    rewards: Mapping[str, float]
    terminated: Collection[str] = ()
    truncated: Collection[str] = ()
    info: Mapping[str, Any] = field(default_factory=dict)


class AgentsEnv(Protocol):
    """An environment of several agents.

        observations = env.reset(seed)
        while observations:
            step = env.step({agent: action for each agent in observations})
            observations = {agent: its observation for each that did not end}

    Attributes:
        agents: everyone who may ever appear; an agent's position is its ``agent_index``.
        observation_spaces, action_spaces: agent → Gymnasium space.
        state_space: of ``state()``, a Box; None where the environment has no global state.
        metadata, render_mode: as Gymnasium's.
        max_episode_steps: the time limit in env steps where one is known.

    One whose state can be left in a directory also has ``snapshot(directory)``, and ``restore(directory)``, which
    returns the observations of those that act next.
    """

    agents: tuple[str, ...]
    observation_spaces: Mapping[str, gymnasium.Space]
    action_spaces: Mapping[str, gymnasium.Space]
    state_space: gymnasium.spaces.Box | None
    metadata: Mapping[str, Any]
    render_mode: str | None
    max_episode_steps: int | None

    def reset(self, seed: int | None = None) -> Mapping[str, Any]: ...

    def step(self, actions: Mapping[str, Any]) -> AgentsStep: ...

    def state(self) -> np.ndarray: ...

    def render(self) -> Any: ...

    def close(self) -> None: ...
