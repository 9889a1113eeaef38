"""Train SAC on a Gymnasium environment, load what it learned and act with it: python examples/quickstart.py"""

import gymnasium as gym

import distrl

config = distrl.RunConfig.load("sac", ["env.id=Pendulum-v1", "run.steps=6000", "evaluation.period=1000"])
result = distrl.train(config, local=True)  # without local: on Ray, each environment in a process of its own
print(f"{result.summary['final_return_mean']:.0f} on held-out seeds; the curve is in {result.directory}")

policy = distrl.load_policy(result.directory)
env = gym.make("Pendulum-v1")
observation, _ = env.reset(seed=7)
print("action", policy.act(observation))
