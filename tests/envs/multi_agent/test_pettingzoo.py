"""PettingZoo's environments in one form: who acts, who has ended, what everyone saw last, and who got it wrong."""

from __future__ import annotations

import sys
from importlib import import_module

import numpy as np
import pytest
from gymnasium import spaces

from distrl.core.errors import ConfigError, EnvironmentFault
from distrl.core.types import EnvRecipe
from distrl.envs.describe import describe
from distrl.envs.multi_agent.joint import JointEnv
from distrl.envs.multi_agent.pettingzoo import FromAEC, FromCycles, FromParallel
from distrl.envs.resolve import make
from tests.fakes.agents import Continued, Masked, Played, Turns
from tests.fakes.joint import Randomly


def steps_of(observations) -> dict[str, int]:
    """Name → the step that its observation is of."""
    return {name: int(observation[1]) for name, observation in observations.items()}


def test_agents_appear_leave_and_end_with_the_newest_observation_they_gave():
    script = [
        {"alive": ["a", "b"]},
        {"alive": ["a", "b", "c"], "rewards": {"a": 1.0, "b": 2.0}},  # c appears
        {"alive": ["a", "c"], "seen": ["a", "c"], "rewards": {"b": 3.0}},  # b is gone without a word
        {"alive": ["c"], "terminated": {"a": True, "c": False}},  # a ends by the rules, with an observation
        {"alive": ["c"], "truncated": {"c": True}},  # c is cut, though it is still listed
    ]
    env = FromParallel(Played(["a", "b", "c"], script))
    assert env.agents == ("a", "b", "c")
    act = dict.fromkeys
    assert steps_of(env.reset(seed=1)) == {"a": 0, "b": 0}
    step = env.step(act("ab", 1))
    assert (steps_of(step.observations), dict(step.rewards)) == ({"a": 1, "b": 1, "c": 1}, {"a": 1.0, "b": 2.0})
    step = env.step(act("abc", 1))
    assert (step.terminated, step.truncated) == (set(), {"b"})
    assert steps_of(step.observations) == {"a": 2, "c": 2, "b": 1}
    assert step.rewards["b"] == 3.0
    step = env.step(act("ac", 1))
    assert (step.terminated, step.truncated, steps_of(step.observations)) == ({"a"}, set(), {"c": 3, "a": 3})
    step = env.step(act("c", 1))
    assert (step.terminated, step.truncated, steps_of(step.observations)) == (set(), {"c"}, {"c": 4})


def test_when_nobody_is_left_all_have_ended():
    env = FromParallel(Played(["a", "b"], [{}, {"alive": [], "seen": [], "terminated": {"a": True}}]))
    env.reset()
    step = env.step({"a": 0, "b": 0})
    assert (step.terminated, step.truncated, steps_of(step.observations)) == ({"a"}, {"b"}, {"a": 0, "b": 0})


def test_names_of_agents_are_strings_and_ids_go_back():
    env = FromParallel(Played([0, 1], [{}, {"rewards": {0: 1.0}, "infos": {1: {"x": 5}, "common": {"all": 7}}}]))
    assert set(env.reset()) == {"0", "1"} == set(env.agents)
    step = env.step({"0": 2, "1": 1})
    assert env.env.given == [{0: 2, 1: 1}]
    assert (step.rewards, step.info) == ({"0": 1.0}, {"1/x": 5, "all": 7})


@pytest.mark.parametrize(
    ("now", "text"),
    [
        ({"seen": ["a", "b", "z"]}, "step returned observations of agent 'z', which is none of a, b"),
        ({"rewards": {"z": 1.0}}, "step returned rewards of agent 'z', which is none of a, b"),
        ({"terminated": {"z": False}}, "step returned terminations of agent 'z'"),
        ({"truncated": {"z": True}}, "step returned truncations of agent 'z'"),
        ({"alive": ["a", "z"]}, "step returned the name of agent 'z'"),
        ({"seen": ["a"]}, "step gave no observation of agent 'b', which is to act"),
        ({"rewards": [1.0]}, "step must return rewards as a dict by agent; they are a list"),
    ],
)
def test_faults_of_a_step_name_the_agent(now, text):
    env = FromParallel(Played(["a", "b"], [{}, now]))
    env.reset()
    with pytest.raises(EnvironmentFault, match=text) as caught:
        env.step({"a": 0, "b": 0})
    assert caught.value.kind == "protocol"


