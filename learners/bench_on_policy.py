"""Nothing flows in but a device; out flows one JSON line with what a transition costs an on-policy learner and its
actors, beside plain torch.

    python -m distrl.learners.bench_on_policy [--device cpu] [--threads 1]

The plain update is what a careful user writes with torch.nn, torch.distributions, ``loss.backward()`` and torch.optim
for the same networks, minibatches and losses. The bound is the time of the update's largest matrix products alone: of
the hidden layers, forward once and backward twice, in both networks.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from typing import Literal

import gymnasium
import numpy as np
import torch
from torch import Tensor, nn

from distrl.core.types import ARRAY, EnvSpec
from distrl.learners.actor_policies import MEMORY, NUM_STATES
from distrl.learners.bench_timing import interleaved, machine
from distrl.learners.ppo import PPO, Minibatch
from distrl.learners.ppo_config import PPO as Config
from distrl.learners.rollout import Rollout

_MODULES: dict[Literal["gru", "lstm"], type[nn.GRU] | type[nn.LSTM]] = {"gru": nn.GRU, "lstm": nn.LSTM}
_STEPS, _ROWS = 32, 256  # of the rollout with memory


class PlainPPO:
    """The reference: one gradient step of PPO with torch's own building blocks."""

    def __init__(self, config: Config, observation_size: int, num_actions: int, device: str):
        def mlp(outputs: int) -> nn.Sequential:
            layers: list[nn.Module] = []
            inputs = observation_size
            for width in config.hidden:
                layers += [nn.Linear(inputs, width), nn.Tanh()]
                inputs = width
            return nn.Sequential(*layers, nn.Linear(inputs, outputs)).to(device)

        self.config = config
        self.networks = nn.ModuleList([mlp(num_actions), mlp(1)])
        self.optimizer = torch.optim.Adam(self.networks.parameters(), lr=config.learning_rate, eps=1e-5)

    def update(self, inputs: Tensor, action: Tensor, batch: Minibatch) -> None:
        """One minibatch."""
        config, (actor, critic) = self.config, self.networks
        distribution = torch.distributions.Categorical(logits=actor(inputs))
        advantage = (batch.advantage - batch.advantage.mean()) / (batch.advantage.std() + 1e-8)
        ratio = (distribution.log_prob(action) - batch.log_prob).exp()
        gain = torch.min(ratio * advantage, ratio.clamp(1 - config.clip, 1 + config.clip) * advantage)
        value_loss = 0.5 * (critic(inputs).squeeze(1) - batch.target).square().mean()
        loss = -gain.mean() + config.value_cost * value_loss - config.entropy_cost * distribution.entropy().mean()
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.networks.parameters(), config.max_gradient_norm)
        self.optimizer.step()


def random_rollout(num_steps: int, num_rows: int, observation_size: int, num_actions: int) -> Rollout:
    """Noise, with an episode's end in every hundredth step."""
    rng = np.random.default_rng(0)
    shape = (num_steps, num_rows)
    terminated = rng.random(shape) < 0.01
    index = np.argwhere(terminated).astype(np.int32)
    return Rollout(
        observation={ARRAY: rng.normal(size=(num_steps + 1, num_rows, observation_size)).astype(np.float32)},
        final_observation={ARRAY: rng.normal(size=(len(index), observation_size)).astype(np.float32)},
        final_index=index,
        action=rng.integers(0, num_actions, shape),
        reward=rng.normal(size=shape).astype(np.float32),
        terminated=terminated,
        truncated=np.zeros(shape, bool),
        log_prob=np.full(shape, -np.log(num_actions), np.float32),
        policy_version=np.zeros(shape, np.int64),
        is_first=np.concatenate([np.ones((1, num_rows), bool), terminated]),
        state={},
        row=np.arange(num_rows),
    )


