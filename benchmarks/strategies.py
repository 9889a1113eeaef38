"""The same SAC on the same slow environments, by five strategies of training and by two peers: return against wall time
and against env steps, at equal updates per step. One JSON line a run, appended; benchmarks/strategies_page.py writes
the tables and draws the picture of what is there.

    python -m benchmarks.strategies --out benchmarks/results/strategies.jsonl [--seeds 0 1 2] [--cells slack-constant …]

serial        one environment; each step is followed by the updates it owes
lockstep      sixteen environments step together, then the learner updates, in turns
turns         sixteen environments, each answered when it is ready; the learner updates in between, in the same process
decoupled     distrl.train: environments and learner never wait for each other
server        distrl.train with learner.mode = parameter_server, two learners, two shards
sb3           Stable-Baselines3's SAC over SubprocVecEnv, as many updates (``make peers``)
rllib         RLlib's SAC, ``distrl train --algorithm rllib:SAC``

A cell is a law of the step times (constant, lognormal with σ 1, constant with 5 % stragglers of ten times the length)
and whether they leave the learner slack (``slack``, median 100 ms) or not (``tight``, 10 ms). The environment is
Kuramoto–Sivashinsky, or with ``fin-slack-lognormal`` the fin ray (smoke), where its own step comes on top. A run is
repeated only if its line is missing. Where nothing else happens while environments sleep (serial, lockstep, sb3) the
path of the training is the same for every law, so one run without sleeps makes the lines of all cells: the sleeps, of a
round of sixteen the longest, are added to its wall time (``--slept`` sleeps them, to compare). Policies are evaluated
afterwards, from checkpoints, without delays.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.episodes import mean_return
from benchmarks.strategies_in_turns import in_turns

ROOT = Path(__file__).parents[1]
NUM_ENVS = 16
KINDS = {
    "constant": {"kind": "constant"},
    "lognormal": {"kind": "lognormal", "sigma": 1.0},
    "stragglers": {"kind": "constant", "straggler_share": 0.05, "straggler_factor": 10.0},
}
MEDIAN_S = {"slack": 0.1, "tight": 0.01}
KS_CELLS = [f"{load}-{kind}" for load in MEDIAN_S for kind in KINDS]
FIN_CELLS = ["fin-slack-lognormal"]
CELLS = KS_CELLS + FIN_CELLS
STRATEGIES = ("serial", "lockstep", "turns", "decoupled", "server", "sb3", "rllib")
OF_THE_FIN = ("serial", "lockstep", "decoupled")
PEERS = ("sb3", "rllib")
ADDED = ("serial", "lockstep", "sb3")  # strategies whose sleeps are added up
STEPS, EVALUATIONS = 12_000, 10
EVALUATION_SEEDS = range(1_700_000_000, 1_700_000_008)


def law(cell: str) -> dict[str, Any]:
    """What env.delay says of a cell's step times."""
    load, kind = cell.removeprefix("fin-").split("-")
    return KINDS[kind] | {"median_s": MEDIAN_S[load]}


def config(out: Path, cell: str, seed: int, *overrides: str) -> Any:
    """What all strategies share: networks, learning rates, one update of 128 transitions for each env step."""
    from distrl.core.config import RunConfig

    fin = cell in FIN_CELLS
    delay = ", ".join(f"{key} = {json.dumps(value)}" for key, value in law(cell).items())
    env = ["env.id=distrl/FinRay-v0", "env.fidelity=smoke"] if fin else ["env.id=distrl/KuramotoSivashinsky-v0"]
    return RunConfig.load(
        "ks",
        [
            f"run.out={out}",
            f"run.seed={seed}",
            f"run.steps={STEPS}",
            "run.wall_limit_s=3600",
            f"run.spool_dir={out.parent / 'spool'}",
            *env,
            f"env.delay={{ {delay} }}",
            "env.hosting=process",
            "actors.env_workers=1",
            f"actors.envs_per_worker={NUM_ENVS}",
            "actors.fragment_max_age_s=0.5",
            "actors.inference=local",
            "algorithm.batch_size=128",
            "algorithm.hidden=[64, 64]",
            "algorithm.n_step=1",
            "replay.samples_per_insert=128",
            "replay.min_size=500",
            "learner.finish_updates=true",
            f"checkpoint.period={STEPS // EVALUATIONS}",
            f"checkpoint.keep={10 * EVALUATIONS}",
            "evaluation.period=100000000",
            *overrides,
        ],
    )