def test_who_has_ended_must_not_come_back():
    env = FromParallel(Played(["a", "b"], [{}, {"terminated": {"a": True}}, {}]))
    env.reset()
    assert env.step({"a": 0, "b": 0}).terminated == {"a"}  # still in env.agents: the environment has to see to it
    with pytest.raises(EnvironmentFault, match="agent 'a' has ended; it must not come back"):
        env.step({"b": 0})


def test_faults_of_reset_and_of_the_constructor():
    with pytest.raises(EnvironmentFault, match="reset gave no observation of agent 'b'"):
        FromParallel(Played(["a", "b"], [{"seen": ["a"]}])).reset()
    with pytest.raises(ConfigError, match="by unique names; it is \\['1', 1\\]"):
        FromParallel(Played(["1", 1], []))
    with pytest.raises(ConfigError, match="a Gymnasium action space for agent 'a'; it has 3"):
        FromParallel(Played(["a"], [], action_spaces={"a": 3}))


def test_state_where_there_is_one():
    env = FromParallel(Played(["a", "b"], [{}, {"alive": ["a"]}], shared_state=True))
    assert env.state_space.shape == (2,)
    env.reset()
    env.step({"a": 0, "b": 0})
    assert env.state().tolist() == [1, 1]
    assert FromParallel(Played(["a"], [{}])).state_space is None  # state() alone does not say what it gives


def test_different_spaces_and_masks_pass_as_they_are():
    image, force = spaces.Box(0, 255, (4, 4), np.uint8), spaces.Box(-1, 1, (2,), np.float32)
    env = FromParallel(Played(["a", "b"], [{}], observation_spaces={"b": image}, action_spaces={"b": force}))
    assert (env.observation_spaces["b"], env.action_spaces["b"], env.action_spaces["a"]) == (
        image,
        force,
        spaces.Discrete(3),
    )
    observations = FromParallel(Masked(["a", "b"], [{}])).reset()
    assert observations["b"]["action_mask"].tolist() == [0, 1, 1]


def test_continues_from_a_snapshot(tmp_path):
    def play(env, observations, steps):
        seen = []
        for t in range(steps):
            step = env.step({name: (t + len(name)) % 3 for name in observations})
            observations = {n: o for n, o in step.observations.items() if n not in step.truncated}
            seen.append({name: observation.tolist() for name, observation in step.observations.items()})
        return observations, seen

    env = FromParallel(Continued(["a", "bb"], 5))
    before, _ = play(env, env.reset(seed=3), 2)
    env.snapshot(tmp_path)
    _, told = play(env, before, 3)
    other = FromParallel(Continued(["a", "bb"], 5))
    restored = other.restore(tmp_path)
    assert {n: o.tolist() for n, o in restored.items()} == {n: o.tolist() for n, o in before.items()}
    assert play(other, restored, 3)[1] == told
    assert not hasattr(FromParallel(Played(["a"], [{}])), "snapshot")


def test_turns_and_what_others_earn_in_them():
    env = FromAEC(Turns())
    assert steps_of(env.reset(seed=0)) == {"a": 0}
    step = env.step({"a": 2})
    assert (steps_of(step.observations), dict(step.rewards)) == ({"b": 1}, {"a": 0, "b": 2, "c": 2})
    assert step.info == {"a/t": 1, "b/t": 1, "c/t": 1}


