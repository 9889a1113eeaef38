"""Numbers in, small charts as SVG out, whose colours and font are the page's: one drawing serves light, dark and print.

Matplotlib draws them at the size at which a page shows them. Sentinel colours stand for the page's CSS variables.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from distrl.report.words import escaped, number

WIDTH, HEIGHT = 360, 250  # CSS pixels
NUM_COLOURS = 8
_MOST_POINTS = 300  # of one line
_INK, _MUTED, _RULE = "#010101", "#020202", "#030303"
_VARIABLES = {_INK: "var(--ink)", _MUTED: "var(--muted)", _RULE: "var(--rule)"} | {
    f"#0405{index:02x}": f"var(--c{index})" for index in range(NUM_COLOURS)
}
_RC: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "distrl",
    "font.size": 10.5,
    "axes.edgecolor": _RULE,
    "axes.labelcolor": _MUTED,
    "axes.linewidth": 1.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid.axis": "y",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _RULE,
    "grid.linewidth": 0.7,
    "xtick.color": _RULE,
    "ytick.color": _RULE,
    "xtick.labelcolor": _MUTED,
    "ytick.labelcolor": _MUTED,
    "ytick.major.size": 0,
    "xtick.major.size": 3,
    "path.simplify": False,
}


@dataclass(frozen=True)
class Line:
    """One series of a chart.

    Attributes:
        label: for the read-out. colour: of the page's palette. x, y: float64 [N], x increasing.
        low, high: of a band, float64 [N], or None. style: "line", "points" (a line with marks), "dots", "dashed",
        "dotted" or "faint".
    """

    label: str
    colour: int
    x: np.ndarray
    y: np.ndarray
    low: np.ndarray | None = None
    high: np.ndarray | None = None
    style: str = "line"


def colour(index: int) -> str:
    """As matplotlib is given it."""
    return f"#0405{index % NUM_COLOURS:02x}"


def line_chart(
    series: Sequence[Line],
    *,
    title: str,
    says: str,
    x_label: str,
    x_format: Callable[[float], str] = number,
    levels: Sequence[tuple[str, float, int, str]] = (),
    y_limits: tuple[float, float] | None = None,
    keyed: bool = False,
) -> str:
    """A figure with lines.

    Args:
        says: a sentence, for who does not see it. x_format: of ticks and of the read-out.
        levels: (label, y, colour, style) of horizontal lines. y_limits: of the axis, to compare charts.
        keyed: with a legend of its own.
    """
    figure, axes = _axes()
    for line in series:
        _draw(axes, line)
    for label, y, index, style in levels:
        axes.axhline(y, color=colour(index), lw=1.2, ls="--" if style == "dashed" else ":", label=label)
    if y_limits is not None:
        axes.set_ylim(*y_limits)
    axes.margins(x=0.02)
    left = min((float(line.x[0]) for line in series if len(line.x)), default=0.0)
    axes.set_xlim(left=min(0.0, left))
    _format(axes, x_label, x_format)
    shown = [line for line in series if line.style != "faint"]
    return _finish(figure, axes, title, says, shown, x_label, levels=levels, keyed=keyed)


def histogram(
    edges: np.ndarray,
    counts: Sequence[tuple[str, int, np.ndarray]],
    *,
    title: str,
    says: str,
    x_label: str,
    x_format: Callable[[float], str] = number,
) -> str:
    """Shares of one or more samples in common bins of a logarithmic axis.

    Args:
        edges: float64 [K + 1]. counts: (label, colour, [K] numbers) of each sample.
    """
    figure, axes = _axes()
    lines = []
    for label, index, values in counts:
        share = values / max(values.sum(), 1)
        axes.stairs(share, edges, fill=len(counts) == 1, color=colour(index), alpha=0.85, lw=1.6)
        lines.append(Line(label, index, np.sqrt(edges[1:] * edges[:-1]), share))
    axes.set_xscale("log")
    axes.set_xlim(edges[0], edges[-1])
    axes.set_ylim(bottom=0.0)
    _format(axes, x_label, x_format, share=True)
    return _finish(figure, axes, title, says, lines, x_label, x_format)


def bar_chart(
    labels: Sequence[str], counts: Sequence[tuple[str, int, np.ndarray]], *, title: str, says: str, x_label: str
) -> str:
    """Shares of one or more samples in the same categories: counts are (label, colour, [K] numbers)."""
    figure, axes = _axes()
    places, lines = np.arange(len(labels)), []
    for label, index, values in counts:
        share = values / max(values.sum(), 1)
        if len(counts) == 1:
            axes.bar(places, share, color=colour(index), width=0.86, alpha=0.85)
        else:
            axes.stairs(share, np.arange(len(labels) + 1) - 0.5, color=colour(index), lw=1.6)
        lines.append(Line(label, index, places.astype(float), share))
    axes.set_ylim(bottom=0.0)
    _format(axes, x_label, number, share=True)
    few = np.unique(np.linspace(0, len(labels) - 1, min(len(labels), 8)).round().astype(int))
    axes.set_xticks(few, [labels[index] for index in few])
    return _finish(figure, axes, title, says, lines, x_label, lambda place: labels[round(place)])


def point_chart(
    points: Sequence[tuple[str, int, np.ndarray, np.ndarray, np.ndarray]], *, title: str, says: str, x_label: str
) -> str:
    """Points with errors: (label, colour, x [N], y [N], error [N]) of each series."""
    figure, axes = _axes()
    lines = []
    for label, index, x, y, error in points:
        axes.plot(x, y, "-", lw=1.0, color=colour(index), alpha=0.5)
        axes.errorbar(x, y, error, fmt="o", ms=4, lw=1, capsize=2, color=colour(index))
        lines.append(Line(label, index, x, y))
    _format(axes, x_label, number)
    return _finish(figure, axes, title, says, lines, x_label, keyed=True)


def thinned(count: int, most: int = _MOST_POINTS) -> np.ndarray:
    """Which of ``count`` points to draw: int64, the first and last among them."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int)) if count else np.zeros(0, int)


