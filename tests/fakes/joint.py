"""What stands in for policies in environments of several agents."""

from distrl.core.joint import RandomAgents
from distrl.envs.checks import flatten_observation


class Randomly:
    """Random joint actions for a JointEnv, the same in every run of a test."""

    def __init__(self, env, seed=0):
        self._agents, self._space = RandomAgents(env.agent_specs, seed), env.observation_space

    def __call__(self, observation):
        return self._agents.act(flatten_observation(self._space, observation))
