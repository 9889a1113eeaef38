"""Whatever the autoreset mode of a vector environment, its rows give the same exact streams of transitions."""

from __future__ import annotations

import sys

import gymnasium
import numpy as np
import pytest

from distrl.actors.recovery import MAX_FAILURES
from distrl.actors.vector_pool import MAX_ROWS, VectorPool
from distrl.core.errors import ConfigError, EnvironmentFault
from distrl.core.fidelity import Stage
from distrl.core.seeds import TrainingSeeds
from distrl.core.types import EnvRecipe
from distrl.envs.vector_envs import is_vectorised
from tests.fakes.environments import Composite
from tests.fakes.pools import Driver
from tests.fakes.vector_environments import MODES, counted_episode, fake_envpool

FAKES = "tests.fakes.vector_environments"
SEEDS = TrainingSeeds(run_seed=3, worker=2, incarnation=5)


def driven(recipe, num_envs=5, rounds=60):
    """A driver that has run a pool of the recipe, which is closed."""
    pool = VectorPool(recipe, num_envs, SEEDS)
    driver = Driver(pool)
    for _ in range(rounds):
        driver.turn()
    pool.close()
    assert not driver.faults
    return driver


def check_counted(driver, infos):
    """Every observation, reward and end is the script's, and so is every next observation at an end."""
    for row, stream in driver.streams.items():
        episode, t = 0, 0
        for transition in stream:
            length, terminates = counted_episode(row, episode)
            action = np.float32(transition.action[0])
            assert (transition.uid, transition.step) == (SEEDS.episode_uid(row, episode), t)
            assert transition.observation["array"][:3].tolist() == [row, episode, t]
            t += 1
            assert transition.reward == np.float32(100 * row + 10 * episode + t + float(action))
            over = t == length
            assert (transition.terminated, transition.truncated) == (over and terminates, over and not terminates)
            if transition.next_observation is not None:  # None: the last one in flight
                np.testing.assert_array_equal(transition.next_observation["array"], [row, episode, t, action])
            if over:
                assert transition.info == ({"length": t} if infos else {})
                episode, t = episode + 1, 0
        assert episode >= 8


@pytest.mark.parametrize(
    ("name", "mode"), [*(("CountedVector", mode) for mode in MODES), ("Native", "SameStep"), ("Native", "Disabled")]
)
def test_no_transition_is_off_by_one_at_an_episodes_end(name, mode):
    kwargs = {"modes": (mode,)} if name == "CountedVector" else {"mode": mode}
    driver = driven(EnvRecipe(f"{FAKES}:{name}", kwargs))
    check_counted(driver, infos=name == "CountedVector")
    in_step = mode != "NextStep"  # there a row misses a call for each episode
    assert driver.pool.lockstep == in_step
    assert {len(stream) for stream in driver.streams.values()} == {59} if in_step else driver.num_steps < 5 * 59
    assert driver.pool.stats().produced == driver.num_steps


@pytest.mark.parametrize(
    ("modes", "chosen"), [(MODES, "Disabled"), (("SameStep", "NextStep"), "SameStep"), (("NextStep",), "NextStep")]
)
def test_modes_that_keep_rows_in_step_are_preferred(modes, chosen):
    pool = VectorPool(EnvRecipe(f"{FAKES}:CountedVector", {"modes": modes}), 2, SEEDS)
    assert pool.lockstep == (chosen != "NextStep")
    assert pool._env.autoreset_mode.value == chosen
    pool.close()


def test_a_mode_that_the_user_asks_for_is_taken():
    pool = VectorPool(EnvRecipe(f"{FAKES}:CountedVector", {"autoreset_mode": "NextStep"}), 2, SEEDS)
    assert not pool.lockstep
    pool.close()


def test_every_transition_of_gymnasiums_vectorised_cartpole_is_one_of_the_single_ones():
    driver = driven(EnvRecipe("CartPole-v1"), num_envs=16, rounds=250)
    assert driver.pool.spec.max_episode_steps == 500
    single = gymnasium.make("CartPole-v1").unwrapped
    single.reset(seed=0)
    ended = 0
    for stream in driver.streams.values():
        for transition in stream[:-1]:
            single.state, single.steps_beyond_terminated = transition.observation["array"].astype(float), None
            following, reward, terminated, _, _ = single.step(int(transition.action))
            np.testing.assert_allclose(transition.next_observation["array"], following, rtol=1e-5, atol=1e-6)
            assert (transition.reward, transition.terminated) == (reward, terminated)
            ended += transition.terminated
    assert ended > 50


@pytest.mark.parametrize("mode", MODES)
def test_nested_observations_and_images(mode):
    driver = driven(EnvRecipe(f"{FAKES}:CompositeVector", {"mode": mode}), num_envs=2, rounds=14)
    reference = Composite()
    for stream in driver.streams.values():
        assert len(stream) > 10
        for transition in stream[:-1]:
            reference.reset(seed=transition.observation["image"][0, 0, 0] - transition.step)
            for t, found in enumerate((transition.observation, transition.next_observation)):
                reference._t = transition.step + t
                value = reference.value()
                assert found["image"].dtype == np.uint8
                np.testing.assert_array_equal(found["image"], value["image"])
                assert found["pair/0"] == value["pair"][0]
                np.testing.assert_array_equal(found["pair/1"], value["pair"][1])
                np.testing.assert_array_equal(found["inner/flags"], value["inner"]["flags"])
                np.testing.assert_array_equal(found["inner/x"], value["inner"]["x"])


