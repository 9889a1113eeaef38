"""RLlib's PPO, APPO and IMPALA: an algorithm and a case in, one JSON line out.

    python rllib.py --algorithm appo --case cartpole [--env-runners 1 --envs-per-runner 32 --vectorize-mode sync] …

The new API stack. Losses, networks and learning rates are those of RLlib's own examples (rllib/examples/algorithms:
cartpole_*, mujoco_ppo, halfcheetah_appo, pong_*, pendulum_*); batches, passes over them, numbers of processes and the
vectorisation are what is fastest on two cores and still learns. ``vector_entry_point`` is not: RLlib's time goes to the
episodes that it builds row by row, not to the environments.
"""

from __future__ import annotations

import argparse
import logging
import os
from typing import Any

import gymnasium
import numpy as np
from shared import EVALUATION_EPISODES, IDS, SLOW_ENVS, Run, make

ITERATION_S = 0.5  # IMPALA's and APPO's iterations are cut by time
CONVOLUTIONS = [[32, 8, 4], [64, 4, 2], [64, 3, 1]]
_BY_CASE: dict[str, dict[str, Any]] = {  # losses and optimisers of RLlib's examples
    "ppo-cartpole": {"lr": 3e-4, "num_epochs": 6, "vf_loss_coeff": 0.01, "train_batch_size_per_learner": 4096},
    "appo-cartpole": {
        "train_batch_size_per_learner": 1600,
        "vf_loss_coeff": 0.05,
        "entropy_coeff": 0.0,
        "circular_buffer_num_batches": 1,
        "circular_buffer_iterations_per_batch": 1,
    },
    "impala-cartpole": {"train_batch_size_per_learner": 1600, "lr": 5e-4, "vf_loss_coeff": 0.05, "entropy_coeff": 0.0},
    "ppo-halfcheetah": {
        "train_batch_size_per_learner": 2048,
        "minibatch_size": 512,
        "num_epochs": 10,
        "lr": 3e-4,
        "vf_loss_coeff": 1.0,
        "lambda_": 0.95,
        "kl_coeff": 0.5,
        "clip_param": 0.2,
        "vf_clip_param": 10.0,
        "grad_clip": 50.0,
    },
    "appo-halfcheetah": {
        "train_batch_size_per_learner": 4096,
        "circular_buffer_num_batches": 16,
        "circular_buffer_iterations_per_batch": 20,
        "grad_clip": 0.5,
        "grad_clip_by": "value",
        "gamma": 0.995,
        "lambda_": 0.995,
        "entropy_coeff": 0.0,
        "use_kl_loss": True,
        "kl_target": 0.04,
    },
    "impala-halfcheetah": {"train_batch_size_per_learner": 1024, "lr": 3e-4, "vf_loss_coeff": 0.5},
    "ppo-pong": {
        "train_batch_size_per_learner": 1024,
        "minibatch_size": 256,
        "num_epochs": 4,
        "lr": 2.5e-4,
        "clip_param": 0.1,
    },
    "appo-pong": {"vf_loss_coeff": 1.0, "circular_buffer_num_batches": 4, "circular_buffer_iterations_per_batch": 2},
    "impala-pong": {"vf_loss_coeff": 1.0, "lr": 5e-4},
    "ppo-slow": {"train_batch_size_per_learner": 512, "minibatch_size": 64, "lr": 2e-4, "gamma": 0.95, "lambda_": 0.1},
    "appo-slow": {
        "circular_buffer_num_batches": 16,
        "circular_buffer_iterations_per_batch": 10,
        "lr": 3e-4,
        "gamma": 0.95,
        "lambda_": 0.5,
        "entropy_coeff": 0.0,
        "use_kl_loss": True,
        "kl_target": 0.04,
    },
    "impala-slow": {"train_batch_size_per_learner": 256, "lr": 3e-4, "vf_loss_coeff": 0.05},
}
_MODELS: dict[str, dict[str, Any]] = {
    "cartpole": {"fcnet_hiddens": [64, 64], "vf_share_layers": True},
    "halfcheetah": {"fcnet_hiddens": [64, 64], "vf_share_layers": False},
    "pong": {"conv_filters": CONVOLUTIONS, "head_fcnet_hiddens": [512], "vf_share_layers": True},
    "slow": {"fcnet_hiddens": [64, 64], "vf_share_layers": False},
}


