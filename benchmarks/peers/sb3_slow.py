"""Stable-Baselines3's SAC on the slow environments, one update per vector step: seconds, environments, median and σ in,
one JSON line out.
"""

import json
import sys
import time

import gymnasium
import numpy as np


class Slow(gymnasium.Wrapper):
    """A lognormal sleep in each step, as distrl.envs.delay has it."""

    def __init__(self, env, median_s, sigma, seed):
        super().__init__(env)
        self._rng, self._median_s, self._sigma = np.random.default_rng(seed), median_s, sigma

    def step(self, action):
        begin = time.monotonic()
        time.sleep(self._rng.lognormal(np.log(self._median_s), self._sigma))
        result = self.env.step(action)
        result[4]["step_s"] = time.monotonic() - begin
        return result


def main() -> None:
    import torch
    from stable_baselines3 import SAC
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.vec_env import SubprocVecEnv

    seconds, num_envs, median_s, sigma = float(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4])
    torch.set_num_threads(1)

    class Clock(BaseCallback):
        start, steps, inside_s = None, 0, 0.0

        def _on_step(self) -> bool:
            if self.num_timesteps <= 100 + num_envs:
                return True
            if self.start is None:
                self.start = time.monotonic()
            else:
                self.steps += num_envs
                self.inside_s += sum(info["step_s"] for info in self.locals["infos"])
            return time.monotonic() - self.start < seconds

    environments = [lambda i=i: Slow(gymnasium.make("Pendulum-v1"), median_s, sigma, i) for i in range(num_envs)]
    model = SAC("MlpPolicy", SubprocVecEnv(environments), train_freq=1, gradient_steps=1, batch_size=256, device="cpu")
    clock = Clock()
    model.learn(10**9, callback=clock)
    wall_s = time.monotonic() - clock.start
    model.env.close()
    figures = {
        "env_steps_per_s": clock.steps / wall_s,
        "updates_per_s": clock.steps / num_envs / wall_s,
        "busy": clock.inside_s / (num_envs * wall_s),
        "setting": "SAC, SubprocVecEnv, one update per vector step, batch 256",
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
