"""A league's matches in; who beats whom, and ratings, out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from distrl.core.matchups import is_snapshot
from distrl.learners.league.payoffs import Payoffs
from distrl.learners.league.ratings import Ratings, elo


@dataclass(frozen=True)
class Standing:
    """How good the players of a league are.

    Attributes:
        names: of P players: snapshots from old to new by policy, behind each policy's itself.
        rates: float64 [P, P], how often the row has beaten the column, a draw as half; NaN where they have not met.
        matches: float64 [P, P], counted for that.
        ratings: Elo above the ``anchor``, the snapshot that has met the most others.
    """

    names: list[str]
    rates: np.ndarray
    matches: np.ndarray
    ratings: Ratings
    anchor: str


def read_standing(directory: Path, window: int = 100) -> Standing | None:
    """The standing in ``directory/league``; None where nobody has played.

    Args:
        directory: of a run. window: ``league.window``.

    Raises:
        StorageError: the matches cannot be read.
    """
    payoffs = Payoffs(directory / "league", window)
    payoffs.read()
    names = sorted(payoffs.players(), key=lambda name: (name.split(":")[0], not is_snapshot(name), version(name) or 0))
    return standing(names, *payoffs.counts(names, names)) if names else None


def standing(names: list[str], wins: np.ndarray, draws: np.ndarray, losses: np.ndarray) -> Standing:
    """From what was counted: wins, draws, losses [P, P], row against column."""
    opponents = np.count_nonzero(wins + draws + losses, axis=1)
    opponents[[not is_snapshot(name) for name in names]] //= len(names)  # who learns is no fixed point
    anchor = names[int(opponents.argmax())]
    matches = wins + draws + losses
    np.fill_diagonal(matches, 0.0)
    rates = np.divide(wins + 0.5 * draws, matches, out=np.full(matches.shape, np.nan), where=matches > 0)
    return Standing(names, rates, matches, elo(names, wins, draws, losses, anchor), anchor)


def some(count: int, most: int) -> np.ndarray:
    """Which of ``count`` players to show, at most ``most``, from the first to the last; int64."""
    return np.unique(np.linspace(0, count - 1, most).round().astype(int))


def version(name: str) -> int | None:
    """Of a snapshot."""
    return int(name.split(":")[1]) if is_snapshot(name) else None


def league_of(path: Path, tables: Mapping[str, Any]) -> Standing | str | None:
    """The standing of a run's league; a sentence where nobody has played; None of a run without a league."""
    if tables.get("league") is None:
        return None
    window = tables["league"].get("window")
    found = read_standing(path) if window is None else read_standing(path, window)
    return found or "The league has no finished match yet."
