"""Rayleigh–Bénard convection controlled by one agent or by ten that share a policy: return against episodes.

    python benchmarks/rayleigh_benard_agents.py --seeds 0 1 2
    python benchmarks/rayleigh_benard_agents.py --cases ppo-one ppo-ten --seeds 0 --set algorithm.entropy_cost=0

The simulation is the same, at its level "coarse", and so are algorithm, options, number of episodes and simulations
side by side; one agent sets all ten segments (``distrl/RayleighBenard-v0``), ten set one each
(``distrl/RayleighBenardAgents-v0``; Vignon et al., Phys. Fluids 35 (2023) 065146, report that ten learn in as many
episodes what one does not). Evaluations are deterministic episodes on held-out seeds; returns of ten are the mean over
the agents, which is the simulation's own. Runs are ``--local``: a seed gives the same numbers again.

One line a run is appended to the results (a run that is there is not repeated); runs with other options (``--set``)
have a panel of their own in the picture.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from learned import machine

RESULTS = Path(__file__).parent / "results" / "rayleigh_benard_agents.jsonl"
AGENTS = {"one": 1, "ten": 10}
IDS = {"one": "distrl/RayleighBenard-v0", "ten": "distrl/RayleighBenardAgents-v0"}
_EPISODE_STEPS, _SIMULATIONS = 100, 2
_COMMON = [
    "env.fidelity=coarse",
    "learner.device=cpu",
    f"actors.envs_per_worker={_SIMULATIONS}",
    "evaluation.episodes=4",
    "evaluation.final_episodes=8",
]


def settings(case: str) -> list[str]:
    """What a case, such as "ppo-ten", sets beside what all have."""
    algorithm, _, formulation = case.partition("-")
    agents = AGENTS[formulation]
    if algorithm == "ppo":  # a rollout is one episode of each simulation
        return [
            "algorithm.name=ppo",
            "run.experience_log=off",
            f"actors.fragment_steps={_EPISODE_STEPS}",
            f"algorithm.batch_size={_SIMULATIONS * _EPISODE_STEPS * agents}",
            "algorithm.gamma=0.95",
            "algorithm.learning_rate=1e-3",
            "algorithm.epochs=10",
            "algorithm.minibatches=4",
            "algorithm.initial_log_std=-0.7",
            "algorithm.entropy_cost=0.01",
            "algorithm.scale_rewards=true",
        ]
    return [  # as many updates for an env step, whoever many transitions that is
        "algorithm.name=sac",
        f"replay.samples_per_insert={128 / agents}",
        "replay.min_size=2000",
        "algorithm.gamma=0.98",
        "algorithm.n_step=3",
        "algorithm.actor_learning_rate=1e-3",
        "algorithm.critic_learning_rate=1e-3",
        "algorithm.temperature_learning_rate=1e-3",
        "algorithm.initial_temperature=0.1",
    ]


def train(case: str, seed: int, episodes: int, period: int, overrides: list[str]) -> dict[str, Any]:
    """One run; its returns by episode, of the simulation."""
    from distrl.api import train as run
    from distrl.core.config import RunConfig
    from distrl.core.metrics import read_json_lines

    folder = Path(tempfile.mkdtemp(prefix="distrl-rayleigh-benard-"))
    formulation = case.partition("-")[2]
    try:
        preset = folder / "case.toml"
        preset.write_text(f'[env]\nid = "{IDS[formulation]}"\n')
        lengths = [f"run.steps={episodes * _EPISODE_STEPS}", f"evaluation.period={period * _EPISODE_STEPS}"]
        fixed = [*_COMMON, *lengths, f"run.seed={seed}", f"run.out={folder / 'run'}"]
        begin = time.monotonic()
        result = run(RunConfig.load(str(preset), [*fixed, *settings(case), *overrides]), local=True)
        agents = AGENTS[formulation]
        curve = [
            [record["env_steps"] / _EPISODE_STEPS, record["return_mean"] / agents]
            for record in read_json_lines(result.directory / "metrics.jsonl")
            if record["kind"] == "evaluation" and record["return_mean"] is not None
        ]
        summary = {
            name: result.summary[f"{name}_return"] / agents
            for name in ("nothing", "random", "baseline")
            if result.summary.get(f"{name}_return") is not None
        }
        return {
            "benchmark": "rayleigh_benard_agents",
            "case": case,
            "seed": seed,
            "episodes": episodes,
            "set": overrides,
            "settings": settings(case),
            "best_return": result.summary["final_return_mean"] / agents,
            "curve": curve,
            "others": summary,
            "wall_s": time.monotonic() - begin,
            "machine": machine(),
        }
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def done() -> list[dict[str, Any]]:
    """The runs that are there."""
    return [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []


def draw(runs: list[dict[str, Any]], path: Path) -> None:
    """A panel for each algorithm and what was set, where both formulations have runs; every run thin, means thick."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    panels: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for run in runs:
        algorithm, _, formulation = run["case"].partition("-")
        title = ", ".join([algorithm.upper(), *run["set"]])
        panels.setdefault(title, {}).setdefault(formulation, []).append(run)
    panels = {title: found for title, found in sorted(panels.items()) if len(found) == len(AGENTS)}
    width = 5.5 * len(panels)
    figure, axes = plt.subplots(1, len(panels), figsize=(width, 4.2), sharey=True, squeeze=False, layout="constrained")
    for axis, (title, found) in zip(axes[0], panels.items(), strict=True):
        for formulation, color in (("one", "#c2571a"), ("ten", "#1f6f8b")):
            curves = [run["curve"] for run in found[formulation]]
            for curve in curves:
                axis.plot(*zip(*curve, strict=True), color=color, alpha=0.35, lw=0.9)
            noun = "agent" if formulation == "one" else "agents"
            axis.plot(*zip(*mean(curves), strict=True), color=color, lw=2.4, label=f"{formulation} {noun}")
        others = found["one"][0]["others"]
        for name, label, style in (("nothing", "doing nothing", ":"), ("baseline", "proportional control", "--")):
            axis.axhline(others[name], color="#777777", ls=style, lw=1.2, label=label)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("episodes")
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0][0].set_ylabel("episode return, held-out seeds")
    axes[0][-1].legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=100)
    plt.close(figure)


