"""The same SAC on the same slow environments, by five strategies of training and by two peers: return against wall time
and against env steps, at equal updates per step. One JSON line a run, appended; ``--plot`` draws what is there.

    python -m benchmarks.strategies --out benchmarks/results/strategies.jsonl [--seeds 0 1 2] [--cells slack-constant …]
    python -m benchmarks.strategies --out benchmarks/results/strategies.jsonl --plot docs/asynchrony.png
    python -m benchmarks.strategies --out benchmarks/results/strategies.jsonl --page

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
import json
import multiprocessing
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
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
PEERS = ("sb3", "rllib")
PAGE = ROOT / "docs" / "asynchrony.md"
_BEGIN, _END = "<!-- what follows is written by benchmarks/strategies.py -->\n", "<!-- until here -->\n"
ADDED = ("serial", "lockstep", "sb3")  # strategies whose sleeps are added up
STEPS, EVALUATIONS, EPISODES = 12_000, 10, 8


def law(cell: str) -> dict[str, Any]:
    """What env.delay says of a cell's step times."""
    load, kind = cell.removeprefix("fin-").split("-")
    return KINDS[kind] | {"median_s": MEDIAN_S[load]}


def config(out: Path, cell: str, seed: int, *overrides: str) -> Any:
    """What all strategies share: networks, learning rates, one update of 128 transitions for each env step."""
    from distrl.core.config import RunConfig

    fin = cell.startswith("fin-")
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


class Sleeps:
    """How long the environments of one round sleep: the longest of ``rows`` draws of each cell's law, added up."""

    def __init__(self, cells: list[str], rows: int, seed: int):
        from distrl.envs.delay import Delay

        self.added_s = dict.fromkeys(cells, 0.0)
        self._laws = {cell: [Delay(gymnasium.Env(), law(cell)) for _ in range(rows)] for cell in cells}
        for laws in self._laws.values():
            for row, drawn in enumerate(laws):
                drawn.reset(seed=seed * rows + row)

    def add_round(self) -> None:
        for cell, laws in self._laws.items():
            self.added_s[cell] += max(drawn.next_delay_s() for drawn in laws)


