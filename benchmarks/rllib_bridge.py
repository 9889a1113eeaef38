"""RLlib's PPO over distrl's environment processes, as JSON: one line.

    python benchmarks/rllib_bridge.py --case cartpole [--kill-period 10]    # to a mean return of 475
    python benchmarks/rllib_bridge.py --case slow        # beside RLlib's own env runner, the same algorithm

``cartpole``: CartPole-v1 with SIGKILL for a random environment process every ``--kill-period`` seconds, until the mean
return of the last 100 training episodes is 475. ``return_mean``: then, 20 episodes without exploration.

``slow``: 16 Pendulums whose steps take a lognormal time (median 50 ms, σ 1), ``--seconds`` of training each, one after
the other: DistrlEnvRunner, and RLlib's SingleAgentEnvRunner with an environment process each (vectorize mode "async").
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import random
import signal
import threading
import time
from typing import Any

TARGET = 475.0
NUM_SLOW = 16
DELAY = {"kind": "lognormal", "median_s": 0.05, "sigma": 1.0}


def cartpole(limit_s: float, kill_period_s: float, seed: int) -> dict[str, Any]:
    from ray.rllib.algorithms.ppo import PPOConfig

    from distrl.cluster.rllib.env_runner import DistrlEnvRunner

    config = PPOConfig().environment("CartPole-v1").debugging(seed=seed, log_level="ERROR")
    config.env_runners(env_runner_cls=DistrlEnvRunner, num_env_runners=0, num_envs_per_env_runner=8)
    config.training(train_batch_size_per_learner=2048, minibatch_size=256, num_epochs=6, lr=3e-4, vf_loss_coeff=0.01)
    config.rl_module(model_config={"fcnet_hiddens": [64, 64], "vf_share_layers": True})
    algorithm = config.build_algo()
    pool, over, kills = algorithm.env_runner.env.pool, threading.Event(), []

    def kill() -> None:
        rng = random.Random(seed)
        while not over.wait(kill_period_s):
            pid = int(rng.choice([pid for pid in pool.pids() if pid]))
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            kills.append(pid)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    started, reached, result = time.monotonic(), None, {}
    while reached is None and time.monotonic() - started < limit_s:
        result = algorithm.train()["env_runners"]
        if result["episode_return_mean"] >= TARGET:
            reached = time.monotonic() - started
    over.set()
    killer.join()
    episodes = algorithm.env_runner.sample(num_episodes=20, explore=False)
    found = {
        "kill_period_s": kill_period_s,
        "seed": seed,
        "kills": len(kills),
        "faults": int(result.get("num_env_step_failures", 0)),
        "seconds_to_target": reached,
        "env_steps": int(result["num_env_steps_sampled_lifetime"]),
        "training_return_mean": result["episode_return_mean"],
        "return_mean": sum(episode.get_return() for episode in episodes) / len(episodes),
    }
    algorithm.stop()
    return found


def slow(seconds: float, seed: int) -> dict[str, Any]:
    from ray.tune.registry import register_env

    from distrl.core.types import EnvRecipe
    from distrl.envs.resolve import make

    register_env("slow", lambda context: make(EnvRecipe("Pendulum-v1", delay=DELAY)))
    ours, theirs = (_slow(own, seconds, seed) for own in (True, False))
    return {"distrl": ours, "rllib": theirs, "ratio": ours["env_steps_per_s"] / theirs["env_steps_per_s"]}


def _slow(own: bool, seconds: float, seed: int) -> dict[str, Any]:
    from ray.rllib.algorithms.ppo import PPOConfig

    from distrl.cluster.rllib.env_runner import OPTIONS, DistrlEnvRunner

    config = PPOConfig().debugging(seed=seed, log_level="ERROR")
    config.env_runners(num_env_runners=0, num_envs_per_env_runner=NUM_SLOW, gym_env_vectorize_mode="async")
    if own:
        config.environment("Pendulum-v1", env_config={OPTIONS: {"delay": DELAY}})
        config.env_runners(env_runner_cls=DistrlEnvRunner)
    else:
        config.environment("slow")
    config.training(train_batch_size_per_learner=512, minibatch_size=64, num_epochs=6, lr=2e-4, gamma=0.95)
    algorithm = config.build_algo()
    algorithm.train()
    started, steps, result = time.monotonic(), 0, {}
    while time.monotonic() - started < seconds:
        result = algorithm.train()["env_runners"]
        steps += int(result["num_env_steps_sampled"])
    found = {"env_steps_per_s": steps / (time.monotonic() - started), "env_steps": steps}
    if own:
        found["env_busy_fraction"] = result["env_busy_fraction"]
    algorithm.stop()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", choices=("cartpole", "slow"), default="cartpole")
    parser.add_argument("--seconds", type=float, help="at most (cartpole), of each (slow)")
    parser.add_argument("--kill-period", type=float, default=10.0, help="seconds between two kills (cartpole)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")

    import ray
    import torch

    torch.set_num_threads(1)
    ray.init(address="local", num_cpus=2, include_dashboard=False, logging_level=logging.ERROR)
    if options.case == "cartpole":
        found = cartpole(options.seconds or 600.0, options.kill_period, options.seed)
    else:
        found = slow(options.seconds or 60.0, options.seed)
    ray.shutdown()
    print(json.dumps({"benchmark": f"rllib_bridge-{options.case}", "cores": os.cpu_count(), **found}))


if __name__ == "__main__":
    main()