def by_train(settings: Any) -> list[tuple[float, int, int]]:
    """Train on Ray, and tell what was when: wall seconds from the first step on, env steps, updates."""
    from distrl.api import train

    marks = [(0.0, 0, 0)]
    first: list[float] = []

    def look(status: dict[str, Any]) -> None:
        if status.get("env_steps"):
            first[:] = first or [time.time()]
            marks.append((time.time() - first[0], status["env_steps"], status["updates"]))

    train(settings, show=look)
    return marks


def curves(settings: Any, marks: dict[str, Any], updates_per_mark: int = 1) -> dict[str, list[dict[str, float]]]:
    """By cell, the wall seconds, env steps, updates and mean return of each checkpoint."""
    from distrl.core.checkpoint import list_checkpoints

    found: dict[str, list[dict[str, float]]] = {cell: [] for cell in marks}
    paths = list_checkpoints(Path(settings.run.out) / "checkpoints")
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(os.cpu_count(), spawn, initializer=os.nice, initargs=(19,)) as workers:
        evaluated = list(workers.map(partial(evaluate, settings), paths))
    for updates, mean in evaluated:
        updates *= updates_per_mark
        for cell, points in marks.items():
            wall_s, env_steps, done = np.array(points).T
            point = {"wall_s": np.interp(updates, done, wall_s), "env_steps": np.interp(updates, done, env_steps)}
            found[cell].append(
                {key: float(value) for key, value in point.items()} | {"updates": updates, "return": mean}
            )
    return found


def evaluate(settings: Any, checkpoint: Path) -> tuple[int, float]:
    """Its number of updates, and its mean return: deterministic episodes on fixed seeds, without delays."""
    from distrl.core.checkpoint import load_checkpoint
    from distrl.core.policy_file import read_policy
    from distrl.envs.resolve import make
    from distrl.loading import LoadedPolicy

    files, meta = load_checkpoint(checkpoint)
    acting = LoadedPolicy(read_policy(files))
    env = make(dataclasses.replace(settings.env.recipe(), delay=None))
    found = mean_return(env, acting.act, EVALUATION_SEEDS)
    env.close()
    return meta["num_updates"], found


def measure(strategy: str, cell: str, seed: int, folder: Path, slept: bool) -> list[dict[str, Any]]:
    """One run, and its line; or the lines of all cells of its environment, where a strategy's sleeps are added up."""
    out = folder / f"{strategy}-{cell}-{seed}"
    alike = FIN_CELLS if cell in FIN_CELLS else KS_CELLS
    added = alike if strategy in ADDED and not slept else []
    facts = {"strategy": strategy, "seed": seed, "steps": STEPS, "cores": os.cpu_count(), "added": bool(added)}
    if strategy == "sb3":
        found = by_sb3(added or [cell], seed, slept)
    elif strategy == "rllib":
        found = {cell: by_rllib(out, cell, seed)}
    elif strategy == "server":
        split = ("actors.env_workers=2", f"actors.envs_per_worker={NUM_ENVS // 2}")
        mode = ("learner.mode='parameter_server'", "learner.count=2", "learner.shards=2")
        settings = config(out, cell, seed, *split, *mode, f"checkpoint.period={STEPS // EVALUATIONS // 2}")
        found = curves(settings, {cell: by_train(settings)}, updates_per_mark=2)
    elif strategy == "decoupled":
        settings = config(out, cell, seed)
        found = curves(settings, {cell: by_train(settings)})
    else:
        # in lockstep the learner has each round's transitions before the next round
        settings = config(out, cell, seed, *(["actors.fragment_steps=1"] if strategy == "lockstep" else []))
        marks = in_turns(settings, strategy, {cell: law(cell) for cell in added})
        found = curves(settings, marks if added else {cell: marks[""]})
    return [facts | {"cell": cell, "wall_s": found[cell][-1]["wall_s"], "curve": found[cell]} for cell in found]


