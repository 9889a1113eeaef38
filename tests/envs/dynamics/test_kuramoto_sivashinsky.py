"""The Kuramoto–Sivashinsky kernel against its dispersion relation, and episodes against the literature's returns."""

import math

import numpy as np
import pytest

from distrl.envs.dynamics import kuramoto_sivashinsky as ks

LINE = np.arange(ks.POINTS) * ks.LENGTH / ks.POINTS
DX = ks.LENGTH / ks.POINTS
STILL = np.zeros(ks.POINTS)


@pytest.mark.parametrize("wave", [1, 2, 3, 5])
def test_small_waves_grow_as_k2_minus_k4(wave: int) -> None:
    k = 2 * math.pi * wave / ks.LENGTH
    field = 1e-6 * np.sin(k * LINE)
    ks.advance(field, STILL, DX, 1e-3, 2000, 1.0)
    rate = math.log(np.abs(np.fft.rfft(field)[wave]) / (1e-6 * ks.POINTS / 2)) / 2.0
    assert rate == pytest.approx(k**2 - k**4, abs=0.002)


def test_time_steps_are_of_fourth_order() -> None:
    def after(steps: int) -> np.ndarray:
        field = np.cos(LINE / 4) * (1 + np.sin(LINE / 4)) + 2  # one sign: the upwind side never changes
        ks.advance(field, STILL, DX, 0.4 / steps, steps, 1.0)
        return field

    exact = after(3200)
    errors = [np.abs(after(steps) - exact).max() for steps in (250, 500)]
    assert math.log2(errors[0] / errors[1]) > 3.7


def test_the_fine_level_agrees_with_the_default_one() -> None:
    returns = []
    for fidelity in ks.FIDELITIES:
        env = ks.KuramotoSivashinsky(fidelity=fidelity)
        env.reset(seed=0)
        env.field = np.cos(env.x / 4) * (1 + np.sin(env.x / 4))
        returns.append([env.step(np.full(4, 0.3))[1] for _ in range(8)])
    np.testing.assert_allclose(returns[0], returns[1], rtol=0.05)


def test_an_episode_without_control_costs_what_the_literatures_does() -> None:
    """About -240 in the transient, -0.6 a step; the steady state of three waves costs -922."""
    env = ks.KuramotoSivashinsky()
    env.reset(seed=0)
    idle = sum(env.step(np.zeros(4))[1] for _ in range(400))
    assert -275 < idle < -230
    env.field = 2 * np.sin(6 * math.pi / ks.LENGTH * env.x)
    for _ in range(200):
        reward = env.step(np.zeros(4))[1]
    assert 400 * reward == pytest.approx(-922, rel=0.01)


def test_forces_are_paid_for_the_power_that_they_put_in() -> None:
    env = ks.KuramotoSivashinsky()
    env.reset(seed=0)
    before = env.field.copy()
    _, reward, _, _, info = env.step(np.ones(4))
    assert reward == pytest.approx(-info["dissipation"] - info["power"])
    ends = [0.5 * (field * ks.force_shapes(LINE).sum(0)).mean() for field in (before, env.field)]
    assert info["power"] == pytest.approx(np.mean(ends), rel=0.1)
