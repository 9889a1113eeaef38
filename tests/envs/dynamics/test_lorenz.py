"""The Lorenz system: its integrator, its fixed points, and what pushing at the right moment brings."""

import math

import numpy as np
import pytest

from distrl.core.errors import EnvironmentFault
from distrl.envs.dynamics import lorenz
from distrl.envs.dynamics.lorenz import Lorenz


def test_time_steps_are_of_fourth_order() -> None:
    start = np.array([10.0, 10.0, 10.0])
    exact = lorenz.advance(start, 0.5, 1 / 12800, 12800)
    errors = [np.abs(lorenz.advance(start, 0.5, 1 / n, n) - exact).max() for n in (200, 400)]
    assert math.log2(errors[0] / errors[1]) > 3.8


def test_the_wings_have_a_point_at_rest() -> None:
    side = math.sqrt(lorenz.BETA * (lorenz.RHO - 1))
    assert np.abs(lorenz.tendency(np.array([-side, -side, lorenz.RHO - 1]), 0.0)).max() < 1e-12


def test_discrete_actions_are_the_ends_and_the_middle_of_the_continuous_ones() -> None:
    discrete, continuous = Lorenz(discrete=True), Lorenz()
    for env in (discrete, continuous):
        env.reset(seed=4)
    for action in (0, 2, 1, 0):
        seen, wanted = discrete.step(action), continuous.step(np.array([action - 1.0]))
        np.testing.assert_array_equal(seen[0], wanted[0])
    with pytest.raises(EnvironmentFault, match="one of the actions 0, 1, 2, got 3"):
        discrete.step(3)


def test_feedback_that_damps_the_left_swings_keeps_it_left_longer() -> None:
    env = Lorenz()
    shares = []
    for params in (lorenz.NOTHING, {"gain": 1.0}):
        policy = lorenz.baseline_policy(params, {})
        left = []
        for seed in range(8):
            observation, _ = env.reset(seed=seed)
            for _ in range(500):
                observation, reward, _, _, info = env.step(policy.act(observation))
                assert reward == float(10 * observation[0] < 0)
            left.append(info["episode_left"])
        shares.append(np.mean(left))
    assert shares[1] > shares[0] + 0.05
