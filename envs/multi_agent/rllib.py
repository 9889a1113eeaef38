"""RLlib's ``MultiAgentEnv`` goes in, an AgentsEnv comes out; RLlib itself is not imported here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from distrl.core.errors import EnvironmentFault
from distrl.envs.multi_agent.adapted import Adapted
from distrl.envs.multi_agent.agents_env import AgentsStep

_ALL = "__all__"  # flag of the whole episode


class FromRLlib(Adapted):
    """A ``ray.rllib.env.multi_agent_env.MultiAgentEnv``: those whose observation comes act next.

    An agent begins with its first observation. It ends by its own flag, or by "__all__", which ends everyone who has
    begun, as terminated where it is terminateds' and as truncated where it is truncateds'; its last observation is the
    one of that step, and where there is none, the newest that it had given. Who ends with its first observation has
    never begun. ``env.agents`` is not looked at: it may say anything.
    """

    def __init__(self, env: Any):
        ids = env.possible_agents or (env.observation_spaces or {})
        super().__init__(env, ids, env.get_observation_space, env.get_action_space)

    def reset(self, seed: int | None = None) -> Mapping[str, Any]:
        """The observations of those who act first."""
        observations, _ = self.env.reset(seed=seed)
        observations = self._named(observations, "observations", "reset")
        return self._begin(list(observations), observations, observations)

    def step(self, actions: Mapping[str, Any]) -> AgentsStep:
        """See AgentsEnv.

        Raises:
            EnvironmentFault: observations, rewards or flags of an agent that is not in ``possible_agents``, one that
                comes back, or nobody who acts next while someone lives.
        """
        result = self.env.step({self._ids[name]: action for name, action in actions.items()})
        observations, rewards, terminateds, truncateds, infos = result
        observations, rewards = self._named(observations, "observations"), self._named(rewards, "rewards")
        terminated, all_terminated = self._flagged(terminateds, "terminateds")
        truncated, all_truncated = self._flagged(truncateds, "truncateds")
        living = self._living - terminated - truncated
        if all_terminated or all_truncated:
            (terminated if all_terminated else truncated).update(living)
            acting, living = [], set()
        else:
            acting = [name for name in observations if name not in terminated and name not in truncated]
            living = living.union(acting)
        if living and not acting:
            raise EnvironmentFault(
                f'step must give an observation of someone who acts next, or "__all__": agent {min(living)!r} lives, '
                "but nobody acts.",
                "protocol",
            )
        terminated &= self._living
        truncated &= self._living
        return self._went_on(acting, living, observations, rewards, terminated, truncated, self._info(infos))

    def _flagged(self, flags: Any, what: str) -> tuple[set[str], bool]:
        """Those who end, and whether all do."""
        whole = bool(flags.get(_ALL))
        named = self._named({agent: flag for agent, flag in flags.items() if agent != _ALL}, what)
        return {name for name, flag in named.items() if flag}, whole
