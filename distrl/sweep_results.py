"""A sweep's trials in; a table, the best configuration and two pictures out.

trials.csv   a row a trial, best first        parallel_coordinates.png   values of the space against the metric
best.toml    for ``distrl train``             learning_curves.png        every trial's evaluations
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from distrl.core.config import to_toml
from distrl.core.metrics import read_json_lines
from distrl.core.sweep import METRICS, SweepConfig

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from distrl.cluster.sweeps.sweep import TrialRow


_BEST = "#c2571a"


def write(sweep: SweepConfig, rows: Sequence[TrialRow], directory: Path) -> list[Path]:
    """All four; only the table where no trial had a result."""
    written = [_table(sweep, rows, directory / "trials.csv")]
    good = [row for row in rows if sweep.metric in row.result]
    if not good:
        return written
    best = directory / "best.toml"
    best.write_text(to_toml(sweep.run_config(good[0].values)))
    pictures = [
        parallel_coordinates(sweep, good, directory / "parallel_coordinates.png"),
        learning_curves(sweep, good, directory / "learning_curves.png"),
    ]
    return [*written, best, *pictures]


def _table(sweep: SweepConfig, rows: Sequence[TrialRow], path: Path) -> Path:
    names = [sweep.metric, *(name for name in METRICS if name != sweep.metric)]
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["trial", *sweep.space, *names, "status", "directory"])
        for row in rows:
            values = [row.values.get(key, "") for key in sweep.space]
            result = [row.result.get(name, "") for name in names]
            writer.writerow([row.trial, *values, *result, row.status, row.directory or ""])
    return path


def parallel_coordinates(sweep: SweepConfig, rows: Sequence[TrialRow], path: Path) -> Path:
    """An axis for each parameter and one for the metric, a line for each trial, the best ones in colour."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.lines import Line2D

    keys = list(sweep.space)
    scales = [_Scale(sweep, key, rows) for key in keys]
    scores = np.array([row.result[sweep.metric] for row in rows], float)
    low, high = float(scores.min()), float(scores.max())
    span = (high - low) or 1.0
    figure, axes = plt.subplots(figsize=(1.6 * len(keys) + 3.0, 4.5), layout="constrained")
    colours = matplotlib.colormaps["viridis"]
    for rank, row in reversed(list(enumerate(rows))):
        heights = [
            scale.height(row.values[key]) if key in row.values else np.nan
            for key, scale in zip(keys, scales, strict=True)
        ]
        goodness = (row.result[sweep.metric] - low) / span
        heights.append(goodness)
        shade = goodness if sweep.mode == "max" else 1.0 - goodness
        style: dict[str, Any] = {"color": _BEST, "lw": 2.5, "zorder": 3}
        if rank:
            style = {"color": colours(0.85 * shade), "lw": 1.0, "alpha": 0.6}
        axes.plot(range(len(heights)), heights, marker="o", ms=3, **style)
    for place, (key, scale) in enumerate(zip(keys, scales, strict=True)):
        _axis(axes, place, key, scale.ticks())
    _axis(axes, len(keys), sweep.metric, [(step, f"{low + step * span:.4g}") for step in (0.0, 0.25, 0.5, 0.75, 1.0)])
    axes.set(xlim=(-0.5, len(keys) + 0.7), ylim=(-0.05, 1.12))
    axes.axis("off")
    lines = [
        Line2D([], [], color=_BEST, lw=2.5),
        *(Line2D([], [], color=colours(0.85 * shade)) for shade in (1.0, 0.0)),
    ]
    names = ["best trial", "good", "bad"]
    axes.legend(lines, names, loc="upper center", bbox_to_anchor=(0.5, 0.0), ncols=3, frameon=False)
    figure.savefig(path, dpi=120)
    plt.close(figure)
    return path


class _Scale:
    """A parameter's values → heights from 0 to 1."""

    def __init__(self, sweep: SweepConfig, key: str, rows: Sequence[TrialRow]):
        parameter = sweep.space[key]
        self._choices = [str(choice) for choice in parameter.choice] if parameter.choice is not None else None
        self._log = parameter.loguniform is not None
        if self._choices is None:
            self._low, self._high = map(self._of, parameter.examples)

    def _of(self, value: float) -> float:
        return float(np.log10(value) if self._log else value)

    def height(self, value: Any) -> float:
        if self._choices is not None:
            return self._choices.index(str(value)) / max(len(self._choices) - 1, 1)
        return (self._of(value) - self._low) / (self._high - self._low)

    def ticks(self) -> list[tuple[float, str]]:
        if self._choices is not None:
            return [(self.height(choice), choice) for choice in self._choices]
        steps = np.linspace(0.0, 1.0, 5)
        values = self._low + steps * (self._high - self._low)
        return [
            (float(step), f"{10**value if self._log else value:.3g}") for step, value in zip(steps, values, strict=True)
        ]


def _axis(axes: Axes, place: int, name: str, ticks: Sequence[tuple[float, str]]) -> None:
    axes.plot([place, place], [0, 1], color="0.3", lw=1, zorder=2)
    for height, text in ticks:
        axes.text(place + 0.04, height, text, fontsize=7, va="center", color="0.25", zorder=4)
    head, _, last = name.rpartition(".")
    axes.text(place, 1.04, f"{head}\n{last}" if head else last, fontsize=8, ha="center", va="bottom")


def learning_curves(sweep: SweepConfig, rows: Sequence[TrialRow], path: Path) -> Path:
    """Held-out returns of every trial against what trials are compared by; the best five by name."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8.0, 5.0), layout="constrained")
    for rank, row in reversed(list(enumerate(rows))):
        if row.directory is None:
            continue
        found = [
            record for record in read_json_lines(row.directory / "metrics.jsonl") if record["kind"] == "evaluation"
        ]
        points = [(record["env_steps"], record["return_mean"]) for record in found if record["return_mean"] is not None]
        style: dict[str, Any] = {"color": "0.75", "lw": 1}
        if rank < 5:
            style = {
                "lw": 2.5 if rank == 0 else 1.5,
                "label": f"{row.trial}: {row.result[sweep.metric]:.4g}",
                "zorder": 9 - rank,
            }
        axes.plot([steps for steps, _ in points], [value for _, value in points], marker=".", **style)
    axes.set(xlabel="env steps of the trial's newest run", ylabel="return on held-out seeds")
    axes.grid(alpha=0.3)
    lines, names = axes.get_legend_handles_labels()
    axes.legend(lines[::-1], names[::-1], title=f"best by {sweep.metric}", fontsize=8)
    figure.savefig(path, dpi=120)
    plt.close(figure)
    return path
