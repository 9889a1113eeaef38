"""The delay wrapper sleeps, hangs and crashes by seeded laws and leaves the wrapped environment as it is."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest

from distrl.actors.process_pool import ProcessPool, SnapshotPlan
from distrl.core.config import RunConfig
from distrl.core.errors import ConfigError
from distrl.core.seeds import TrainingSeeds
from distrl.core.types import EnvRecipe
from distrl.envs.delay import Delay
from distrl.envs.describe import describe
from distrl.envs.resolve import make
from tests.fakes.pools import Driver


def slow(config):
    return Delay(gymnasium.make("Pendulum-v1"), config)


def draws(env, seed, count=2000):
    env.reset(seed=seed)
    return np.array([env.next_delay_s() for _ in range(count)])


def test_lognormal_law():
    delays = draws(slow({"kind": "lognormal", "median_s": 0.05, "sigma": 1.0}), 1, 20_000)
    assert np.median(delays) == pytest.approx(0.05, rel=0.05)
    assert np.log(delays).std() == pytest.approx(1.0, rel=0.03)
    assert delays.mean() == pytest.approx(0.05 * np.exp(0.5), rel=0.05)


def test_seeded_per_reset():
    config = {"kind": "lognormal", "median_s": 0.05, "sigma": 1.0}
    first, again, other = draws(slow(config), 7), draws(slow(config), 7), draws(slow(config), 8)
    assert (first == again).all()
    assert (first != other).any()


def test_stragglers_take_so_many_times_longer():
    plain, late = {"kind": "lognormal", "median_s": 0.05}, {"straggler_share": 0.1, "straggler_factor": 20.0}
    delays = draws(slow({"kind": "constant", "median_s": 0.05} | late), 1, 20_000)
    assert set(delays.round(9)) == {0.05, 1.0}
    assert (delays > 0.05).mean() == pytest.approx(0.1, rel=0.1)
    assert draws(slow(plain | late), 1, 20_000).mean() == pytest.approx(
        draws(slow(plain), 1, 20_000).mean() * 2.9, rel=0.2
    )


def fates(env, seed, count=20_000):
    env.reset(seed=seed)
    return [env.next_fate() for _ in range(count)]


def test_hangs_and_crashes_come_in_seeded_shares():
    config = {"kind": "constant", "median_s": 0.0, "hang_share": 0.02, "crash_share": 0.05}
    drawn = fates(slow(config), 3)
    assert drawn == fates(slow(config), 3)
    assert drawn.count("crash") / len(drawn) == pytest.approx(0.05, rel=0.2)
    assert drawn.count("hang") / len(drawn) == pytest.approx(0.02, rel=0.2)
    assert set(fates(slow({"kind": "constant", "median_s": 0.0}), 3)) == {"return"}


def test_episodes_survive_crashes_and_hangs(tmp_path):
    """A step that has failed is begun again by another process, and there it need not fail again."""
    delay = {"kind": "constant", "median_s": 0.0, "crash_share": 0.1, "hang_share": 0.05}
    walk = "tests.fakes.environments:Continuable"
    (tmp_path / "marks").mkdir()
    pool = ProcessPool(
        EnvRecipe(walk, {"marks": str(tmp_path / "marks")}, delay=delay),
        2,
        TrainingSeeds(0),
        scratch_dir=str(tmp_path / "scratch"),
        step_timeout_s=0.5,
        snapshots=SnapshotPlan(str(tmp_path / "snapshots"), cost_share=1e9),  # after every step
    )
    try:
        driver = Driver(pool)
        driver.run(60)
        kinds = [fault.kind for fault in driver.faults]
        assert {"crash", "hang"} <= set(kinds)
        assert not any(fault.cut and fault.kind == "protocol" for fault in driver.faults)
        longest = max((step.step for stream in driver.streams.values() for step in stream), default=0)
        assert longest == 19  # whole episodes of 20 steps, of which 1 in 25 would come through without restarts
        assert max(step.attempt for stream in driver.streams.values() for step in stream) >= 1
    finally:
        pool.close()


def test_the_table_of_a_run_is_what_the_wrapper_takes():
    for kind in ("constant", "lognormal"):
        config = RunConfig(env={"id": "Pendulum-v1", "delay": {"kind": kind, "median_s": 0.0, "crash_share": 0.5}})
        make(config.env.recipe()).close()


def test_a_trial_meets_no_artificial_failure():
    describe(EnvRecipe("Pendulum-v1", delay={"kind": "constant", "median_s": 0.0, "crash_share": 1.0}), steps=2)


def test_environment_is_unchanged():
    plain, env = gymnasium.make("Pendulum-v1"), slow({"kind": "constant", "median_s": 0.0})
    assert (plain.reset(seed=3)[0] == env.reset(seed=3)[0]).all()
    for _ in range(5):
        action = np.array([0.5], np.float32)
        assert (plain.step(action)[0] == env.step(action)[0]).all()


@pytest.mark.parametrize(
    "config",
    [
        {"kind": "uniform", "median_s": 1},
        {"kind": "constant"},
        {"kind": "constant", "median_s": -1},
        {"kind": "constant", "median_s": "1"},
        {"kind": "constant", "median_s": 1, "sigma": 1},
        {"kind": "lognormal", "median_s": 1, "sigma": float("nan")},
        {"kind": "constant", "median_s": 1, "crash_share": 1.5},
        {"kind": "constant", "median_s": 1, "crash_share": 0.6, "hang_share": 0.6},
        {"kind": "constant", "median_s": 1, "straggler_factor": -1},
    ],
)
def test_refusals(config):
    with pytest.raises(ConfigError, match=r"env\.delay"):
        slow(config)
