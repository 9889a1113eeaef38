"""An environment whose baseline is constant actions, of two numbers each."""

import gymnasium
import numpy as np
from gymnasium import spaces

from distrl.envs import constant_control

NAME, NOTHING, baseline_candidates, baseline_policy = constant_control.controls(num_actions=2, levels=(0.0, 0.5))


class Sum(gymnasium.Env):
    """The reward of a step is the sum of its action; an episode has three. Its pictures need a display that no test
    has."""

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012 - as Gymnasium has it
    observation_space = spaces.Box(0, 3, (1,), np.float32)
    action_space = spaces.Box(-1, 1, (2,), np.float32)
    baseline = __name__

    def __init__(self, render_mode=None):
        self.render_mode = render_mode

    def render(self):
        raise OSError("there is no display")

    def reset(self, *, seed=None, options=None):
        self.t = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.t += 1
        return np.array([self.t], np.float32), float(action.sum()), False, self.t == 3, {}
