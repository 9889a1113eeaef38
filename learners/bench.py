"""Nothing flows in but a device; out flows one JSON line with how fast SAC updates are, beside a plain torch update.

    python -m distrl.learners.bench [--device cpu] [--threads 1]

The plain update is what a careful user writes with torch.nn and torch.optim, without any of our means: two critics as
two modules, ``loss.backward()``, Adam as it comes, a loop for the target networks. Losses and shapes are the same.
"""

from __future__ import annotations

import argparse
import copy
import json
import platform
import time
from collections.abc import Callable, Mapping

import gymnasium
import numpy as np
import torch
from torch import Tensor, nn

from distrl.core.types import EnvSpec, Fragment
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


def filled_replay(observation_size: int, num_actions: int, size: int = 100_000, n_step: int = 1) -> Replay:
    """A replay of ``size`` random transitions in episodes of 200 steps."""
    rng = np.random.default_rng(0)
    num_steps, num_rows = 200, 10
    shape = (num_steps, num_rows)
    replay = Replay(size, n_step=n_step)
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


def interleaved(works: Mapping[str, Callable[[int], object]], seconds: float, device: str) -> dict[str, float]:
    """Median seconds of a call of each, taken in turns of 10 calls so that a busy neighbour slows all of them alike."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for work in works.values():
        for i in range(20):
            work(i)
    calls, until = 20, time.perf_counter() + seconds
    while time.perf_counter() < until:
        for name, work in works.items():
            _wait(device)
            started = time.perf_counter()
            for i in range(calls, calls + 10):
                work(i)
            _wait(device)
            times[name].append((time.perf_counter() - started) / 10)
        calls += 10
    return {name: float(np.median(values)) for name, values in times.items()}


def _wait(device: str) -> None:
    if device != "cpu":
        torch.accelerator.synchronize()


def measure(device: str, threads: int, seconds: float, observation_size: int, num_actions: int) -> dict[str, object]:
    """The figures of the JSON line."""
    torch.set_num_threads(threads)
    config = Config()
    space = gymnasium.spaces.Box(-np.inf, np.inf, (observation_size,), np.float32)
    spec = EnvSpec("bench", space, gymnasium.spaces.Box(-1, 1, (num_actions,), np.float32))
    algorithm, plain = SAC(config, spec, device), PlainSAC(config, observation_size, num_actions, device)
    replay = filled_replay(observation_size, num_actions)
    square = torch.randn(config.batch_size, config.hidden[0], device=device)
    weight = torch.randn(config.hidden[0], config.hidden[0], device=device)

    def sample(update: int) -> SampleBatch:
        return replay.sample(config.batch_size, sample_generator(0, update))

    def update(index: int) -> None:
        gradients, _ = algorithm.gradients(sample(index), update_generator(0, index, device))
        algorithm.apply(gradients)

    works = {
        "sac": update,
        "plain": lambda index: plain.update(sample(index)),
        "sample": sample,
        "product": lambda _: torch.mm(square, weight),
    }
    median_s = interleaved(works, seconds, device)
    return {
        "sac_updates_per_s": round(1 / median_s["sac"], 1),
        "plain_torch_updates_per_s": round(1 / median_s["plain"], 1),
        "speedup": round(median_s["plain"] / median_s["sac"], 2),
        # forward 2 actors and 2 × 3 critics; backward 2 of the actor, 2 × 2 of the critics, 2 × 1 to the action
        "share_of_matrix_product_bound": round(16 * median_s["product"] / median_s["sac"], 2),
        "sample_share_of_update": round(median_s["sample"] / median_s["sac"], 4),
        "batch_size": config.batch_size,
        "hidden": config.hidden,
        "observation_size": observation_size,
        "num_actions": num_actions,
        **machine(device, threads),
    }


def machine(device: str, threads: int) -> dict[str, object]:
    """What the figures were taken on."""
    return {
        "device": torch.cuda.get_device_name() if device.startswith("cuda") else device,
        "threads": threads,
        "machine": f"{platform.machine()} {_processor()}",
        "torch": torch.__version__,
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as lines:
            return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


def main() -> None:
    """See the top of the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", help="torch device, for example cpu or cuda")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of torch")
    parser.add_argument("--seconds", type=float, default=10.0, help="how long to measure")
    parser.add_argument("--observation-size", type=int, default=20)
    parser.add_argument("--num-actions", type=int, default=4)
    arguments = parser.parse_args()
    print(json.dumps(measure(**vars(arguments))))


if __name__ == "__main__":
    main()
