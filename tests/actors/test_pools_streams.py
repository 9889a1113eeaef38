"""Both pools must give one exact stream of transitions: no dummy steps, true final observations, the given seeds."""

from __future__ import annotations

import numpy as np
import pytest

from distrl.actors.inline_pool import InlinePool
from distrl.actors.process_pool import ProcessPool
from distrl.core.seeds import FixedSeeds, TrainingSeeds
from distrl.core.types import EnvRecipe
from tests.fakes.environments import Composite, scripted_episode
from tests.fakes.pools import Driver

SCRIPTED = "tests.fakes.environments:Scripted"


def make_pool(kind, recipe, num_envs, seeds, tmp_path):
    if kind == "inline":
        return InlinePool(recipe, num_envs, seeds)
    return ProcessPool(recipe, num_envs, seeds, scratch_dir=str(tmp_path), step_timeout_s=10.0)


@pytest.fixture(params=["inline", "process"])
def kind(request):
    return request.param


def test_stream_is_exact(kind, tmp_path):
    seeds = TrainingSeeds(run_seed=3, worker=2, incarnation=5)
    pool = make_pool(kind, EnvRecipe(SCRIPTED), 3, seeds, tmp_path)
    try:
        driver = Driver(pool)
        driver.run(200)
        assert not driver.faults
        endings = set()
        for env, stream in driver.streams.items():
            episode, t = 0, 0
            for transition in stream:
                seed = seeds.seed(env, episode)
                length, terminates = scripted_episode(seed)
                assert (transition.uid, transition.seed) == (seeds.episode_uid(env, episode), seed)
                assert transition.step == t
                assert transition.observation["array"][:2].tolist() == [seed % 1000, t]
                t += 1
                action = float(transition.action[0])
                assert transition.reward == np.float32(100 * (seed % 10) + t + action)
                ended = t == length
                assert (transition.terminated, transition.truncated) == (ended and terminates, ended and not terminates)
                if transition.next_observation is not None:  # None: the last one in flight
                    expected = np.array([seed % 1000, t, action], np.float32)
                    np.testing.assert_array_equal(transition.next_observation["array"], expected)
                if ended:
                    assert transition.info == {"episode_length": t, "name": "scripted", "score": 1.5}
                    endings.add(terminates)
                    episode, t = episode + 1, 0
        assert endings == {True, False}
        stats = pool.stats()
        assert stats.produced >= driver.num_steps
        assert stats.resets >= 3
        assert stats.process_starts == 3
    finally:
        pool.close()


def test_fixed_seeds_repeat_the_same_episodes(kind, tmp_path):
    pool = make_pool(kind, EnvRecipe(SCRIPTED), 2, FixedSeeds((11, 12, 13, 14), 2), tmp_path)
    try:
        driver = Driver(pool)
        driver.until(lambda: len({t.uid for t in driver.streams[1]}) >= 4)
        order = list(dict.fromkeys((t.uid, t.seed) for t in driver.streams[1]))
        assert [seed for _, seed in order][:4] == [12, 14, 12, 14]
    finally:
        pool.close()


@pytest.mark.parametrize("env_id", ["Pendulum-v1", "CartPole-v1"])
def test_pool_equals_plain_gymnasium(kind, tmp_path, env_id):
    import gymnasium

    seeds = TrainingSeeds(1)
    pool = make_pool(kind, EnvRecipe(env_id), 2, seeds, tmp_path)
    try:
        assert pool.spec.max_episode_steps == {"Pendulum-v1": 200, "CartPole-v1": 500}[env_id]
        driver = Driver(pool)
        driver.run(500)
    finally:
        pool.close()
    env = gymnasium.make(env_id)
    for row, stream in driver.streams.items():
        episode = -1
        for transition in stream:
            if transition.step == 0:
                episode += 1
                observation, _ = env.reset(seed=seeds.seed(row, episode))
            np.testing.assert_array_equal(transition.observation["array"], observation)
            action = transition.action
            observation, reward, terminated, truncated, _ = env.step(action if np.ndim(action) else int(action))
            assert transition.reward == np.float32(reward)
            assert (transition.terminated, transition.truncated) == (terminated, truncated)
    env.close()


def test_composite_spaces(kind, tmp_path):
    pool = make_pool(kind, EnvRecipe("tests.fakes.environments:Composite", {"side": 96}), 2, TrainingSeeds(0), tmp_path)
    try:
        driver = Driver(pool)
        driver.run(40)
    finally:
        pool.close()
    paths = {"image", "pair/0", "pair/1", "inner/flags", "inner/x"}
    reference = Composite(96)
    for stream in driver.streams.values():
        for transition in stream[:-1]:
            reference.reset(seed=transition.seed)
            reference._t = transition.step
            for found, value in (
                (transition.observation, reference.value()),
                (transition.next_observation, reference.step(0)[0]),
            ):
                assert set(found) == paths
                assert found["image"].dtype == np.uint8
                np.testing.assert_array_equal(found["image"], value["image"])
                assert found["pair/0"] == value["pair"][0]
                np.testing.assert_array_equal(found["pair/1"], value["pair"][1])
                np.testing.assert_array_equal(found["inner/flags"], value["inner"]["flags"])
                np.testing.assert_array_equal(found["inner/x"], value["inner"]["x"])


def test_time_limit_of_the_recipe_truncates(kind, tmp_path):
    recipe = EnvRecipe("Pendulum-v1", max_episode_steps=7)
    pool = make_pool(kind, recipe, 1, TrainingSeeds(0), tmp_path)
    try:
        assert pool.spec.max_episode_steps == 7
        driver = Driver(pool)
        driver.run(30)
        assert [t.step for t in driver.streams[0] if t.truncated] == [6] * 4
        assert not any(t.terminated for t in driver.streams[0])
    finally:
        pool.close()


def test_recv_returns_empty_after_its_timeout(tmp_path):
    pool = make_pool("process", EnvRecipe(SCRIPTED, {"step_s": 0.5}), 1, TrainingSeeds(0), tmp_path)
    try:
        driver = Driver(pool)
        driver.until(lambda: driver.awaited)
        outcomes, requests, faults = pool.recv(0.05)
        assert len(outcomes.rows) == len(requests.rows) == len(faults) == 0
    finally:
        pool.close()


def test_last_step_does_not_wait_for_a_slow_reset(tmp_path):
    pool = make_pool("process", EnvRecipe(SCRIPTED, {"reset_s": 0.4}), 1, TrainingSeeds(0), tmp_path)
    try:
        driver = Driver(pool)
        driver.until(lambda: driver.streams[0] and driver.streams[0][-1].info is not None)
        assert not driver.requested
        assert pool.stats().resets == 1
    finally:
        pool.close()
