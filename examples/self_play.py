"""A policy learns tic-tac-toe against itself and its past; then what a best response would still gain from it.

pip install 'distrl[multi-agent]'
python examples/self_play.py [--steps 60000]
"""

import argparse

import distrl
from distrl.learners.league.exact import acting, nash_conv

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=60_000)
    options = parser.parse_args()
    result = distrl.train(
        distrl.RunConfig(
            env={"id": "pettingzoo.classic.tictactoe_v3"},
            run={"steps": options.steps},
            actors={"env_workers": 1, "envs_per_worker": 32, "fragment_steps": 32},
            algorithm={
                "name": "ppo",
                "batch_size": 2048,
                "gamma": 1.0,
                "learning_rate": 2e-3,
                "normalize_advantages": False,
                "entropy_cost": 0.15,  # in units of a win
            },
            league={"matchmaking": "fictitious", "snapshot_period": 10},
        ),
        local=True,
    )
    policy = distrl.load_policy(result.directory).policy
    print(f"NashConv, 0 for perfect play and 4 at most: {nash_conv(acting(policy)):.2f}")
