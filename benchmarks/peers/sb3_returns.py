"""A run of Stable-Baselines3 with the settings of ``benchmarks/which_algorithm.py`` (JSON in); its final return out."""

import importlib
import json
import sys

import gymnasium
import numpy as np

import distrl.envs  # noqa: F401  registers its environments
from benchmarks.episodes import mean_return


def make(env):
    arguments = dict(env.get("kwargs", {}))
    if "fidelity" in env:
        arguments["fidelity"] = env["fidelity"]
    module, _, name = env["id"].partition(":")
    if name:
        return getattr(importlib.import_module(module), name)(**arguments)
    return gymnasium.make(env["id"], **arguments)


def main() -> None:
    import torch
    from stable_baselines3 import DQN, PPO, SAC, TD3
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.noise import NormalActionNoise
    from stable_baselines3.common.vec_env import DummyVecEnv

    settings = json.loads(sys.argv[1])
    options, name, steps = settings["options"], settings["name"], settings["steps"]
    torch.set_num_threads(1)
    env = make(settings["env"])

    def evaluated(model, seeds):
        return mean_return(env, lambda observation: model.predict(observation, deterministic=True)[0], seeds)

    class Best(BaseCallback):
        best, parameters = -np.inf, None

        def _on_step(self) -> bool:
            period, before = steps // settings["evaluations"], self.num_timesteps - self.training_env.num_envs
            if self.num_timesteps // period > before // period:
                self.look()
            return True

        def look(self) -> None:
            found = evaluated(self.model, settings["selection_seeds"])
            if found >= self.best:
                self.best, self.parameters = found, self.model.get_parameters()
                self.parameters = {key: _copy(value) for key, value in self.parameters.items()}

    num_envs = 16 if settings["queued"] else 1
    environments = DummyVecEnv([lambda: make(settings["env"]) for _ in range(num_envs)])
    shared = {
        "seed": settings["seed"],
        "gamma": options.get("gamma", 0.99),
        "policy_kwargs": {"net_arch": options["hidden"]},
        "device": "cpu",
    }
    if settings["queued"]:
        model = PPO(
            "MlpPolicy",
            environments,
            learning_rate=options["learning_rate"],
            n_steps=options["batch_size"] // num_envs,
            batch_size=options["batch_size"] // options["minibatches"],
            n_epochs=options["epochs"],
            **shared,
        )
    else:
        per_step, updates = (1, int(settings["updates"])) if settings["updates"] >= 1 else (2, 1)
        shared |= {
            "batch_size": options["batch_size"],
            "learning_rate": options.get("critic_learning_rate", options.get("learning_rate")),
            "learning_starts": settings["warmup"],
            "train_freq": per_step,
            "gradient_steps": updates,
            "n_steps": options.get("n_step", 1),
        }
        if name == "dqn":
            shared |= {"tau": options.get("tau", 0.005), "target_update_interval": 1}
            shared |= {"exploration_initial_eps": options.get("initial_epsilon", 1.0)}
            shared |= {"exploration_final_eps": options.get("final_epsilon", 0.05)}
            shared |= {"exploration_fraction": min(1.0, options.get("epsilon_steps", steps) / steps)}
            model = DQN("MlpPolicy", environments, **shared)
        elif name == "sac":
            temperature = options.get("initial_temperature")
            model = SAC("MlpPolicy", environments, ent_coef=f"auto_{temperature}" if temperature else "auto", **shared)
        else:
            size = environments.action_space.shape
            noise = NormalActionNoise(np.zeros(size), np.full(size, 0.1))
            model = TD3("MlpPolicy", environments, action_noise=noise, **shared)
    best = Best()
    model.learn(steps, callback=best)
    best.look()
    model.set_parameters(best.parameters)
    print(json.dumps({"return": evaluated(model, settings["test_seeds"])}))


def _copy(value):
    if isinstance(value, dict):
        return {key: _copy(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_copy(each) for each in value]
    return value.clone() if hasattr(value, "clone") else value


if __name__ == "__main__":
    main()
