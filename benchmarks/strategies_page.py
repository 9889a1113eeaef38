"""The tables and the picture of docs/asynchrony.md, from the lines of benchmarks/strategies.py.

    python -m benchmarks.strategies_page benchmarks/results/strategies.jsonl

Cells that have not been run are left out.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.episodes import mean_return
from benchmarks.strategies import (
    CELLS,
    EVALUATION_SEEDS,
    EVALUATIONS,
    FIN_CELLS,
    KS_CELLS,
    PEERS,
    ROOT,
    STEPS,
    STRATEGIES,
    config,
)
from distrl.envs.resolve import make

PAGE, PICTURE = ROOT / "docs" / "asynchrony.md", ROOT / "docs" / "asynchrony.png"
_BEGIN, _END = "<!-- what follows is written by benchmarks/strategies_page.py -->\n", "<!-- until here -->\n"
_HEAD = "| strategy | wall time | final return | to the best peer's | to 95 % of its gain | gain per env step |"


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


def random_return(cell: str) -> float:
    """Of random actions in a cell's environment, which gains are counted from."""
    env = make(dataclasses.replace(config(Path("runs"), cell, 0).env.recipe(), delay=None))
    env.action_space.seed(0)
    return mean_return(env, lambda observation: env.action_space.sample(), EVALUATION_SEEDS)


def gained(points: list[dict[str, float]], from_return: float) -> float:
    """What a curve has gained on random actions, on average over the env steps of a run."""
    grid = np.linspace(STEPS / EVALUATIONS, STEPS, EVALUATIONS)
    steps, returns = (np.array([point[name] for point in points]) for name in ("env_steps", "return"))
    return float(np.interp(grid, steps, returns).mean() - from_return)


def table(lines: list[dict[str, Any]]) -> str:
    """By cell and strategy: how long it takes, how far it comes, how soon it is where the best peer ends (or lockstep,
    where none was run), and what a step is worth to it."""
    bases = {False: random_return(KS_CELLS[0]), True: random_return(FIN_CELLS[0])}
    text = ""
    for cell in CELLS:
        curves = {}
        for strategy in STRATEGIES:
            found = [line for line in lines if (line["cell"], line["strategy"]) == (cell, strategy)]
            if found:
                curves[strategy] = typical(found)
        if "decoupled" not in curves:
            continue
        text += f"\n**{cell}**\n\n{_HEAD}\n|---|---|---|---|---|---|\n"
        base = bases[cell in FIN_CELLS]
        named = [name for name in PEERS if name in curves] or ["lockstep"]
        best = max((curves[name] for name in named), key=lambda curve: curve[-1]["return"])
        final = best[-1]["return"]
        for strategy, points in curves.items():
            row = [strategy, f"{points[-1]['wall_s']:.0f} s", f"{points[-1]['return']:.4g}"]
            for value in (final, base + 0.95 * (final - base)):
                its_s, own_s = (reached(curve, value, "wall_s") for curve in (best, points))
                row.append(f"{own_s:.0f} s ({own_s / its_s:.2f})" if np.isfinite(own_s) else "not reached")
            row.append(f"{gained(points, base) / gained(curves['serial'], base):.2f}")
            text += f"| {' | '.join(row)} |\n".replace("-", "−")
    return text


def worth(lines: list[dict[str, Any]]) -> str:
    """What a step is worth with slack, from single runs: mean and standard error over those of all laws, because with
    slack the learner follows the steps at the same distance whatever the law."""
    base = random_return(KS_CELLS[0])
    gains: dict[str, dict[Any, float]] = {}
    for line in lines:
        if line["cell"].startswith("slack"):
            run = line["seed"], None if line["added"] else line["cell"]  # sleeps that are added change no step
            gains.setdefault(line["strategy"], {})[run] = gained(line["curve"], base)
    text = "\n| with slack | runs | gain per env step | of the serial runs' |\n|---|---|---|---|\n"
    serial, serial_error = _mean(gains["serial"].values())
    for strategy in STRATEGIES:
        if len(found := gains.get(strategy, {})) < 2:
            continue
        mean, error = _mean(found.values())
        ratio_error = abs(mean / serial) * np.hypot(error / mean, 0 if strategy == "serial" else serial_error / serial)
        share = "1" if strategy == "serial" else f"{mean / serial:.2f} ± {ratio_error:.2f}"
        text += f"| {strategy} | {len(found)} | {mean:.1f} ± {error:.1f} | {share} |\n"
    return text


def _mean(values: Collection[float]) -> tuple[float, float]:
    """And its standard error."""
    return statistics.fmean(values), statistics.stdev(values) / len(values) ** 0.5


def plot(lines: list[dict[str, Any]], path: Path) -> None:
    """Return against wall time and against env steps, a row a cell."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    cells = [cell for cell in CELLS if any((line["cell"], line["strategy"]) == (cell, "decoupled") for line in lines)]
    figure, axes = plt.subplots(len(cells), 2, figsize=(9, 2.4 * len(cells) + 0.6), squeeze=False, sharey="row")
    for row, cell in enumerate(cells):
        for column, by in enumerate(("wall_s", "env_steps")):
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
            if by == "wall_s":
                axes[row, column].set_xscale("log")
                axes[row, column].set_ylabel(f"{cell}\nreturn")
    axes[-1, 0].set_xlabel("wall time [s]")
    axes[-1, 1].set_xlabel("env steps")
    shown = {label: line for axis in axes.flat for line, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.tight_layout(rect=(0, 0, 1, 1 - 0.5 / figure.get_figheight()))
    figure.legend(shown.values(), shown.keys(), loc="upper center", ncols=len(shown))
    figure.savefig(path, dpi=100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="file of JSON lines, one a run")
    lines = [json.loads(line) for line in parser.parse_args().results.read_text().splitlines()]
    before, rest = PAGE.read_text().split(_BEGIN)
    PAGE.write_text(before + _BEGIN + table(lines) + worth(lines) + _END + rest.split(_END)[1])
    plot(lines, PICTURE)


if __name__ == "__main__":
    main()
