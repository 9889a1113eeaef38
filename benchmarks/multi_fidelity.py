"""Core-hours until the fin ray's policy reaches a return at a dear level: learned first at a cheap one, or only there.

    python benchmarks/multi_fidelity.py --target expensive --return 120 --seeds 0 1 2

Both begin with the preset fin-ray-multi-fidelity, "target_only" without its schedule, and end at the first evaluation
at the target (two episodes on held-out seeds) that reaches the return, or after --minutes. Core-hours are those at the
env steps whose policy was evaluated: of the environments alone, resets included, and with env worker and learner; the
evaluator's are the same for both and left out. One JSON file a run (a run that has one is not repeated), one picture of
all, one JSON line.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tempfile
import threading
from pathlib import Path
from typing import Any

import numpy as np
from learned import machine

RESULTS = Path(__file__).parent / "results" / "multi_fidelity"
_ENVIRONMENTS, _ALL = ("core_s",), ("core_s", "cpu_s", "learner_cpu_s")  # of the totals in timing.jsonl


def train(name: str, seed: int, target: str, wanted: float, minutes: float) -> dict[str, Any]:
    """One run until its evaluation reaches ``wanted``."""
    from rich.console import Console

    from distrl.api import train as run
    from distrl.core.config import RunConfig
    from distrl.core.metrics import read_json_lines
    from distrl.monitor.terminal import Progress

    folder = Path(tempfile.mkdtemp(prefix="distrl-multi-fidelity-"))
    try:
        config = RunConfig.load("fin-ray-multi-fidelity", [f"run.seed={seed}", f"run.out={folder / 'run'}"])
        config.run.steps, config.run.wall_limit_s = 1_000_000, 60 * minutes
        if name == "target_only":
            config.fidelity.schedule = []
        else:
            config.fidelity.schedule[-1].mix = {target: 1.0}
        config.env.fidelity = target
        reached = threading.Event()

        with Progress(Console(stderr=True), config.run.steps) as progress:

            def show(status: dict[str, Any]) -> None:
                progress.show(status)
                if status.get("best") is not None and status["best"] >= wanted:
                    reached.set()

            result = run(config, show=show, stop=reached)
        records = read_json_lines(result.directory / "timing.jsonl")
        metrics = read_json_lines(result.directory / "metrics.jsonl")
        totals = [record for record in records if record["kind"] == "totals"]
        steps = [record["env_steps"] for record in totals]

        def core_hours(names: tuple[str, ...], env_steps: int) -> float:
            return float(np.interp(env_steps, steps, [sum(record[name] for name in names) for record in totals])) / 3600

        curve = [
            {
                "env_steps": record["env_steps"],
                "return_mean": record["return_mean"],
                "env_core_hours": core_hours(_ENVIRONMENTS, record["env_steps"]),
                "core_hours": core_hours(_ALL, record["env_steps"]),
            }
            for record in metrics
            if record["kind"] == "evaluation" and record["return_mean"] is not None
        ]
        goal = next((point for point in curve if point["return_mean"] >= wanted), None)
        found = {"run": name, "seed": seed, "target": target, "return": wanted, "machine": machine()}
        by_level = {key: result.summary[key] for key in ("env_steps_by_fidelity", "core_hours_by_fidelity")}
        return found | {"reached": goal is not None, "at": goal or curve[-1], **by_level, "curve": curve}
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def draw(runs: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """Evaluation return at the target against core-hours, of the environments and of all, one line a run."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(11, 4.2), sharey=True, constrained_layout=True)
    labels = (("env_core_hours", "core-hours of the environments"), ("core_hours", "core-hours, learner included"))
    colours = {"schedule": "#1f6f8b", "target_only": "#c2571a"}
    for panel, (key, label) in zip(axes, labels, strict=True):
        for name, done in runs.items():
            for index, run in enumerate(done):
                points = [(point[key], point["return_mean"]) for point in run["curve"]]
                legend = name.replace("_", " ") if index == 0 else None
                panel.plot(*zip(*points, strict=True), ".-", color=colours[name], alpha=0.8, label=legend)
        panel.axhline(next(iter(runs.values()))[0]["return"], color="#777777", linestyle=":")
        panel.set_xlabel(label)
        panel.grid(alpha=0.3)
    axes[0].set_ylabel(f"return at {runs['schedule'][0]['target']!r}")
    axes[0].legend()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", default="expensive")
    parser.add_argument("--return", type=float, default=120.0, dest="wanted")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--minutes", type=float, default=15.0)
    options = parser.parse_args()
    RESULTS.mkdir(parents=True, exist_ok=True)
    runs: dict[str, list[dict[str, Any]]] = {"schedule": [], "target_only": []}
    for seed in options.seeds:
        for name, done in runs.items():
            path = RESULTS / f"{name}-{options.target}-{options.wanted:g}-seed{seed}.json"
            if not path.exists():
                found = train(name, seed, options.target, options.wanted, options.minutes)
                path.write_text(json.dumps(found, indent=1) + "\n")
            done.append(json.loads(path.read_text()))
    draw(runs, RESULTS.with_suffix(".png"))
    report: dict[str, Any] = {"benchmark": "multi_fidelity", "machine": runs["schedule"][0]["machine"]}
    report |= {"target": options.target, "return": options.wanted, "seeds": options.seeds}
    report["reached"] = {name: [run["reached"] for run in done] for name, done in runs.items()}
    for key in ("env_core_hours", "core_hours", "env_steps"):
        spent = {name: [run["at"][key] for run in done] for name, done in runs.items()}
        report[key] = spent
        if all(map(all, report["reached"].values())):  # else one of them spent more than is known
            report[f"{key}_ratio"] = statistics.fmean(spent["target_only"]) / statistics.fmean(spent["schedule"])
    print(json.dumps(report))


if __name__ == "__main__":
    main()
