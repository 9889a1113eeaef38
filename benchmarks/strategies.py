"""The same SAC on the same slow environments, by five strategies of training and by two peers: return against wall time
and against env steps, at equal updates per step. One JSON line a run, appended; ``--plot`` draws what is there.

    python -m benchmarks.strategies --out benchmarks/results/strategies.jsonl [--seeds 0 1 2] [--cells slack-constant …]
    python -m benchmarks.strategies --out benchmarks/results/strategies.jsonl --plot docs/asynchrony.png

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
repeated only if its line is missing. The serial strategy's sleeps are added up instead of slept, since nothing else
would happen meanwhile. Policies are evaluated afterwards, from checkpoints, without delays.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

ROOT = Path(__file__).parents[1]
NUM_ENVS = 16
KINDS = {
    "constant": {"kind": "constant"},
    "lognormal": {"kind": "lognormal", "sigma": 1.0},
    "stragglers": {"kind": "constant", "straggler_share": 0.05, "straggler_factor": 10.0},
}
MEDIAN_S = {"slack": 0.1, "tight": 0.01}
CELLS = [f"{load}-{kind}" for load in MEDIAN_S for kind in KINDS] + ["fin-slack-lognormal"]
STRATEGIES = ("serial", "lockstep", "turns", "decoupled", "server", "sb3", "rllib")
OF_THE_FIN = ("serial", "lockstep", "decoupled")
STEPS, EVALUATIONS, EPISODES = 8000, 10, 8


def config(out: Path, cell: str, seed: int, *overrides: str) -> Any:
    """What all strategies share: networks, learning rates, one update of 128 transitions for each env step."""
    from distrl.core.config import RunConfig

    fin = cell.startswith("fin-")
    load, kind = cell.removeprefix("fin-").split("-")
    delay = json.dumps(KINDS[kind] | {"median_s": MEDIAN_S[load]}).replace(":", "=").replace('"', "'")
    for key in (*KINDS[kind], "median_s"):
        delay = delay.replace(f"'{key}'", key)
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
            f"env.delay={delay}",
            "env.hosting=process",
            "actors.env_workers=1",
            f"actors.envs_per_worker={NUM_ENVS}",
            "actors.fragment_max_age_s=0.5",
            "actors.inference=local",
            "algorithm.batch_size=128",
            "algorithm.hidden=[64, 64]",
            "replay.samples_per_insert=128",
            "replay.min_size=500",
            "learner.finish_updates=true",
            f"checkpoint.period={STEPS // EVALUATIONS}",
            f"checkpoint.keep={10 * EVALUATIONS}",
            "evaluation.period=100000000",
            *overrides,
        ],
    )


# -- strategies in which environments and learner take turns -----------------------------------------------------------


class Lockstep:
    """A pool whose rows all come at once, when the slowest has come."""

    def __init__(self, pool: Any):
        self._pool = pool

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pool, name)

    def recv(self, timeout_s: float) -> Any:
        outcomes, requests, faults = self._pool.recv(timeout_s)
        while len(requests.rows) < self._pool.num_envs:
            more, asked, failed = self._pool.recv(1.0)
            outcomes, requests, faults = _both(outcomes, more), _both(requests, asked), faults + failed
        return outcomes, requests, faults


def _both(first: Any, second: Any) -> Any:
    """Two dataclasses of arrays, one behind the other."""
    found = {}
    for field in dataclasses.fields(first):
        mine, its = getattr(first, field.name), getattr(second, field.name)
        if field.name == "ended":
            found[field.name] = np.concatenate([mine, its + len(first.rows)])
        elif isinstance(mine, dict):
            found[field.name] = {key: np.concatenate([mine[key], its[key]]) for key in mine}
        elif isinstance(mine, list):
            found[field.name] = mine + its
        else:
            found[field.name] = np.concatenate([mine, its])
    return type(first)(**found)


def in_turns(settings: Any, strategy: str) -> float:
    """Train; the wall seconds that it took, those of the serial strategy's sleeps among them."""
    from distrl.cluster import checks, components
    from distrl.cluster.local import _DirectSink
    from distrl.core.run_directory import RunDirectory
    from distrl.envs.delay import Delay
    from distrl.parameter_server import ParameterServer, PolicySource

    serial, law = strategy == "serial", settings.env.delay.config()
    if serial:
        actors = settings.actors.model_copy(update={"envs_per_worker": 1})
        env = settings.env.model_copy(update={"delay": None, "hosting": "inline"})
        settings = settings.model_copy(update={"actors": actors, "env": env})
    spec = checks.try_environment(settings).spec
    run = RunDirectory.create(Path(settings.run.out), settings)
    run.begin_session()
    server = ParameterServer()
    learner = components.build_learner(settings, spec, run.path, server.publish)
    pool: Any = components.build_training_pool(settings, 0, 0, run.scratch(), inline=serial, env_steps=0)
    if strategy == "lockstep":
        pool = Lockstep(pool)
    worker = components.build_worker(
        settings,
        pool,
        checks.policy_specs(settings, spec),
        _DirectSink(learner),
        partial(PolicySource, server),
        worker=0,
        incarnation=0,
        timed=True,
    )
    sleeps = Delay(gymnasium.Env(), law)  # only its law is used
    learner.publish()
    began, slept_s, steps = time.time(), 0.0, 0
    (trainer,) = learner.trainers.values()
    marks = [(0.0, 0, 0)]
    while steps < settings.run.steps:
        worker.pull()
        worker.run_once(0.05)
        finished = worker.report()["produced"]
        if serial:
            slept_s += sum(sleeps.next_delay_s() for _ in range(finished - steps))
        steps = finished
        while learner.update():
            pass
        marks.append((time.time() - began + slept_s, steps, trainer.num_updates))
    worker.finish()
    worker.close()
    while learner.update():
        pass
    learner.checkpoint()
    learner.close()
    took_s = time.time() - began + slept_s
    marks.append((took_s, steps, trainer.num_updates))
    (run.path / "marks.json").write_text(json.dumps(marks))
    shutil.rmtree(run.scratch(), ignore_errors=True)
    return took_s


