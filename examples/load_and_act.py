"""Load the best policy of a run and roll it out in the run's own environment: python examples/load_and_act.py RUN
[SEED]
"""

import sys
from pathlib import Path

import distrl
from distrl.envs.resolve import make

if len(sys.argv) < 2:
    sys.exit(__doc__)
run, seed = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0
policy = distrl.load_policy(run)
env = make(distrl.RunConfig.load(run / "config.toml").env.recipe())

observation, _ = env.reset(seed=seed)
policy.reset()  # once an episode: a policy with memory forgets the last one
episode_return, steps, over = 0.0, 0, False
while not over:
    observation, reward, terminated, truncated, _ = env.step(policy.act(observation))
    episode_return, steps, over = episode_return + float(reward), steps + 1, terminated or truncated
env.close()
print(f"return {episode_return:.1f} in {steps} steps from seed {seed}")
