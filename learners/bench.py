"""Nothing flows in but a device; out flows one JSON line with how fast SAC updates are, beside a plain torch update.

    python -m distrl.learners.bench [--device cpu] [--threads 1] [--networks mlp cnn 50m]

The plain update is what a careful user writes with torch.nn and torch.optim, without any of our means: two critics as
two modules, ``loss.backward()``, Adam as it comes, a loop for the target networks. Losses and shapes are the same.
Where Stable-Baselines3 is installed, its update is measured beside them. The floor is what the update's products and
bytes alone would take, at the rates of this machine, measured in the same turns.
"""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import gymnasium
import numpy as np
import torch
from torch import Tensor, nn

from distrl.core.types import EnvSpec, Fragment
from distrl.learners.bench_timing import floor, interleaved, machine, machine_works
from distrl.learners.networks import squashed_gaussian
from distrl.learners.randomness import sample_generator, update_generator
from distrl.learners.replay import Replay, SampleBatch
from distrl.learners.sac import SAC
from distrl.learners.sac_config import Config


class PlainSAC:
    """The reference: one gradient step of SAC with torch's own building blocks."""

    def __init__(self, config: Config, observation_size: int, num_actions: int, device: str):
        def mlp(inputs: int, outputs: int) -> nn.Sequential:
            layers: list[nn.Module] = []
            for width in config.hidden:
                layers += [nn.Linear(inputs, width), nn.ReLU()]
                inputs = width
            return nn.Sequential(*layers, nn.Linear(inputs, outputs)).to(device)

        self.config, self.device = config, device
        self.actor = mlp(observation_size, 2 * num_actions)
        self.critics = nn.ModuleList([mlp(observation_size + num_actions, 1) for _ in range(2)])
        self.targets = copy.deepcopy(self.critics).requires_grad_(False)
        self.log_temperature = torch.zeros(1, device=device, requires_grad=True)
        self.target_entropy = -num_actions
        self.optimizers = [
            torch.optim.Adam(parameters, lr=3e-4)
            for parameters in (self.critics.parameters(), self.actor.parameters(), [self.log_temperature])
        ]

    def update(self, batch: SampleBatch) -> None:
        """Critics, actor, temperature, target networks."""

        def tensor(array: np.ndarray) -> Tensor:
            return torch.as_tensor(array, device=self.device)

        observation, following = tensor(batch.observation["array"]), tensor(batch.next_observation["array"])
        action, reward, discount = tensor(batch.action), tensor(batch.reward), tensor(batch.discount)
        critic_optimizer, actor_optimizer, temperature_optimizer = self.optimizers
        temperature = self.log_temperature.exp().detach()
        with torch.no_grad():
            next_action, next_log_prob = squashed_gaussian(self.actor(following), torch.randn_like(action))
            inputs = torch.cat([following, next_action], 1)
            least = torch.minimum(*(target(inputs).squeeze(1) for target in self.targets))
            target_value = reward + discount * (least - temperature * next_log_prob)
        inputs = torch.cat([observation, action], 1)
        critic_loss = sum(0.5 * (critic(inputs).squeeze(1) - target_value).square().mean() for critic in self.critics)
        critic_optimizer.zero_grad()
        critic_loss.backward()
        critic_optimizer.step()

        new_action, log_prob = squashed_gaussian(self.actor(observation), torch.randn_like(action))
        inputs = torch.cat([observation, new_action], 1)
        least = torch.minimum(*(critic(inputs).squeeze(1) for critic in self.critics))
        actor_loss = (temperature * log_prob - least).mean()
        actor_optimizer.zero_grad()
        actor_loss.backward()
        actor_optimizer.step()

        temperature_loss = -(self.log_temperature.exp() * (log_prob.detach() + self.target_entropy)).mean()
        temperature_optimizer.zero_grad()
        temperature_loss.backward()
        temperature_optimizer.step()
        with torch.no_grad():
            for target, source in zip(self.targets.parameters(), self.critics.parameters(), strict=True):
                target.mul_(1 - self.config.tau).add_(self.config.tau * source)


