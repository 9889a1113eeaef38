"""A team as one agent, global states, and time limits around environments of several agents."""

from __future__ import annotations

import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env

from distrl.core.errors import ConfigError, EnvironmentFault
from distrl.core.spaces import random_action
from distrl.core.types import EnvRecipe
from distrl.envs.multi_agent.adapt import agents_env_of, hosted
from distrl.envs.multi_agent.joint import JointEnv
from distrl.envs.multi_agent.pettingzoo import FromAEC, FromParallel
from distrl.envs.multi_agent.team import TeamEnv
from distrl.envs.multi_agent.wrappers import EpisodeLimit, JointState, WithIdentity, WithState
from distrl.envs.resolve import make, spec_of
from tests.fakes.agents import Continued, Masked, Played, Turns
from tests.fakes.joint import Randomly

SPREAD = EnvRecipe("mpe2.simple_spread_v3", {"max_cycles": 5}, agents={"team": True, "state": "env"})


def team(script, names="ab", *, state=False, reward="sum", **kwargs) -> TeamEnv:
    """A team that plays a script."""
    return TeamEnv(FromParallel(Played(list(names), script, **kwargs)), state=state, reward=reward)


@pytest.mark.filterwarnings("ignore:.*Box observation space")  # Gymnasium thinks infinite bounds a mistake
def test_a_team_is_one_row():
    env = make(SPREAD)
    assert isinstance(env, TeamEnv)
    spec = spec_of(env, SPREAD)
    assert (spec.agents, spec.max_episode_steps, env.action_space) == ((), 5, spaces.MultiDiscrete([5, 5, 5]))
    observation, _ = env.reset(seed=1)
    assert {name: array.shape for name, array in observation.items()} == {
        "observation": (3, 18),
        "alive": (3,),
        "state": (54,),
    }
    assert np.array_equal(observation["state"].reshape(3, 18), observation["observation"])  # what mpe2's state is
    ends = [env.step(random_action(env.action_space, observation))[2:4] for _ in range(5)]
    assert ends == [(False, False)] * 4 + [(False, True)]
    check_env(make(SPREAD), skip_render_check=True)
    continuous = EnvRecipe(SPREAD.id, {"continuous_actions": True}, agents={"team": True})
    assert make(continuous).action_space == spaces.Box(0, 1, (3, 5), np.float32)
    check_env(make(continuous), skip_render_check=True)


def test_the_dead_are_zero_and_do_not_act():
    env = team([{}, {"alive": ["b"], "terminated": {"a": True}, "rewards": {"a": 1.0, "b": 2.0}}, {"alive": []}])
    observation, _ = env.reset()
    assert observation["observation"].tolist() == [[0, 0], [1, 0]]
    assert observation["alive"].tolist() == [1, 1]
    observation, reward, terminated, truncated, _ = env.step(np.array([2, 1]))
    assert (reward, terminated, truncated) == (3.0, False, False)
    assert observation["observation"].tolist() == [[0, 0], [1, 1]]
    assert observation["alive"].tolist() == [0, 1]
    observation, _, terminated, truncated, _ = env.step(np.array([2, 0]))
    assert env.agents_env.env.given == [{"a": 2, "b": 1}, {"b": 0}]
    assert (terminated, truncated) == (False, True)  # b was cut: its value is to be bootstrapped from what it sees
    assert observation["observation"].tolist() == [[0, 0], [1, 2]]
    assert observation["alive"].tolist() == [0, 1]


def test_a_shared_reward_counts_once():
    env = team([{}, {"rewards": {"a": 4.0, "b": 4.0}}], reward="mean")
    env.reset()
    assert env.step(np.zeros(2, int))[1] == 4.0


def test_masks_side_by_side_and_all_allowed_to_the_dead():
    script = [{}, {"alive": ["b"], "terminated": {"a": True}}]
    env = TeamEnv(FromParallel(Masked(["a", "b"], script)))
    observation, _ = env.reset()
    assert observation["action_mask"].tolist() == [0, 1, 1, 0, 1, 1]
    assert env.observation_space.contains(observation)
    observation, *_ = env.step(random_action(env.action_space, observation))
    assert observation["action_mask"].tolist() == [1, 1, 1, 1, 0, 1]
    env.agents_env.env.observe = lambda agent: {"observation": np.zeros(2), "action_mask": np.zeros(3)}
    with pytest.raises(
        EnvironmentFault, match="agent 'a' must have an 'action_mask' of 3 numbers that allows an action"
    ):
        env.reset()


