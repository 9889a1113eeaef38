"""Stable-Baselines3's SAC on Kuramoto–Sivashinsky with slow steps: settings as JSON in, one JSON line with its learning
curve by cell out. Evaluations take none of the time that is counted.

SB3 does nothing while its environments step, so the training is the same for every law of the step times: the sleeps
of the slowest environment are added to each round, or what is left of them after the round itself (in favour of SB3,
whose environments would step after they have slept). With ``slept`` they sleep.
"""

import json
import sys
import time

import gymnasium

import distrl.envs  # noqa: F401  registers the environment
from benchmarks.episodes import mean_return
from benchmarks.sleeps import Sleeps
from distrl.envs.delay import Delay


def make(law=None):
    env = gymnasium.make("distrl/KuramotoSivashinsky-v0")
    return env if law is None else Delay(env, law)


def main() -> None:
    import torch
    from stable_baselines3 import SAC
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.vec_env import SubprocVecEnv, VecEnvWrapper

    settings = json.loads(sys.argv[1])
    steps, num_envs, laws = settings["steps"], settings["num_envs"], settings["laws"]
    torch.set_num_threads(1)
    evaluation = make()
    sleeps = Sleeps(laws, num_envs, settings["seed"])

    class Rounds(VecEnvWrapper):
        """Tells when one is over."""

        def reset(self):
            return self.venv.reset()

        def step_async(self, actions):
            self._began = time.monotonic()
            self.venv.step_async(actions)

        def step_wait(self):
            found = self.venv.step_wait()
            if not settings["slept"]:
                sleeps.add_round(already_s=time.monotonic() - self._began)
            return found

    class Curve(BaseCallback):
        def __init__(self):
            super().__init__()
            self.found, self.paused_s, self.due = {cell: [] for cell in laws}, 0.0, 0

        def _on_training_start(self) -> None:
            self.began = time.monotonic()

        def _on_step(self) -> bool:
            if self.num_timesteps >= self.due:
                self.due += steps // settings["evaluations"]
                self.look()
            return True

        def look(self) -> None:
            now = time.monotonic()
            mean = mean_return(
                evaluation,
                lambda observation: self.model.predict(observation, deterministic=True)[0],
                settings["evaluation_seeds"],
            )
            took_s = now - self.began - self.paused_s
            for cell, points in self.found.items():
                point = {"wall_s": took_s + sleeps.added_s[cell], "env_steps": self.num_timesteps}
                points.append(point | {"return": mean})
            self.paused_s += time.monotonic() - now

    slept = next(iter(laws.values())) if settings["slept"] else None
    rounds = Rounds(SubprocVecEnv([lambda: make(slept) for _ in range(num_envs)]))
    model = SAC(
        "MlpPolicy",
        rounds,
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
    print(json.dumps(curve.found))


if __name__ == "__main__":
    main()
