"""Stable-Baselines3's PPO: a case in, one JSON line out.

CartPole has the tuned settings of RL Baselines3 Zoo (hyperparams/ppo.yml) where it is to reach a return, and larger
rollouts with fewer epochs where it is to be fast. HalfCheetah and Pong have the defaults of the paper (Schulman et al.
2017, tables 3 and 5) with more environments. The slow environments are processes (SubprocVecEnv).
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch
from shared import SLOW_ENVS, Run, evaluate, make
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv, VecNormalize

_SMALL = {"net_arch": [64, 64]}
SETTINGS: dict[str, dict[str, Any]] = {
    "cartpole": {
        "n_envs": 32,
        "n_steps": 64,
        "batch_size": 512,
        "n_epochs": 4,
        "learning_rate": 1e-3,
        "gamma": 0.98,
        "gae_lambda": 0.8,
        "policy_kwargs": _SMALL,
    },
    "cartpole-target": {
        "n_envs": 8,
        "n_steps": 32,
        "batch_size": 256,
        "n_epochs": 20,
        "learning_rate": 1e-3,
        "gamma": 0.98,
        "gae_lambda": 0.8,
        "policy_kwargs": _SMALL,
    },
    "halfcheetah": {
        "n_envs": 8,
        "n_steps": 256,
        "batch_size": 256,
        "n_epochs": 10,
        "learning_rate": 3e-4,
        "policy_kwargs": _SMALL,
    },
    "pong": {
        "n_envs": 8,
        "n_steps": 128,
        "batch_size": 256,
        "n_epochs": 4,
        "learning_rate": 2.5e-4,
        "clip_range": 0.1,
        "ent_coef": 0.01,
        "policy": "CnnPolicy",
    },
    "slow": {
        "n_envs": SLOW_ENVS,
        "n_steps": 32,
        "batch_size": 64,
        "n_epochs": 10,
        "learning_rate": 1e-3,
        "gamma": 0.9,
        "use_sde": True,
        "sde_sample_freq": 4,
        "policy_kwargs": _SMALL,
    },
}


def vectorised(case: str, num_envs: int, seed: int) -> VecEnv:
    if case == "slow":
        return SubprocVecEnv([functools.partial(make, case, index) for index in range(num_envs)])
    vector = make_vec_env(functools.partial(make, case), num_envs, seed=seed, vec_env_cls=DummyVecEnv)
    return VecNormalize(vector) if case == "halfcheetah" else vector


class Watch(BaseCallback):
    """What has been trained on is known when the next rollout begins."""

    def __init__(self, run: Run):
        super().__init__()
        self.run, self.stop = run, False

    def act(self, observation: np.ndarray) -> np.ndarray:
        vector = self.model.get_vec_normalize_env()
        action, _ = self.model.predict(vector.normalize_obs(observation) if vector else observation, deterministic=True)
        return action

    def _on_rollout_start(self) -> None:
        self.stop = self.run.trained(self.model.num_timesteps, lambda: evaluate(self.run.case, self.act))

    def _on_step(self) -> bool:
        return not self.stop


def main() -> None:
    torch.set_num_threads(1)
    run = Run()
    aim = run.options.target is not None and f"{run.case}-target" in SETTINGS
    settings = SETTINGS[f"{run.case}-target" if aim else run.case]
    given = dict(settings)
    vector = vectorised(run.case, given.pop("n_envs"), run.seed)
    model = PPO(given.pop("policy", "MlpPolicy"), vector, seed=run.seed, device="cpu", **given)
    watch = Watch(run)
    model.learn(10**9, callback=watch)
    episodes = model.ep_info_buffer or []
    final = evaluate(run.case, watch.act) if run.case in ("cartpole", "halfcheetah") else None
    vector.close()
    returns = [episode["r"] for episode in episodes]
    run.report(settings, float(np.mean(returns)) if returns else None, evaluated_return=final)


if __name__ == "__main__":
    main()
