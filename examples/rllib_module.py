"""An RLModule written for RLlib, trained by distrl's PPO: python rllib_module.py [--steps 100000] [--local]

``TwoTowers`` is what RLlib asks of a custom module for PPO and nothing else: RLlib trains the same class with
``config.rl_module(rl_module_spec=RLModuleSpec(module_class=TwoTowers, model_config={"width": 64}))``.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.apis import ValueFunctionAPI
from ray.rllib.core.rl_module.torch import TorchRLModule
from torch import nn

import distrl


class TwoTowers(TorchRLModule, ValueFunctionAPI):
    """An actor and a critic of two layers each."""

    def setup(self) -> None:
        inputs, width = self.observation_space.shape[0], self.model_config.get("width", 64)

        def tower(outputs: int) -> nn.Module:
            return nn.Sequential(
                nn.Linear(inputs, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, outputs)
            )

        self.actor, self.critic = tower(int(self.action_space.n)), tower(1)

    def _forward(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        return {Columns.ACTION_DIST_INPUTS: self.actor(batch[Columns.OBS])}

    def compute_values(self, batch: dict[str, Any], embeddings: Any = None) -> torch.Tensor:
        return self.critic(batch[Columns.OBS]).squeeze(-1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=150_000)
    parser.add_argument("--local", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    config = distrl.RunConfig(
        env={"id": "CartPole-v1"},
        run={"steps": options.steps, "seed": options.seed},
        actors={"envs_per_worker": 8, "fragment_steps": 128},
        algorithm={
            "name": "ppo",
            "module": "rllib_module:TwoTowers",  # this file, by the name that other processes import it by
            "module_config": {"width": 64},
            "batch_size": 1024,
            "minibatches": 4,
            "learning_rate": 1e-3,
        },
        evaluation={"period": 25_000},
    )
    result = distrl.train(config, local=options.local)
    print(f"{result.summary['final_return_mean']:.0f} on held-out seeds; the run is in {result.directory}")


if __name__ == "__main__":
    main()
