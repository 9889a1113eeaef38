"""PettingZoo's two forms of an environment go in, an AgentsEnv each comes out; PettingZoo itself is not imported here.

Observations with masks (a Dict of "observation" and "action_mask", as classic games have them) pass as they are. A mask
in an agent's ``infos`` is no part of its observation, so nothing that learns from observations could know of it: such
an environment must put it there itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from distrl.core.errors import EnvironmentFault
from distrl.envs.multi_agent.adapted import Adapted
from distrl.envs.multi_agent.agents_env import AgentsStep


class FromParallel(Adapted):
    """A ``pettingzoo.ParallelEnv``: whoever lives after a step acts next.

    Those who live are in ``env.agents``; they may appear at any step. An agent whose termination or truncation is true
    has ended, whether it is still listed or not. One that leaves ``env.agents`` without either is truncated. Its last
    observation is the one of that step, and where there is none, the newest that it had given. So when ``env.agents``
    is empty, everyone has ended.
    """

    def __init__(self, env: Any):
        super().__init__(env, getattr(env, "possible_agents", ()), env.observation_space, env.action_space)
        self.max_episode_steps = _limit_of(env)

    def reset(self, seed: int | None = None) -> Mapping[str, Any]:
        """The observations of those who begin."""
        observations, _ = self.env.reset(seed=seed)
        living = self._listed("reset", self.env.agents)
        return self._begin(living, living, self._named(observations, "observations", "reset"))

    def step(self, actions: Mapping[str, Any]) -> AgentsStep:
        """See AgentsEnv.

        Raises:
            EnvironmentFault: observations, rewards or flags of an agent that is not in ``possible_agents``, an agent
                without an observation, or one that comes back.
        """
        result = self.env.step({self._ids[name]: action for name, action in actions.items()})
        observations, rewards, terminations, truncations, infos = result
        listed = self._listed("step", self.env.agents)
        terminated = {name for name, flag in self._named(terminations, "terminations").items() if flag}
        truncated = {name for name, flag in self._named(truncations, "truncations").items() if flag}
        acting = [name for name in listed if name not in terminated and name not in truncated]
        truncated |= self._living.difference(listed, terminated)
        terminated &= self._living
        truncated &= self._living
        observations, rewards = self._named(observations, "observations"), self._named(rewards, "rewards")
        return self._went_on(acting, set(acting), observations, rewards, terminated, truncated, self._info(infos))


class FromAEC(Adapted):
    """A ``pettingzoo.AECEnv``: only ``env.agent_selection`` acts next.

    A step reports what everyone earned in it (``env.rewards``), whoever's turn it was. An agent whose termination or
    truncation is true has one more turn, in which it does nothing: that is taken here, and with it the agent has ended;
    its last observation is what ``env.observe`` shows it then. One that leaves ``env.agents`` without that turn has
    ended as well, truncated where nothing says that it terminated, with the newest observation that it had given.
    """

    def __init__(self, env: Any):
        if type(env).__name__ == "OrderEnforcingWrapper":  # checks the order of our calls, dearly
            env = env.env
        super().__init__(env, getattr(env, "possible_agents", ()), env.observation_space, env.action_space)

    def reset(self, seed: int | None = None) -> Mapping[str, Any]:
        """The observation of whoever begins."""
        self.env.reset(seed=seed)
        turns = self._dead_turns()
        if turns:
            raise EnvironmentFault(f"agent {next(iter(turns))!r} has ended already in reset.", "protocol")
        living = self._listed("reset", self.env.agents)
        acting = self._to_act("reset", living)
        return self._begin(acting, living, self._observed(acting))

    def step(self, actions: Mapping[str, Any]) -> AgentsStep:
        """See AgentsEnv.

        Raises:
            EnvironmentFault: an agent that is not in ``possible_agents``, or that comes back.
        """
        (action,) = actions.values()
        self.env.step(action)
        # a copy, before the turns that follow, which clear them
        return self._after(self._named(self.env.rewards, "rewards"))

    def _after(self, rewards: Mapping[str, float]) -> AgentsStep:
        env = self.env
        info = self._info(env.infos)
        turns = self._dead_turns()
        listed = self._listed("step", env.agents)
        gone = self._living.difference(listed, turns)
        terminated = {name for name, (_, flag) in turns.items() if flag}
        terminated |= {name for name in gone if env.terminations.get(self._ids[name])}
        truncated = (gone | turns.keys()) - terminated
        acting = self._to_act("step", listed)
        observations = {name: observation for name, (observation, _) in turns.items()}
        observations.update(self._observed(acting))
        return self._went_on(acting, set(listed), observations, rewards, terminated, truncated, info)

    def _to_act(self, where: str, living: list[str]) -> list[str]:
        """Who acts next, of those who live."""
        return self._listed(where, [self.env.agent_selection] if living else [])

    def _dead_turns(self) -> dict[str, tuple[Any, bool]]:
        """Take the turns of agents that have ended, until one that lives has it: name → last observation, whether it
        terminated."""
        env, turns = self.env, {}
        while env.agents and (env.terminations[env.agent_selection] or env.truncations[env.agent_selection]):
            agent = env.agent_selection
            (name,) = self._listed("step", [agent])
            if name in turns:
                raise EnvironmentFault(f"agent {name!r} must leave env.agents with its step(None).", "protocol")
            turns[name] = (env.observe(agent), bool(env.terminations[agent]))
            env.step(None)
        return turns

    def _observed(self, names: list[str]) -> dict[str, Any]:
        return {name: self.env.observe(self._ids[name]) for name in names}


class FromCycles(FromAEC):
    """A ``pettingzoo.AECEnv`` in which all who live take turns before anything happens (``is_parallelizable``): here
    they act together. The same as ``FromParallel`` of PettingZoo's ``aec_to_parallel``, without the observation that
    that makes before each action and throws away.
    """

    def __init__(self, env: Any):
        super().__init__(env)
        self.max_episode_steps = _limit_of(env)

    def step(self, actions: Mapping[str, Any]) -> AgentsStep:
        """See AgentsEnv.

        Raises:
            EnvironmentFault: as FromAEC; or it is another's turn than the next one's in ``env.agents``.
        """
        env = self.env
        rewards = dict.fromkeys(self._acting, 0.0)
        for name in self._acting:
            if env.agent_selection != self._ids[name]:
                raise EnvironmentFault(
                    f"turns must cycle in the order of env.agents: now it must be that of agent {name!r}, but it is "
                    f"that of {str(env.agent_selection)!r}.",
                    "protocol",
                )
            env.step(actions[name])
            for other, reward in self._named(env.rewards, "rewards").items():
                rewards[other] = rewards.get(other, 0.0) + reward
        return self._after(rewards)

    def _to_act(self, where: str, living: list[str]) -> list[str]:
        return living


def _limit_of(env: Any) -> int | None:
    limit = getattr(env.unwrapped, "max_cycles", None)  # PettingZoo's name for it
    return limit if isinstance(limit, int) else None
