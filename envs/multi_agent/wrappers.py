"""An AgentsEnv goes in, another comes out: with a time limit, with a global state, with that state or which agent it is
in each agent's observation."""

from __future__ import annotations

import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium import spaces

from distrl.core.errors import ConfigError, EnvironmentFault
from distrl.core.spaces import MASK, leaves
from distrl.envs.checks import write_observation
from distrl.envs.multi_agent.agents_env import AgentsEnv, AgentsStep

OBSERVATION = "observation"  # entry with an agent's own observation, where there are others beside it and it is no Dict
STATE, AGENT = "state", "agent"  # such others: the global state, and which agent it is


class AgentsWrapper:
    """Passes everything on, snapshots too where there are any.

    Args:
        env: whatever it is around.
    """

    _kept: ClassVar[tuple[str, ...]] = ()  # attributes that a snapshot holds

    def __init__(self, env: AgentsEnv):
        self.env = env
        self.agents, self.observation_spaces, self.action_spaces = env.agents, env.observation_spaces, env.action_spaces
        self.state_space, self.max_episode_steps = env.state_space, env.max_episode_steps
        self.metadata, self.render_mode = env.metadata, env.render_mode
        self.fidelities, self.fidelity = getattr(env, "fidelities", {}), getattr(env, "fidelity", None)
        if all(callable(getattr(env, name, None)) for name in ("snapshot", "restore")):
            self.snapshot, self.restore = self._snapshot, self._restore

    def reset(self, seed: int | None = None) -> Mapping[str, Any]:
        """See AgentsEnv."""
        return self.env.reset(seed)

    def step(self, actions: Mapping[str, Any]) -> AgentsStep:
        """See AgentsEnv."""
        return self.env.step(actions)

    def state(self) -> np.ndarray:
        """See AgentsEnv."""
        return self.env.state()

    def render(self) -> Any:
        """See AgentsEnv."""
        return self.env.render()

    def close(self) -> None:
        """See AgentsEnv."""
        self.env.close()

    def _snapshot(self, directory: str | os.PathLike[str]) -> None:
        self.env.snapshot(directory)  # type: ignore[attr-defined]
        kept = {name: getattr(self, name) for name in self._kept}
        Path(directory, f"{type(self).__name__}.pickle").write_bytes(pickle.dumps(kept))

    def _restore(self, directory: str | os.PathLike[str]) -> Mapping[str, Any]:
        observations = self.env.restore(directory)  # type: ignore[attr-defined]
        vars(self).update(pickle.loads(Path(directory, f"{type(self).__name__}.pickle").read_bytes()))
        return observations


class EpisodeLimit(AgentsWrapper):
    """Truncates everyone who lives after so many env steps; who waits then has the newest observation as the last.

    Args:
        env: whatever it is around. steps: at least 1.
    """

    _kept = ("_steps", "_newest")

    def __init__(self, env: AgentsEnv, steps: int):
        super().__init__(env)
        self.max_episode_steps = min(steps, env.max_episode_steps or steps)
        self._limit = steps
        self._steps = 0
        self._newest: dict[str, Any] = {}  # observation of each who lives

    def reset(self, seed: int | None = None) -> Mapping[str, Any]:
        """See AgentsEnv."""
        observations = self.env.reset(seed)
        self._steps, self._newest = 0, dict(observations)
        return observations

    def step(self, actions: Mapping[str, Any]) -> AgentsStep:
        """See AgentsEnv."""
        step = self.env.step(actions)
        self._steps += 1
        self._newest.update(step.observations)
        cut = self._newest.keys() - set(step.terminated) - set(step.truncated)
        if self._steps < self._limit:
            self._newest = {name: self._newest[name] for name in self._newest if name in cut}
            return step
        observations = {**{name: self._newest[name] for name in cut}, **step.observations}
        return AgentsStep(observations, step.rewards, step.terminated, {*step.truncated, *cut}, step.info)


class JointState(AgentsWrapper):
    """Gives an environment a global state: all agents' observations, one behind the other, in the order of ``agents``.

    Each is a vector float32, masks left out and discrete numbers one-hot. An agent that waits has there what it saw
    last; one that has not begun, or ended in an earlier step, has zeros.

    Args:
        env: whatever it is around; a state of its own is hidden.
    """

    _kept = ("_vector", "_gone")

    def __init__(self, env: AgentsEnv):
        super().__init__(env)
        self._flat = {name: Flat(name, env.observation_spaces[name]) for name in env.agents}
        ends = np.cumsum([flat.size for flat in self._flat.values()])
        self._slices = {
            name: slice(end - self._flat[name].size, end) for name, end in zip(env.agents, ends, strict=True)
        }
        self._vector = np.zeros(int(ends[-1]), np.float32)
        self._gone: list[str] = []  # ended in the newest step
        self.state_space = spaces.Box(-np.inf, np.inf, self._vector.shape, np.float32)

    def reset(self, seed: int | None = None) -> Mapping[str, Any]:
        """See AgentsEnv."""
        self._vector[:], self._gone = 0.0, []
        return self._store(self.env.reset(seed))

    def step(self, actions: Mapping[str, Any]) -> AgentsStep:
        """See AgentsEnv."""
        step = self.env.step(actions)
        for name in self._gone:
            self._vector[self._slices[name]] = 0.0
        self._gone = [*step.terminated, *step.truncated]
        self._store(step.observations)
        return step

    def state(self) -> np.ndarray:
        """float32 [sum of the vectors' sizes]."""
        return self._vector.copy()

    def _store(self, observations: Mapping[str, Any]) -> Mapping[str, Any]:
        for name, observation in observations.items():
            self._vector[self._slices[name]] = self._flat[name](observation)
        return observations