def in_turns(settings: Any, strategy: str, added: list[str]) -> dict[str, Any]:
    """Train, and leave at ``marks.json`` by cell what was when: wall seconds, env steps, updates.

    The sleeps of the cells ``added`` are counted, not slept; without any, environments sleep as the config says.
    """
    from distrl.cluster import checks, components
    from distrl.cluster.local import _DirectSink
    from distrl.core.run_directory import RunDirectory
    from distrl.parameter_server import ParameterServer, PolicySource

    serial = strategy == "serial"
    if serial:
        actors = settings.actors.model_copy(update={"envs_per_worker": 1})
        env = settings.env.model_copy(update={"hosting": "inline"})
        settings = settings.model_copy(update={"actors": actors, "env": env})
    if added:
        settings = settings.model_copy(update={"env": settings.env.model_copy(update={"delay": None})})
    spec = checks.try_environment(settings).spec
    run = RunDirectory.create(Path(settings.run.out), settings)
    run.begin_session()
    server = ParameterServer()
    learner = components.build_learner(settings, spec, run.path, server.publish)
    pool: Any = components.build_training_pool(settings, 0, 0, run.scratch(), inline=serial, env_steps=0)
    rows = pool.num_envs
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
    sleeps = Sleeps(added, rows, settings.run.seed)
    cells = added or [""]
    learner.publish()
    (trainer,) = learner.trainers.values()
    marks: dict[str, list[tuple[float, int, int]]] = {cell: [(0.0, 0, 0)] for cell in cells}
    began, steps = time.time(), 0

    def mark() -> None:
        took_s = time.time() - began
        for cell in cells:
            marks[cell].append((took_s + sleeps.added_s.get(cell, 0.0), steps, trainer.num_updates))

    while steps < settings.run.steps:
        worker.pull()
        worker.run_once(0.05)
        finished = worker.report()["produced"]
        for _ in range(finished // rows - steps // rows):
            sleeps.add_round()
        steps = finished
        while learner.update():
            pass
        mark()
    worker.finish()
    worker.close()
    while learner.update():
        pass
    mark()
    learner.checkpoint()
    learner.close()
    shutil.rmtree(run.scratch(), ignore_errors=True)
    return marks


# -- those of distrl.train ---------------------------------------------------------------------------------------------


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


# -- what came of it ---------------------------------------------------------------------------------------------------


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
    return meta["num_updates"], float(np.mean(returns))


def measure(strategy: str, cells: list[str], seed: int, folder: Path, slept: bool) -> list[dict[str, Any]]:
    """One run, and its line; or the lines of all ``cells``, of which a strategy's sleeps are added up."""
    cell = cells[0]
    out = folder / f"{strategy}-{cell}-{seed}"
    added = cells if strategy in ADDED and not slept else []
    facts = {"strategy": strategy, "seed": seed, "steps": STEPS, "cores": os.cpu_count(), "added": bool(added)}
    if strategy == "sb3":
        found = by_sb3(cells, seed, slept)
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
        settings = config(out, cell, seed)
        marks = in_turns(settings, strategy, added)
        found = curves(settings, marks if added else {cell: marks[""]})
    return [facts | {"cell": cell, "wall_s": found[cell][-1]["wall_s"], "curve": found[cell]} for cell in found]


def by_sb3(cells: list[str], seed: int, slept: bool) -> dict[str, Any]:
    """Stable-Baselines3, in the environment that ``make peers`` makes: the curve of each cell."""
    python = Path(os.environ.get("PEERS_PYTHON", ROOT / ".venv-peers" / "bin" / "python"))
    script = ROOT / "benchmarks" / "peers" / "sb3_strategies.py"
    laws = {cell: law(cell) for cell in cells}
    arguments = {"seed": seed, "steps": STEPS, "num_envs": NUM_ENVS, "laws": laws, "slept": slept}
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [str(python), str(script), json.dumps(arguments | {"evaluations": EVALUATIONS})]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{script} failed: {done.stderr.strip().splitlines()[-1]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def by_rllib(out: Path, cell: str, seed: int) -> list[dict[str, float]]:
    """RLlib's SAC through ``distrl train``: evaluations take turns with the training, and none of its time."""
    from distrl.api import train
    from distrl.core.metrics import read_json_lines

    settings = config(out, cell, seed, f"evaluation.period={STEPS // EVALUATIONS}", f"evaluation.episodes={EPISODES}")
    sections = settings.model_dump()
    rates = dict.fromkeys(("actor_lr", "critic_lr", "alpha_lr"), 1e-3)
    sections["algorithm"] = {
        "name": "rllib:SAC",
        **rates,
        "gamma": settings.algorithm.options["gamma"],
        "initial_alpha": 0.1,
        "train_batch_size_per_learner": 128,
        "training_intensity": 128.0,  # one update for each env step
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


def typical(lines: list[dict[str, Any]]) -> list[dict[str, float]]:
    """The curve of several seeds: at each evaluation the median over the seeds, of returns the mean of this and the
    evaluations beside it, because policies swing from one to the next."""
    curves = [line["curve"] for line in lines]
    found = []
    for index in range(min(map(len, curves))):
        beside = slice(max(index - 1, 0), index + 2)
        means = [statistics.fmean(point["return"] for point in curve[beside]) for curve in curves]
        times = {by: statistics.median(curve[index][by] for curve in curves) for by in ("wall_s", "env_steps")}
        found.append(times | {"return": statistics.median(means)})
    return found


def random_return() -> float:
    """Of random actions in Kuramoto–Sivashinsky, which gains are counted from."""
    from distrl.envs.resolve import make

    env, returns = make(config(Path("runs"), CELLS[0], 0).env.recipe()), []
    env = env.unwrapped
    env.action_space.seed(0)
    for seed in range(EPISODES):
        env.reset(seed=1_700_000_000 + seed)
        total, over = 0.0, False
        while not over:
            _, reward, terminated, truncated, _ = env.step(env.action_space.sample())
            total, over = total + float(reward), terminated or truncated
        returns.append(total)
    return float(np.mean(returns))


def gained(points: list[dict[str, float]], from_return: float) -> float:
    """What a curve has gained on random actions, on average over the env steps of a run."""
    grid = np.linspace(STEPS / EVALUATIONS, STEPS, EVALUATIONS)
    steps, returns = (np.array([point[name] for point in points]) for name in ("env_steps", "return"))
    return float(np.interp(grid, steps, returns).mean() - from_return)


def table(lines: list[dict[str, Any]]) -> str:
    """By cell and strategy: how long it takes, how far it comes, and what that is to the best peer and to serial."""
    base = random_return()
    text = ""
    for cell in CELLS:
        curves = {}
        for strategy in STRATEGIES:
            found = [line for line in lines if (line["cell"], line["strategy"]) == (cell, strategy)]
            if found:
                curves[strategy] = typical(found)
        if "decoupled" not in curves:
            continue
        text += f"\n**{cell}**\n\n| strategy | wall time | final return | to the best peer's | gain per env step |\n"
        text += "|---|---|---|---|---|\n"
        peers = [curves[name] for name in PEERS if name in curves]
        best = max(peers, key=lambda curve: curve[-1]["return"]) if peers else None
        for strategy, points in curves.items():
            until, gain = "", ""
            if best is not None:
                its_s = reached(best, best[-1]["return"], "wall_s")
                own_s = reached(points, best[-1]["return"], "wall_s")
                until = f"{own_s:.0f} s ({own_s / its_s:.2f})" if np.isfinite(own_s) else "not reached"
            if "serial" in curves and not cell.startswith("fin-"):
                gain = f"{gained(points, base) / gained(curves['serial'], base):.2f}"
            final = f"{points[-1]['return']:.4g}".replace("-", "−")
            text += f"| {strategy} | {points[-1]['wall_s']:.0f} s | {final} | {until} | {gain} |\n"
    return text


def plot(lines: list[dict[str, Any]], path: Path) -> None:
    """Return against wall time, and against env steps, for each cell."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    cells = [cell for cell in CELLS if any((line["cell"], line["strategy"]) == (cell, "decoupled") for line in lines)]
    figure, axes = plt.subplots(2, len(cells), figsize=(4 * len(cells), 7), squeeze=False, sharey="col")
    for column, cell in enumerate(cells):
        for row, by in enumerate(("wall_s", "env_steps")):
            for index, strategy in enumerate(STRATEGIES):
                found = [line for line in lines if (line["cell"], line["strategy"]) == (cell, strategy)]
                curves = [(line["curve"], 0.8, 0.25, None) for line in found]
                curves += [(typical(found), 2.0, 1.0, strategy)] if found else []
                for curve, width, alpha, label in curves:
                    points = [point for point in curve if point["env_steps"] >= STEPS / EVALUATIONS / 2]
                    axes[row, column].plot(
                        [point[by] for point in points],
                        [point["return"] for point in points],
                        color=f"C{index}",
                        linewidth=width,
                        alpha=alpha,
                        label=label,
                    )
            axes[row, column].set_xlabel("wall time [s]" if by == "wall_s" else "env steps")
            axes[row, column].set_ylabel("return")
            if by == "wall_s":
                axes[row, column].set_xscale("log")
        axes[0, column].set_title(cell)
    shown = {label: line for axis in axes.flat for line, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.tight_layout(rect=(0, 0.05, 1, 1))
    figure.legend(shown.values(), shown.keys(), loc="lower center", ncols=len(shown))
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="file of JSON lines, one a run")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--cells", nargs="+", default=CELLS, choices=CELLS)
    parser.add_argument("--strategies", nargs="+", default=STRATEGIES, choices=STRATEGIES)
    parser.add_argument("--slept", action="store_true", help="sleep where otherwise sleeps are added up")
    parser.add_argument("--plot", type=Path, help="draw what is there, and run nothing")
    parser.add_argument("--page", action="store_true", help="write the tables of what is there, and run nothing")
    options = parser.parse_args()
    lines = [json.loads(line) for line in options.out.read_text().splitlines()] if options.out.exists() else []
    if options.plot:
        return plot(lines, options.plot)
    if options.page:
        before, rest = PAGE.read_text().split(_BEGIN)
        PAGE.write_text(before + _BEGIN + table(lines) + _END + rest.split(_END)[1])
        return None
    done = {(line["strategy"], line["cell"], line["seed"]) for line in lines}
    for seed in options.seeds:
        for cell in options.cells:
            for strategy in options.strategies:
                if (strategy, cell, seed) in done or (cell.startswith("fin-") and strategy not in OF_THE_FIN):
                    continue
                cells = [cell]
                if strategy in ADDED and not options.slept and not cell.startswith("fin-"):
                    cells = [other for other in CELLS if not other.startswith("fin-")]
                folder = Path(tempfile.mkdtemp(prefix="distrl-strategies-"))
                try:
                    found = measure(strategy, cells, seed, folder, options.slept)
                finally:
                    shutil.rmtree(folder, ignore_errors=True)
                for line in found:
                    if (strategy, line["cell"], seed) not in done:
                        with options.out.open("a") as file:
                            file.write(json.dumps(line) + "\n")
                        done.add((strategy, line["cell"], seed))
                        end = line["curve"][-1]
                        print(strategy, line["cell"], seed, line["wall_s"], end["return"], file=sys.stderr, flush=True)
    return None


if __name__ == "__main__":
    main()
