"""Nothing flows in; out flows one JSON line with what a frame stack costs an on-policy learner and its actors, beside
plain torch.

    python -m distrl.learners.bench_images [--device cpu] [--threads 1]

Images are uint8 [4, 84, 84], as Atari's. The plain update is what a careful user writes with torch.nn,
``loss.backward()`` and torch.optim for the same network, minibatches and losses; it has the memory that the process
keeps (distrl.learners.image_layers), as ours has. The bound is the time of the same number of multiplications in one
large matrix product.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
import torch
from torch import Tensor, nn

from distrl.core.types import ARRAY, EnvSpec
from distrl.learners.bench_on_policy import random_rollout
from distrl.learners.bench_timing import interleaved, machine
from distrl.learners.image_layers import LAYERS, output_shapes
from distrl.learners.ppo import PPO, Minibatch
from distrl.learners.ppo_config import APPO as Config
from distrl.learners.products import product

SHAPE = (4, 84, 84)
NUM_ACTIONS = 6
NUM_STEPS = 64  # of a rollout


class PlainConvolutions(nn.Module):
    """The reference's network; both heads [S, ·] from images uint8 [S, 4, 84, 84]."""

    def __init__(self, name: str):
        super().__init__()
        convolutions, width = LAYERS[name]
        layers: list[nn.Module] = []
        channels = SHAPE[0]
        for outputs, kernel, stride in convolutions:
            layers += [nn.Conv2d(channels, outputs, kernel, stride), nn.ReLU()]
            channels = outputs
        flat = math.prod(output_shapes(SHAPE, name)[-1])
        self.body = nn.Sequential(*layers, nn.Flatten(), nn.Linear(flat, width), nn.ReLU())
        self.actor, self.critic = nn.Linear(width, NUM_ACTIONS), nn.Linear(width, 1)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and values."""
        features = self.body(images.float() / 255.0)
        return self.actor(features), self.critic(features)


class PlainUpdate:
    """One gradient step of PPO with torch's own building blocks."""

    def __init__(self, config: Config, device: str):
        self.config, self.network = config, PlainConvolutions(config.convolutions).to(device)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=config.learning_rate, eps=1e-5)

    def __call__(self, batch: Minibatch) -> None:
        """One minibatch."""
        config = self.config
        logits, value = self.network(batch.inputs[0])
        distribution = torch.distributions.Categorical(logits=logits)
        advantage = (batch.advantage - batch.advantage.mean()) / (batch.advantage.std() + 1e-8)
        ratio = (distribution.log_prob(batch.action[0]) - batch.log_prob).exp()
        gain = torch.min(ratio * advantage, ratio.clamp(1 - config.clip, 1 + config.clip) * advantage)
        value_loss = 0.5 * (value.squeeze(1) - batch.target).square().mean()
        loss = -gain.mean() + config.value_cost * value_loss - config.entropy_cost * distribution.entropy().mean()
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), config.max_gradient_norm)
        self.optimizer.step()


def multiplications(name: str) -> int:
    """Of one image, forward and backward: of each layer one product forward, one for its weights' gradient, and but for
    the first one for its input's."""
    total, channels = 0, SHAPE[0]
    for i, ((outputs, kernel, _), (_, height, width)) in enumerate(
        zip(LAYERS[name][0], output_shapes(SHAPE, name), strict=True)
    ):
        total += (3 if i else 2) * outputs * height * width * channels * kernel**2
        channels = outputs
    return total + 3 * math.prod(output_shapes(SHAPE, name)[-1]) * LAYERS[name][1]


def measure(
    threads: int, seconds: float, minibatch_size: int, convolutions: str, device: str = "cpu"
) -> dict[str, Any]:
    """The figures of the JSON line."""
    torch.set_num_threads(threads)
    size = 8 * minibatch_size
    rows = size // NUM_STEPS
    config = Config(batch_size=size, minibatches=8, convolutions=convolutions)
    spec = EnvSpec("bench", gymnasium.spaces.Box(0, 255, SHAPE, np.uint8), gymnasium.spaces.Discrete(NUM_ACTIONS))
    algorithm, plain = PPO(config, spec, device), PlainUpdate(config, device)
    rng = np.random.default_rng(0)
    rollout = random_rollout(NUM_STEPS, rows, 1, NUM_ACTIONS)
    rollout = replace(
        rollout,
        observation={ARRAY: rng.integers(0, 256, (NUM_STEPS + 1, rows, *SHAPE), np.uint8)},
        final_observation={ARRAY: rng.integers(0, 256, (len(rollout.final_index), *SHAPE), np.uint8)},
    )
    generator = torch.Generator(device).manual_seed(0)
    batch = next(algorithm.minibatches(rollout, generator))
    left, right = torch.randn((2, 1024, 1024), device=device)

    def update(index: int) -> None:
        gradients, _ = algorithm.gradients(batch)
        algorithm.apply(gradients)

    works: dict[str, Callable[[int], object]] = {
        "begin": lambda _: next(algorithm.minibatches(rollout, generator)),
        "update": update,
        "plain": lambda _: plain(batch),
        "product": lambda _: product(left, right),
    }
    for num_rows in (1, 16, 64):
        works[f"act_{num_rows}"] = _acting(algorithm, num_rows)
    us = {name: 1e6 * median for name, median in interleaved(works, seconds, device).items()}
    update_us, bound_us = us["update"] / minibatch_size, us["product"] / 1024**3 * multiplications(convolutions)
    return {
        "us_per_transition_and_epoch": round(update_us, 1),
        "us_per_transition_before_the_epochs": round(us["begin"] / size, 1),
        "plain_torch_us": round(us["plain"] / minibatch_size, 1),
        "speedup": round(us["plain"] / us["update"], 2),
        "share_of_matrix_product_bound": round(bound_us / update_us, 2),
        "policy_step_us_per_row": {
            name.removeprefix("act_"): round(median / int(name.removeprefix("act_")), 1)
            for name, median in us.items()
            if name.startswith("act_")
        },
        "minibatch_size": minibatch_size,
        "convolutions": convolutions,
        **machine(device, threads),
    }


def _acting(algorithm: PPO, num_rows: int) -> Callable[[int], object]:
    policy = algorithm.policy_spec().build(seed=0)
    policy.load(algorithm.policy_weights())
    observation = {ARRAY: np.random.default_rng(0).integers(0, 256, (num_rows, *SHAPE), np.uint8)}
    is_first = np.zeros(num_rows, bool)
    return lambda _: policy.step(observation, {}, is_first)


def main() -> None:
    """See the top of the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", help="torch device, for example cpu or cuda")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of torch")
    parser.add_argument("--seconds", type=float, default=10.0, help="how long to measure")
    parser.add_argument("--minibatch-size", type=int, default=128)
    parser.add_argument("--convolutions", choices=LAYERS, default="small")
    arguments = parser.parse_args()
    print(json.dumps(measure(**vars(arguments))))


if __name__ == "__main__":
    main()
