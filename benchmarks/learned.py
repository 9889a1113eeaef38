"""Train presets over seeds; results and curves go to benchmarks/results/learned/, their table to docs/results.md.

    python benchmarks/learned.py fin-ray-full fin-ray-gusts --seeds 0 1 2
    python benchmarks/learned.py --page

One JSON file a run (a run that has one is not repeated), one picture and one JSON line a preset: the policy's return on
the test seeds against the best baseline's, against doing nothing and against random actions. ``--page`` alone writes
the table of what is there. ``--local`` trains in one process and without a limit of time: then a seed gives the same
numbers again, whatever else the machine does.
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

RESULTS = Path(__file__).parent / "results" / "learned"
PAGE = Path(__file__).parents[1] / "docs" / "results.md"

_REFERENCES = (
    ("baseline_selection_return", "best baseline", "#c2571a", "--"),
    ("nothing_return", "doing nothing", "#777777", ":"),
    ("random_return", "random actions", "#b9b9b9", ":"),
)


def machine() -> str:
    """Processor, cores and Python."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.split(":")[1].strip() for line in lines if "model name" in line]
    name = names[0] if names else platform.machine()
    return f"{name}, {os.cpu_count()} cores, Python {platform.python_version()}, CPU only"


def train(preset: str, seed: int, overrides: list[str], local: bool) -> dict[str, Any]:
    """One run; its summary with the evaluations on the way."""
    from rich.console import Console

    from distrl.api import train as run
    from distrl.core.config import RunConfig
    from distrl.core.metrics import read_json_lines
    from distrl.monitor.terminal import Progress

    folder = Path(tempfile.mkdtemp(prefix="distrl-learned-"))
    try:
        config = RunConfig.load(preset, [f"run.seed={seed}", f"run.out={folder / 'run'}", *overrides])
        if local:
            config.run.wall_limit_s = None
        with Progress(Console(stderr=True), config.run.steps) as progress:
            result = run(config, show=progress.show, local=local)
        timing = read_json_lines(result.directory / "timing.jsonl")
        curve = [
            {name: record[name] for name in ("wall_s", "env_steps", "return_mean")}
            for record in timing
            if record["kind"] == "evaluation" and record["return_mean"] is not None
        ]
        still = result.directory / "media" / "film.png"
        if still.exists():
            shutil.copy(still, RESULTS / f"{preset}-film.png")
        found = {"preset": preset, "set": overrides, "local": local, "env": config.env.id, "seed": seed}
        found["machine"] = machine()
        return found | {"summary": result.summary, "curve": curve}
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def draw(preset: str, runs: list[dict[str, Any]]) -> None:
    """Evaluation return against env steps and wall time, one line a seed, with what it is compared with."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(11, 4.2), sharey=True, constrained_layout=True)
    for panel, name, label in zip(axes, ("env_steps", "wall_s"), ("env steps", "wall time [s]"), strict=True):
        for run in runs:
            points = [(point[name], point["return_mean"]) for point in run["curve"]]
            panel.plot(*zip(*points, strict=True), "o-", ms=3, lw=1.4, label=f"policy, seed {run['seed']}")
        for key, who, color, style in _REFERENCES:
            value = runs[0]["summary"].get(key)
            if value is not None:
                panel.axhline(value, color=color, ls=style, lw=1.2, label=who)
        panel.set_xlabel(label)
        panel.grid(alpha=0.25)
        panel.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("episode return, held-out seeds")
    axes[0].legend(frameon=False, fontsize=8)
    figure.suptitle(f"{preset}: {runs[0]['env']}", fontsize=10)
    figure.savefig(RESULTS / f"{preset}.png", dpi=100)
    plt.close(figure)


def totals(preset: str, runs: list[dict[str, Any]]) -> dict[str, Any]:
    """The line of one preset: means and standard deviations over its seeds."""
    found = {"benchmark": "learned", "preset": preset, "env": runs[0]["env"], "machine": runs[0]["machine"]}
    found["seeds"] = len(runs)
    keys = ("final_return_mean", "baseline_return", "nothing_return", "random_return", "wall_s", "env_steps", "updates")
    for key in (*keys, "core_hours"):
        values = [run["summary"].get(key) for run in runs]
        found[key] = None if None in values else [statistics.fmean(values), statistics.pstdev(values)]
    return found | {"final_returns": [run["summary"]["final_return_mean"] for run in runs]}


def page() -> str:
    """docs/results.md: the table of every run in the results folder, and the curves."""
    presets: dict[str, list[dict[str, Any]]] = {}
    for path in sorted(RESULTS.glob("*-seed*.json")):
        run = json.loads(path.read_text())
        presets.setdefault(run["preset"], []).append(run)
    lines = [
        "# What was learned",
        "",
        "Written by `python benchmarks/learned.py --page` from `benchmarks/results/learned/`; the runs are made by",
        "`python benchmarks/learned.py PRESET … --seeds …`. Return of an episode (the sum over agents where there are",
        "several), mean over the held-out seeds of the last evaluation of a run, then over the runs. *Best baseline*:",
        "the best of the open-loop or literature controllers that the environment names, by grid search on other seeds",
        "(`distrl baseline`); a dash: none. Other work went on beside the runs of several agents: their wall time says",
        "little.",
        "",
        "| preset | environment | runs | policy | best baseline | nothing | random actions | wall s | env steps |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for preset, runs in presets.items():
        line = totals(preset, runs)
        numbers = [
            "–" if line[key] is None else f"{line[key][0]:.4g}"
            for key in ("final_return_mean", "baseline_return", "nothing_return", "random_return")
        ]
        spread = f" ± {line['final_return_mean'][1]:.2g}" if len(runs) > 1 else ""
        numbers[0] = f"**{numbers[0]}{spread}**"
        local = " (`--local`)" if any(run.get("local") for run in runs) else ""
        rest = f"{line['wall_s'][0]:.0f}{local} | {line['env_steps'][0]:,.0f}"
        lines.append(f"| `{preset}` | `{line['env']}` | {len(runs)} | {' | '.join(numbers)} | {rest} |")
    machines = sorted({run["machine"] for runs in presets.values() for run in runs})
    lines += ["", f"Machine: {'; '.join(machines)}."]
    for preset in presets:
        lines += ["", f"## {preset}", "", f"![{preset}](../benchmarks/results/learned/{preset}.png)"]
        if (RESULTS / f"{preset}-film.png").exists():
            lines += ["", f"![the policy]({os.path.relpath(RESULTS, PAGE.parent)}/{preset}-film.png)"]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("presets", nargs="*")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--set", action="append", default=[], metavar="KEY.PATH=VALUE")
    parser.add_argument("--local", action="store_true")
    parser.add_argument("--page", action="store_true", help="write docs/results.md")
    options = parser.parse_args()
    RESULTS.mkdir(parents=True, exist_ok=True)
    for preset in options.presets:
        runs = []
        for seed in options.seeds:
            path = RESULTS / f"{preset}-seed{seed}.json"
            if not path.exists():
                path.write_text(json.dumps(train(preset, seed, options.set, options.local), indent=1) + "\n")
            runs.append(json.loads(path.read_text()))
        draw(preset, runs)
        print(json.dumps(totals(preset, runs)))
    if options.page:
        PAGE.write_text(page())


if __name__ == "__main__":
    main()
