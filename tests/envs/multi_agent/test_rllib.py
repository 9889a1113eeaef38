"""RLlib's multi-agent environments, its own examples among them, in the form that hosts drive."""

from __future__ import annotations

import numpy as np
import pytest
from gymnasium import spaces
from ray.rllib.env.multi_agent_env import MultiAgentEnv

from distrl.core.errors import ConfigError, EnvironmentFault
from distrl.core.types import EnvRecipe
from distrl.envs.multi_agent.rllib import FromRLlib
from distrl.envs.resolve import make
from tests.fakes.joint import Randomly

_GAMES = "ray.rllib.examples.envs.classes.multi_agent"
NOBODY = {"__all__": False}


class Relay(MultiAgentEnv):
    """Plays back a list of what reset (two entries) and then each step return, and keeps the actions."""

    def __init__(self, config):
        super().__init__()
        self.possible_agents = ["a", "b", "c"]
        self.observation_spaces = {agent: spaces.Discrete(10) for agent in self.possible_agents}
        self.action_spaces = {agent: spaces.Discrete(3) for agent in self.possible_agents}
        self.script, self.given = config["script"], []

    def reset(self, *, seed=None, options=None):
        self.seed, self.left = seed, list(self.script)
        return self.left.pop(0)

    def step(self, action_dict):
        self.given.append(action_dict)
        return self.left.pop(0)


def test_who_has_an_observation_acts_and_the_flag_of_all_ends_those_who_have_begun():
    script = [
        ({"a": 0}, {}),
        ({"b": 1}, {"a": 1.0}, NOBODY, NOBODY, {"a": {"x": 1}, "__common__": {"round": 1}}),
        ({"a": 2, "b": 2}, {"a": 0.0, "b": 2.0}, NOBODY, NOBODY, {}),
        ({"a": 3}, {"b": -1.0}, {"b": True, **NOBODY}, NOBODY, {}),  # b ends without an observation
        ({"c": 4}, {"a": 5.0}, NOBODY, {"__all__": True}, {}),  # c has never begun, a sees no more
    ]
    env = FromRLlib(Relay({"script": script}))
    assert env.reset(seed=7) == {"a": 0}
    assert env.env.seed == 7
    step = env.step({"a": 1})
    assert (step.observations, step.rewards, step.info) == ({"b": 1}, {"a": 1.0}, {"a/x": 1, "round": 1})
    assert env.step({"b": 0}).observations == {"a": 2, "b": 2}
    step = env.step({"a": 0, "b": 0})
    assert (step.observations, step.terminated, step.truncated) == ({"a": 3, "b": 2}, {"b"}, set())
    step = env.step({"a": 2})
    assert (step.observations, step.terminated, step.truncated) == ({"a": 3}, set(), {"a"})
    assert env.env.given[1] == {"b": 0}


@pytest.mark.parametrize(
    ("result", "text"),
    [
        (({"z": 1}, {}, NOBODY, NOBODY, {}), "step returned observations of agent 'z', which is none of a, b, c"),
        (({"a": 1}, {"z": 1.0}, NOBODY, NOBODY, {}), "step returned rewards of agent 'z'"),
        (({"a": 1}, {}, {"z": True, **NOBODY}, NOBODY, {}), "step returned terminateds of agent 'z'"),
        (({"a": 1}, {}, NOBODY, {"z": True}, {}), "step returned truncateds of agent 'z'"),
        (({}, {}, NOBODY, NOBODY, {}), "or \"__all__\": agent 'a' lives, but nobody acts"),
    ],
)
def test_faults_name_the_agent(result, text):
    env = FromRLlib(Relay({"script": [({"a": 0}, {}), result]}))
    env.reset()
    with pytest.raises(EnvironmentFault, match=text):
        env.step({"a": 0})


def test_who_has_ended_must_not_come_back():
    ends = ({"b": 1}, {}, {"a": True, **NOBODY}, NOBODY, {})
    env = FromRLlib(Relay({"script": [({"a": 0, "b": 0}, {}), ends, ({"a": 1}, {}, NOBODY, NOBODY, {})]}))
    env.reset()
    env.step({"a": 0, "b": 0})
    with pytest.raises(EnvironmentFault, match="agent 'a' has ended; it must not come back"):
        env.step({"b": 0})


def test_an_agent_without_a_space():
    relay = Relay({"script": []})
    del relay.action_spaces["c"]
    with pytest.raises(ConfigError, match="Relay must have a Gymnasium action space for agent 'c'; it has None"):
        FromRLlib(relay)


@pytest.mark.parametrize("game", ["tic_tac_toe:TicTacToe", "rock_paper_scissors:RockPaperScissors"])
def test_rllibs_own_examples_by_import_path(game):
    env = make(EnvRecipe(f"{_GAMES}.{game}", {"config": {}}))
    assert len(env.agent_specs) == 2
    ends = 0
    observation, _ = env.reset(seed=0)
    act = Randomly(env)
    for _ in range(200):
        observation, reward, terminated, truncated, _ = env.step(act(observation))
        assert np.isfinite(reward)
        if terminated or truncated:
            ends += 1
            observation, _ = env.reset(seed=ends)
    assert ends >= 6
