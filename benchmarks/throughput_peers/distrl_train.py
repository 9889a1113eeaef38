"""distrl itself, measured by the same clock as its peers: a case in, one JSON line out.

python distrl_train.py --case cartpole [--local] [--set KEY.PATH=VALUE …] [--seconds 60 | --target 475 | --steps N]
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from shared import EVALUATION_EPISODES, IDS, SLOW_ENVS, SLOW_MEDIAN_S, SLOW_SIGMA, Run, evaluate

from distrl.api import load_policy, train
from distrl.core.config import RunConfig
from distrl.core.metrics import read_json_lines
from distrl.core.types import ARRAY

PRESETS: dict[str, tuple[str, list[str]]] = {  # preset, and what the case adds to it
    # one epoch, as Sample Factory and RLlib's APPO have it
    "cartpole": ("cartpole", ["algorithm.epochs=1", "algorithm.minibatches=4", "algorithm.batch_size=8192"]),
    "halfcheetah": ("halfcheetah", []),
    "pong": ("pong", []),
    # in agent steps; benchmarks/multi_agent.py also runs it over mpe2's own environment
    "simple_spread": (
        "spread-ippo",
        [
            "env.id=distrl/SimpleSpread-v0",
            "env.hosting=vector",
            "actors.env_workers=1",
            "actors.envs_per_worker=64",
            "run.wall_limit_s=1e9",
        ],
    ),
    "slow": (
        "cartpole",
        [
            f"env.id={IDS['slow']}",
            f"env.delay={{kind='lognormal', median_s={SLOW_MEDIAN_S}, sigma={SLOW_SIGMA}}}",
            "env.hosting=process",
            "actors.env_workers=1",
            f"actors.envs_per_worker={SLOW_ENVS}",
            "algorithm.batch_size=512",
            "actors.fragment_steps=32",
            "algorithm.batch_size=512",
            "algorithm.max_staleness=2",
        ],
    ),
}
FOREVER = 10**12  # env steps
EVALUATION_PERIOD = 20_000  # env steps, where there is a target to reach


def overrides(run: Run, folder: Path, given: list[str]) -> list[str]:
    """The run's seed, length and evaluations, then what the command line asks for."""
    aim = run.options.target is not None
    return [
        *PRESETS[run.case][1],
        f"run.out={folder / 'run'}",
        f"run.seed={run.seed}",
        f"run.steps={run.options.steps or FOREVER}",
        f"evaluation.period={EVALUATION_PERIOD if aim else FOREVER}",
        f"evaluation.episodes={EVALUATION_EPISODES}",
        f"evaluation.envs={EVALUATION_EPISODES}",
        *given,
    ]


class Watch:
    """Statuses of the run in; the benchmark's clock hears what has been trained on, and ends the run."""

    def __init__(self, run: Run, batch_size: int):
        self.run, self.batch_size = run, batch_size
        self.stop = threading.Event()
        self.directory: Path | None = None
        self._seen = 0  # evaluations

    def show(self, status: dict[str, Any]) -> None:
        if "directory" in status:
            self.directory = Path(status["directory"])
        if "env_steps" not in status:
            return
        if self.run.options.target is not None and self.directory is not None:
            timing = read_json_lines(self.directory / "timing.jsonl")
            evaluations = [record for record in timing if record["kind"] == "evaluation"]
            began = time.time() - status["wall_s"]
            for record in evaluations[self._seen :]:
                self.run.evaluated(began + record["wall_s"], record["env_steps"], record["return_mean"])
            self._seen = len(evaluations)
        if self.run.trained(status["updates"] * self.batch_size):
            self.stop.set()


def evaluated(case: str, directory: Path) -> float:
    """By the same function as the peers. The presets' policies have no memory."""
    policy = load_policy(directory).policy

    def act(observation: np.ndarray) -> np.ndarray:
        rows = len(observation)
        action, *_ = policy.step({ARRAY: observation}, policy.initial_state(rows), np.zeros(rows, bool))
        return policy.env_action(action)

    return evaluate(case, act)


def main() -> None:
    run = Run()
    parser = argparse.ArgumentParser()
    parser.add_argument("--local", action="store_true")
    parser.add_argument("--set", nargs="*", action="extend", default=[], metavar="KEY.PATH=VALUE")
    options = parser.parse_args(run.peer_arguments)
    preset = PRESETS[run.case][0]
    with tempfile.TemporaryDirectory(prefix="distrl-throughput-", ignore_cleanup_errors=True) as folder:
        given = overrides(run, Path(folder), options.set)
        config = RunConfig.load(preset, given)
        watch = Watch(run, config.algorithm.options["batch_size"])
        result = train(config, local=options.local, show=watch.show, stop=watch.stop)
        final = evaluated(run.case, result.directory) if run.case in ("cartpole", "halfcheetah") else None
    summary = result.summary
    run.report(
        {"preset": preset, "set": given, "local": options.local},
        summary["recent_return_mean"],
        evaluated_return=final,
        busy=summary["env_busy_fraction"],
        staleness_mean=summary["staleness_mean"],
        transitions_trained=summary["transitions_trained"],
        transitions_produced=summary["transitions_produced"],
    )


if __name__ == "__main__":
    main()