# -- those of distrl.train ---------------------------------------------------------------------------------------------


def by_train(settings: Any) -> float:
    """Train on Ray; wall seconds, from the first step on."""
    from distrl.api import train

    marks = [(0.0, 0, 0)]
    first: list[float] = []

    def look(status: dict[str, Any]) -> None:
        if status.get("env_steps"):
            first[:] = first or [time.time()]
            marks.append((time.time() - first[0], status["env_steps"], status["updates"]))

    result = train(settings, show=look)
    (result.directory / "marks.json").write_text(json.dumps(marks))
    return marks[-1][0]


# -- what came of it ---------------------------------------------------------------------------------------------------


def curve(settings: Any, updates_per_mark: int = 1) -> list[dict[str, float]]:
    """Wall seconds, env steps, updates and the mean return of each checkpoint."""
    from distrl.core.checkpoint import list_checkpoints, load_checkpoint
    from distrl.core.policy_file import read_policy

    out = Path(settings.run.out)
    marks = np.array(json.loads((out / "marks.json").read_text()))
    found = []
    for path in list_checkpoints(out / "checkpoints"):
        files, meta = load_checkpoint(path)
        updates = meta["num_updates"] * updates_per_mark
        policy = read_policy(files)
        found.append(
            {
                "wall_s": float(np.interp(updates, marks[:, 2], marks[:, 0])),
                "env_steps": float(np.interp(updates, marks[:, 2], marks[:, 1])),
                "updates": updates,
                "return": evaluated(settings, policy),
            }
        )
    return found


def evaluated(settings: Any, policy: Any) -> float:
    """Mean return of deterministic episodes on fixed seeds, without delays."""
    from distrl.envs.resolve import make
    from distrl.loading import LoadedPolicy

    acting = LoadedPolicy(policy)
    env = make(dataclasses.replace(settings.env.recipe(), delay=None))
    returns = []
    for seed in range(EPISODES):
        observation, _ = env.reset(seed=1_700_000_000 + seed)
        acting.reset()
        total, over = 0.0, False
        while not over:
            observation, reward, terminated, truncated, _ = env.step(acting.act(observation))
            total, over = total + float(reward), terminated or truncated
        returns.append(total)
    env.close()
    return float(np.mean(returns))


def measure(strategy: str, cell: str, seed: int, folder: Path) -> dict[str, Any]:
    """One run."""
    out = folder / f"{strategy}-{cell}-{seed}"
    facts = {"strategy": strategy, "cell": cell, "seed": seed, "steps": STEPS, "cores": os.cpu_count()}
    if strategy == "sb3":
        return facts | by_sb3(cell, seed)
    learners = 1
    if strategy == "server":
        learners = 2
        split = ("actors.env_workers=2", f"actors.envs_per_worker={NUM_ENVS // 2}")
        mode = ("learner.mode='parameter_server'", "learner.count=2", "learner.shards=2")
        settings = config(out, cell, seed, *split, *mode, f"checkpoint.period={STEPS // EVALUATIONS // 2}")
    elif strategy == "rllib":
        return facts | by_rllib(out, cell, seed)
    else:
        settings = config(out, cell, seed)
    drive: Callable[[Any], float] = (
        by_train if strategy in ("decoupled", "server") else partial(in_turns, strategy=strategy)
    )
    return facts | {"wall_s": drive(settings), "curve": curve(settings, learners)}


