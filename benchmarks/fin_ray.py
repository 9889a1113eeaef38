"""Train a fin ray preset over several seeds; results, curves and the comparison go to benchmarks/results/fin_ray/.

    python benchmarks/fin_ray.py fin-ray-full fin-ray-gusts --seeds 0 1 2

One JSON file a run (a run that has one is not repeated), one picture and one JSON line a preset: the policy's return on
the test seeds against the best sinusoid's and against doing nothing, per seed and as mean and standard deviation.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import tempfile
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results" / "fin_ray"


def machine() -> str:
    """Processor, cores and Python."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.split(":")[1].strip() for line in lines if "model name" in line]
    name = names[0] if names else platform.machine()
    return f"{name}, {os.cpu_count()} cores, Python {platform.python_version()}, CPU only"


def train(preset: str, seed: int, overrides: list[str]) -> dict[str, Any]:
    """One run; its summary with the evaluations on the way."""
    from rich.console import Console

    from distrl.api import train as run
    from distrl.core.config import RunConfig
    from distrl.core.metrics import read_json_lines
    from distrl.progress import Progress

    folder = Path(tempfile.mkdtemp(prefix="distrl-fin-ray-"))
    try:
        config = RunConfig.load(preset, [f"run.seed={seed}", f"run.out={folder / 'run'}", *overrides])
        with Progress(Console(stderr=True), config.run.steps) as progress:
            result = run(config, show=progress.show)
        timing = read_json_lines(result.directory / "timing.jsonl")
        curve = [
            {name: record[name] for name in ("wall_s", "env_steps", "return_mean")}
            for record in timing
            if record["kind"] == "evaluation"
        ]
        for name in ("film.mp4", "film.png"):
            shutil.copy(result.directory / "media" / name, RESULTS / f"{preset}-{name}")
        return {"preset": preset, "seed": seed, "machine": machine(), "summary": result.summary, "curve": curve}
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def baseline_return(preset: str, summary: dict[str, Any]) -> float | None:
    """The best sinusoid's return on the seeds of the evaluations while training."""
    from distrl.core.config import RunConfig
    from distrl.results import baseline_on_selection_seeds

    if summary["baseline_return"] is None:
        return None
    with tempfile.TemporaryDirectory() as scratch:
        return baseline_on_selection_seeds(RunConfig.load(preset), summary["baseline_params"], Path(scratch))


def draw(preset: str, runs: list[dict[str, Any]]) -> None:
    """Evaluation return against env steps and wall time, one line a seed, and the best sinusoid's on the same seeds."""
    import matplotlib

    baseline = baseline_return(preset, runs[0]["summary"])

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(11, 4.2), sharey=True, constrained_layout=True)
    for panel, name, label in zip(axes, ("env_steps", "wall_s"), ("env steps", "wall time [s]"), strict=True):
        for run in runs:
            points = [(point[name], point["return_mean"]) for point in run["curve"]]
            panel.plot(*zip(*points, strict=True), lw=1.4, label=f"policy, seed {run['seed']}")
        if baseline is not None:
            panel.axhline(baseline, color="#c2571a", ls="--", lw=1.2, label="best sinusoid")
        panel.set_xlabel(label)
        panel.grid(alpha=0.25)
        panel.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("episode return, held-out seeds")
    axes[0].legend(frameon=False, fontsize=8)
    figure.suptitle(preset, fontsize=10)
    figure.savefig(RESULTS / f"{preset}.png", dpi=120)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("presets", nargs="+")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--set", action="append", default=[], metavar="KEY.PATH=VALUE")
    options = parser.parse_args()
    RESULTS.mkdir(parents=True, exist_ok=True)
    for preset in options.presets:
        runs = []
        for seed in options.seeds:
            path = RESULTS / f"{preset}-seed{seed}.json"
            if not path.exists():
                path.write_text(json.dumps(train(preset, seed, options.set), indent=1) + "\n")
            runs.append(json.loads(path.read_text()))
        draw(preset, runs)
        found = {"benchmark": "fin_ray", "preset": preset, "machine": runs[0]["machine"], "seeds": len(runs)}
        for key in ("final_return_mean", "baseline_return", "nothing_return", "wall_s", "env_steps", "updates"):
            values = [run["summary"][key] for run in runs]
            found[key] = None if None in values else [statistics.fmean(values), statistics.pstdev(values)]
        found["final_returns"] = [run["summary"]["final_return_mean"] for run in runs]
        print(json.dumps(found))


if __name__ == "__main__":
    main()