def by_sb3(cells: list[str], seed: int, slept: bool) -> dict[str, Any]:
    """Stable-Baselines3, in the environment that ``make peers`` makes: the curve of each cell."""
    python = Path(os.environ.get("PEERS_PYTHON", ROOT / ".venv-peers" / "bin" / "python"))
    script = ROOT / "benchmarks" / "peers" / "sb3_strategies.py"
    laws = {cell: law(cell) for cell in cells}
    arguments = {"seed": seed, "steps": STEPS, "num_envs": NUM_ENVS, "laws": laws, "slept": slept}
    arguments |= {"evaluations": EVALUATIONS, "evaluation_seeds": list(EVALUATION_SEEDS)}
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [str(python), str(script), json.dumps(arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{script} failed: {done.stderr.strip().splitlines()[-1]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def by_rllib(out: Path, cell: str, seed: int) -> list[dict[str, float]]:
    """RLlib's SAC through ``distrl train``: evaluations take turns with the training, and none of its time."""
    from distrl.api import train
    from distrl.core.metrics import read_json_lines

    looks = (f"evaluation.period={STEPS // EVALUATIONS}", f"evaluation.episodes={len(EVALUATION_SEEDS)}")
    settings = config(out, cell, seed, *looks)
    sections = settings.model_dump()
    rates = dict.fromkeys(("actor_lr", "critic_lr", "alpha_lr"), 1e-3)
    sections["algorithm"] = {
        "name": "rllib:SAC",
        **rates,
        "gamma": settings.algorithm.options["gamma"],
        "initial_alpha": 0.1,
        "train_batch_size_per_learner": 128,
        "training_intensity": 64.0,  # 128 samples for each env step: RLlib counts one env runner as two
        "num_steps_sampled_before_learning_starts": 500,
        "gym_env_vectorize_mode": "async",  # its environments step together, each in a process of its own
        "model_config": {"fcnet_hiddens": [64, 64]},
    }
    sections["env"]["hosting"], sections["actors"] = "auto", {"env_workers": 1, "envs_per_worker": NUM_ENVS}
    sections["replay"], sections["learner"], sections["checkpoint"] = {}, {}, {}
    result = train(type(settings).model_validate(sections))
    records = read_json_lines(result.directory / "timing.jsonl")
    return [
        {"wall_s": record["wall_s"], "env_steps": record["env_steps"], "return": record["return_mean"]}
        for record in records
        if record["kind"] == "evaluation"
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="file of JSON lines, one a run")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--cells", nargs="+", default=CELLS, choices=CELLS)
    parser.add_argument("--strategies", nargs="+", default=STRATEGIES, choices=STRATEGIES)
    parser.add_argument("--slept", action="store_true", help="sleep where otherwise sleeps are added up")
    options = parser.parse_args()
    lines = [json.loads(line) for line in options.out.read_text().splitlines()] if options.out.exists() else []
    done = {(line["strategy"], line["cell"], line["seed"]) for line in lines}
    for seed, cell, strategy in itertools.product(options.seeds, options.cells, options.strategies):
        if (strategy, cell, seed) in done or (cell in FIN_CELLS and strategy not in OF_THE_FIN):
            continue
        with tempfile.TemporaryDirectory(prefix="distrl-strategies-", ignore_cleanup_errors=True) as folder:
            found = measure(strategy, cell, seed, Path(folder), options.slept)
        found = [line for line in found if (strategy, line["cell"], seed) not in done]
        done.update((strategy, line["cell"], seed) for line in found)
        with options.out.open("a") as file:
            file.writelines(json.dumps(line) + "\n" for line in found)
        for line in found:
            print(
                strategy, line["cell"], seed, line["wall_s"], line["curve"][-1]["return"], file=sys.stderr, flush=True
            )


if __name__ == "__main__":
    main()