def filled_replay(
    observation_size: int, num_actions: int, size: int = 100_000, n_step: int = 1, device: str | None = None
) -> Replay:
    """A replay of ``size`` random transitions in episodes of 200 steps; ``device``: see ``Replay``."""
    rng = np.random.default_rng(0)
    num_steps, num_rows = 200, 10
    shape = (num_steps, num_rows)
    replay = Replay(size, n_step=n_step, device=device)
    truncated = np.zeros(shape, bool)
    truncated[-1] = True
    for episode in range(size // truncated.size):
        columns = {
            "reward": rng.normal(size=shape).astype(np.float32),
            "terminated": np.zeros(shape, bool),
            "truncated": truncated,
            "log_prob": np.zeros(shape, np.float32),
            "policy_version": np.zeros(shape, np.int64),
            "episode_uid": np.broadcast_to(np.arange(num_rows, dtype=np.uint64) + episode * num_rows, shape),
            "step": np.broadcast_to(np.arange(num_steps, dtype=np.int32)[:, None], shape),
            "start_s": np.zeros(shape),
            "end_s": np.ones(shape),
            "fidelity": np.zeros(shape, np.int16),
            "agent_index": np.zeros(num_rows, np.int32),
            "final_index": np.zeros((0, 2), np.int32),
            "action": rng.uniform(-1, 1, (*shape, num_actions)).astype(np.float32),
            "observation/array": rng.normal(size=(num_steps + 1, num_rows, observation_size)).astype(np.float32),
            "final_observation/array": np.zeros((0, observation_size), np.float32),
        }
        replay.add(Fragment(columns))
    return replay


def multiplications(config: Config, observation_size: int, num_actions: int) -> int:
    """Of one update's matrix products, by layer: in the actor forward for o and o', and for its weights; in both
    critics forward for (o', a'), (o, a) and (o, ã), and for their weights; backward in all but the first layers, in the
    critics for (o, a) and (o, ã); and from the critics' first layer to ã."""
    actor = (observation_size, *config.hidden, 2 * num_actions)
    critic = (observation_size + num_actions, *config.hidden, 1)
    total = 2 * critic[1] * num_actions
    for i, (size, following) in enumerate(pairwise(actor)):
        total += (4 if i else 3) * size * following
    for i, (size, following) in enumerate(pairwise(critic)):
        total += (12 if i else 8) * size * following
    return config.batch_size * total


def num_bytes(algorithm: SAC) -> int:
    """That one update moves at least: parameters read and gradients written by the products; both and Adam's moments
    read, parameters and moments written; target networks read by the products, moved towards the critics."""
    vectors = algorithm.optimizer.trained.values()
    return 4 * sum(9 * len(vector.flat) + (0 if vector.target is None else 4 * len(vector.flat)) for vector in vectors)


def stable_baselines3(config: Config, spec: EnvSpec, device: str) -> Callable[[int], object] | None:
    """One update of Stable-Baselines3's SAC, sampling included; None where it is not installed."""
    try:
        from stable_baselines3 import SAC as Peer
        from stable_baselines3.common.logger import Logger
    except ImportError:
        return None

    class Still(gymnasium.Env):
        observation_space, action_space = spec.observation_space, spec.action_space

    options = {"buffer_size": 100_000, "batch_size": config.batch_size, "device": device}
    peer = Peer("MlpPolicy", Still(), policy_kwargs={"net_arch": list(config.hidden)}, **options)
    peer.set_logger(Logger(None, []))
    rng, buffer = np.random.default_rng(0), peer.replay_buffer
    for array in (buffer.observations, buffer.next_observations, buffer.actions, buffer.rewards):
        array[:] = rng.normal(size=array.shape)
    buffer.full = True
    return lambda _: peer.train(gradient_steps=1, batch_size=config.batch_size)


def measure_sac(
    device: str, seconds: float, observation_size: int, num_actions: int, hidden: tuple[int, ...], calls: int
) -> dict[str, Any]:
    """Updates of SAC with networks of these widths."""
    config = Config(hidden=hidden)
    space = gymnasium.spaces.Box(-np.inf, np.inf, (observation_size,), np.float32)
    spec = EnvSpec("bench", space, gymnasium.spaces.Box(-1, 1, (num_actions,), np.float32))
    algorithm, plain = SAC(config, spec, device), PlainSAC(config, observation_size, num_actions, device)
    host = filled_replay(observation_size, num_actions)
    replay = host if device == "cpu" else filled_replay(observation_size, num_actions, device=device)
    size = config.batch_size, hidden[-1], sum(len(v.flat) for v in algorithm.optimizer.trained.values())

    def sample(update: int) -> SampleBatch:
        return replay.sample(config.batch_size, sample_generator(0, update))

    def update(index: int) -> None:
        gradients, _ = algorithm.gradients(sample(index), update_generator(0, index, device))
        algorithm.apply(gradients)

    works: dict[str, Callable[[int], object]] = {
        "sac": update,
        "plain": lambda index: plain.update(host.sample(config.batch_size, sample_generator(0, index))),
        "sample": sample,
        **machine_works(*size, device),
    }
    peer = stable_baselines3(config, spec, device)
    if peer is not None:
        works["sb3"] = peer
    median_s = interleaved(works, seconds, device, calls)
    bounds = floor(median_s, *size, multiplications(config, observation_size, num_actions), num_bytes(algorithm))
    bound = min(bounds["product_bound_updates_per_s"], bounds["memory_bound_updates_per_s"])
    return {
        "sac_updates_per_s": round(1 / median_s["sac"], 2),
        "plain_torch_updates_per_s": round(1 / median_s["plain"], 2),
        "sb3_updates_per_s": None if peer is None else round(1 / median_s["sb3"], 2),
        "samples_per_s": round(config.batch_size / median_s["sac"]),
        "speedup": round(median_s["plain"] / median_s["sac"], 2),
        "share_of_floor": round(1 / (median_s["sac"] * bound), 2),
        "sample_share_of_update": round(median_s["sample"] / median_s["sac"], 4),
        **bounds,
        "num_parameters": size[2],
        "batch_size": config.batch_size,
        "hidden": hidden,
        "observation_size": observation_size,
        "num_actions": num_actions,
    }


def measure_images(device: str, seconds: float) -> dict[str, Any]:
    """Gradient steps of PPO on pictures: see distrl.learners.bench_images."""
    from distrl.learners import bench_images  # it imports this module's neighbours, and SAC needs none of it

    size = 128
    found = bench_images.measure(torch.get_num_threads(), seconds, size, "small", device)
    update_s = 1e-6 * size * found["us_per_transition_and_epoch"]
    return {"updates_per_s": round(1 / update_s, 2), "samples_per_s": round(size / update_s), **found}


def measure(
    device: str,
    threads: int,
    seconds: float,
    observation_size: int,
    num_actions: int,
    networks: Sequence[str],
    matmul_precision: str = "highest",
) -> dict[str, Any]:
    """The figures of the JSON line: of ``mlp`` by themselves, of other networks by name."""
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision(matmul_precision)
    figures: dict[str, Any] = {}
    if "mlp" in networks:
        figures |= measure_sac(device, seconds, observation_size, num_actions, (256, 256), calls=10)
    if "cnn" in networks:
        figures["cnn"] = measure_images(device, seconds)
    if "50m" in networks:  # 50 million parameters in actor and critics together
        figures["50m"] = measure_sac(device, seconds, observation_size, num_actions, (4096, 4096), calls=1)
    return {**figures, "matmul_precision": matmul_precision, **machine(device, threads)}


def main() -> None:
    """See the top of the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", help="torch device, for example cpu or cuda")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of torch")
    parser.add_argument("--seconds", type=float, default=10.0, help="how long to measure each of the networks")
    parser.add_argument(
        "--networks",
        nargs="+",
        choices=("mlp", "cnn", "50m"),
        help="of 2 × 256, of PPO's convolutions, and of 50 million parameters; by default all, on CPUs not the last",
    )
    parser.add_argument("--matmul-precision", default="highest", choices=("highest", "high", "medium"))
    parser.add_argument("--observation-size", type=int, default=20)
    parser.add_argument("--num-actions", type=int, default=4)
    arguments = parser.parse_args()
    if arguments.networks is None:
        arguments.networks = ("mlp", "cnn") if arguments.device == "cpu" else ("mlp", "cnn", "50m")
    print(json.dumps(measure(**vars(arguments))))


if __name__ == "__main__":
    main()