def _axes() -> tuple[Any, Any]:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    with plt.rc_context(_RC):
        return plt.subplots(figsize=(WIDTH / 72, HEIGHT / 72), layout="constrained")


def _draw(axes: Any, line: Line) -> None:
    tint = colour(line.colour)
    if line.low is not None and line.high is not None:
        axes.fill_between(line.x, line.low, line.high, color=tint, alpha=0.16, lw=0)
    if line.style == "dots":  # one path of points: a mark each would be a hundred bytes each
        width = 1e-9 * (float(np.ptp(line.x)) or 1.0)
        x = np.stack([line.x, line.x + width, np.full(len(line.x), np.nan)], 1).ravel()
        axes.plot(x, np.repeat(line.y, 3), "-", lw=3.4, solid_capstyle="round", color=tint, alpha=0.8)
        return
    style = {"dashed": "--", "dotted": ":"}.get(line.style, "-")
    marked = line.style == "points" and len(line.x) <= 40
    axes.plot(
        line.x,
        line.y,
        style,
        marker="o" if marked or len(line.x) == 1 else None,
        ms=3.6,
        lw=1.0 if line.style == "faint" else 1.8,
        alpha=0.35 if line.style == "faint" else 1.0,
        color=tint,
    )


def _format(axes: Any, x_label: str, x_format: Callable[[float], str], share: bool = False) -> None:
    from matplotlib import ticker

    axes.set_xlabel(x_label)
    if axes.get_xscale() == "log":
        axes.xaxis.set_major_locator(ticker.LogLocator(numticks=7))
        axes.xaxis.set_minor_locator(ticker.NullLocator())
    else:
        axes.xaxis.set_major_locator(ticker.MaxNLocator(5, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: x_format(value)))
    axes.yaxis.set_major_locator(ticker.MaxNLocator(5))
    text = (lambda value, _: f"{100 * value:g} %") if share else (lambda value, _: number(value))
    axes.yaxis.set_major_formatter(ticker.FuncFormatter(text))


def _finish(
    figure: Any,
    axes: Any,
    title: str,
    says: str,
    lines: Sequence[Line],
    x_label: str,
    read: Callable[[float], str] | None = None,
    levels: Sequence[tuple[str, float, int, str]] = (),
    keyed: bool = False,
) -> str:
    """``read``: what the read-out says of an x, where it is not just a number. ``keyed``: with a legend of its own."""
    from matplotlib import pyplot as plt

    file = io.StringIO()
    with plt.rc_context(_RC):
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    box = axes.get_position()
    readings = {
        "box": [box.x0 * WIDTH, (1 - box.y1) * HEIGHT, box.x1 * WIDTH, (1 - box.y0) * HEIGHT],
        "x": list(axes.get_xlim()),
        "y": list(axes.get_ylim()),
        "log": axes.get_xscale() == "log",
        "share": axes.yaxis.get_major_formatter()(0.5) == "50 %",
        "label": x_label,
        "lines": [
            {
                "label": line.label,
                "colour": line.colour % NUM_COLOURS,
                "x": _listed(line.x[which]),
                "y": _listed(line.y[which]),
                "texts": [read(place) for place in line.x[which].tolist()] if read else [],
            }
            for line in lines
            for which in [thinned(len(line.x))]
        ],
        "levels": [[label, index % NUM_COLOURS, y] for label, y, index, _ in levels],
    }
    plt.close(figure)
    data = json.dumps(readings, separators=(",", ":")).replace("<", "\\u003c")
    drawing = _themed(file.getvalue(), says)
    key = f'<ul class="key">{"".join(_entry(line) for line in lines)}</ul>' if keyed else ""
    return (
        f'<figure class="chart"><figcaption>{escaped(title)}</figcaption><div class="plot">{drawing}</div>{key}'
        f'<script type="application/json">{data}</script></figure>'
    )


def _entry(line: Line) -> str:
    return f'<li><i style="background:var(--c{line.colour % NUM_COLOURS})"></i>{escaped(line.label)}</li>'


def _listed(values: np.ndarray) -> list[float]:
    return [float(f"{value:.6g}") for value in values.tolist()]


def _themed(svg: str, says: str) -> str:
    """Matplotlib's SVG as a part of the page: its variables for colours and font, no identifiers of its own."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    svg = re.sub(r"(font: [\d.]+px) [^;\"]*", r"\1 var(--sans)", svg)
    for sentinel, variable in _VARIABLES.items():
        svg = svg.replace(sentinel, variable)
    opening = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escaped(says)}" stroke-linejoin="round">'
    svg = re.sub(r"<svg[^>]*>", lambda _: opening, svg, count=1)
    svg = re.sub(r"(\d+\.\d{2})\d+", r"\1", svg)
    return re.sub(r"\s*\n\s*", "\n", svg).strip()
