"""One simulation in, a PettingZoo environment of the agents that share its actions out: what distrl's own ones have.

Solver, actions, time limit, guards and snapshots are the simulation's (``distrl.envs.simulation``): the agents' actions
side by side are its action, and what each agent observes are entries of its observation.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from pettingzoo import ParallelEnv

from distrl.core.errors import EnvironmentFault
from distrl.envs import options as check
from distrl.envs.simulation import Simulation


class SimulationAgents(ParallelEnv[str, np.ndarray, np.ndarray]):
    """Agents that each give one number of a simulation's action; all begin and end together.

    An agent's action space is ``Box(-1, 1, [1], float32)``, its observation space ``Box(float32)`` of one number for
    each of ``observation_names``. Its reward is

        (1 - local_ratio) * the simulation's reward + local_ratio * its own

    and own rewards are such that their mean over the agents is the simulation's: so is then, at any ``local_ratio``,
    the mean of what the agents are given. ``diverged_reward`` goes to every agent alike.

    Args:
        simulation: with one action an agent.
        agents: their names, in the order of the simulation's actions.
        seen: int [agents, n], which entries of the simulation's observation each agent observes.
        observation_names: what each of the n is.
        local_ratio: share of an agent's own reward, 0 to 1.

    Attributes:
        state_space: of ``state()``, the simulation's observation.
        max_cycles: control steps after which all agents are truncated (PettingZoo's name for it).

    ``infos`` has, beside the agents', an entry "common": the simulation's ``info``.
    """

    metadata: ClassVar[dict[str, Any]] = {"is_parallelizable": True, **Simulation.metadata}
    fidelities: ClassVar[Mapping[str, Any]] = {}

    def __init__(
        self,
        simulation: Simulation,
        agents: Sequence[str],
        *,
        seen: np.ndarray,
        observation_names: Sequence[str],
        local_ratio: float,
    ) -> None:
        self.name = type(self).__name__
        why = "it is the share of an agent's own reward, the rest is the whole simulation's"
        self.local_ratio = check.number(self.name, "local_ratio", local_ratio, 0.0, 1.0, why)
        self.simulation = simulation
        self.render_mode = simulation.render_mode
        self.fidelity = simulation.fidelity
        self.max_cycles = simulation.episode_steps
        self.observation_names = tuple(observation_names)
        self.possible_agents = list(agents)
        self.agents: list[str] = []
        self.state_space = simulation.observation_space
        space = gym.spaces.Box(-np.inf, np.inf, (seen.shape[1],), np.float32)
        self.observation_spaces = dict.fromkeys(agents, space)
        self.action_spaces = {agent: gym.spaces.Box(-1.0, 1.0, (1,), np.float32) for agent in agents}
        self._seen = seen
        self._state = np.zeros(simulation.observation_space.shape or (), np.float32)

    def _own_rewards(self, info: Mapping[str, Any]) -> np.ndarray:
        """What each agent has earned in the step that gave ``info``, float64 [agents]."""
        raise NotImplementedError

    def _own_infos(self, info: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Name → each agent's entry in its own info, float64 [agents], of the step that gave ``info``."""
        raise NotImplementedError

    def observation_space(self, agent: str) -> gym.Space[np.ndarray]:
        """The same object at every call."""
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> gym.Space[np.ndarray]:
        """The same object at every call."""
        return self.action_spaces[agent]

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, dict[str, Any]]]:
        """Begin an episode of all agents; everything random in it comes from the seed. ``options`` are not used."""
        self._state, info = self.simulation.reset(seed=seed)
        self.agents = list(self.possible_agents)
        return self._observations(), {agent: {} for agent in self.agents} | {"common": info}

    def step(
        self, actions: Mapping[str, np.ndarray]
    ) -> tuple[dict[str, np.ndarray], dict[str, float], dict[str, bool], dict[str, bool], dict[str, dict[str, Any]]]:
        """Advance one control step under all agents' actions, float [1] each; those outside [-1, 1] are clipped.

        Raises:
            EnvironmentFault: an agent's action is missing or is not of this form, or one is nobody's.
        """
        self._state, reward, terminated, truncated, info = self.simulation.step(self._joint(actions))
        agents = self.possible_agents
        if terminated:
            rewards, own = np.full(len(agents), reward), {}
        else:
            rewards = (1 - self.local_ratio) * reward + self.local_ratio * self._own_rewards(info)
            own = self._own_infos(info)
        self.agents = [] if terminated or truncated else list(agents)
        infos = {agent: {name: float(own[name][i]) for name in own} for i, agent in enumerate(agents)}
        return (
            self._observations(),
            dict(zip(agents, rewards.tolist(), strict=True)),
            dict.fromkeys(agents, terminated),
            dict.fromkeys(agents, truncated),
            infos | {"common": info},
        )

    def state(self) -> np.ndarray:
        """The simulation's observation, float32 [n]; in a diverged episode the last one before."""
        return self._state.copy()

    def snapshot(self, directory: str | os.PathLike[str]) -> None:
        """Write the simulation's complete state into a directory."""
        self.simulation.snapshot(directory)

    def restore(self, directory: str | os.PathLike[str]) -> dict[str, np.ndarray]:
        """Continue bit by bit from a ``snapshot`` of an unfinished episode; returns all agents' last observations."""
        self._state = self.simulation.restore(directory)
        self.agents = list(self.possible_agents)
        return self._observations()

    def render(self) -> np.ndarray | None:
        """The simulation's image, uint8 [height, width, 3]; None without a render mode."""
        return self.simulation.render()  # type: ignore[return-value]

    def close(self) -> None:
        """Close the simulation."""
        self.simulation.close()

    def _observations(self) -> dict[str, np.ndarray]:
        return dict(zip(self.possible_agents, self._state[self._seen], strict=True))

    def _joint(self, actions: Mapping[str, np.ndarray]) -> np.ndarray:
        """The simulation's action, float64 [agents]."""
        if not self.agents:
            raise EnvironmentFault(f"{self.name} needs reset() before step(): no agent lives.")
        strangers = [agent for agent in actions if agent not in self.action_spaces]
        if strangers:
            raise EnvironmentFault(
                f"{self.name} got an action of {strangers[0]!r}: its agents are {', '.join(self.agents)}.",
                kind="protocol",
            )
        joint = np.empty(len(self.agents))
        for index, agent in enumerate(self.agents):
            action = np.asarray(actions.get(agent, np.nan), np.float64)
            if action.shape != (1,) or not np.isfinite(action[0]):
                came = repr(actions[agent]) if agent in actions else "none"
                raise EnvironmentFault(
                    f"{self.name} needs a finite action of shape (1,) of agent {agent!r}, got {came}.", kind="protocol"
                )
            joint[index] = action[0]
        return joint
