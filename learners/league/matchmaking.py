"""Win rates in, probabilities of opponents out: pure functions, each with its source (numpy only).

A policy's *table* is opponent → probability: a policy's name stands for its newest weights, a snapshot's for its own.
Whoever begins an episode draws from it (``distrl.core.matchups``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from distrl.core.matchups import Table
from distrl.learners.league.config import Role, Weighting

WinRates = Callable[[str, Sequence[str]], np.ndarray]  # a player and opponents → P(it beats each), [n]

#: AlphaStar's main players (Vinyals et al. 2019): half of the matches by PFSP against all snapshots; these against what
#: they have forgotten; the rest, and whatever of these is not needed, self-play.
PFSP_SHARE, VERIFICATION_SHARE = 0.5, 0.15
#: Below the first win rate an opponent is too strong to learn from, or a main exploiter's find is dangerous; at the
#: second a snapshot counts as beaten; a main exploiter that wins less often than the third gets easier opponents.
TOO_STRONG, BEATEN, HOPELESS = 0.3, 0.7, 0.1


@dataclass(frozen=True)
class Pool:
    """Who may be met.

    Attributes:
        roles: policies that learn → role. snapshots: name → the policy's whose it was, oldest first.
    """

    roles: Mapping[str, Role]
    snapshots: Mapping[str, str]

    def learning(self, role: Role) -> list[str]:
        """Policies of that role."""
        return [policy for policy, its in self.roles.items() if its == role]

    def snapshots_of(self, policies: Sequence[str]) -> list[str]:
        """Oldest first."""
        return [name for name, policy in self.snapshots.items() if policy in policies]


def mixed(parts: Sequence[tuple[float, Mapping[str, float]]]) -> Table:
    """Tables, each with a weight; the weights add up to 1."""
    found: Table = {}
    for weight, table in parts:
        for name, probability in table.items():
            if weight * probability > 0.0:
                found[name] = found.get(name, 0.0) + weight * probability
    return found


def pfsp(win_rates: np.ndarray, weighting: Weighting) -> np.ndarray:
    """Prioritised fictitious self-play: probabilities [n] ∝ f(P(beats the opponent)), even where all weights are 0.

    AlphaStar (Vinyals et al. 2019) has f(x) = (1 − x)^p, ``squared`` with p = 2 and ``linear`` with 1, and x (1 − x),
    ``variance``, for players of one's own strength; its league exploiters and FightLadder (Li et al. 2024, arXiv
    2406.02081) min(1/2, 1 − x), ``linear_capped``.
    """
    weights = {
        "squared": (1.0 - win_rates) ** 2,
        "linear": 1.0 - win_rates,
        "linear_capped": np.minimum(0.5, 1.0 - win_rates),
        "variance": win_rates * (1.0 - win_rates),
    }[weighting]
    total = weights.sum()
    return weights / total if total > 1e-10 else np.full(len(win_rates), 1.0 / len(win_rates))


def fictitious(names: Sequence[str]) -> Table:
    """Anybody with equal probability: fictitious self-play (Heinrich et al. 2015), snapshots being past strategies."""
    return dict.fromkeys(names, 1.0 / len(names)) if names else {}


def delta_uniform(versions: Mapping[str, int], delta: float) -> Table:
    """Any of the snapshots whose version is at least ``delta`` of the newest one's (Bansal et al. 2018, arXiv
    1710.03748): 0 is the whole history, 1 the newest snapshot alone.

    Args:
        versions: snapshot → version, of one policy.
    """
    newest = max(versions.values(), default=0)
    return fictitious([name for name, version in versions.items() if version >= delta * newest])


def by_pfsp(player: str, opponents: Sequence[str], win_rates: WinRates, weighting: Weighting) -> Table:
    """``pfsp`` of one player against these; empty where there are none."""
    if not opponents:
        return {}
    return dict(zip(opponents, pfsp(win_rates(player, opponents), weighting).tolist(), strict=True))


def main_player(player: str, pool: Pool, win_rates: WinRates) -> Table:
    """A main player's opponents in AlphaStar's league (supplementary pseudocode of Vinyals et al. 2019).

    Half: PFSP ``squared`` against all snapshots. For the rest a main player is chosen, itself perhaps, and met as it is
    now; or, where it is too strong, its snapshots by PFSP ``variance``. 15 of these 50 % go to what was forgotten,
    where there is something (``_forgotten``). Without snapshots: self-play.
    """
    mains = pool.learning("main")
    everybody = by_pfsp(player, list(pool.snapshots), win_rates, "squared")
    parts = [(PFSP_SHARE, everybody)] if everybody else []
    rest = 1.0 - PFSP_SHARE * len(parts)
    for opponent in mains:
        share = rest / len(mains)
        forgotten = _forgotten(player, opponent, pool, win_rates)
        if forgotten:
            parts.append((VERIFICATION_SHARE / len(mains), forgotten))
            share -= VERIFICATION_SHARE / len(mains)
        parts.append((share, _as_it_is_or_was(player, opponent, pool, win_rates, TOO_STRONG)))
    return mixed(parts)


def main_exploiter(player: str, pool: Pool, win_rates: WinRates) -> Table:
    """Main players as they are now; the snapshots by PFSP ``variance`` of one that it hardly ever beats."""
    mains = pool.learning("main")
    return mixed([(1.0 / len(mains), _as_it_is_or_was(player, one, pool, win_rates, HOPELESS)) for one in mains])


def league_exploiter(player: str, pool: Pool, win_rates: WinRates) -> Table:
    """Every snapshot, by PFSP ``linear_capped``; without any the main players."""
    found = by_pfsp(player, list(pool.snapshots), win_rates, "linear_capped")
    return found or fictitious(pool.learning("main"))


def without_monotonic_suffix(win_rates: np.ndarray, names: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """Snapshots, oldest first, without the newest ones as far as win rates only fall towards them: it is no forgetting
    that the newest are the hardest. All are left out where nothing rises."""
    rises = np.flatnonzero(win_rates[:-1] < win_rates[1:])
    end = rises[-1] + 2 if len(rises) else 0
    return win_rates[:end], list(names[:end])


def least_played(matches: np.ndarray) -> tuple[int, int] | None:
    """The pair (i < j) with the fewest matches, the newest player's first. None where nobody can meet.

    Args:
        matches: [n, n], symmetric, players from oldest to newest; infinite where two cannot meet.
    """
    count = len(matches)
    pairs = [(matches[i, j], -j, -i) for j in range(count) for i in range(j) if np.isfinite(matches[i, j])]
    if not pairs:
        return None
    _, second, first = min(pairs)
    return -first, -second


def _as_it_is_or_was(player: str, opponent: str, pool: Pool, win_rates: WinRates, too_strong: float) -> Table:
    if win_rates(player, [opponent])[0] <= too_strong:
        easier = by_pfsp(player, pool.snapshots_of([opponent]), win_rates, "variance")
        if easier:
            return easier
    return {opponent: 1.0}


def _forgotten(player: str, opponent: str, pool: Pool, win_rates: WinRates) -> Table:
    """Snapshots of main exploiters where one of these is too strong; else those of ``opponent``, older than the newest
    that are harder and harder, where one of these is not beaten any more; empty where nothing was forgotten."""
    found = pool.snapshots_of(pool.learning("main_exploiter"))
    if found and win_rates(player, found).min() < TOO_STRONG:
        return by_pfsp(player, found, win_rates, "squared")
    names = pool.snapshots_of([opponent])
    rates, names = without_monotonic_suffix(win_rates(player, names), names)
    if names and rates.min() < BEATEN:
        return by_pfsp(player, names, win_rates, "squared")
    return {}
