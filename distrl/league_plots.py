"""A run's league in, a picture out: who beats whom, and ratings with their errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from distrl.core.matchups import is_snapshot
from distrl.learners.league.payoffs import Payoffs
from distrl.learners.league.ratings import Ratings, elo

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
    payoffs = Payoffs(directory / "league", window)
    payoffs.read()
    names = _order(payoffs.players())
    if not names:
        return None
    path = directory / "league.png"
    draw(path, names, *payoffs.counts(names, names))
    return path


def draw(path: Path, names: list[str], wins: np.ndarray, draws: np.ndarray, losses: np.ndarray) -> Ratings:
    """The picture of these players.

    Args:
        names: as in matches, in their order on the axes. wins, draws, losses: [n, n], row against column.

    Returns:
        The ratings, above the snapshot that has met the most others.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    opponents = np.count_nonzero(wins + draws + losses, axis=1)
    opponents[[not is_snapshot(name) for name in names]] //= len(names)  # who learns is no fixed point
    anchor = names[int(opponents.argmax())]
    ratings = elo(names, wins, draws, losses, anchor)
    shown = np.unique(np.linspace(0, len(names) - 1, _MAX_PLAYERS).round().astype(int))
    won, lost = ((one + 0.5 * draws)[np.ix_(shown, shown)] for one in (wins, losses))
    size = 3.2 + 0.16 * len(shown)
    figure, (table, curve) = plt.subplots(
        1, 2, figsize=(size + 5.8, size), width_ratios=(size, 5.0), constrained_layout=True
    )
    _win_rates(figure, table, [names[index] for index in shown], won, lost)
    _ratings(curve, ratings, anchor)
    figure.savefig(path, dpi=130)
    plt.close(figure)
    return ratings


def _win_rates(figure: Any, axes: Any, names: list[str], won: np.ndarray, lost: np.ndarray) -> None:
    matches = won + lost
    np.fill_diagonal(matches, 0.0)
    rates = np.divide(won, matches, out=np.full(matches.shape, np.nan), where=matches > 0)
    image = axes.imshow(rates, cmap="RdBu", vmin=0.0, vmax=1.0)
    axes.set_facecolor("#eeeeee")  # pairs that have not met
    small = 7 if len(names) <= 25 else 5
    if len(names) <= 14:
        for i, j in zip(*np.nonzero(matches), strict=True):
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
    versions = [_version(name) for name in ratings.names]
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


def _order(names: list[str]) -> list[str]:
    """Snapshots from old to new, by policy; behind each policy's, itself."""
    return sorted(names, key=lambda name: (name.split(":")[0], not is_snapshot(name), _version(name) or 0))


def _version(name: str) -> int | None:
    return int(name.split(":")[1]) if is_snapshot(name) else None