@pytest.mark.parametrize("last_turns", ["at once", "in order", "never"])
def test_everyone_ends_once_with_an_observation_and_all_rewards(last_turns):
    env = FromAEC(Turns(last_turns=last_turns))
    observations, ended, earned, last = env.reset(), [], dict.fromkeys("abc", 0), {}
    for action in (1, 0, 2, 1, 0):  # a, b (ends), c, a, c (ends, which leaves a alone)
        step = env.step(dict.fromkeys(observations, action))
        for name, reward in step.rewards.items():
            earned[name] += reward
        over = [*step.terminated, *step.truncated]
        ended += over
        last.update({name: steps_of(step.observations)[name] for name in over})
        observations = {n: o for n, o in step.observations.items() if n not in over}
        assert len(observations) == (0 if len(ended) == 3 else 1)
    assert sorted(ended) == ["a", "b", "c"]
    assert not step.truncated
    # b's last turn comes at once or when it is b's turn again: until then it can earn what others give it
    assert earned == {"a": 2, "b": 1 + (last_turns == "in order") * 3, "c": 1 + 1}
    # who is gone without a last turn has seen last what it saw when it acted
    seen_by_b = {"at once": 2, "in order": 4, "never": 1}[last_turns]
    assert last == {"a": 5, "b": seen_by_b, "c": 4 if last_turns == "never" else 5}


@pytest.mark.parametrize("last_turns", ["at once", "in order"])
def test_rewards_are_those_that_pettingzoos_last_adds_up(last_turns):
    turns, actions, expected = Turns(last_turns=last_turns), iter((1, 0, 2, 1, 2, 1, 0)), dict.fromkeys("abc", 0)
    turns.reset()
    for agent in turns.agent_iter():
        _, reward, terminated, truncated, _ = turns.last()
        expected[agent] += reward
        turns.step(None if terminated or truncated else next(actions))
    env, earned = FromAEC(Turns(last_turns=last_turns)), dict.fromkeys("abc", 0)
    observations = env.reset()
    for action in (1, 0, 2, 1, 2, 1, 0):
        step = env.step(dict.fromkeys(observations, action))
        observations = {n: o for n, o in step.observations.items() if n not in {*step.terminated, *step.truncated}}
        earned = {name: earned[name] + step.rewards.get(name, 0) for name in earned}
    assert not observations
    assert earned == expected


def test_truncation_of_all_and_who_waits_sees_the_end():
    env = FromAEC(Turns(length=2))
    env.reset()
    env.step({"a": 1})
    step = env.step({"b": 1})
    assert (step.terminated, step.truncated) == (set(), {"a", "b", "c"})
    assert steps_of(step.observations) == {"a": 2, "b": 2, "c": 2}


def test_an_aec_agent_that_is_unknown_or_stays():
    turns = Turns(last_turns="in order")
    env = FromAEC(turns)
    turns.possible_agents.append("z")
    with pytest.raises(EnvironmentFault, match="reset returned the name of agent 'z', which is none of a, b, c"):
        env.reset()
    turns.possible_agents.pop()
    env.reset()
    turns._was_dead_step = lambda action: None
    env.step({"a": 0})
    with pytest.raises(EnvironmentFault, match=r"agent 'c' must leave env.agents with its step\(None\)"):
        env.step({"b": 0})


def play(env, episodes: int) -> tuple[list[float], int]:
    """Random episodes of a hosted environment: their returns, and how many steps they took."""
    returns, steps = [], 0
    act = Randomly(env)
    for seed in range(episodes):
        observation, over, total = env.reset(seed=seed)[0], False, 0.0
        while not over:
            observation, reward, terminated, truncated, _ = env.step(act(observation))
            over, total, steps = terminated or truncated, total + reward, steps + 1
        returns.append(total)
    return returns, steps