def measure(
    device: str, threads: int, seconds: float, minibatch_size: int, observation_size: int, num_actions: int
) -> dict[str, object]:
    """The figures of the JSON line."""
    torch.set_num_threads(threads)
    size = 8192
    config = Config(batch_size=size, minibatches=max(1, size // minibatch_size), epochs=1)
    spec = EnvSpec(
        "bench",
        gymnasium.spaces.Box(-np.inf, np.inf, (observation_size,), np.float32),
        gymnasium.spaces.Discrete(num_actions),
    )
    algorithm, plain = PPO(config, spec, device), PlainPPO(config, observation_size, num_actions, device)
    rollout = random_rollout(128, size // 128, observation_size, num_actions)
    generator = torch.Generator(device).manual_seed(0)
    batch = next(algorithm.minibatches(rollout, generator))
    hidden = torch.randn(minibatch_size, config.hidden[0], device=device)
    weight = torch.randn(config.hidden[0], config.hidden[0], device=device)

    def begin(index: int) -> None:
        next(algorithm.minibatches(rollout, generator))

    def update(index: int) -> None:
        for minibatch in algorithm.minibatches(rollout, generator):
            gradients, _ = algorithm.gradients(minibatch)
            algorithm.apply(gradients)

    works: dict[str, Callable[[int], object]] = {
        "begin": begin,
        "update": update,
        "plain": lambda _: plain.update(batch.inputs[0], batch.action[0], batch),
        "product": lambda _: torch.mm(hidden, weight),
    }
    for num_rows in (1, 64, 256, 1024):
        works[f"act_{num_rows}"] = _acting(algorithm, num_rows, observation_size)
    for kind in _MODULES:
        works |= _memory_works(kind, spec, device)
    median_s = interleaved(works, seconds, device)
    epoch_us = 1e6 * (median_s["update"] - median_s["begin"]) / size
    plain_us, product_us = (1e6 * median_s[name] / minibatch_size for name in ("plain", "product"))
    return {
        "us_per_transition_and_epoch": round(epoch_us, 3),
        "us_per_transition_before_the_epochs": round(1e6 * median_s["begin"] / size, 3),
        "plain_torch_us": round(plain_us, 3),
        "speedup": round(plain_us / epoch_us, 2),
        "share_of_matrix_product_bound": round(6 * product_us / epoch_us, 2),
        "policy_step_us": {
            name.removeprefix("act_"): round(1e6 * median, 1)
            for name, median in median_s.items()
            if name.startswith("act_")
        },
        "memory": {
            kind: {
                "us_per_transition_and_epoch": round(
                    1e6 * (median_s[f"{kind}_update"] - median_s[f"{kind}_begin"]) / (_STEPS * _ROWS), 3
                ),
                "torch_module_us": round(1e6 * median_s[f"{kind}_module"] / (_STEPS * _ROWS), 3),
                "policy_step_us_of_256_rows": round(1e6 * median_s[f"{kind}_act"], 1),
            }
            for kind in _MODULES
        },
        "minibatch_size": minibatch_size,
        "hidden": config.hidden,
        "observation_size": observation_size,
        "num_actions": num_actions,
        **machine(device, threads),
    }


def _memory_works(kind: Literal["gru", "lstm"], spec: EnvSpec, device: str) -> dict[str, Callable[[int], object]]:
    """The same with memory: an epoch of four minibatches, and what torch's own module takes for its part of it,
    forward and backward, without episodes that begin inside."""
    config = Config(memory=kind, memory_size=64, batch_size=_STEPS * _ROWS, minibatches=4, epochs=1)
    algorithm, generator = PPO(config, spec, device), torch.Generator(device).manual_seed(0)
    observation_size = spec.observation_space.shape[0]
    rollout = random_rollout(_STEPS, _ROWS, observation_size, int(spec.action_space.n))
    rollout.state[MEMORY] = np.zeros((_STEPS, _ROWS, NUM_STATES[kind] * 64), np.float32)
    module = _MODULES[kind](64, 64).to(device)
    inputs = torch.randn(_STEPS, _ROWS, 64, device=device, requires_grad=True)

    def update(index: int) -> None:
        for minibatch in algorithm.minibatches(rollout, generator):
            gradients, _ = algorithm.gradients(minibatch)
            algorithm.apply(gradients)

    return {
        f"{kind}_begin": lambda _: next(algorithm.minibatches(rollout, generator)),
        f"{kind}_update": update,
        f"{kind}_module": lambda _: module(inputs)[0].sum().backward(),
        f"{kind}_act": _acting(algorithm, 256, observation_size),
    }


def _acting(algorithm: PPO, num_rows: int, observation_size: int) -> Callable[[int], object]:
    policy = algorithm.policy_spec().build(seed=0)
    policy.load(algorithm.policy_weights())
    state = policy.initial_state(num_rows)
    observation = {ARRAY: np.random.default_rng(0).normal(size=(num_rows, observation_size)).astype(np.float32)}
    is_first = np.zeros(num_rows, bool)
    return lambda _: policy.step(observation, state, is_first)


def main() -> None:
    """See the top of the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", help="torch device, for example cpu or cuda")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of torch")
    parser.add_argument("--seconds", type=float, default=10.0, help="how long to measure")
    parser.add_argument("--minibatch-size", type=int, default=2048)
    parser.add_argument("--observation-size", type=int, default=4)
    parser.add_argument("--num-actions", type=int, default=2)
    arguments = parser.parse_args()
    print(json.dumps(measure(**vars(arguments))))


if __name__ == "__main__":
    main()
