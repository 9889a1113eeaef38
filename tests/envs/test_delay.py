"""The delay wrapper sleeps by a seeded law and leaves the wrapped environment as it is."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest

from distrl.core.errors import ConfigError
from distrl.envs.delay import Delay


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
    ],
)
def test_refusals(config):
    with pytest.raises(ConfigError, match=r"env\.delay"):
        slow(config)
