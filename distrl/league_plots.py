"""A run's league in, a picture out: who beats whom, and ratings with their errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from distrl.learners.league.ratings import Ratings
from distrl.report.league import Standing, read_standing, some, version

_COLOURS = ("#1f5fa8", "#c2571a", "#3a8f5c", "#7d4fa0", "#777777")
_MAX_PLAYERS = 40  # shown; of more, as many from the first to the last


def league(directory: Path, window: int = 100) -> Path | None:
    """``league.png``, from ``directory/league``: the matrix of win rates of all players that have met somebody, and
    their Elo ratings against the updates of their policies. None where nobody has played.

    Args:
        directory: of a run. window: ``league.window``.

    Raises:
        StorageError: the matches cannot be read.
    """
    found = read_standing(directory, window)
    return None if found is None else draw(directory / "league.png", found)


def draw(path: Path, found: Standing) -> Path:
    """The picture of these players."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    shown = some(len(found.names), _MAX_PLAYERS)
    size = 3.2 + 0.16 * len(shown)
    figure, (table, curve) = plt.subplots(
        1, 2, figsize=(size + 5.8, size), width_ratios=(size, 5.0), constrained_layout=True
    )
    _win_rates(figure, table, [found.names[index] for index in shown], found.rates[np.ix_(shown, shown)])
    _ratings(curve, found.ratings, found.anchor)
    figure.savefig(path, dpi=130)
    plt.close(figure)
    return path


def _win_rates(figure: Any, axes: Any, names: list[str], rates: np.ndarray) -> None:
    image = axes.imshow(rates, cmap="RdBu", vmin=0.0, vmax=1.0)
    axes.set_facecolor("#eeeeee")  # pairs that have not met
    small = 7 if len(names) <= 25 else 5
    if len(names) <= 14:
        for i, j in zip(*np.nonzero(~np.isnan(rates)), strict=True):
            colour = "white" if abs(rates[i, j] - 0.5) > 0.3 else "black"
            axes.text(j, i, f"{100 * rates[i, j]:.0f}", ha="center", va="center", fontsize=small, color=colour)
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=small)
    axes.set_yticks(range(len(names)), names, fontsize=small)
    axes.set(title="how often the row beats the column [%], draws as half")
    axes.title.set_fontsize(9)
    bar = figure.colorbar(image, ax=axes, fraction=0.046, pad=0.02, ticks=[0, 0.5, 1])
    bar.ax.set_yticklabels(["0", "50", "100"], fontsize=7)


def _ratings(axes: Any, ratings: Ratings, anchor: str) -> None:
    """Snapshots by their version; who still learns, at the right edge."""
    versions = [version(name) for name in ratings.names]
    newest = max((version for version in versions if version is not None), default=0)
    right = 1.08 * newest if newest else 1.0
    policies = list(dict.fromkeys(name.split(":")[0] for name in ratings.names))
    for number, policy in enumerate(policies):
        colour = _COLOURS[number % len(_COLOURS)]
        its = [index for index, name in enumerate(ratings.names) if name.split(":")[0] == policy]
        places = [right if versions[index] is None else versions[index] for index in its]
        markers = ["D" if versions[index] is None else "o" for index in its]
        axes.plot(places, ratings.rating[its], "-", lw=1, color=colour, alpha=0.5, label=policy)
        for place, index, marker in zip(places, its, markers, strict=True):
            axes.errorbar(
                place, ratings.rating[index], ratings.error[index], fmt=marker, ms=4, lw=1, capsize=2, color=colour
            )
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set(xlabel="updates of the policy (◆: still learning)", ylabel=f"Elo above {anchor}, ± standard error")
    axes.legend(frameon=False, fontsize=8)
