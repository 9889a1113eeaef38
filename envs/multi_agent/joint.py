"""An environment of several agents goes in, one Gymnasium environment comes out whose every step is that of them all:
so whatever hosts an environment hosts this, in this process or in another, with snapshots and restarts.

The observation holds all agents' observations, stacked, who acts next and what became of whose action
(``distrl.core.joint``); env workers make rows of it again, one for each agent, before a policy sees it.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np

from distrl.core.errors import EnvironmentFault
from distrl.core.joint import ASKS, ENDED, ENTRIES, FINISHED, RETURN, REWARD, STEP, TERMINATED, TRUNCATED, JointLayout
from distrl.core.spaces import MASK, leaves
from distrl.core.types import AgentSpec
from distrl.envs.checks import write_observation
from distrl.envs.multi_agent.agents_env import AgentsEnv

_STATE_FILE = "joint.npz"


class JointEnv(gymnasium.Env):
    """All agents of an environment as one.

    What an agent's action earns is everything that the agent is given until it acts again or ends; what it is given
    before its first action belongs to no action and is left out. Rewards of a step are the agents' together.

    Args:
        env: of one agent or more.

    Attributes:
        agent_specs: of the agents, by ``agent_index``. agents_env: what it was made of.

    Raises:
        ConfigError: a space that cannot be hosted.
    """

    def __init__(self, env: AgentsEnv):
        self.agents_env = env
        self.agent_specs = tuple(
            AgentSpec(name, env.observation_spaces[name], env.action_spaces[name]) for name in env.agents
        )
        self.metadata, self.render_mode = dict(env.metadata), env.render_mode
        self.max_episode_steps = env.max_episode_steps
        self.fidelities, self.fidelity = getattr(env, "fidelities", {}), getattr(env, "fidelity", None)
        layout = JointLayout(self.agent_specs)
        self.observation_space, self.action_space = layout.observation_space, layout.action_space
        self._index = {name: index for index, name in enumerate(env.agents)}
        num_agents = len(env.agents)
        self._entries = {name: np.zeros(num_agents, dtype) for name, dtype in ENTRIES.items()}
        self._observation: dict[str, Any] = dict(self._entries)
        self._targets: list[list[tuple[Any, np.ndarray]]] = []
        self._plain: list[list[tuple[Any, ...]]] = []  # of agents that observe Boxes alone: (keys, array, dtype, shape)
        self._floats: list[np.ndarray] = []  # stacks
        self._masked: list[np.ndarray | None] = []  # each agent's mask, in its place in the stack …
        self._choices: list[np.ndarray] = []  # … and where each component's choices begin in it
        for number, members in enumerate(layout.groups):
            found = leaves(self.agent_specs[members[0]].observation_space)
            stack: dict[str, Any] = {}
            for leaf in found:
                inner = stack
                *above, last = leaf.path.split("/")
                for key in above:
                    inner = inner.setdefault(key, {})
                inner[last] = array = np.zeros((len(members), *leaf.spec.shape), leaf.spec.dtype)
                if array.dtype.kind == "f":
                    self._floats.append(array)
            self._observation[str(number)] = stack
        for place in layout.places:
            spec = self.agent_specs[layout.groups[place.group][place.position]]
            stack = self._observation[str(place.group)]
            targets = [(leaf, _reach(stack, leaf.path)[place.position, ...]) for leaf in leaves(spec.observation_space)]
            self._targets.append(targets)
            boxes = all(leaf.low is None or leaf.path == MASK for leaf, _ in targets)
            entries = [(leaf.keys, array, array.dtype, array.shape) for leaf, array in targets]
            self._plain.append(entries if boxes else [])
            mask = next((array for leaf, array in targets if leaf.path == MASK), None)
            (action,) = leaves(spec.action_space)
            begins = np.zeros(1, np.int64)
            if action.low is not None:
                choices = np.broadcast_to(np.subtract(action.high, action.low) + 1, action.spec.shape).reshape(-1)
                begins = np.cumsum([0, *choices[:-1]])
                if mask is not None and mask.size != choices.sum():
                    mask = None  # it is no mask of these actions
            self._masked.append(None if action.low is None else mask)
            self._choices.append(begins)
        self._decode = [
            (place.offset, place.offset + math.prod(action.shape), action)
            for place, action in zip(layout.places, layout.actions, strict=True)
        ]
        self._asks: list[int] = []
        self._acted = np.zeros(num_agents, bool)  # in this episode, at least once
        self._over = np.zeros(num_agents, bool)  # the agent's episode has ended
        self._begun = np.zeros(num_agents, bool)
        self._pending = np.zeros(num_agents)  # reward since the last action
        if all(callable(getattr(env, name, None)) for name in ("snapshot", "restore")):
            self.snapshot, self.restore = self._snapshot, self._restore

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """See Gymnasium; ``options`` are not used."""
        super().reset(seed=seed)
        for array in (self._acted, self._over, self._begun, self._pending, *self._entries.values()):
            array[:] = 0
        self._write(self.agents_env.reset(seed), "reset")
        if not self._asks:
            raise EnvironmentFault("reset must give the observation of at least one agent; it gave none.", "protocol")
        return self._observation, {}

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """See Gymnasium.

        Args:
            action: float64 [K]; of agents that were not asked, anything.

        Raises:
            EnvironmentFault: what the environment gave is wrong, naming the agent.
        """
        names, entries = self.agents_env.agents, self._entries
        asked = self._asks
        self._acted[asked] = True
        result = self.agents_env.step({names[index]: self._action(index, action) for index in asked})
        total = self._earn(result.rewards)
        for entry in (FINISHED, ENDED):
            entries[entry][:] = 0
        truncated = False
        for name, how in [*((n, TERMINATED) for n in result.terminated), *((n, TRUNCATED) for n in result.truncated)]:
            index = self._known(name, "the end")
            if self._over[index] and not entries[ENDED][index]:
                raise EnvironmentFault(f"agent {name!r} ends twice in one episode.", "protocol")
            entries[ENDED][index] = entries[ENDED][index] or how  # terminated, where both are said
            self._over[index] = True
            truncated = truncated or how == TRUNCATED
        self._write(result.observations, "step")
        finished = self._acted & ((entries[ENDED] > 0) | (entries[ASKS] > 0))
        finished &= ~self._over | (entries[ENDED] > 0)
        entries[FINISHED][:] = finished
        entries[REWARD][:] = np.where(finished, self._pending, 0.0)
        entries[STEP] += finished
        entries[RETURN] += entries[REWARD]
        self._pending[finished] = 0.0
        over = not self._asks
        if over and not self._over[self._begun].all():
            name = names[int(np.flatnonzero(self._begun & ~self._over)[0])]
            raise EnvironmentFault(
                f"nobody acts next, but agent {name!r} has neither terminated nor been truncated.", "protocol"
            )
        return self._observation, total, over and not truncated, over and truncated, dict(result.info)

    def render(self) -> Any:
        """See Gymnasium."""
        return self.agents_env.render()

    def close(self) -> None:
        """See Gymnasium."""
        self.agents_env.close()

    def _action(self, index: int, joint: np.ndarray) -> Any:
        start, stop, spec = self._decode[index]
        if not spec.shape:
            return int(joint[start])
        return joint[start:stop].astype(spec.dtype).reshape(spec.shape)

    def _earn(self, rewards: Mapping[str, float]) -> float:
        total = 0.0
        for name, reward in rewards.items():
            index = self._known(name, "a reward")
            if not math.isfinite(reward):
                raise EnvironmentFault(f"agent {name!r} must be given a finite reward; it got {reward}.", "divergence")
            if self._over[index] and reward != 0.0:
                raise EnvironmentFault(f"agent {name!r} has ended, but it is given a reward of {reward}.", "protocol")
            if self._acted[index]:
                self._pending[index] += reward
                total += reward
        return total

    def _write(self, observations: Mapping[str, Any], where: str) -> None:
        """Store observations; those who have not ended act next."""
        asks: list[int] = []
        for name, observation in observations.items():
            index = self._known(name, "an observation")
            if not _copied(observation, self._plain[index]):
                self._check(name, index, observation, where)
            if self._over[index]:
                if not self._entries[ENDED][index]:
                    raise EnvironmentFault(f"agent {name!r} has ended, but it is given an observation.", "protocol")
                continue
            mask = self._masked[index]
            if mask is not None and not np.logical_or.reduceat(mask.reshape(-1) != 0, self._choices[index]).all():
                raise EnvironmentFault(f"agent {name!r} is to act, but its {MASK!r} allows no action.", "protocol")
            asks.append(index)
        if not all(np.isfinite(stack).all() for stack in self._floats):
            for name, observation in observations.items():
                self._check(name, self._index[name], observation, where)
        self._asks = sorted(asks)
        self._begun[self._asks] = True
        self._entries[ASKS][:] = 0
        self._entries[ASKS][self._asks] = 1

    def _check(self, name: str, index: int, observation: Any, where: str) -> None:
        """Store an observation with every check; the sentence about what is wrong with it names the agent."""
        try:
            write_observation(observation, self._targets[index], where)
        except EnvironmentFault as fault:
            raise EnvironmentFault(f"agent {name!r}: {fault}", fault.kind) from fault

    def _known(self, name: str, what: str) -> int:
        index = self._index.get(name)
        if index is None:
            known = ", ".join(self.agents_env.agents[:10])
            raise EnvironmentFault(f"{what} is for agent {name!r}, which is none of {known}.", "protocol")
        return index

    def _snapshot(self, directory: str | os.PathLike[str]) -> None:
        self.agents_env.snapshot(directory)  # type: ignore[attr-defined]
        state: dict[str, Any] = {name: getattr(self, name) for name in ("_acted", "_over", "_begun", "_pending")}
        np.savez(os.path.join(directory, _STATE_FILE), **(state | self._entries))

    def _restore(self, directory: str | os.PathLike[str]) -> Any:
        observations = self.agents_env.restore(directory)  # type: ignore[attr-defined]
        with np.load(os.path.join(directory, _STATE_FILE)) as saved:
            for name in ("_acted", "_over", "_begun", "_pending"):
                getattr(self, name)[:] = saved[name]
            for name, array in self._entries.items():
                array[:] = saved[name]
            kept = {name: array.copy() for name, array in self._entries.items()}
        self._write(observations, "restore")
        for name, array in self._entries.items():
            array[:] = kept[name]
        return self._observation


def _copied(observation: Any, entries: list[tuple[Any, ...]]) -> bool:
    """Store an observation that is of arrays as its space has them; False where it has to be looked at."""
    try:
        for keys, target, dtype, shape in entries:
            part = observation
            for key in keys:
                part = part[key]
            if type(part) is not np.ndarray or part.dtype != dtype or part.shape != shape:
                return False
            target[...] = part
    except (KeyError, IndexError, TypeError):
        return False
    return bool(entries)


def _reach(stack: Mapping[str, Any], path: str) -> np.ndarray:
    value: Any = stack
    for key in path.split("/"):
        value = value[key]
    return value
