"""Which algorithm for which environment: final returns of ours, and of Stable-Baselines3's where it has the same.

    python -m benchmarks.which_algorithm --out benchmarks/results/which_algorithm.jsonl [--jobs 2] [--problems KS …]
    python -m benchmarks.which_algorithm --out benchmarks/results/which_algorithm.jsonl --page

One JSON line a run, appended; a run that has its line is not repeated; the longest, SB3's SAC on HalfCheetah, take some
ten minutes of a core. The return is that of the best policy of five evaluations, over 20 other episodes. Ours are in
one process (``local``), SB3's are in the environment that ``make peers`` makes; both have the same networks, learning
rates, batches, discounts, n-step returns and updates per env step. Only returns count here, so runs may go side by
side. ``--page`` writes the table of docs/algorithms.md.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.learned import machine

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "algorithms.md"
_BEGIN, _END = "<!-- what follows is written by benchmarks/which_algorithm.py -->\n", "<!-- until here -->\n"
PEERS = {"sac": "SAC", "td3": "TD3", "dqn": "DQN", "ppo": "PPO"}  # algorithms that SB3 has, too
EPISODES, FINAL_EPISODES, EVALUATIONS = 10, 20, 5

CRITICS = {"hidden": [64, 64], "batch_size": 128, "actor_learning_rate": 1e-3, "critic_learning_rate": 1e-3}
ON_POLICY = {"hidden": [64, 64], "batch_size": 1024, "epochs": 4, "minibatches": 4, "learning_rate": 1e-3}
DQN = {"hidden": [128, 128], "batch_size": 128, "learning_rate": 1e-3, "epsilon_steps": 10_000}
DIVER = {"batch_size": 64, "hidden": [64], "learning_rate": 3e-3, "tau": 0.1, "value_min": -2.0, "value_max": 8.0}
DIVER |= {"initial_epsilon": 0.2, "final_epsilon": 0.2}
LARGE = {"hidden": [256, 256], "batch_size": 256, "actor_learning_rate": 3e-4, "critic_learning_rate": 3e-4}
BONUS = {"kind": "rnd", "weight": 0.3, "hidden": [64], "learning_rate": 1e-3}


@dataclass(frozen=True)
class Problem:
    """Attributes: env: section of the configuration. replayed, queued: env steps of algorithms that draw from a replay
    and of those that use a transition once. algorithms: name in the table → options. shared: options of all of them.
    updates: per env step, of a replay. warmup: env steps before.
    """

    env: Mapping[str, Any]
    replayed: int
    queued: int
    algorithms: Mapping[str, Mapping[str, Any]]
    shared: Mapping[str, Any] = field(default_factory=dict)
    updates: float = 1.0
    warmup: int = 500


def _continuous(critics: Mapping[str, Any], **options: Any) -> dict[str, dict[str, Any]]:
    """Those for Boxes; ``options``: of the ones with a replay."""
    temperature = {"temperature_learning_rate": critics["actor_learning_rate"], "initial_temperature": 0.1}
    return {
        "sac": {**critics, **temperature, **options},
        "td3": {**critics, **options},
        "dsact": {**critics, **temperature, **options},
        "ppo": dict(ON_POLICY),
    }


PROBLEMS = {
    "Pendulum": Problem({"id": "Pendulum-v1"}, 10_000, 200_000, _continuous(CRITICS), {"gamma": 0.95}),
    "KS": Problem(
        {"id": "distrl/KuramotoSivashinsky-v0"}, 20_000, 200_000, _continuous(CRITICS, n_step=3), {"gamma": 0.977}
    ),
    "fin ray (smoke)": Problem(
        {"id": "distrl/FinRay-v0", "fidelity": "smoke"},
        20_000,
        100_000,
        _continuous(CRITICS, n_step=3),
        {"gamma": 0.98},
    ),
    "CartPole": Problem(
        {"id": "CartPole-v1"},
        50_000,
        200_000,
        {
            "dqn": DQN | {"value_min": -10.0, "value_max": 110.0},
            "ppo": dict(ON_POLICY),
            "appo": dict(ON_POLICY),
            "ga": {"hidden": [16], "population": 32, "parents": 6, "sigma": 0.3},
        },
        updates=0.5,
        warmup=1000,
    ),
    "hidden treasure": Problem(
        {"id": "tests.fakes.problems:DeepSea", "kwargs": {"size": 8}},
        2000,
        40_000,
        {"dqn": DIVER, "dqn, RND": DIVER | {"bonus": BONUS}, "ppo": dict(ON_POLICY)},
        updates=2.0,
        warmup=64,
    ),
    "HalfCheetah": Problem({"id": "HalfCheetah-v5"}, 50_000, 0, {"sac": LARGE, "td3": LARGE}, warmup=5000),
}


@dataclass(frozen=True)
class Run:
    """One line. Attributes: package: distrl or sb3."""

    problem: str
    algorithm: str
    package: str
    seed: int

    @property
    def key(self) -> tuple[str, str, str, int]:
        return self.problem, self.algorithm, self.package, self.seed

    @property
    def settings(self) -> dict[str, Any]:
        """What both packages are given."""
        problem, name = PROBLEMS[self.problem], self.algorithm.split(",")[0]
        queued = name in ("ppo", "appo", "ga")
        options = {**problem.algorithms[self.algorithm], **({} if name == "ga" else problem.shared)}
        steps = problem.queued if queued else problem.replayed
        return {"name": name, "env": dict(problem.env), "steps": steps, "options": options, "queued": queued}


def runs(problems: list[str], seeds: list[int]) -> Iterator[Run]:
    """In the order in which they are worth having."""
    for seed in seeds:
        for problem in problems:
            for algorithm in PROBLEMS[problem].algorithms:
                yield Run(problem, algorithm, "distrl", seed)
                if algorithm in PEERS:
                    yield Run(problem, algorithm, "sb3", seed)


def by_distrl(run: Run) -> dict[str, Any]:
    """One run in this process."""
    from distrl.api import train
    from distrl.core.config import RunConfig

    settings, problem = run.settings, PROBLEMS[run.problem]
    folder = Path(tempfile.mkdtemp(prefix="distrl-which-"))
    batch = settings["options"].get("batch_size", 0)
    replay = {"min_size": problem.warmup, "samples_per_insert": problem.updates * batch}
    config = RunConfig.model_validate(
        {
            "run": {"steps": settings["steps"], "seed": run.seed, "out": str(folder / "run")},
            "env": settings["env"],
            "actors": {"envs_per_worker": 16 if settings["queued"] else 2, "fragment_steps": 32},
            "algorithm": {"name": settings["name"], **settings["options"]},
            "replay": {} if settings["queued"] else replay,
            "learner": {"device": "cpu"},
            "evaluation": {
                "period": settings["steps"] // EVALUATIONS,
                "episodes": EPISODES,
                "final_episodes": FINAL_EPISODES,
            },
        }
    )
    try:
        return {"return": train(config, local=True).summary["final_return_mean"]}
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def by_sb3(run: Run) -> dict[str, Any]:
    """One run in the environment that ``make peers`` makes, evaluated on the seeds that ours are."""
    from distrl.cluster.components import SELECTION_SEEDS, TEST_SEEDS

    python = Path(os.environ.get("PEERS_PYTHON", ROOT / ".venv-peers" / "bin" / "python"))
    problem = PROBLEMS[run.problem]
    given = {"seed": run.seed, "updates": problem.updates, "warmup": problem.warmup}
    seeds = (range(SELECTION_SEEDS, SELECTION_SEEDS + EPISODES), range(TEST_SEEDS, TEST_SEEDS + FINAL_EPISODES))
    given |= {"evaluations": EVALUATIONS} | dict(zip(("selection_seeds", "test_seeds"), map(list, seeds), strict=True))
    script = ROOT / "benchmarks" / "peers" / "sb3_returns.py"
    return _said([str(python), str(script), json.dumps({**run.settings, **given})])


def measured(run: Run) -> dict[str, Any]:
    """The run's line; in a process of its own, so that several go side by side."""
    facts = dict(zip(("problem", "algorithm", "package", "seed"), run.key, strict=True))
    if run.package == "sb3":
        found = by_sb3(run)
    else:
        found = _said([sys.executable, "-m", "benchmarks.which_algorithm", "--one", json.dumps(run.key)])
    return facts | {"env_steps": run.settings["steps"], **found, "machine": machine()}


