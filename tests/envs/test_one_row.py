"""What exists only vectorised is also a single environment: one row of it, whatever its autoreset mode."""

from __future__ import annotations

import sys

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from distrl.core.errors import ConfigError, EnvironmentFault
from distrl.core.types import EnvRecipe
from distrl.envs.resolve import make, renderable, spec_of
from tests.fakes.vector_environments import MODES, counted_episode, fake_envpool

FAKES = "tests.fakes.vector_environments"


def episodes(env, actions):
    """Of four episodes the observations from reset to the last, the rewards, how it ended, and the last info."""
    found = []
    for _ in range(4):
        observations, rewards, over = [env.reset(seed=3)[0]], [], (False, False)
        while not any(over):
            observation, reward, *over, info = env.step(next(actions))
            observations.append(observation)
            rewards.append(reward)
        found.append((np.array(observations), rewards, over, info))
    return found


@pytest.mark.parametrize(
    ("name", "kwargs"),
    [
        *(("CountedVector", {"modes": (mode,)}) for mode in MODES),
        ("Native", {"mode": "SameStep"}),
        ("Native", {"mode": "Disabled"}),
    ],
)
def test_an_episodes_last_observation_is_its_own_whatever_the_autoreset_mode(name, kwargs):
    env = make(EnvRecipe(f"{FAKES}:{name}", kwargs))
    actions = iter(np.random.default_rng(0).uniform(-1, 1, (100, 1)).astype(np.float32))
    given_up = 1 if "SameStep" in str(kwargs) else 0  # the episode that the vector environment begins by itself
    episode = 0
    for observations, rewards, over, info in episodes(env, actions):
        length, terminates = counted_episode(0, episode)
        assert observations[:, 1].tolist() == [episode] * (length + 1)
        assert observations[:, 2].tolist() == list(range(length + 1))
        expected = np.float32(10 * episode) + observations[1:, 2] + observations[1:, 3]
        np.testing.assert_allclose(rewards, expected, rtol=1e-6)
        assert over == [terminates, not terminates]
        assert info == ({"length": length} if name == "CountedVector" else {})
        episode += 1 + given_up
    env.close()


@pytest.mark.parametrize("mode", MODES)
def test_nested_observations_are_copies_of_the_first_row(mode):
    env = make(EnvRecipe(f"{FAKES}:CompositeVector", {"mode": mode}))
    before, _ = env.reset(seed=5)
    kept = before["image"].copy()
    over = False
    while not over:
        observation, _, terminated, truncated, _ = env.step(env.action_space.sample())
        over = terminated or truncated
        assert observation in env.observation_space
    np.testing.assert_array_equal(before["image"], kept)


def test_gymnasiums_checker_is_content_with_a_row_of_its_cartpole():
    env = make(EnvRecipe("gymnasium.envs.classic_control.cartpole:CartPoleVectorEnv", {"max_episode_steps": 7}))
    check_env(env, skip_render_check=True)
    assert spec_of(env, EnvRecipe("x")).max_episode_steps == 7


def test_a_task_of_the_envpool_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "envpool", fake_envpool())
    env = make(EnvRecipe("envpool/Counted-v0", delay={"kind": "constant", "median_s": 0.0}))
    actions = iter(np.zeros((100, 1), np.float32))
    assert [observations[-1, 2] for observations, *_ in episodes(env, actions)] == [1] * 4  # each seed makes it anew
    assert renderable(EnvRecipe("envpool/Counted-v0")) is None


def test_an_id_that_is_registered_only_vectorised():
    gymnasium.register("OnlyVector-v0", vector_entry_point=f"{FAKES}:Native")
    try:
        env = make(EnvRecipe("OnlyVector-v0", {"mode": "NextStep"}))
        assert env.reset()[0].tolist() == [0, 0, 0, 0]
    finally:
        del gymnasium.registry["OnlyVector-v0"]


def test_what_cannot_be_made_or_is_broken_is_one_sentence():
    with pytest.raises(ConfigError, match="unexpected keyword argument 'length'; it takes num_envs"):
        make(EnvRecipe(f"{FAKES}:Native", {"length": 3}))
    with pytest.raises(ConfigError, match="leave them out, or make single environments"):
        make(EnvRecipe(f"{FAKES}:Native", fidelity="fine"))
    with pytest.raises(ConfigError, match=r"must have a gymnasium\.vector\.AutoresetMode in metadata"):
        make(EnvRecipe(f"{FAKES}:Native", {"mode": ""}))
    env = make(EnvRecipe(f"{__name__}:WithoutFinals"))
    env.reset()
    with pytest.raises(EnvironmentFault, match=r"must return info\['final_obs'\]"):
        env.step(env.action_space.sample())


class WithoutFinals(gymnasium.vector.VectorEnv):
    """Promises SAME_STEP, and does not say what the final observation was."""

    metadata = {"autoreset_mode": gymnasium.vector.AutoresetMode.SAME_STEP}  # noqa: RUF012
    single_observation_space = gymnasium.spaces.Box(0, 1, (1,), np.float32)
    single_action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, num_envs):
        self.num_envs = num_envs

    def reset(self, *, seed=None, options=None):
        return np.zeros((1, 1), np.float32), {}

    def step(self, actions):
        return np.zeros((1, 1), np.float32), np.zeros(1), np.ones(1, bool), np.zeros(1, bool), {}