class _WithEntry(AgentsWrapper):
    """Puts an entry into every observation: {"observation": its own, entry: …}; where its own is a Dict, that one's
    entries stand beside it.

    Args:
        env: whatever it is around. option: of ``env.agents`` that asks for the entry. space: of the entry.

    Raises:
        ConfigError: an observation has such an entry already.
    """

    _entry: ClassVar[str]

    def __init__(self, env: AgentsEnv, option: str, space: gymnasium.Space):
        super().__init__(env)
        found: dict[str, spaces.Dict] = {}
        for name, seen in env.observation_spaces.items():
            entries = dict(seen.spaces) if isinstance(seen, spaces.Dict) else {OBSERVATION: seen}
            if self._entry in entries:
                raise ConfigError(
                    f"env.agents.{option}: agent {name!r} has an entry {self._entry!r} in its observation already."
                )
            found[name] = spaces.Dict({**entries, self._entry: space})
        self.observation_spaces = found

    def reset(self, seed: int | None = None) -> Mapping[str, Any]:
        """See AgentsEnv."""
        return self._view(self.env.reset(seed))

    def step(self, actions: Mapping[str, Any]) -> AgentsStep:
        """See AgentsEnv."""
        step = self.env.step(actions)
        return AgentsStep(self._view(step.observations), step.rewards, step.terminated, step.truncated, step.info)

    def _restore(self, directory: str | os.PathLike[str]) -> Mapping[str, Any]:
        return self._view(super()._restore(directory))

    def _view(self, observations: Mapping[str, Any]) -> dict[str, Any]:
        entries = self._entries()
        return {
            name: {**(seen if isinstance(seen, Mapping) else {OBSERVATION: seen}), self._entry: entries[name]}
            for name, seen in observations.items()
        }

    def _entries(self) -> Mapping[str, np.ndarray]:
        """What each agent is to see now."""
        raise NotImplementedError


class WithState(_WithEntry):
    """Puts the global state into every observation, as its entry "state".

    Args:
        env: with a state.

    Raises:
        ConfigError: it has none, or an observation has an entry "state" already.
    """

    _entry = STATE

    def __init__(self, env: AgentsEnv):
        super().__init__(env, "state", state_space_of(env))

    def _entries(self) -> Mapping[str, np.ndarray]:
        return dict.fromkeys(self.agents, self.env.state())


class WithIdentity(_WithEntry):
    """Puts into every observation which agent's it is, as its entry "agent": float32 [A], one-hot in the order of
    ``agents``.

    Args:
        env: whatever it is around.

    Raises:
        ConfigError: an observation has an entry "agent" already.
    """

    _entry = AGENT

    def __init__(self, env: AgentsEnv):
        super().__init__(env, "identity", spaces.Box(0, 1, (len(env.agents),), np.float32))
        self._which = dict(zip(env.agents, np.eye(len(env.agents), dtype=np.float32), strict=True))

    def _entries(self) -> Mapping[str, np.ndarray]:
        return self._which


def state_space_of(env: AgentsEnv) -> spaces.Box:
    """The space of its global state.

    Raises:
        ConfigError: it has none.
    """
    if env.state_space is None:
        raise ConfigError(
            'env.agents.state = "env" needs an environment with a state_space and state(); this one has none: take '
            '"joint", which makes one of all observations.'
        )
    return env.state_space


class Flat:
    """One agent's observations as vectors [size], valid until the next: the mask left out, discrete numbers one-hot.

    Args:
        name: of the agent. space: of its observations.

    Raises:
        ConfigError: the space cannot be hosted. When called, EnvironmentFault: an observation that is not of the space.
    """

    def __init__(self, name: str, space: gymnasium.Space):
        self._name = name
        found = [leaf for leaf in leaves(space) if leaf.path != MASK]
        self._targets = [(leaf, np.empty(leaf.spec.shape, leaf.spec.dtype)) for leaf in found]
        self.size = sum(spaces.flatdim(leaf.space) for leaf in found)

    def __call__(self, observation: Any) -> np.ndarray:
        try:
            write_observation(observation, self._targets, "the environment")
        except EnvironmentFault as fault:
            raise EnvironmentFault(f"agent {self._name!r}: {fault}", fault.kind) from fault
        parts: list[Any] = [
            array.reshape(-1) if leaf.low is None else spaces.flatten(leaf.space, array)
            for leaf, array in self._targets
        ]
        return parts[0] if len(parts) == 1 else np.concatenate(parts, dtype=np.float32)