def test_discrete_observations_are_one_hot():
    pair = spaces.Dict({"card": spaces.Discrete(3, start=1), "wind": spaces.Box(-1, 1, (2,))})
    env = team([{}], observation_spaces={"a": pair, "b": pair})
    env.agents_env.env.observe = lambda agent: {"card": 1 + (agent == "b"), "wind": [0.5, 0.25]}
    assert env.reset()[0]["observation"].tolist() == [[1, 0, 0, 0.5, 0.25], [0, 1, 0, 0.5, 0.25]]
    env.agents_env.env.observe = lambda agent: {"card": 4, "wind": [0.5, 0.25]}
    with pytest.raises(EnvironmentFault, match="agent 'a': the environment must return an observation 'card'"):
        env.reset()


def test_what_cannot_be_a_team():
    with pytest.raises(ConfigError, match=r"all agents must have equal spaces, but 'a' has .*Discrete\(3\), 'c' has"):
        team([{}], "abc", action_spaces={"c": spaces.Discrete(4)})
    with pytest.raises(ConfigError, match="actions must be Discrete or Box"):
        team([{}], action_spaces=dict.fromkeys("ab", spaces.MultiBinary(2)))
    with pytest.raises(ConfigError, match="needs an environment with a state_space"):
        team([{}], state=True)
    env = TeamEnv(FromAEC(Turns()))
    env.reset()
    with pytest.raises(ConfigError, match="every agent must act in every step; here 'a' waits while b acts"):
        env.step(np.ones(3, int))


def test_a_team_continues_from_a_snapshot(tmp_path):
    env = make(EnvRecipe("tests.fakes.agents:Continued", {"names": ["a", "b"], "length": 4}, agents={"team": True}))
    env.reset(seed=0)
    before = env.step(np.array([1, 2]))[0]
    env.snapshot(tmp_path)
    told = env.step(np.array([0, 1]))
    other = make(EnvRecipe("tests.fakes.agents:Continued", {"names": ["a", "b"], "length": 4}, agents={"team": True}))
    restored = other.restore(tmp_path)
    assert all(np.array_equal(restored[name], before[name]) for name in before)
    again = other.step(np.array([0, 1]))
    assert np.array_equal(again[0]["observation"], told[0]["observation"])


def test_a_time_limit_cuts_everyone_who_lives():
    env = EpisodeLimit(FromParallel(Played(["a", "b"], [{}, {"alive": ["b"], "terminated": {"a": True}}, {}])), 2)
    assert env.max_episode_steps == 2
    env.reset()
    step = env.step({"a": 0, "b": 0})
    assert (step.terminated, step.truncated) == ({"a"}, set())
    env.env.env.script[2]["alive"] = ["b"]
    step = env.step({"b": 0})
    assert (set(step.terminated), set(step.truncated), set(step.observations)) == (set(), {"b"}, {"b"})


def test_a_time_limit_shows_who_waits_what_it_saw_last():
    env = EpisodeLimit(FromAEC(Turns()), 2)
    env.reset()
    env.step({"a": 1})
    step = env.step({"b": 1})
    assert set(step.truncated) == {"a", "b", "c"}
    assert {name: int(observation[1]) for name, observation in step.observations.items()} == {"a": 0, "b": 1, "c": 2}
    limited = make(EnvRecipe("pettingzoo.classic.tictactoe_v3", max_episode_steps=3))
    observation, _ = limited.reset(seed=0)
    act = Randomly(limited)
    for _ in range(3):
        observation, _, terminated, truncated, _ = limited.step(act(observation))
    assert (terminated, truncated) == (False, True)


def test_a_joint_state_has_zeros_for_the_absent():
    script = [{"alive": "ac"}, {}, {"alive": "bc", "terminated": {"a": True}}, {"alive": "bc"}]
    env = JointState(FromParallel(Played(list("abc"), script)))
    assert env.state_space.shape == (6,)
    env.reset()
    assert env.state().tolist() == [0, 0, 0, 0, 2, 0]
    env.step({"a": 0, "c": 0})
    assert env.state().tolist() == [0, 1, 1, 1, 2, 1]
    env.step(dict.fromkeys("abc", 0))
    assert env.state().tolist() == [0, 2, 1, 2, 2, 2]  # a's last observation belongs to this step
    env.step(dict.fromkeys("bc", 0))
    assert env.state().tolist() == [0, 0, 1, 3, 2, 3]


