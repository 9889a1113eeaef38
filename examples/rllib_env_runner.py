"""RLlib's PPO over distrl's environment processes: python rllib_env_runner.py [--iterations 30]

Everything but ``env_runner_cls`` is RLlib as it stands: its algorithm, learner, modules, connectors and metrics.
"""

import argparse

import ray
from ray.rllib.algorithms.ppo import PPOConfig

from distrl.cluster.rllib.env_runner import DistrlEnvRunner

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--iterations", type=int, default=30)
    options = parser.parse_args()
    ray.init(address="local", include_dashboard=False)
    config = (
        PPOConfig()
        .environment("CartPole-v1", env_config={"distrl": {"step_timeout_s": 60}})
        .env_runners(env_runner_cls=DistrlEnvRunner, num_env_runners=0, num_envs_per_env_runner=8)
        .training(train_batch_size_per_learner=2048, minibatch_size=256, num_epochs=6, lr=3e-4, vf_loss_coeff=0.01)
    )
    algorithm = config.build_algo()
    for _ in range(options.iterations):
        found = algorithm.train()["env_runners"]
        print(
            f"{found['num_env_steps_sampled_lifetime']:.0f} env steps, return {found['episode_return_mean']:.0f}, "
            f"environments busy {found['env_busy_fraction']:.0%}"
        )
    algorithm.stop()
    ray.shutdown()