def by_sb3(cell: str, seed: int) -> dict[str, Any]:
    """Stable-Baselines3, in the environment that ``make peers`` makes."""
    python = Path(os.environ.get("PEERS_PYTHON", ROOT / ".venv-peers" / "bin" / "python"))
    script = ROOT / "benchmarks" / "peers" / "sb3_strategies.py"
    load, kind = cell.split("-")
    law = KINDS[kind] | {"median_s": MEDIAN_S[load]}
    arguments = {"seed": seed, "steps": STEPS, "num_envs": NUM_ENVS, "law": law, "evaluations": EVALUATIONS}
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [str(python), str(script), json.dumps(arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{script} failed: {done.stderr.strip().splitlines()[-1]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def by_rllib(out: Path, cell: str, seed: int) -> dict[str, Any]:
    """RLlib's SAC through ``distrl train``: evaluations take turns with the training, and none of its time."""
    from distrl.api import train
    from distrl.core.metrics import read_json_lines

    settings = config(out, cell, seed, f"evaluation.period={STEPS // EVALUATIONS}", f"evaluation.episodes={EPISODES}")
    sections = settings.model_dump()
    sections["algorithm"] = {"name": "rllib:SAC"}
    sections["replay"], sections["learner"], sections["checkpoint"] = {}, {}, {}
    result = train(type(settings).model_validate(sections))
    records = read_json_lines(result.directory / "timing.jsonl")
    found = [
        {"wall_s": record["wall_s"], "env_steps": record["env_steps"], "return": record["return_mean"]}
        for record in records
        if record["kind"] == "evaluation"
    ]
    return {"wall_s": result.summary["wall_s"], "curve": found}


# -- the table and the picture -----------------------------------------------------------------------------------------


def reached(points: list[dict[str, float]], value: float, by: str) -> float:
    """At which wall second or env step a curve first has this return, between its points; infinity if it never has."""
    before = points[0]
    for point in points:
        if point["return"] >= value:
            gap = point["return"] - before["return"]
            share = (value - before["return"]) / gap if gap > 0 else 1.0
            return before[by] + share * (point[by] - before[by])
        before = point
    return float("inf")


def plot(lines: list[dict[str, Any]], path: Path) -> None:
    """Return against wall time, and against env steps, for each cell."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    cells = [cell for cell in CELLS if any(line["cell"] == cell for line in lines)]
    figure, axes = plt.subplots(2, len(cells), figsize=(4 * len(cells), 7), squeeze=False, sharey="col")
    for column, cell in enumerate(cells):
        for row, by in enumerate(("wall_s", "env_steps")):
            for index, strategy in enumerate(STRATEGIES):
                for line in lines:
                    if (line["cell"], line["strategy"]) == (cell, strategy):
                        points = line["curve"]
                        axes[row, column].plot(
                            [point[by] for point in points],
                            [point["return"] for point in points],
                            color=f"C{index}",
                            alpha=0.7,
                            label=strategy if line["seed"] == 0 else None,
                        )
            axes[row, column].set_xlabel("wall time [s]" if by == "wall_s" else "env steps")
            axes[row, column].set_ylabel("return")
            if by == "wall_s":
                axes[row, column].set_xscale("log")
        axes[0, column].set_title(cell)
    axes[0, 0].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="file of JSON lines, one a run")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--cells", nargs="+", default=CELLS, choices=CELLS)
    parser.add_argument("--strategies", nargs="+", default=STRATEGIES, choices=STRATEGIES)
    parser.add_argument("--plot", type=Path, help="draw what is there, and run nothing")
    options = parser.parse_args()
    lines = [json.loads(line) for line in options.out.read_text().splitlines()] if options.out.exists() else []
    if options.plot:
        return plot(lines, options.plot)
    done = {(line["strategy"], line["cell"], line["seed"]) for line in lines}
    for seed in options.seeds:
        for cell in options.cells:
            for strategy in options.strategies:
                if (strategy, cell, seed) in done or (cell.startswith("fin-") and strategy not in OF_THE_FIN):
                    continue
                folder = Path(tempfile.mkdtemp(prefix="distrl-strategies-"))
                try:
                    line = json.dumps(measure(strategy, cell, seed, folder))
                finally:
                    shutil.rmtree(folder, ignore_errors=True)
                with options.out.open("a") as file:
                    file.write(line + "\n")
                print(line[:160], file=sys.stderr, flush=True)
    return None


if __name__ == "__main__":
    main()
