"""What the adapters have in common: who lives and who has ended in the running episode, by name, and the faults of
environments that get it wrong."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from distrl.core.errors import ConfigError, EnvironmentFault
from distrl.envs.multi_agent.agents_env import AgentsStep

_FILE = "agents.pickle"


class Adapted:
    """An environment of another form, driven as an AgentsEnv; see there. Names of agents are the strings of their ids.

    An agent that ends has as its last observation the one of that step, and where the environment gave none, the newest
    that it had given. It can be continued from snapshots where the environment itself has ``snapshot`` and ``restore``.

    Args:
        env: the environment. ids: of everyone who may ever appear. observation_space, action_space: of an id.

    Raises:
        ConfigError: nobody can appear, two agents have one name, or an agent has no space.
    """

    def __init__(self, env: Any, ids: Iterable[Any], observation_space: Callable, action_space: Callable):
        kind = type(env).__name__
        ids = list(ids)
        self.env = env
        self._ids = {str(agent): agent for agent in ids}
        self._names = {agent: name for name, agent in self._ids.items()}
        if not ids or len(self._ids) != len(ids):
            raise ConfigError(
                f"{kind}.possible_agents must list everyone who may appear, by unique names; it is {ids}."
            )
        self.agents = tuple(self._ids)
        self.observation_spaces: Mapping[str, gymnasium.Space] = self._spaces("observation", observation_space)
        self.action_spaces: Mapping[str, gymnasium.Space] = self._spaces("action", action_space)
        space = getattr(env, "state_space", None)
        has_state = isinstance(space, gymnasium.spaces.Box) and callable(getattr(env, "state", None))
        self.state_space: gymnasium.spaces.Box | None = space if has_state else None
        self.metadata: Mapping[str, Any] = getattr(env, "metadata", None) or {}
        self.render_mode: str | None = getattr(env, "render_mode", None)
        self.max_episode_steps: int | None = None
        inner = getattr(env, "unwrapped", env)
        self.fidelities, self.fidelity = getattr(inner, "fidelities", {}), getattr(inner, "fidelity", None)
        self._acting: list[str] = []
        self._living: set[str] = set()  # who has begun and not ended
        self._ended: set[str] = set()
        self._newest: dict[str, Any] = {}  # observation of each who lives
        if all(callable(getattr(env, name, None)) for name in ("snapshot", "restore")):
            self.snapshot, self.restore = self._snapshot, self._restore

    def state(self) -> np.ndarray:
        """The global state, in ``state_space``."""
        return np.asarray(self.env.state())

    def render(self) -> Any:
        """As the environment does."""
        return self.env.render()

    def close(self) -> None:
        """As the environment does."""
        self.env.close()

    def _spaces(self, which: str, space_of: Callable) -> dict[str, gymnasium.Space]:
        found = {}
        for name, agent in self._ids.items():
            try:
                found[name] = space_of(agent)
            except KeyError:
                found[name] = None
            if not isinstance(found[name], gymnasium.Space):
                kind = type(self.env).__name__
                raise ConfigError(
                    f"{kind} must have a Gymnasium {which} space for agent {name!r}; it has {found[name]!r}."
                )
        return found

    def _begin(self, acting: list[str], living: Iterable[str], observations: Mapping[str, Any]) -> dict[str, Any]:
        """An episode; the observations of those who act first."""
        self._ended, self._newest = set(), {}
        self._acting, self._living = acting, set(living)
        return self._seen("reset", acting, observations)

    def _went_on(
        self,
        acting: list[str],
        living: set[str],
        observations: Mapping[str, Any],
        rewards: Mapping[str, float],
        terminated: set[str],
        truncated: set[str],
        info: Mapping[str, Any],
    ) -> AgentsStep:
        """What a step gave, and what follows.

        Args:
            acting: next. living: after the step. terminated, truncated: of those who had lived until now.
        """
        truncated = truncated - terminated
        if back := living & self._ended:
            raise EnvironmentFault(
                f"agent {min(back)!r} has ended; it must not come back before the next reset.", "protocol"
            )
        given = self._seen("step", acting, observations)
        for name in sorted(terminated | truncated):
            newest = self._newest.pop(name, None)
            if name in observations or newest is not None:  # else it never had one, and has never acted
                given[name] = observations.get(name, newest)
        self._ended |= terminated | truncated
        self._acting, self._living = acting, living
        return AgentsStep(given, rewards, terminated, truncated, info)

    def _seen(self, where: str, acting: list[str], observations: Mapping[str, Any]) -> dict[str, Any]:
        try:
            given = {name: observations[name] for name in acting}
        except KeyError as error:
            raise EnvironmentFault(
                f"{where} gave no observation of agent {error}, which is to act.", "protocol"
            ) from None
        self._newest.update(given)
        return given

    def _listed(self, where: str, ids: Iterable[Any]) -> list[str]:
        """The names of ids."""
        try:
            return [self._names[agent] for agent in ids]
        except KeyError as error:
            raise self._unknown(where, "the name", error.args[0]) from None

    def _named(self, given: Any, what: str, where: str = "step") -> dict[str, Any]:
        """By name, what the environment gave by id."""
        if not isinstance(given, Mapping):
            raise EnvironmentFault(
                f"{where} must return {what} as a dict by agent; they are a {type(given).__name__}.", "protocol"
            )
        names = self._names
        try:
            return {names[agent]: value for agent, value in given.items()}
        except KeyError as error:
            raise self._unknown(where, what, error.args[0]) from None

    def _unknown(self, where: str, what: str, agent: Any) -> EnvironmentFault:
        known = ", ".join(self.agents[:10]) + (", …" if len(self.agents) > 10 else "")
        return EnvironmentFault(
            f"{where} returned {what} of agent {str(agent)!r}, which is none of {known}.", "protocol"
        )

    def _info(self, infos: Any) -> dict[str, Any]:
        """One dict: what is about an agent as "name/entry"; what comes under a name that is no agent's ("common",
        "__common__") is about the environment."""
        flat: dict[str, Any] = {}
        for agent, info in infos.items() if isinstance(infos, Mapping) else ():
            if isinstance(info, Mapping) and info:
                prefix = f"{self._names[agent]}/" if agent in self._names else ""
                flat.update((f"{prefix}{key}", value) for key, value in info.items())
        return flat

    def _snapshot(self, directory: str | os.PathLike[str]) -> None:
        """Leave the state in an empty folder: the environment's, and who lives."""
        self.env.snapshot(directory)
        kept = (self._acting, self._living, self._ended, self._newest)
        Path(directory, _FILE).write_bytes(pickle.dumps(kept))

    def _restore(self, directory: str | os.PathLike[str]) -> Mapping[str, Any]:
        """Take up that state; the observations of those who act next, the environment's own where it returns them."""
        returned = self.env.restore(directory)
        kept = pickle.loads(Path(directory, _FILE).read_bytes())
        self._acting, self._living, self._ended, self._newest = kept
        if isinstance(returned, Mapping):
            self._newest.update(self._named(returned, "observations", "restore"))
        return {name: self._newest[name] for name in self._acting}