def mean(curves: list[list[list[float]]]) -> list[tuple[float, float]]:
    """Episodes and the mean return over the runs, at each evaluation."""
    return [(points[0][0], statistics.fmean(value for _, value in points)) for points in zip(*curves, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", default=["ppo-one", "ppo-ten"], help="also: sac-one, sac-ten")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--episodes", type=int, default=300)
    parser.add_argument("--period", type=int, default=20, help="episodes between two evaluations")
    parser.add_argument("--set", action="append", default=[], metavar="KEY.PATH=VALUE")
    options = parser.parse_args()
    for seed in options.seeds:
        for case in options.cases:
            asked = {"case": case, "seed": seed, "episodes": options.episodes, "set": options.set}
            if not any(asked.items() <= run.items() for run in done()):
                found = train(case, seed, options.episodes, options.period, options.set)
                with RESULTS.open("a") as lines:
                    lines.write(json.dumps(found) + "\n")
    runs = [run for run in done() if run["episodes"] == options.episodes]
    draw(runs, RESULTS.with_suffix(".png"))
    for case, given in sorted({(run["case"], tuple(run["set"])) for run in runs}):
        curves = [run["curve"] for run in runs if (run["case"], tuple(run["set"])) == (case, given)]
        report = {"benchmark": "rayleigh_benard_agents", "case": case, "set": given, "runs": len(curves)}
        print(json.dumps(report | {"return": {f"{episodes:.0f}": value for episodes, value in mean(curves)}}))


if __name__ == "__main__":
    main()