def _said(command: list[str]) -> dict[str, Any]:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{command[1:]} failed: {done.stderr.strip().splitlines()[-1]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


# -- the table ---------------------------------------------------------------------------------------------------------


def table(lines: list[dict[str, Any]]) -> str:
    """One row a problem and algorithm: the median and all seeds, ours and SB3's."""
    found: dict[tuple[str, str, str], list[float]] = {}
    for line in sorted(lines, key=lambda line: line["seed"]):
        found.setdefault((line["problem"], line["algorithm"], line["package"]), []).append(line["return"])
    text = "| environment | algorithm | env steps | distrl | Stable-Baselines3 |\n|---|---|---|---|---|\n"
    for name, problem in PROBLEMS.items():
        for algorithm in problem.algorithms:
            ours = found.get((name, algorithm, "distrl"))
            if not ours:
                continue
            steps = Run(name, algorithm, "distrl", 0).settings["steps"]
            its = found.get((name, algorithm, "sb3"), []) if algorithm in PEERS else None
            text += f"| {name} | {algorithm} | {steps:,} | {_cell(ours)} | {_cell(its)} |\n"
    machines = " and ".join(sorted({line["machine"] for line in lines}))
    return f"{text}\nMeasured on {machines}.\n"


def _cell(returns: list[float] | None) -> str:
    if returns is None:
        return "has none"
    if not returns:
        return "not run"
    return f"**{_number(statistics.median(returns))}** ({', '.join(map(_number, returns))})"


def _number(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}".replace("-", "−")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="file of JSON lines, one a run")
    parser.add_argument("--problems", nargs="+", default=list(PROBLEMS), choices=PROBLEMS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=1, help="runs side by side")
    parser.add_argument("--page", action="store_true", help="write the table of what is there, and run nothing")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(by_distrl(Run(*json.loads(options.one)))))
        return
    lines = [json.loads(line) for line in options.out.read_text().splitlines()] if options.out.exists() else []
    if options.page:
        before, rest = PAGE.read_text().split(_BEGIN)
        PAGE.write_text(before + _BEGIN + table(lines) + _END + rest.split(_END)[1])
        return
    done = {(line["problem"], line["algorithm"], line["package"], line["seed"]) for line in lines}
    missing = [run for run in runs(options.problems, options.seeds) if run.key not in done]
    with ThreadPoolExecutor(options.jobs) as workers:
        for line in workers.map(measured, missing):
            with options.out.open("a") as file:
                file.write(json.dumps(line) + "\n")
            print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