class ChannelsLast(gymnasium.wrappers.TransformObservation):
    """As RLlib's convolutions want images."""

    def __init__(self, env: gymnasium.Env):
        space = gymnasium.spaces.Box(0.0, 1.0, (84, 84, 4), np.float32)
        super().__init__(env, lambda observation: np.moveaxis(observation, 0, -1), space)


def environment(context: Any) -> gymnasium.Env:
    case = context["case"]
    env = make(case, context.worker_index - 1, scale=True) if context.worker_index else make_idle(case)
    return ChannelsLast(env) if case == "pong" else env


def make_idle(case: str) -> gymnasium.Env:
    """What the driver looks at for its spaces, and evaluates in: it must not count among the slow ones."""
    return gymnasium.make(IDS[case]) if case == "slow" else make(case, scale=True)


def configuration(options: argparse.Namespace, case: str, seed: int) -> Any:
    from ray.rllib.algorithms.appo import APPOConfig
    from ray.rllib.algorithms.impala import IMPALAConfig
    from ray.rllib.algorithms.ppo import PPOConfig
    from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig
    from ray.tune.registry import register_env

    register_env("case", environment)
    config = {"appo": APPOConfig, "impala": IMPALAConfig, "ppo": PPOConfig}[options.algorithm]()
    evaluation = {"explore": False, "num_envs_per_env_runner": EVALUATION_EPISODES, "gym_env_vectorize_mode": "sync"}
    if case == "cartpole":  # by its id: the native vector environment cannot be had through a factory
        config.environment(IDS[case])
    else:
        config.environment("case", env_config={"case": case})
    config.env_runners(
        num_env_runners=options.env_runners,
        num_envs_per_env_runner=options.envs_per_runner,
        gym_env_vectorize_mode=options.vectorize_mode,
        rollout_fragment_length=options.fragment_length or ("auto" if options.algorithm == "ppo" else 25),
    )
    config.learners(num_learners=options.learners)
    config.training(**_BY_CASE[f"{options.algorithm}-{case}"])
    if options.batch_size:
        config.training(train_batch_size_per_learner=options.batch_size)
    config.rl_module(model_config=DefaultModelConfig(**_MODELS[case]))
    config.reporting(min_time_s_per_iteration=0 if options.algorithm == "ppo" else ITERATION_S)
    config.evaluation(
        evaluation_interval=10**9,  # by hand, in environments that only a given interval makes
        evaluation_num_env_runners=0,
        evaluation_duration=EVALUATION_EPISODES,
        evaluation_duration_unit="episodes",
        evaluation_config=evaluation,
    )
    return config.debugging(seed=seed, log_level="ERROR")


def main() -> None:
    run = Run()
    slow = run.case == "slow"
    parser = argparse.ArgumentParser()
    parser.add_argument("--algorithm", choices=("appo", "impala", "ppo"), required=True)
    parser.add_argument("--env-runners", type=int, default=SLOW_ENVS if slow else 1)
    parser.add_argument("--envs-per-runner", type=int, default=1 if slow else 64 if run.case == "cartpole" else 16)
    parser.add_argument("--vectorize-mode", default="sync")
    parser.add_argument("--fragment-length", type=int)
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--learners", type=int, default=0)
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
    algorithm = configuration(options, run.case, run.seed).build_algo()

    def evaluated() -> float:
        return algorithm.evaluate()["env_runners"]["episode_return_mean"]

    while True:
        result = algorithm.train()
        sampled = result["env_runners"].get("num_env_steps_sampled_lifetime", 0)
        learned = result.get("learners", {}).get("__all_modules__", {}).get("num_env_steps_trained_lifetime", 0)
        # a batch that is used several times counts each time: no more were trained than were sampled
        if run.trained(int(min(sampled, learned)), evaluated):
            break
    final = evaluated() if run.case in ("cartpole", "halfcheetah") else None
    run.report(
        vars(options) | _BY_CASE[f"{options.algorithm}-{run.case}"] | _MODELS[run.case],
        result["env_runners"].get("episode_return_mean"),
        evaluated_return=final,
        num_env_steps_trained=int(learned),
        num_env_steps_sampled=int(sampled),
    )
    algorithm.stop()
    ray.shutdown()


if __name__ == "__main__":
    main()
