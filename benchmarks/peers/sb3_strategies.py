"""Stable-Baselines3's SAC on Kuramoto–Sivashinsky with slow steps: settings as JSON in, one JSON line with its learning
curve out. Evaluations take none of the time that is counted.
"""

import json
import sys
import time

import gymnasium
import numpy as np


def make(law=None, seed=0):
    import distrl.envs  # noqa: F401  registers the environment
    from distrl.envs.delay import Delay

    env = gymnasium.make("distrl/KuramotoSivashinsky-v0")
    return env if law is None else Delay(env, law)


def main() -> None:
    import torch
    from stable_baselines3 import SAC
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.vec_env import SubprocVecEnv

    settings = json.loads(sys.argv[1])
    steps, num_envs = settings["steps"], settings["num_envs"]
    torch.set_num_threads(1)
    evaluation = make()

    class Curve(BaseCallback):
        found, paused_s, due = [], 0.0, 0

        def _on_training_start(self) -> None:
            self.began = time.monotonic()

        def _on_step(self) -> bool:
            if self.num_timesteps >= self.due:
                type(self).due += steps // settings["evaluations"]
                self.look()
            return True

        def look(self) -> None:
            now = time.monotonic()
            returns = []
            for seed in range(8):
                observation, _ = evaluation.reset(seed=1_700_000_000 + seed)
                total, over = 0.0, False
                while not over:
                    action, _ = self.model.predict(observation, deterministic=True)
                    observation, reward, terminated, truncated, _ = evaluation.step(action)
                    total, over = total + float(reward), terminated or truncated
                returns.append(total)
            point = {"wall_s": now - self.began - self.paused_s, "env_steps": self.num_timesteps}
            self.found.append(point | {"return": float(np.mean(returns))})
            type(self).paused_s += time.monotonic() - now

    environments = [lambda: make(settings["law"]) for _ in range(num_envs)]
    model = SAC(
        "MlpPolicy",
        SubprocVecEnv(environments),
        seed=settings["seed"],
        learning_rate=1e-3,
        gamma=0.977,
        batch_size=128,
        learning_starts=500,
        train_freq=1,
        gradient_steps=num_envs,  # one update for each env step
        ent_coef="auto_0.1",
        policy_kwargs={"net_arch": [64, 64]},
        device="cpu",
    )
    curve = Curve()
    model.learn(steps, callback=curve)
    curve.look()
    model.env.close()
    print(json.dumps({"wall_s": curve.found[-1]["wall_s"], "curve": curve.found}))


if __name__ == "__main__":
    main()
