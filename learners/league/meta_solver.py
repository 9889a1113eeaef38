"""A table of payoffs between players in, the mixture of players that is an equilibrium of it out (numpy, scipy).

The *empirical game*: each side chooses one of its players, the table says what that pays. ``payoff`` [n, m] is what the
side of the rows gets; the other side gets ``other`` [n, m], without which the game is zero-sum and that is −payoff. A
table with payoff = −payoffᵀ is one population that plays against itself, and its two mixtures may be taken for one.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from distrl.core.errors import ConfigError


class Equilibrium(NamedTuple):
    """Mixtures that nobody gains much by leaving.

    Attributes:
        rows: float64 [n], probabilities of the players of the rows. columns: [m], of the others.
        value: expected payoff of the rows. gap: an upper bound of what both sides together could gain by leaving, in
            what the solver maximises; 0 at an equilibrium.
    """

    rows: np.ndarray
    columns: np.ndarray
    value: float
    gap: float


def nash(payoff: np.ndarray) -> Equilibrium:
    """Nash equilibrium of the zero-sum game, as one linear program (von Neumann; solved by HiGHS): the rows maximise v
    under xᵀ payoff ≥ v, Σx = 1, x ≥ 0; the columns' mixture is the dual solution. Where there are many equilibria it
    is one of them: a corner.

    Raises:
        ConfigError: the table is empty, or has entries that are not numbers.
    """
    from scipy.optimize import linprog

    payoff = _checked(payoff)
    num_rows, num_columns = payoff.shape
    solution = linprog(
        np.r_[np.zeros(num_rows), -1.0],
        A_ub=np.c_[-payoff.T, np.ones(num_columns)],
        b_ub=np.zeros(num_columns),
        A_eq=np.r_[np.ones(num_rows), 0.0][None],
        b_eq=[1.0],
        bounds=[(0.0, None)] * num_rows + [(None, None)],
        method="highs",
    )
    assert solution.success, solution.message  # always feasible and bounded
    rows, columns = _mixture(solution.x[:-1]), _mixture(-solution.ineqlin.marginals)
    return Equilibrium(rows, columns, float(rows @ payoff @ columns), nash_conv(payoff, rows, columns))


def risk_averse(
    payoff: np.ndarray,
    aversion: float,
    floor: float,
    other: np.ndarray | None = None,
    max_iterations: int = 5000,
    tolerance: float = 1e-4,
) -> Equilibrium:
    """Equilibrium of players who also dislike variance, in the manner of the risk-averse equilibrium RAE (Slumbers et
    al. 2023, arXiv 2205.15434).

    Against the mixture y of the others, a mixture x earns

        E − aversion · V,    E = xᵀ payoff y,    V = Σ_j y_j ((xᵀ payoff)_j − E)²:

    V is the variance of x's expected payoff over whom it meets. Every player is chosen with at least ``floor`` / n, so
    that variance against opponents who are hardly ever played counts too. V is convex in x: mixtures are best responses
    exactly where their gradients say so, and such a pair is found as the solution of that variational inequality by the
    extragradient method (Korpelevich 1976) from the even mixture.

    Without variance (``aversion`` = 0) in a zero-sum game this is Nash's, which ``nash`` finds faster. With it nothing
    guarantees that the method arrives: ``gap`` says how near it has come.

    Args:
        aversion: ≥ 0, cost of a unit of variance, 1 / unit of payoff. floor: in [0, 1).
        tolerance: ends when the gap is below it, in units of payoff.

    Returns:
        The mixtures with the smallest gap on the way.

    Raises:
        ConfigError: as ``nash``.
    """
    payoff = _checked(payoff)
    other = -payoff if other is None else _checked(other)
    own = (payoff, other.T)  # each side's payoff, itself in the rows
    counts = payoff.shape
    mixtures = tuple(np.full(count, 1.0 / count) for count in counts)
    scale = max(np.ptp(payoff), np.ptp(other), 1e-12)
    step = 0.5 / (scale * (1.0 + aversion * scale))

    def gradients(sides: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
        found = []
        for table, mine, theirs in zip(own, sides, sides[::-1], strict=True):
            mean = table @ theirs
            centred = table - mean[:, None]
            found.append(mean - 2.0 * aversion * centred @ (theirs * (mine @ centred)))
        return tuple(found)

    def moved(sides: tuple[np.ndarray, ...], along: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
        return tuple(_project(mine + step * direction, floor) for mine, direction in zip(sides, along, strict=True))

    best, smallest = mixtures, np.inf
    for _ in range(max_iterations):
        here = gradients(mixtures)
        gap = 0.0  # of the linear bounds of what each side maximises
        for direction, mine in zip(here, mixtures, strict=True):
            gap += floor * direction.mean() + (1.0 - floor) * direction.max() - direction @ mine
        if gap < smallest:
            best, smallest = mixtures, gap
            if gap < tolerance:
                break
        mixtures = moved(mixtures, gradients(moved(mixtures, here)))
    rows, columns = best
    return Equilibrium(rows, columns, float(rows @ payoff @ columns), float(max(smallest, 0.0)))


def nash_conv(payoff: np.ndarray, rows: np.ndarray, columns: np.ndarray, other: np.ndarray | None = None) -> float:
    """What both sides together could gain in the empirical game by best responses to these mixtures (NashConv, Lanctot
    et al. 2017, arXiv 1711.00832); 0 exactly at a Nash equilibrium.

    Args:
        payoff, other: as above. rows: [n], columns: [m], probabilities.
    """
    other = -payoff if other is None else other
    against_columns, against_rows = payoff @ columns, rows @ other
    return float(against_columns.max() - rows @ against_columns + against_rows.max() - against_rows @ columns)


def exploitability(payoff: np.ndarray, mixture: np.ndarray) -> float:
    """What a best response wins per match against a mixture of one population: payoff [n, n] = −payoffᵀ."""
    return nash_conv(payoff, mixture, mixture) / 2.0


def _checked(payoff: np.ndarray) -> np.ndarray:
    payoff = np.asarray(payoff, np.float64)
    if payoff.ndim != 2 or not payoff.size or not np.isfinite(payoff).all():
        raise ConfigError(
            "an equilibrium needs a table of finite payoffs, players of one side in the rows; got shape "
            f"{payoff.shape} with {np.count_nonzero(~np.isfinite(payoff))} entries that are not finite: let these "
            "pairs play first"
        )
    return payoff


def _mixture(weights: np.ndarray) -> np.ndarray:
    """Without what rounding has put below zero or off one."""
    weights = np.maximum(weights, 0.0)
    return weights / weights.sum()


def _project(point: np.ndarray, floor: float) -> np.ndarray:
    """The nearest mixture with at least ``floor`` / n of each (Held, Wolfe and Crowder 1974: by sorting)."""
    count = len(point)
    rest = (point - floor / count) / (1.0 - floor)
    sorted_, numbers = np.sort(rest)[::-1], np.arange(1, count + 1)
    thresholds = (np.cumsum(sorted_) - 1.0) / numbers
    threshold = thresholds[np.flatnonzero(sorted_ > thresholds)[-1]]
    return floor / count + (1.0 - floor) * np.maximum(rest - threshold, 0.0)
