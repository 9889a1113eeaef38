"""An AgentsEnv goes in, one Gymnasium environment of the whole team comes out: for algorithms that learn one value of
all agents' actions together (VDN, QMIX, MASAC)."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from distrl.core.errors import ConfigError, EnvironmentFault
from distrl.core.spaces import MASK
from distrl.envs.multi_agent.agents_env import AgentsEnv
from distrl.envs.multi_agent.wrappers import OBSERVATION, STATE, Flat, state_space_of

ALIVE = "alive"


class TeamEnv(gymnasium.Env):
    """A team of A agents with equal spaces, all of whom act in every step, as one agent.

    The observation is a Dict of "observation" float32 [A, d] (see ``Flat``), "alive" int8 [A] (who acts next), where
    the agents have masks "action_mask" int8 [A·n], and where asked for "state". The action is a MultiDiscrete [A], or
    for agents with a Box [k] a Box [A, k]. Of an agent that has ended, or not begun, the observation is zero, the mask
    allows everything and the action is ignored.

    The team's episode ends when nobody acts next: truncated where somebody was truncated in that step (who is then
    alive in the last observation, which a value is to be bootstrapped from), else terminated.

    Args:
        env: its agents.
        state: whether the observation has the global state.
        reward: "sum" of all agents' rewards, or their "mean" over all A: a reward that all share, once.

    Raises:
        ConfigError: agents of different spaces, actions of another form, no state where one is asked for. In ``reset``
            and ``step``: an agent that lives, but does not act in this step.
    """

    def __init__(self, env: AgentsEnv, *, state: bool = False, reward: str = "sum"):
        first = env.agents[0]
        observation_space, action_space = env.observation_spaces[first], env.action_spaces[first]
        for name in env.agents:
            if env.observation_spaces[name] != observation_space or env.action_spaces[name] != action_space:
                raise ConfigError(
                    f"env.agents.team: all agents must have equal spaces, but {first!r} has {observation_space} and "
                    f"{action_space}, {name!r} has {env.observation_spaces[name]} and {env.action_spaces[name]}."
                )
        if reward not in ("sum", "mean"):
            raise ConfigError(f'env.agents.reward must be "sum" or "mean"; it is {reward!r}.')
        self.agents_env = env
        self.metadata, self.render_mode = dict(env.metadata), env.render_mode
        self.max_episode_steps = env.max_episode_steps
        self.fidelities, self.fidelity = getattr(env, "fidelities", {}), getattr(env, "fidelity", None)
        self._scale = 1.0 if reward == "sum" else 1.0 / len(env.agents)
        self._state = state
        self._flat = {name: Flat(name, observation_space) for name in env.agents}
        self._living: set[str] = set()  # who has begun and not ended
        size = len(env.agents)
        self.action_space = _joined(action_space, size)
        entries: dict[str, spaces.Space] = {
            OBSERVATION: spaces.Box(-np.inf, np.inf, (size, self._flat[first].size), np.float32),
            ALIVE: spaces.MultiBinary(size),
        }
        self._num_choices = 0  # of an agent, where there are masks
        masked = isinstance(observation_space, spaces.Dict) and MASK in observation_space.spaces
        if masked and isinstance(action_space, spaces.Discrete):
            self._num_choices = int(action_space.n)
            entries[MASK] = spaces.MultiBinary(size * self._num_choices)
        if state:
            entries[STATE] = state_space_of(env)
        self.observation_space = spaces.Dict(entries)
        if all(callable(getattr(env, name, None)) for name in ("snapshot", "restore")):
            self.snapshot, self.restore = env.snapshot, self._restore  # type: ignore[attr-defined]

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """See Gymnasium; ``options`` are not used."""
        super().reset(seed=seed)
        return self._begin(self.agents_env.reset(seed)), {}

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """See Gymnasium."""
        discrete = isinstance(self.action_space, spaces.MultiDiscrete)
        chosen = {
            name: int(action[index]) if discrete else action[index]
            for index, name in enumerate(self.agents_env.agents)
            if name in self._living
        }
        step = self.agents_env.step(chosen)
        truncated = set(step.truncated).difference(step.terminated)
        ended = truncated.union(step.terminated)
        next_ones = step.observations.keys() - ended
        self._check_all_act(next_ones, self._living - ended)
        self._living = next_ones
        over = not next_ones
        observation = self._observe(step.observations, truncated if over else next_ones)
        reward = self._scale * float(sum(step.rewards.values()))
        return observation, reward, over and not truncated, over and bool(truncated), dict(step.info)

    def render(self) -> Any:
        """See Gymnasium."""
        return self.agents_env.render()

    def close(self) -> None:
        """See Gymnasium."""
        self.agents_env.close()

    def _begin(self, observations: Mapping[str, Any]) -> dict[str, np.ndarray]:
        self._living = set(observations)
        return self._observe(observations, self._living)

    def _check_all_act(self, acting: set[str], living: set[str]) -> None:
        if waiting := living - acting:
            raise ConfigError(
                f"env.agents.team: every agent must act in every step; here {min(waiting)!r} waits while "
                f"{', '.join(sorted(acting)) or 'nobody'} acts."
            )

    def _observe(self, observations: Mapping[str, Any], alive: Collection[str]) -> dict[str, np.ndarray]:
        size, choices = len(self._flat), self._num_choices
        vectors = np.zeros((size, next(iter(self._flat.values())).size), np.float32)
        lives, masks = np.zeros(size, np.int8), np.ones((size, choices), np.int8)
        for index, name in enumerate(self.agents_env.agents):
            if name not in alive:
                continue
            vectors[index] = self._flat[name](observations[name])
            lives[index] = 1
            if choices:
                masks[index] = self._mask(name, observations[name][MASK])
        found: dict[str, np.ndarray] = {OBSERVATION: vectors, ALIVE: lives}
        if choices:
            found[MASK] = masks.reshape(-1)
        if self._state:
            found[STATE] = self.agents_env.state()
        return found

    def _mask(self, name: str, mask: Any) -> np.ndarray:
        """What an agent may do, bool [n]; everything where it may do nothing, but is not to act either."""
        allowed = np.ravel(mask) != 0
        if allowed.size != self._num_choices or (name in self._living and not allowed.any()):
            raise EnvironmentFault(
                f"agent {name!r} must have an {MASK!r} of {self._num_choices} numbers that allows an action; it has "
                f"{allowed.astype(int).tolist()}.",
                "protocol",
            )
        return allowed if allowed.any() else ~allowed

    def _restore(self, directory: str | os.PathLike[str]) -> dict[str, np.ndarray]:
        return self._begin(self.agents_env.restore(directory))  # type: ignore[attr-defined]


def _joined(space: gymnasium.Space, size: int) -> spaces.MultiDiscrete | spaces.Box:
    """The actions of ``size`` agents together."""
    if isinstance(space, spaces.Discrete):
        return spaces.MultiDiscrete(np.full(size, space.n), start=np.full(size, space.start))
    if isinstance(space, spaces.Box):
        low, high = (np.broadcast_to(bound, (size, *space.shape)).copy() for bound in (space.low, space.high))
        return spaces.Box(low, high, dtype=space.dtype.type)  # type: ignore[union-attr, arg-type]
    raise ConfigError(f"env.agents.team: agents' actions must be Discrete or Box; they are {space}.")
