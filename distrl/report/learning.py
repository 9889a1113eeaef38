"""The returns of runs in; their learning curves by env steps, wall time and core-hours out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from distrl.report.charts import Line, line_chart, thinned
from distrl.report.facts import RunFacts
from distrl.report.points import Points
from distrl.report.words import core_unit, number, time_unit

_FEW = 400  # episodes that are drawn each
_BINS = 120
_REFERENCES = (
    ("data_return_mean", "the data that was learned from", 5, "dashed"),
    ("baseline_selection_return", "best baseline, on the same seeds", 1, "dashed"),
    ("nothing_return", "doing nothing (dotted)", 7, "dotted"),
)


@dataclass(frozen=True)
class Group:
    """Runs that differ in nothing but their seed. Attributes: label: for legends. colour: of the palette."""

    label: str
    colour: int
    runs: tuple[RunFacts, ...]


@dataclass(frozen=True)
class _Axis:
    title: str
    label: str
    of: Callable[[Points], np.ndarray]


def learning_charts(groups: Sequence[Group], alone: bool) -> list[str]:
    """A figure for each axis: held-out evaluations, with the training returns behind them where a run is ``alone``; of
    several seeds the median and the range. All have the same vertical axis."""
    runs = [run for group in groups for run in group.runs]
    axes, found = _axes(runs), []
    for axis in axes:
        series = _training(runs[0], axis) if alone else []
        for group in groups:
            series += _evaluations(group, axis, alone)
        found.append([line for line in series if len(line.x)])
    levels = references(runs)
    drawn = [array for lines in found for line in lines for array in (line.y, line.low, line.high) if array is not None]
    limits = _limits(drawn, [level[1] for level in levels])
    return [
        line_chart(lines, title=axis.title, says=_says(axis, lines), x_label=axis.label, levels=levels, y_limits=limits)
        for axis, lines in zip(axes, found, strict=True)
        if lines
    ]


def references(runs: Sequence[RunFacts]) -> list[tuple[str, float, int, str]]:
    """(label, return, colour, style) of what these runs, which are on one environment, compare with; none where its
    settings give them different ones."""
    return [
        (label, values[0], colour, style)
        for key, label, colour, style in _REFERENCES
        if (values := [run.summary[key] for run in runs if run.summary.get(key) is not None])
        and np.allclose(values, values[0], rtol=1e-6)
    ]


def policy_chart(run: RunFacts) -> str:
    """The training returns of each policy of a run with several."""
    lines = [
        _binned(points, points.env_steps, name, index)
        for index, (name, points) in enumerate(run.policy_episodes.items())
    ]
    says = f"Training returns of {', '.join(run.policy_episodes)} against env steps."
    return line_chart(lines, title="Each policy, in training", says=says, x_label="env steps", keyed=True)


def learned(run: RunFacts) -> Points:
    """What a run's curve is: its evaluations; of one that has none, its training returns."""
    if len(run.evaluations):
        return run.evaluations
    return next(iter(run.episodes.values()), run.evaluations)


def _axes(runs: Sequence[RunFacts]) -> list[_Axis]:
    longest = max((run.wall_s for run in runs), default=0.0)
    unit, seconds = time_unit(longest)
    cores, hours = core_unit(max((run.core_hours for run in runs), default=0.0))
    steps = _Axis("By env steps", "env steps", lambda points: points.env_steps)
    if all(run.offline for run in runs):
        steps = _Axis("By updates", "updates", lambda points: points.updates)
    return [
        steps,
        _Axis("By wall time", f"wall time [{unit}]", lambda points: points.wall_s / seconds),
        _Axis(f"By {cores}", cores, lambda points: points.core_hours / hours),
    ]


def _training(run: RunFacts, axis: _Axis) -> list[Line]:
    """Episodes as dots where they are few, else in bins; those at other fidelities than the target are grey."""
    target, found = run.options.get("env.fidelity"), []
    for level, points in run.episodes.items():
        own = target is None or level == target
        label = "training" if len(run.episodes) == 1 else f"training at {level}"
        points, x = _placed(points, axis)
        index = 2 if own else 7
        dots = len(points) <= _FEW
        found.append(Line(label, index, x, points.value, style="dots") if dots else _binned(points, x, label, index))
    return found


def _evaluations(group: Group, axis: _Axis, alone: bool) -> list[Line]:
    curves = []
    for run in group.runs:
        if run.offline and axis.label == "env steps":
            continue  # it had none
        points, x = _placed(learned(run), axis)
        if len(run.evaluations) or not len(points):
            curves.append((x, points.value))
        elif not alone:
            line = _binned(points, x, "", 0)
            curves.append((line.x, line.y))
    curves = [(x, y) for x, y in curves if len(x)]
    label = "held-out evaluation" if alone else group.label
    if len(curves) < 2:
        return [Line(label, group.colour, x, y, style="points") for x, y in curves]
    first, last = max(x[0] for x, _ in curves), min(x[-1] for x, _ in curves)
    faint = [Line("", group.colour, x, y, style="faint") for x, y in curves]
    if first >= last:  # they have no stretch in common
        return [*faint[:-1], Line(label, group.colour, *curves[-1], style="points")]
    grid = np.unique(np.concatenate([x for x, _ in curves]))
    grid = grid[(grid >= first) & (grid <= last)]
    table = np.stack([np.interp(grid, x, y) for x, y in curves])
    grid, table = grid[(kept := thinned(len(grid)))], table[:, kept]
    return [*faint, Line(label, group.colour, grid, np.median(table, 0), table.min(0), table.max(0))]


def _placed(points: Points, axis: _Axis) -> tuple[Points, np.ndarray]:
    """Those that have a place on the axis, in its order."""
    x = axis.of(points)
    order = np.argsort(np.where(np.isnan(x), np.inf, x), kind="stable")[: int(np.count_nonzero(~np.isnan(x)))]
    return points.select(order), x[order]


def _binned(points: Points, x: np.ndarray, label: str, colour: int) -> Line:
    """Mean and the middle 80 % of neighbouring episodes."""
    parts = [part for part in np.array_split(np.arange(len(x)), min(_BINS, max(len(x) // 10, 1))) if len(part)]
    low, high = (np.array([np.quantile(points.value[part], q) for part in parts]) for q in (0.1, 0.9))
    mean = np.array([points.value[part].mean() for part in parts])
    return Line(label, colour, np.array([x[part].mean() for part in parts]), mean, low, high)


def _limits(arrays: Sequence[np.ndarray], levels: Sequence[float]) -> tuple[float, float] | None:
    values = np.concatenate([*arrays, np.array(levels, np.float64)]) if arrays else np.zeros(0)
    values = values[np.isfinite(values)]
    if not len(values):
        return None
    low, high = float(values.min()), float(values.max())
    room = 0.06 * (high - low or abs(high) or 1.0)
    return low - room, high + room


def _says(axis: _Axis, lines: Sequence[Line]) -> str:
    told = [
        f"{line.label} from {number(line.y[0])} to {number(line.y[-1])}, at most {number(float(np.max(line.y)))}"
        for line in lines
        if line.style != "faint"
    ]
    return f"Return against {axis.label}: {'; '.join(told)}."