def test_the_state_beside_each_observation():
    env = WithState(FromParallel(Played(["a", "b"], [{}, {"alive": ["a"]}], shared_state=True)))
    assert set(env.observation_spaces["a"].spaces) == {"observation", "state"}
    env.reset()
    seen = env.step({"a": 0, "b": 0}).observations
    assert {name: (o["observation"].tolist(), o["state"].tolist()) for name, o in seen.items()} == {
        "a": ([0, 1], [1, 1]),
        "b": ([1, 1], [1, 1]),
    }
    masked = WithState(JointState(FromParallel(Masked(["a", "b"], [{}]))))
    assert set(masked.reset()["a"]) == {"observation", "action_mask", "state"}
    assert masked.state_space.shape == (4,)  # without the masks
    with pytest.raises(ConfigError, match="agent 'a' has an entry 'state' in its observation already"):
        WithState(JointState(masked))


def test_which_agent_it_is_beside_each_observation(tmp_path):
    recipe = EnvRecipe(
        "tests.fakes.agents:Continued", {"names": ["a", "b"], "length": 3}, agents={"identity": True, "state": "joint"}
    )
    env = make(recipe).agents_env
    assert env.observation_spaces["b"]["agent"] == spaces.Box(0, 1, (2,), np.float32)
    seen = env.reset(0)
    assert {name: o["agent"].tolist() for name, o in seen.items()} == {"a": [1, 0], "b": [0, 1]}
    assert seen["b"]["state"].tolist() == [*seen["a"]["observation"], *seen["b"]["observation"]]  # is no part of it
    env.snapshot(tmp_path)
    last = env.step({"a": 1, "b": 1}).observations
    assert last["b"]["agent"].tolist() == [0, 1]
    assert make(recipe).agents_env.restore(tmp_path)["b"]["agent"].tolist() == [0, 1]

    masked = WithIdentity(FromParallel(Masked(["a", "b"], [{}])))
    assert set(masked.reset()["a"]) == {"observation", "action_mask", "agent"}
    with pytest.raises(ConfigError, match="identity: agent 'a' has an entry 'agent' in its observation already"):
        WithIdentity(masked)


def test_options_of_a_recipe(tmp_path):
    played = {"names": ["a", "b"], "length": 3}
    recipe = EnvRecipe("tests.fakes.agents:Continued", played, agents={"state": "joint"}, max_episode_steps=2)
    env = make(recipe)
    assert isinstance(env, JointEnv)
    assert set(env.agent_specs[0].observation_space.spaces) == {"observation", "state"}
    env.reset(seed=0)
    env.step(np.ones(2))
    env.snapshot(tmp_path)
    ends = env.step(np.ones(2))[2:4]
    other = make(recipe)
    other.restore(tmp_path)
    assert other.step(np.ones(2))[2:4] == ends == (False, True)  # the limit counts on

    env = make(EnvRecipe("mpe2.simple_spread_v3", agents={"state": "env"}, delay={"median_s": 0.0}))
    assert env.unwrapped.agent_specs[0].observation_space["state"].shape == (54,)


@pytest.mark.parametrize(
    ("agents", "text"),
    [
        ({"states": "env"}, "env.agents takes state, identity, team, reward; not 'states'"),
        ({"state": "global"}, "env.agents.state must be one of none, env, joint; it is 'global'"),
        ({"state": "env"}, 'env.agents.state = "env" needs an environment with a state_space'),
        ({"reward": "mean"}, "env.agents.reward is the team's"),
        ({"identity": True, "team": True}, r"a team's algorithms tell its agents apart by algorithm\.agent_id"),
    ],
)
def test_wrong_options(agents, text):
    with pytest.raises(ConfigError, match=text):
        hosted(FromParallel(Played(["a"], [{}])), EnvRecipe("x", agents=agents))


def test_who_has_one_agent_has_no_options_of_several():
    with pytest.raises(ConfigError, match=r"env\.agents: Pendulum-v1 is an environment of one agent"):
        make(EnvRecipe("Pendulum-v1", agents={"team": True}))
    assert agents_env_of(make(EnvRecipe("Pendulum-v1"))) is None
    own = FromParallel(Continued(["a"], 1))
    assert agents_env_of(own) is own
