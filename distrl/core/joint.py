"""How all agents of an environment are laid out in the arrays of one row: the joint observation's entries, and each
agent's place in them and in the joint action. Written by ``distrl.envs.multi_agent.joint``, read by the env workers.

Agents of equal spaces form a *group*, whose observations are stacked [agents, …] under the group's number.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces

from distrl.core.spaces import MASK, action_leaf, leaves, random_action
from distrl.core.types import AgentSpec, ArraySpec, Observation

# Entries of the joint observation, each [A] over all agents. Of a step:
FINISHED = "finished"  # uint8: whether it finished what the agent did last
REWARD = "reward"  # float32: of what it finished
ENDED = "ended"  # uint8: RUNNING, or how the agent's episode ended now
# … and of what follows:
ASKS = "asks"  # uint8: whether the agent acts next
STEP = "step"  # int32: actions that the agent has finished in this episode
RETURN = "episode_return"  # float64: sum of the rewards of these
ENTRIES = {
    FINISHED: "uint8",
    REWARD: "float32",
    ENDED: "uint8",
    ASKS: "uint8",
    STEP: "int32",
    RETURN: "float64",
}

RUNNING, TERMINATED, TRUNCATED = 0, 1, 2


@dataclass(frozen=True)
class Place:
    """Where an agent is.

    Attributes:
        group: its number. position: in the group. offset: of its action in the joint action, float64 [K].
    """

    group: int
    position: int
    offset: int


class JointLayout:
    """Of an environment's agents.

    Attributes:
        groups: agent indices of each group. places: of each agent. actions: each agent's action, shape and dtype.
        action_size: K, float64 numbers of the joint action: exact for float32 and integers below 2⁵³.
        observation_space, action_space: of the joint environment.

    Raises:
        ConfigError: a space that cannot be hosted.
    """

    def __init__(self, agents: Sequence[AgentSpec]):
        self.groups: list[list[int]] = []
        self.places: list[Place] = []
        self.actions: list[ArraySpec] = [action_leaf(agent.action_space) for agent in agents]
        self.action_size = 0
        firsts: list[AgentSpec] = []
        for index, agent in enumerate(agents):
            group = next((k for k, first in enumerate(firsts) if equal_spaces(first, agent)), len(firsts))
            if group == len(firsts):
                firsts.append(agent)
                self.groups.append([])
            self.places.append(Place(group, len(self.groups[group]), self.action_size))
            self.groups[group].append(index)
            self.action_size += math.prod(self.actions[index].shape)
        entries: dict[str, spaces.Space] = {name: _box((len(agents),), dtype) for name, dtype in ENTRIES.items()}
        for number, (first, members) in enumerate(zip(firsts, self.groups, strict=True)):
            stacks: dict[str, Any] = {}
            for leaf in leaves(first.observation_space):
                inner = stacks
                *above, last = leaf.path.split("/")
                for key in above:
                    inner = inner.setdefault(key, {})
                inner[last] = _box((len(members), *leaf.spec.shape), leaf.spec.dtype)
            entries[str(number)] = _nested(stacks)
        self.observation_space = spaces.Dict(entries)
        self.action_space = spaces.Box(-np.inf, np.inf, (self.action_size,), np.float64)


class RandomAgents:
    """Random joint actions: of each agent that acts next, uniform over what its mask allows.

    Args:
        agents: of the environment. seed: of the draws.
    """

    def __init__(self, agents: Sequence[AgentSpec], seed: int):
        self._layout = JointLayout(agents)
        self._spaces = [copy.deepcopy(agent.action_space) for agent in agents]
        for index, space in enumerate(self._spaces):
            space.seed(seed + 1000 * index)

    def act(self, observation: Observation) -> np.ndarray:
        """float64 [K]. ``observation``: path → array of the joint observation.

        Raises:
            EnvironmentFault: a mask that allows nothing.
        """
        joint = np.zeros(self._layout.action_size)
        for index in np.flatnonzero(observation[ASKS]).tolist():
            place = self._layout.places[index]
            masks = observation.get(f"{place.group}/{MASK}")
            seen = {} if masks is None else {MASK: masks[place.position]}
            chosen = np.ravel(random_action(self._spaces[index], seen))
            joint[place.offset : place.offset + chosen.size] = chosen
        return joint


def equal_spaces(one: AgentSpec, other: AgentSpec) -> bool:
    """Whether one policy can act for both."""
    return one.observation_space == other.observation_space and one.action_space == other.action_space


def _nested(entries: dict) -> spaces.Dict:
    return spaces.Dict({key: _nested(value) if isinstance(value, dict) else value for key, value in entries.items()})


def _box(shape: tuple[int, ...], dtype: str) -> spaces.Box:
    """That holds every value of the dtype: each agent's own space has been looked after before."""
    kind = np.dtype(dtype)
    if kind.kind == "f":
        return spaces.Box(-np.inf, np.inf, shape, kind.type)
    low, high = (0, 1) if kind.kind == "b" else (np.iinfo(kind).min, np.iinfo(kind).max)
    return spaces.Box(low, high, shape, kind.type)
