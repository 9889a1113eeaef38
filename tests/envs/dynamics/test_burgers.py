"""The Burgers kernel against a solution by the Cole–Hopf transformation, and the control problem's own numbers."""

import math

import numpy as np
import pytest

from distrl.envs.dynamics import burgers
from distrl.envs.dynamics.burgers import Burgers


def cole_hopf(x: np.ndarray, t: float, viscosity: float, drift: float) -> np.ndarray:
    """u = c - 2 nu phi_x / phi with phi = 2 + exp(-nu k^2 t) cos k (x - c t): a decaying wave on a drift c."""
    k = 2 * math.pi
    y, decay = k * (x - drift * t), math.exp(-viscosity * k**2 * t)
    return drift + 2 * viscosity * k * decay * np.sin(y) / (2 + decay * np.cos(y))


@pytest.mark.parametrize("drift", [0.0, 0.5])
def test_a_wave_converges_to_the_exact_one(drift: float) -> None:
    """Second order in the spacing, with a drift (the wind from one side) and without (both signs of u)."""
    errors = []
    for points in (75, 150, 300):
        x = np.arange(points) / points
        field = cole_hopf(x, 0.0, 0.02, drift)
        steps = 4 * round((points / 75) ** 2 * 75)
        burgers.advance(field, np.zeros(points), 0.02, 1 / points, 1.0 / steps, steps)
        errors.append(np.abs(field - cole_hopf(x, 1.0, 0.02, drift)).mean())
    assert errors[1] < 2e-4
    assert math.log2(errors[0] / errors[1]) > 1.6
    assert math.log2(errors[1] / errors[2]) > 1.7


def test_forces_add_their_mean_to_the_flow() -> None:
    """The mean of u changes by the mean force alone: convection and viscosity only move and spread it."""
    env = Burgers()
    env.reset(seed=0)
    before = env.field.mean()
    env.step(np.ones(2))
    assert env.field.mean() - before == pytest.approx(0.5 * 0.075 * 2 * math.sqrt(math.pi / 225), rel=1e-3)


def test_doing_nothing_is_half_way_to_the_left_and_feedback_beats_it() -> None:
    env = Burgers()
    returns = []
    for params in (burgers.NOTHING, {"gain": 5.0}):
        policy = burgers.baseline_policy(params, {})
        observation, _ = env.reset(seed=0)
        rewards, truncated = [], False
        while not truncated:
            action = policy.act(observation)
            assert params["gain"] or (action == -0.5).all()
            observation, reward, _, truncated, info = env.step(action)
            rewards.append(reward)
        returns.append(sum(rewards))
    assert len(rewards) == 60
    assert returns[0] < 1.5 * returns[1] < 0
    assert 0 < info["episode_error"] < 1


@pytest.mark.parametrize("viscosity", burgers.VISCOSITIES)
def test_the_ends_of_the_viscositys_range_are_stable(viscosity: float) -> None:
    env = Burgers(viscosity=viscosity)
    env.reset(seed=1)
    for _ in range(20):
        assert not env.step(env.action_space.sample())[2]
    assert 0 < env.field.min() < env.field.max() < 1


def test_the_target_swings_once_an_episode() -> None:
    env = Burgers()
    env.reset(seed=0)
    targets = [env.target]
    for _ in range(60):
        observation = env.step(np.zeros(2))[0]
        targets.append(env.target)
        np.testing.assert_allclose(observation[:150] / 5 + env.target, env.field, atol=1e-6)
    assert np.argmax(targets) == 15
    assert np.argmin(targets) == 45
    assert max(targets) == pytest.approx(0.55)


@pytest.mark.parametrize("fidelity", ["default", "fine"])
@pytest.mark.parametrize("action", [-1.0, 0.2, 1.0])
def test_no_wave_of_the_grid_grows(fidelity: str, action: float) -> None:
    """At the end of an episode the shortest waves carry nothing: the time step is stable at the speeds reached."""
    env = Burgers(fidelity=fidelity)
    env.reset(seed=3)
    for _ in range(env.episode_steps):
        env.step(np.full(2, action, np.float32))
    waves = np.abs(np.fft.rfft(env.field))
    assert waves[-10:].max() < 1e-6 * waves.max()
