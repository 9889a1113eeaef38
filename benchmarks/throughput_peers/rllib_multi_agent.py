"""RLlib's PPO on mpe2's simple_spread, one policy for all agents: one JSON line out, in agent steps.

    python rllib_multi_agent.py --case simple_spread [--env-runners 2 --envs-per-runner 8 --epochs 10] …

The new API stack, with the network and the losses that distrl's preset has; RLlib's own wrapper of PettingZoo.
"""

from __future__ import annotations

import argparse
import logging
import os
from typing import Any

from shared import Run


def environment(_: Any) -> Any:
    from mpe2 import simple_spread_v3
    from ray.rllib.env.wrappers.pettingzoo_env import ParallelPettingZooEnv

    return ParallelPettingZooEnv(simple_spread_v3.parallel_env())


def configuration(options: argparse.Namespace, seed: int) -> Any:
    from ray.rllib.algorithms.ppo import PPOConfig
    from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig
    from ray.tune.registry import register_env

    register_env("simple_spread", environment)
    return (
        PPOConfig()
        .environment("simple_spread")
        .multi_agent(policies={"shared"}, policy_mapping_fn=lambda agent, episode, **_: "shared")
        .env_runners(num_env_runners=options.env_runners, num_envs_per_env_runner=options.envs_per_runner)
        .learners(num_learners=0)
        .rl_module(
            model_config=DefaultModelConfig(fcnet_hiddens=[64, 64], fcnet_activation="tanh", vf_share_layers=False)
        )
        .training(
            train_batch_size_per_learner=options.batch_size,
            minibatch_size=options.minibatch_size,
            num_epochs=options.epochs,
            lr=7e-4,
            vf_loss_coeff=0.5,
            entropy_coeff=0.01,
        )
        .debugging(seed=seed, log_level="ERROR")
        .reporting(min_time_s_per_iteration=None, min_sample_timesteps_per_iteration=0)
    )


def main() -> None:
    run = Run()
    parser = argparse.ArgumentParser()
    parser.add_argument("--env-runners", type=int, default=2)
    parser.add_argument("--envs-per-runner", type=int, default=8)
    parser.add_argument("--batch-size", type=int, default=1600, help="env steps")
    parser.add_argument("--minibatch-size", type=int, default=1200, help="agent steps")
    parser.add_argument("--epochs", type=int, default=10)
    options = parser.parse_args(run.peer_arguments)

    import ray
    import torch

    torch.set_num_threads(1)
    here = os.path.dirname(os.path.abspath(__file__))
    ray.init(
        address="local",
        num_cpus=options.env_runners + 4,  # logical ones: an env runner takes one
        include_dashboard=False,
        logging_level=logging.ERROR,
        log_to_driver=False,
        runtime_env={"env_vars": {"OMP_NUM_THREADS": "1", "PYTHONPATH": here}},
    )
    algorithm = configuration(options, run.seed).build_algo()
    while True:
        result = algorithm.train()
        found = result["env_runners"]
        sampled = sum(found.get("num_agent_steps_sampled_lifetime", {}).values())
        if run.trained(int(sampled)):  # synchronous: what has been sampled is trained on
            break
    run.report(vars(options), found.get("episode_return_mean"), num_agent_steps_sampled=int(sampled))
    algorithm.stop()
    ray.shutdown()


if __name__ == "__main__":
    main()