@pytest.mark.parametrize(
    ("bad", "kind", "text"),
    [
        ("raise", "error", "step raised RuntimeError: the scripted fault"),
        ("reward", "divergence", "finite rewards that fit float32; that of row 1 is nan"),
        ("observation", "divergence", "finite numbers; it returned inf at flat index 6"),
        ("shape", "protocol", r"shape (3, 4); it returned shape (3, 3)"),
        ("reset", "error", "reset raised RuntimeError: the scripted fault"),
    ],
)
def test_what_one_row_breaks_all_rows_lose_and_begin_anew(bad, kind, text):
    pool = VectorPool(EnvRecipe(f"{FAKES}:Native", {"bad": bad}), 3, SEEDS)
    driver = Driver(pool)
    driver.until(lambda: driver.faults)
    assert {fault.kind for fault in driver.faults} == {kind}
    assert text in driver.faults[0].message
    # the reset fails after the step in which row 0 ends: what had finished came first, and row 0 has nothing to cut
    running = [1, 2] if bad == "reset" else [0, 1, 2]
    assert [fault.row for fault in driver.faults if fault.cut] == running
    before = driver.num_steps
    driver.until(lambda: driver.num_steps > before)
    new = driver.streams[2][-1]
    assert (new.step, new.seed) == (0, SEEDS.seed(0, 1))
    assert pool.stats().produced == driver.num_steps
    pool.close()


def test_an_environment_that_only_fails_stops_the_pool():
    pool = VectorPool(EnvRecipe(f"{FAKES}:Native", {"bad": "any reset"}), 2, SEEDS)
    driver = Driver(pool)
    with pytest.raises(EnvironmentFault, match="reset raised RuntimeError: the scripted fault"):
        driver.until(lambda: False)
    assert len(driver.faults) == MAX_FAILURES


@pytest.mark.parametrize(
    ("recipe", "text"),
    [
        (EnvRecipe("Pendulum-v1"), "must name an environment with a native vector form"),
        (EnvRecipe("CartPole-v9"), "no known environment"),
        (EnvRecipe("CartPole-v1", {"gravity": 3.0}), "unexpected keyword argument 'gravity'; it takes num_envs"),
        (EnvRecipe("CartPole-v1", fidelity="fine"), "neither env.delay nor env.fidelity"),
        (EnvRecipe(f"{FAKES}:Native", {"mode": ""}), "must have a gymnasium.vector.AutoresetMode"),
        (EnvRecipe(f"{FAKES}:Native", max_episode_steps=9), "unexpected keyword argument 'max_episode_steps'"),
    ],
)
def test_what_cannot_be_made_is_refused(recipe, text):
    with pytest.raises(ConfigError, match=text):
        VectorPool(recipe, 2, SEEDS)


def test_rows_and_levels_that_cannot_be_are_refused():
    with pytest.raises(ConfigError, match="at most 4096, but 4097 came"):
        VectorPool(EnvRecipe("CartPole-v1"), MAX_ROWS + 1, SEEDS)
    with pytest.raises(ConfigError, match=r"fidelity\.schedule needs levels"):
        VectorPool(EnvRecipe("CartPole-v1"), 2, TrainingSeeds(0, schedule=(Stage(0, {"fine": 1.0}),)))


def test_which_recipes_are_vectorised():
    assert is_vectorised(EnvRecipe("CartPole-v1"))
    assert is_vectorised(EnvRecipe(f"{FAKES}:Native"))
    assert not is_vectorised(EnvRecipe("CartPole-v1", delay={"kind": "constant", "median_s": 0.1}))
    assert not is_vectorised(EnvRecipe("Pendulum-v1"))
    assert not is_vectorised(EnvRecipe("tests.fakes.environments:Scripted"))


def test_the_envpool_librarys_rows_stay_in_step(monkeypatch):
    monkeypatch.setitem(sys.modules, "envpool", fake_envpool())
    driver = driven(EnvRecipe("envpool/Counted-v0"))
    check_counted(driver, infos=False)
    assert driver.pool.lockstep
    with pytest.raises(ConfigError, match="must be one of EnvPool's 1 tasks, as Counted-v0"):
        VectorPool(EnvRecipe("envpool/Pong-v5"), 2, SEEDS)
    with pytest.raises(ConfigError, match="is given batch_size by the pool"):
        VectorPool(EnvRecipe("envpool/Counted-v0", {"batch_size": 1}), 2, SEEDS)


def test_the_envpool_librarys_cartpole():
    pytest.importorskip("envpool")
    driver = driven(EnvRecipe("envpool/CartPole-v1", {"num_threads": 1}, max_episode_steps=20), num_envs=8, rounds=100)
    assert {len(stream) for stream in driver.streams.values()} == {99}
    for stream in driver.streams.values():
        for transition in stream[:-1]:
            before, after = transition.observation["array"], transition.next_observation["array"]
            assert after[0] == pytest.approx(
                before[0] + 0.02 * before[1], abs=1e-6
            )  # x ← x + τ ẋ, Gymnasium's CartPole
            assert not (transition.step == 19 and transition.info is None)
    assert any(t.truncated for stream in driver.streams.values() for t in stream)


def test_a_library_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "envpool", None)
    with pytest.raises(ConfigError, match="needs the EnvPool library"):
        VectorPool(EnvRecipe("envpool/CartPole-v1"), 2, SEEDS)