def test_simple_spread_as_its_own_parallel_environment_and_in_turns():
    recipe = EnvRecipe("mpe2.simple_spread_v3", {"max_cycles": 7, "N": 2})
    env = make(recipe)
    assert isinstance(env, JointEnv)
    assert env.max_episode_steps == 7
    assert play(env, 2)[1] == 14
    in_turns = make(EnvRecipe("mpe2.simple_spread_v3:env", {"max_cycles": 7, "N": 2}))
    assert play(in_turns, 2)[1] == 28  # an env step each turn
    spec = describe(recipe)
    assert [agent.name for agent in spec.agents] == ["agent_0", "agent_1"]
    assert spec.agents[0].observation_space.shape == (12,)


@pytest.mark.parametrize("game", ["tictactoe_v3", "connect_four_v3"])
def test_board_games_with_masks(game):
    env = make(EnvRecipe(f"pettingzoo.classic.{game}"))
    returns, steps = play(env, 20)
    assert set(returns) == {0.0}  # one's loss is the other's gain, and no move was illegal
    assert steps >= 20 * (5 if game == "tictactoe_v3" else 7)


@pytest.mark.parametrize(
    "module",
    ["mpe2.simple_spread_v3", "pettingzoo.classic.rps_v2", "pettingzoo.butterfly.knights_archers_zombies_v11"],
)
def test_taking_turns_together_is_pettingzoos_parallel_form(module):
    converted = import_module(module).parallel_env(max_cycles=200)
    one, other = FromParallel(converted), FromCycles(import_module(module).parallel_env(max_cycles=200).aec_env)
    assert one.max_episode_steps == other.max_episode_steps == 200
    generator = np.random.default_rng(0)
    seen, seen_too, steps = one.reset(seed=3), other.reset(seed=3), 0
    while seen:
        assert {n: o.tolist() for n, o in seen.items()} == {n: o.tolist() for n, o in seen_too.items()}
        actions = {name: int(generator.integers(one.action_spaces[name].n)) for name in seen}
        step, too = one.step(actions), other.step(actions)
        assert {n: r for n, r in step.rewards.items() if r} == {n: r for n, r in too.rewards.items() if r}
        assert (step.terminated, step.truncated) == (too.terminated, too.truncated)
        over = {*step.terminated, *step.truncated}
        assert all(np.array_equal(step.observations[name], too.observations[name]) for name in over)
        seen = {n: o for n, o in step.observations.items() if n not in over}
        seen_too = {n: o for n, o in too.observations.items() if n not in over}
        steps += 1
    assert steps > 50


def test_turns_that_do_not_cycle_are_no_simultaneous_game():
    env = FromCycles(Turns())
    env.reset()
    env.env._next = lambda agent: "c"
    with pytest.raises(EnvironmentFault, match="it must be that of agent 'b', but it is that of 'c'"):
        env.step(dict.fromkeys("abc", 1))


def test_knights_and_archers_fall_one_by_one():
    env = make(EnvRecipe("pettingzoo.butterfly.knights_archers_zombies_v11", {"max_cycles": 300}))
    observation, _ = env.reset(seed=1)
    ended, moments, over = np.zeros(4, int), 0, False
    act = Randomly(env)
    while not over:
        was_asked = observation["asks"].astype(bool)
        observation, _, terminated, truncated, _ = env.step(act(observation))
        now = observation["ended"] > 0
        assert not (now & ~was_asked).any()
        ended, moments, over = ended + now, moments + now.any(), terminated or truncated
    assert ended.tolist() == [1, 1, 1, 1]
    assert moments > 1


def test_what_is_missing_is_named(monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "mpe2"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pygame", None)
    with pytest.raises(ConfigError, match=r"simple_tag_v3.*pip install 'distrl\[multi-agent\]'"):
        make(EnvRecipe("mpe2.simple_tag_v3"))


def test_simultaneous_game_of_a_classic_module():
    env = make(EnvRecipe("pettingzoo.classic.rps_v2", {"max_cycles": 4}))
    assert play(env, 3)[1] == 12  # both at once: the module has parallel_env
