"""A row of an Atari game gives the same whether it is alone or among others, and the film shows what is played."""

from __future__ import annotations

import sys
from itertools import pairwise

import gymnasium
import imageio
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from distrl.actors.vector_pool import VectorPool
from distrl.api import load_policy, train
from distrl.core.config import RunConfig
from distrl.core.errors import ConfigError
from distrl.core.seeds import TrainingSeeds
from distrl.core.types import EnvRecipe
from distrl.envs.resolve import list_envs, make, renderable, spec_of
from distrl.envs.vector_envs import make_vector_env
from tests.fakes.pools import Driver

PONG = EnvRecipe("distrl/Atari-v0", {"game": "pong"})
pytest.importorskip("ale_py")


def test_gymnasiums_checker_is_content():
    env = gymnasium.make("distrl/Atari-v0", game="breakout", render_mode="rgb_array").unwrapped
    check_env(env)
    env.close()


def test_rows_are_the_single_games_step_by_step_to_the_end():
    """Random play loses a game of Pong after some 800 steps."""
    seed, rows = 11, 3
    vector = make_vector_env(PONG, rows)
    actions = np.random.default_rng(0).integers(0, 6, (2000, rows))
    observation, _ = vector.reset(seed=seed)
    singles = [make(PONG) for _ in range(rows)]
    for row, single in enumerate(singles):
        np.testing.assert_array_equal(single.reset(seed=seed + row)[0], observation[row])
    running, points = np.ones(rows, bool), np.zeros(rows)
    for action in actions:
        observation, reward, terminated, truncated, info = vector.step(action)
        for row in np.flatnonzero(running):
            alone = singles[row].step(action[row])
            over = terminated[row] or truncated[row]
            last = info["final_obs"][row] if over else observation[row]
            np.testing.assert_array_equal(alone[0], last)
            assert alone[1:4] == (reward[row], terminated[row], truncated[row])
            points[row] += reward[row]
            running[row] = not over
        if not running.any():
            break
    assert not running.any()
    assert (points <= -15).all()
    assert terminated.any()


def test_the_pool_of_training_chains_games_without_a_gap():
    """Nothing of a game is in the frames of the next one's first observation, and time limits are truncations."""
    pool = VectorPool(EnvRecipe("distrl/Atari-v0", {"game": "pong"}, max_episode_steps=20), 4, TrainingSeeds(3))
    driver = Driver(pool)
    for _ in range(50):
        driver.turn()
    pool.close()
    assert pool.lockstep
    for stream in driver.streams.values():
        assert [transition.step for transition in stream[:45]] == [*range(20), *range(20), *range(5)]
        assert [t for t, transition in enumerate(stream) if transition.truncated] == [19, 39]
        for now, following in pairwise(stream):
            frames, later = now.next_observation["array"], following.observation["array"]
            np.testing.assert_array_equal(frames[:-1], now.observation["array"][1:])  # the last frame is the newest
            assert np.array_equal(frames, later) == (not now.truncated)
        assert stream[0].observation["array"].dtype == np.uint8


def test_the_film_shows_the_game_that_is_played_and_changes_nothing():
    watched, plain = make(renderable(PONG)), make(PONG)
    for env in (watched, plain):
        env.reset(seed=5)
    for action in np.random.default_rng(1).integers(0, 6, 40):
        seen, expected = watched.step(action)[0], plain.step(action)[0]
        np.testing.assert_array_equal(seen, expected)
    frame = watched.render()
    assert (frame.shape, frame.dtype) == ((210, 160, 3), np.uint8)
    # the paddles, where the policy sees them in its grey picture, are on the screen too
    for column, screen in ((70, slice(130, 144)), (10, slice(14, 24))):
        grey = np.flatnonzero(np.ptp(seen[-1, 16:76, column : column + 6].astype(int), axis=1) > 20)
        colour = np.flatnonzero(np.ptp(frame[40:190, screen, 0].astype(int), axis=1) > 20)
        assert abs(grey.mean() * 2.5 - colour.mean()) < 8
    with pytest.raises(AttributeError):
        plain.render().shape  # noqa: B018


def test_sticky_actions_and_lives_are_the_users_choice():
    repeated = make(EnvRecipe("distrl/Atari-v0", {"game": "pong", "repeat_action_probability": 0.25}))
    exact = make(PONG)
    for env in (repeated, exact):
        env.reset(seed=5)
    actions = np.random.default_rng(1).integers(0, 6, 100)
    assert not all(np.array_equal(repeated.step(action)[0], exact.step(action)[0]) for action in actions)
    one_life = make(EnvRecipe("distrl/Atari-v0", {"game": "breakout", "episodic_life": True}))
    one_life.reset(seed=0)
    assert any(one_life.step(0)[2] for _ in range(200))  # five lives last longer


@pytest.mark.parametrize(
    ("kwargs", "sentence"),
    [
        ({"game": "pongg"}, "got 'pongg'; nearest: 'pong'"),
        ({"gamee": "pong"}, "takes no 'gamee'; nearest: 'game'"),
        ({"num_envs": 2}, "takes no 'num_envs'"),
        ({"render_mode": "ansi"}, "renders as 'rgb_array' or not at all; got 'ansi'"),
    ],
)
def test_refusals(kwargs, sentence):
    with pytest.raises(ConfigError, match=sentence):
        make(EnvRecipe("distrl/Atari-v0", kwargs))


def test_other_vector_environments_are_left_as_they_were():
    make(PONG)
    assert "autoreset_mode" not in gymnasium.vector.VectorEnv.metadata


def test_without_ale_py_one_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ale_py", None)
    with pytest.raises(ConfigError, match=r"pip install 'distrl\[atari\]'"):
        make(PONG)
    [listing] = [listing for listing in list_envs() if listing.id == PONG.id]
    assert "pip install" in listing.problem
    assert "Arcade Learning Environment" in listing.description


def test_its_time_limit_is_half_an_hour_of_play_or_so_many_env_steps():
    assert spec_of(make(PONG), PONG).max_episode_steps == 27_000
    often = make_vector_env(EnvRecipe("distrl/Atari-v0", {"frameskip": 2}, max_episode_steps=9), 1)
    often.reset(seed=0)
    assert [bool(often.step(np.zeros(1, int))[3][0]) for _ in range(9)] == [False] * 8 + [True]
    assert spec_of(make(EnvRecipe(PONG.id, PONG.kwargs, max_episode_steps=9)), PONG).max_episode_steps == 9


def test_a_run_ends_with_a_film_of_the_screen(tmp_path):
    config = RunConfig.load(
        "pong",
        [
            f"run.out={tmp_path / 'run'}",
            "run.steps=256",
            "env.hosting=auto",  # a single game has the same spaces, so it is vectorised
            "env.max_episode_steps=20",
            "actors.envs_per_worker=4",
            "actors.fragment_steps=32",
            "algorithm.batch_size=128",
            "evaluation.final_episodes=1",
        ],
    )
    result = train(config, local=True)
    assert result.summary["updates"] == 2
    assert {row["who"]: row["episodes"] for row in result.summary["comparison"]}["policy"] == 1
    frame = imageio.imread(result.directory / "media" / "film.png")
    assert frame.shape == (210, 160, 3)
    assert load_policy(result.directory).act(np.zeros((4, 84, 84), np.uint8)) in range(6)
