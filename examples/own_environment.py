"""Train on an environment of your own, named by its import path: python examples/own_environment.py [--ray] [--steps N]

Nothing is registered: ``own_environment:Oven`` is this file as any process can import it. (``__main__:Oven`` would not
do: other processes have another main module.)
"""

import argparse

import gymnasium as gym
import numpy as np

import distrl


class Oven(gym.Env):
    """Bring an oven to 1 and hold it there with little heating; it loses heat, and it answers late."""

    def __init__(self, loss: float = 0.1, episode_steps: int = 100):
        self.observation_space = gym.spaces.Box(-10.0, 10.0, (2,), np.float32)  # temperature, heater
        self.action_space = gym.spaces.Box(0.0, 1.0, (1,), np.float32)
        self.loss, self.episode_steps = loss, episode_steps

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.state = np.array([self.np_random.uniform(0.0, 0.5), 0.0], np.float32)
        self.steps = 0
        return self.state.copy(), {}

    def step(self, action):
        temperature, heater = self.state
        heater += 0.3 * (float(action[0]) - heater)
        temperature += 0.2 * heater - self.loss * temperature
        self.state = np.array([temperature, heater], np.float32)
        self.steps += 1
        reward = -abs(float(temperature) - 1.0) - 0.05 * float(action[0])
        return self.state.copy(), reward, False, self.steps >= self.episode_steps, {"temperature": float(temperature)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Train on an environment of your own.")
    parser.add_argument("--ray", action="store_true", help="on Ray, each environment in a process of its own")
    parser.add_argument("--steps", type=int, default=2000)
    options = parser.parse_args()
    config = distrl.RunConfig(
        env={"id": "own_environment:Oven", "kwargs": {"loss": 0.12}},
        run={"steps": options.steps},
        algorithm={"name": "sac", "hidden": [64, 64], "batch_size": 64},
        replay={"min_size": 400, "samples_per_insert": 32},
        evaluation={"period": 1000},
    )
    result = distrl.train(config, local=not options.ray)
    print(
        f"mean return {result.summary['final_return_mean']:.1f} on held-out seeds; everything is in {result.directory}"
    )
