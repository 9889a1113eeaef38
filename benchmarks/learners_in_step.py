"""How training in step scales: transitions a second that learners train on, each with a core or a GPU of its own and
nothing else to do. One JSON line.

    python -m benchmarks.learners_in_step [--learners 2] [--device cpu] [--seconds 5]

PPO with two layers of 256, by the size of each learner's minibatch: what its gradient costs grows with that, what the
exchange costs does not. One learner and several take turns, and each figure is the median of the rounds.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import time
from typing import Any

MINIBATCHES = (128, 512, 2048, 8192)
ROLLOUT, OBSERVATION_SIZE, NUM_ACTIONS = 8192, 64, 8


def learner(rank: int, size: int, port: Any, minibatch: int, device: str, seconds: float, results: Any) -> None:
    """One of ``size``; puts transitions a second of all of them."""
    import gymnasium
    import numpy as np
    import torch

    from distrl.core.types import EnvSpec
    from distrl.learners.bench_on_policy import random_rollout
    from distrl.learners.ppo import PPO
    from distrl.learners.ppo_config import PPO as Config
    from distrl.learners.together import Group, meeting

    torch.set_num_threads(1)
    store = meeting("127.0.0.1", 0 if rank == 0 else port.get())
    if rank == 0:
        for _ in range(size - 1):
            port.put(store.port)
    where = device if device == "cpu" else f"{device}:{rank}"
    space = gymnasium.spaces.Box(-np.inf, np.inf, (OBSERVATION_SIZE,), np.float32)
    spec = EnvSpec("bench", space, gymnasium.spaces.Discrete(NUM_ACTIONS))
    config = Config(hidden=(256, 256), batch_size=ROLLOUT, minibatches=ROLLOUT // minibatch, epochs=4)
    algorithm, group = PPO(config, spec, where), Group(store, rank, size, where)
    algorithm.optimizer.together = group
    rollout = random_rollout(128, ROLLOUT // 128, OBSERVATION_SIZE, NUM_ACTIONS)
    generator = torch.Generator(where).manual_seed(rank)
    done, began = -1, 0.0  # the first rollout warms up
    while True:
        for batch in algorithm.minibatches(rollout, generator):
            gradients, _ = algorithm.gradients(batch)
            algorithm.apply(gradients)
        done += 1
        over = group.sum(torch.tensor([int(done > 0 and time.monotonic() - began > seconds)]))  # all go on, or none
        if done == 0:
            began = time.monotonic()
        elif over.item():
            break
    if rank == 0:
        results.put(size * done * config.epochs * ROLLOUT / (time.monotonic() - began))


def measure(size: int, minibatch: int, device: str, seconds: float) -> float:
    """Transitions a second of so many learners."""
    spawn = multiprocessing.get_context("spawn")
    port, results = spawn.Queue(), spawn.Queue()
    ranks = [
        spawn.Process(target=learner, args=(rank, size, port, minibatch, device, seconds, results), daemon=True)
        for rank in range(size)
    ]
    for rank in ranks:
        rank.start()
    found = results.get(timeout=60 + 10 * seconds)
    for rank in ranks:
        rank.join()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--learners", type=int, default=2)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--seconds", type=float, default=5.0, help="of each figure in each round")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    found: dict[tuple[int, int], list[float]] = {}
    for _ in range(options.rounds):
        for minibatch in MINIBATCHES:
            for size in (1, options.learners):
                per_s = measure(size, minibatch, options.device, options.seconds)
                found.setdefault((minibatch, size), []).append(per_s)
    median = {key: statistics.median(values) for key, values in found.items()}
    table = {
        minibatch: {
            "one": round(median[minibatch, 1]),
            "several": round(median[minibatch, options.learners]),
            "speedup": round(median[minibatch, options.learners] / median[minibatch, 1], 2),
        }
        for minibatch in MINIBATCHES
    }
    facts = {"benchmark": "learners_in_step", "learners": options.learners, "device": options.device}
    print(json.dumps({**facts, "cores": os.cpu_count(), "transitions_per_s_by_minibatch": table}))


if __name__ == "__main__":
    main()
