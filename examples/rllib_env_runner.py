"""RLlib's PPO over distrl's environment processes: python rllib_env_runner.py [--iterations 30] [--kill 10]

Everything but ``env_runner_cls`` is RLlib as it stands: its algorithm, learner, modules, connectors and metrics. With
``--kill N`` an environment's process is killed before every N-th iteration: the others do not notice.
"""

import argparse
import os
import signal

import ray
from ray.rllib.algorithms.ppo import PPOConfig

from distrl.cluster.rllib.env_runner import DistrlEnvRunner

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--iterations", type=int, default=30)
    parser.add_argument("--kill", type=int)
    options = parser.parse_args()
    ray.init(address="local", num_cpus=2, include_dashboard=False)
    config = (
        PPOConfig()
        .environment("CartPole-v1", env_config={"distrl": {"step_timeout_s": 60}})
        .env_runners(env_runner_cls=DistrlEnvRunner, num_env_runners=0, num_envs_per_env_runner=8)
        .training(train_batch_size_per_learner=1024, minibatch_size=256, num_epochs=6, lr=3e-4, vf_loss_coeff=0.01)
        .debugging(seed=0)
    )
    algorithm = config.build_algo()
    for iteration in range(1, options.iterations + 1):
        if options.kill and iteration % options.kill == 0:
            os.kill(algorithm.env_runner.env.pool.pids()[0], signal.SIGKILL)
        found = algorithm.train()["env_runners"]
        print(
            f"{found['num_env_steps_sampled_lifetime']:.0f} env steps, return {found['episode_return_mean']:.0f}, "
            f"{found.get('num_env_step_failures', 0):.0f} failures"
        )
    algorithm.stop()
    ray.shutdown()
