"""Two policies for an environment of several agents: one hunts, the other's two agents flee together.

pip install 'distrl[multi-agent]'
python examples/many_agents.py [--steps 60000]
"""

import argparse

import numpy as np

import distrl

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=60_000)
    options = parser.parse_args()
    result = distrl.train(
        distrl.RunConfig(
            env={"id": "mpe2.simple_adversary_v3"},
            run={"steps": options.steps},
            actors={"env_workers": 1, "envs_per_worker": 16, "fragment_steps": 25},
            algorithm={"name": "ppo", "batch_size": 1600, "hidden": [64, 64]},
            policies={"hunter": {"agents": ["adversary_*"]}, "prey": {"agents": ["agent_*"]}},
        ),
        local=True,
    )
    prey = distrl.load_policy(result.directory, "prey")
    print("what one of the prey does at rest, far from everybody:", int(prey.act(np.zeros(10, np.float32))))
