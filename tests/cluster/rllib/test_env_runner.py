"""RLlib's episodes from distrl's environment processes, whoever dies; PPO over them is examples/rllib_env_runner.py."""

import os
import signal

import gymnasium
import numpy as np
import pytest
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.connectors.env_to_module import FlattenObservations
from ray.tune.registry import register_env

from distrl.cluster.rllib.env_runner import DistrlEnvRunner, recipe_of
from distrl.core.errors import DistrlError
from tests.fakes.rllib_envs import Settings

CONTINUABLE = "tests.fakes.environments:Continuable"


@pytest.fixture
def runner():
    """Makes runners, as RLlib does, that end with the test."""
    made = []

    def make(env="CartPole-v1", num_envs=2, env_config=None, **settings):
        config = PPOConfig().environment(env, env_config=env_config or {}).debugging(seed=0)
        config.env_runners(num_env_runners=0, num_envs_per_env_runner=num_envs, **settings)
        config.rl_module(model_config={"fcnet_hiddens": [16]})
        made.append(DistrlEnvRunner(config=config, worker_index=0))
        return made[-1]

    yield make
    for each in made:
        each.stop()


def test_chunks_of_an_episode_follow_each_other_and_are_what_the_environment_did(runner):
    sampler, chunks = runner(), {}
    for _ in range(6):
        found = sampler.sample(num_timesteps=40)
        assert sum(map(len, found)) in (40, 41)
        for chunk in found:
            chunks.setdefault(chunk.id_, []).append(chunk)
    env = gymnasium.make("CartPole-v1").unwrapped
    whole = [parts for parts in chunks.values() if parts[-1].is_done]
    assert len(whole) > 4
    assert max(map(len, whole)) > 1
    for parts in whole:
        observations = [parts[0].get_observations(0)]
        for part, t in zip(parts, np.cumsum([0, *map(len, parts)]), strict=False):
            assert part.t_started == t
            np.testing.assert_array_equal(part.get_observations(0), observations[-1])
            observations += list(part.get_observations()[1:])
        env.reset()
        for t, action in enumerate(np.concatenate([part.get_actions() for part in parts])):
            env.state, env.steps_beyond_terminated = observations[t].astype(np.float64), None
            observation, _, terminated, _, _ = env.step(action)
            np.testing.assert_allclose(observations[t + 1], observation, atol=1e-5)
            assert terminated == (t + 2 == len(observations))
    metrics = sampler.get_metrics()
    assert metrics["num_episodes"].peek() == len(whole)


def test_as_many_episodes_as_asked_for_and_none_thrown_away(runner):
    sampler = runner(num_envs=3)
    pids = sampler.env.pool.pids().tolist()
    episodes = sampler.sample(num_episodes=4) + sampler.sample(num_episodes=2)
    assert [episode.is_done and episode.t_started == 0 for episode in episodes] == [True] * 6
    assert sampler.env.pool.stats().produced == sum(map(len, episodes))
    assert {pid for pid in pids if pid} <= set(sampler.env.pool.pids().tolist())  # one may have been starting
    assert sampler.env.pool.stats().process_starts == 3
    for pid in pids:  # while they wait for an episode to begin
        os.kill(pid, signal.SIGKILL)
    assert len(sampler.sample(num_episodes=3)) == 3
    sampler.sample(num_timesteps=10)  # leaves episodes half way: asked for whole ones, it begins anew
    (one,) = sampler.sample(num_episodes=1)
    assert one.is_terminated
    assert one.t_started == 0


def test_an_episode_whose_environment_dies_is_truncated_and_counts_in_no_return(runner):
    sampler = runner(num_envs=1, env_config={"distrl": {"delay": {"median_s": 0.01}}})
    sampler.sample(num_timesteps=3)
    os.kill(int(sampler.env.pool.pids()[0]), signal.SIGKILL)
    episodes = sampler.sample(num_timesteps=3)
    assert not episodes[0].is_terminated
    assert [episode.is_truncated for episode in episodes if episode.is_done] in ([], [True])
    assert episodes[-1].t_started == 0
    assert len(episodes[-1]) >= 2
    assert sampler.get_metrics()["num_episodes"].peek() == 0


def test_with_snapshots_the_episode_goes_on(runner, tmp_path):
    sampler = runner(CONTINUABLE, 1, {"distrl": {"snapshots": str(tmp_path), "delay": {"median_s": 0.01}}})
    (before,) = sampler.sample(num_timesteps=4)
    os.kill(int(sampler.env.pool.pids()[0]), signal.SIGKILL)
    (after,) = sampler.sample(num_timesteps=2)
    assert (after.id_, after.t_started) == (before.id_, len(before))


def test_connectors_see_observations_in_the_form_of_their_space(runner):
    sampler = runner(
        "tests.fakes.rllib_envs:Nested", env_to_module_connector=lambda env, spaces, device: FlattenObservations()
    )
    for episode in sampler.sample(num_timesteps=20):
        place, speed = np.split(episode.get_observations(), [2], axis=1)  # written back by it, the last one too
        assert np.all(place[:, :1] == -speed)
        assert place.max() >= 0
    assert sampler.module.observation_space == sampler.get_spaces()["default_policy"][0]


def test_box_actions_reach_the_environment_within_its_bounds(runner):
    sampler = runner("Pendulum-v1", 1, {"g": 9.0})
    (chunk,) = sampler.sample(num_timesteps=30)
    assert np.abs(chunk.get_actions()).max() > 1  # as the module's distribution drew them
    before, after = sampler.sample(num_timesteps=5, random_actions=True)  # the step under way was the module's
    assert (len(before), len(after), after.t_started) == (1, 4, 31)
    assert "action_logp" in before.extra_model_outputs
    assert "action_logp" not in after.extra_model_outputs


def test_a_class_gets_its_env_config_as_rllib_gives_it(runner):
    (episode, _) = runner(Settings, env_config={"length": 3}).sample(num_episodes=2)
    assert len(episode) == 3
    assert episode.get_infos(-1) == {"told": 3}  # plain scalars, of the last step


@pytest.mark.parametrize(
    ("env", "env_config", "sentence"),
    [
        ("registered", {}, "a process of its own can make.*got 'registered'"),
        (lambda config: gymnasium.make("CartPole-v1"), {}, "a process of its own can make"),
        ("CartPole-v1", {"distrl": {"step_timeout": 3}}, "got 'step_timeout', did you mean 'step_timeout_s'"),
        ("CartPole-v1", {"lenght": 1}, "takes no 'lenght'"),
        ("distrl/PartnerGame-v0", {}, r"samples environments of one agent, but distrl/PartnerGame-v0 has \d+"),
    ],
)
def test_what_it_cannot_host_is_refused(runner, env, env_config, sentence):
    register_env("registered", lambda context: gymnasium.make("CartPole-v1"))
    with pytest.raises(DistrlError, match=sentence):
        runner(env, env_config=env_config)


def test_options_are_told_apart_from_the_environments_arguments():
    options = {"max_episode_steps": 7, "step_timeout_s": 60}
    recipe = recipe_of("CartPole-v1", {"render_mode": "rgb_array", "distrl": options}, options)
    assert (recipe.kwargs, recipe.max_episode_steps) == ({"render_mode": "rgb_array"}, 7)
    assert options == {"step_timeout_s": 60}
