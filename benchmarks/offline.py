"""Prints one JSON line: what behaviour cloning and implicit Q-learning learn from the four qualities of data.

    python benchmarks/offline.py [--env-steps 300000] [--episodes 500] [--updates 3000] [--seeds 0 1 2]

One run of PPO on SimpleSpread (the preset spread-ippo, shortened, with its log kept) makes the data; ``distrl log mix``
takes whole episodes of each quality from it; each algorithm learns from each mix, once for each seed, one network for
the three agents. ``returns`` are those of the last policies, by seed: means over 100 deterministic episodes on
seeds never used before, each the sum over all agents. Nothing is chosen by evaluations.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks.throughput import machine
from distrl.api import train
from distrl.core.config import RunConfig
from distrl.core.episodes import Quality
from distrl.mixes import mix

ENV = {"id": "distrl/SimpleSpread-v0"}
ALGORITHMS: dict[str, dict[str, Any]] = {
    "bc": {"name": "bc", "hidden": [128, 128]},
    "iql": {"name": "iql", "hidden": [128, 128], "gamma": 0.95, "expectile": 0.7, "inverse_temperature": 3.0},
}


def collect(folder: Path, env_steps: int) -> dict[str, Any]:
    """A run whose log has everything from the first policy to the last."""
    overrides = [
        f"env.id={ENV['id']}",
        "env.hosting=vector",
        "actors.env_workers=1",
        "actors.envs_per_worker=64",
        "run.experience_log=on",
        f"run.steps={env_steps}",
        f"evaluation.period={env_steps}",
        f"run.out={folder}",
    ]
    config = RunConfig.load("spread-ippo", overrides)
    config.run.wall_limit_s = None  # the same seed gives the same data
    return train(config, local=True).summary


def learn(data: Path, out: Path, algorithm: dict[str, Any], updates: int, seed: int) -> dict[str, Any]:
    """What an algorithm's last policy returns."""
    sections = {
        "run": {"out": str(out), "seed": seed},
        "env": ENV,
        "algorithm": algorithm,
        "offline": {"data": [str(data)], "updates": updates},
        "evaluation": {"period": updates, "episodes": 1, "final_episodes": 100},
    }
    summary = train(RunConfig.validated(sections)).summary
    return {name: summary[name] for name in ("final_return_mean", "random_return")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env-steps", type=int, default=300_000, help="of the run that makes the data")
    parser.add_argument("--episodes", type=int, default=500, help="of each mix")
    parser.add_argument("--updates", type=int, default=3000, help="of each algorithm")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    returns: dict[str, dict[str, list[float]]] = {name: {} for name in ALGORITHMS}
    data: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="distrl-offline-") as temporary:
        folder = Path(temporary)
        began = time.monotonic()
        source = collect(folder / "source", options.env_steps)
        source_s = time.monotonic() - began
        for quality in Quality:
            path = folder / str(quality)
            data[quality] = mix([folder / "source"], quality, options.episodes, path).statistics()
            print(f"{quality}: {data[quality]}", file=sys.stderr)
            for name, algorithm in ALGORITHMS.items():
                for seed in options.seeds:
                    found = learn(path, folder / f"{quality}-{name}-{seed}", algorithm, options.updates, seed)
                    returns[name].setdefault(quality, []).append(found["final_return_mean"])
                    random_return = found["random_return"]
                    print(f"{quality} {name} seed {seed}: {found}", file=sys.stderr)
    line = {
        "benchmark": "offline",
        "settings": {"env": ENV, "algorithms": ALGORITHMS, **vars(options)},
        "source": {"return_mean": source["final_return_mean"], "seconds": source_s},
        "random_return": random_return,
        "data": data,
        "returns": returns,
        "machine": machine(),
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
