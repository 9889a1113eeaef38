"""Wins, draws and losses of pairs in, Elo ratings with standard errors out (numpy only)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

ELO = 400.0 / np.log(10.0)  # points of a factor e in the odds: 400 points are odds of 10 to 1


@dataclass(frozen=True)
class Ratings:
    """Attributes: names: of n players. rating: float64 [n], Elo points above the anchor; NaN where no chain of matches
    leads to it. error: float64 [n], standard error of that difference. covariance: float64 [n, n].
    """

    names: tuple[str, ...]
    rating: np.ndarray
    error: np.ndarray
    covariance: np.ndarray

    def error_between(self, one: str, other: str) -> float:
        """Standard error of the difference of two ratings, in points: less than their own errors suggest."""
        i, j = self.names.index(one), self.names.index(other)
        variance = self.covariance[i, i] + self.covariance[j, j] - 2.0 * self.covariance[i, j]
        return float(np.sqrt(max(variance, 0.0)))


def win_probability(difference: np.ndarray | float) -> np.ndarray:
    """Of a player so many Elo points above its opponent."""
    return 1.0 / (1.0 + np.exp(-np.asarray(difference) / ELO))


def elo(
    names: Sequence[str],
    wins: np.ndarray,
    draws: np.ndarray,
    losses: np.ndarray,
    anchor: str | None = None,
    prior: float = 1.0,
) -> Ratings:
    """Maximum likelihood of the Bradley–Terry model, P(i beats j) = 1 / (1 + exp(r_j − r_i)), a draw as half a win and
    half a loss (Hunter 2004, Annals of Statistics 32; uniqueness: Ford 1957), by Newton's method. Standard errors are
    from the inverse of the Fisher information Σ n p (1 − p) with the anchor's rating fixed at 0. Draws vary less than
    wins and losses, so with many of them the errors are too large rather than too small.

    Args:
        wins, draws, losses: [n, n], of the row against the column, each match in both: wins = lossesᵀ, draws = drawsᵀ.
        anchor: whose rating is 0; without it the first's.
        prior: draws that each pair that has met is taken to have played besides. With 0 who has only won would be
            rated infinitely high. Not counted as information.
    """
    count = len(names)
    anchored = 0 if anchor is None else list(names).index(anchor)
    matches = wins + draws + losses
    np.fill_diagonal(matches := matches.astype(np.float64), 0.0)
    met = matches > 0
    score = np.where(met, wins + 0.5 * draws + 0.5 * prior, 0.0)  # [i, j]: of i against j
    played = np.where(met, matches + prior, 0.0)
    connected = _reached(met, anchored)
    free = np.flatnonzero(connected & (np.arange(count) != anchored))

    natural = np.zeros(count)  # ratings in natural units

    def information(number: np.ndarray) -> np.ndarray:
        """Σ n p (1 − p) as a graph Laplacian, without the anchor: [free, free]."""
        probability = win_probability(ELO * (natural[:, None] - natural[None]))
        weight = number * probability * (1.0 - probability)
        return (np.diag(weight.sum(1)) - weight)[np.ix_(free, free)]

    def likelihood(ratings: np.ndarray) -> float:
        return -float((score * np.logaddexp(0.0, ratings[None] - ratings[:, None])).sum())

    for _ in range(100):
        probability = win_probability(ELO * (natural[:, None] - natural[None]))
        gradient = (score - played * probability).sum(1)[free]
        if not len(free) or np.abs(gradient).max() < 1e-9 * played.max():
            break
        direction = np.zeros(count)
        direction[free] = np.linalg.solve(information(played), gradient)
        step, before = 1.0, likelihood(natural)
        while likelihood(natural + step * direction) < before and step > 1e-6:
            step *= 0.5
        natural = natural + step * direction

    covariance = np.full((count, count), np.nan)
    covariance[np.ix_(connected, connected)] = 0.0
    if len(free):
        covariance[np.ix_(free, free)] = ELO**2 * np.linalg.inv(information(matches))
    rating = np.where(connected, ELO * natural, np.nan)
    return Ratings(tuple(names), rating, np.sqrt(np.diag(covariance)), covariance)


def _reached(met: np.ndarray, start: int) -> np.ndarray:
    """bool [n]: whom a chain of matches leads to."""
    reached = np.zeros(len(met), bool)
    reached[start] = True
    while (wider := reached | met[reached].any(0)).sum() > reached.sum():
        reached = wider
    return reached
