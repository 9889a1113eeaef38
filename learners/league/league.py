"""Matches and updates in; snapshots, resets and each policy's table of opponents out: all that a learner calls."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from distrl.core.errors import ConfigError
from distrl.core.types import PolicySpec, Weights
from distrl.learners.league import matchmaking
from distrl.learners.league.config import LeagueConfig
from distrl.learners.league.matchmaking import Pool, Table, mixed
from distrl.learners.league.meta_solver import nash, risk_averse
from distrl.learners.league.payoffs import Match, MatchWriter, Payoffs
from distrl.learners.league.players import Players, Snapshot, begins_again, is_due

_PRIOR = 2.0  # draws that every pair of snapshots is taken to have played, in the empirical game


@dataclass(frozen=True)
class Change:
    """What an update has led to.

    Attributes:
        snapshot: a new player, whose weights the parameter server needs too; or None.
        reset: the policy begins again: its trainer takes the first weights and forgets the optimizers' state.
    """

    snapshot: Snapshot | None = None
    reset: bool = False


class League:
    """The learner's side of a league.

        league.record(match)                                        # whenever an env worker reports one
        change = league.after_update("main", version, weights, spec)  # after each update
        tables = league.tables()                                    # for env workers, as often as weights are published

    Env workers draw opponents from ``tables`` (``matchmaking.draw``) when episodes begin. ``record`` may be called from
    another thread than the rest. All that it knows is in the directory: after a death it goes on from there.

    Args:
        directory: ``RUN/league``. policies: those that learn.
        seed: of resets. writer: of this process's matches.
        rivals: policy → the policies that can sit opposite; without it everybody can, itself too.

    Attributes:
        players, payoffs: for reports. gap: of the last equilibrium (``Equilibrium.gap``); 0 where there was none.

    Raises:
        ConfigError: roles or rivals that do not fit the policies. StorageError: the directory cannot be written.
    """

    def __init__(
        self,
        directory: Path,
        config: LeagueConfig,
        policies: Sequence[str],
        *,
        seed: int = 0,
        writer: str = "learner",
        rivals: Mapping[str, Sequence[str]] | None = None,
    ):
        self.players = Players(directory, policies, config.roles)
        self.payoffs = Payoffs(directory, config.window)
        self._writer = MatchWriter(directory, writer)
        self._config, self._seed = config, seed
        self._rivals = {policy: list(policies if rivals is None else rivals.get(policy, ())) for policy in policies}
        for policy, its in self._rivals.items():
            if not any(self.players.roles.get(rival) == "main" for rival in its):
                raise ConfigError(
                    f"policy {policy!r} needs a main player to meet, but its rivals are {', '.join(its) or 'none'}"
                )
        self._solved: dict[str, tuple[tuple[int, int], Table]] = {}  # policy → (what was known, its equilibrium)
        self.gap = 0.0
        self.payoffs.read()

    def record(self, match: Match) -> None:
        """A game is over. One of a player against itself says nothing, and is not written.

        Raises:
            StorageError: it cannot be written.
        """
        if len(set(match.players)) > 1:
            self._writer.add(match)

    def after_update(
        self, policy_id: str, version: int, weights: Callable[[], Weights], spec: Callable[[], PolicySpec]
    ) -> Change:
        """Keep a snapshot where one is due.

        Args:
            version: of the policy after the update. weights, spec: what a snapshot is made of; called where it is.

        Raises:
            StorageError: it cannot be written.
        """
        updates = version - self.players.began[policy_id]
        if updates < self._config.snapshot_period:
            return Change()
        role, pool = self.players.roles[policy_id], self.players.pool(self._rivals[policy_id])
        self.payoffs.read()
        opponents = pool.learning("main") if role == "main_exploiter" else list(pool.snapshots)
        if not is_due(updates, self.payoffs.win_rates(policy_id, opponents), self._config):
            return Change()
        snapshot = self.players.add(policy_id, version, weights(), spec())
        rng = np.random.default_rng([self._seed, list(self.players.roles).index(policy_id), version])
        reset = begins_again(role, self._config, rng)
        if reset:
            self.players.reset(policy_id, version)
            self._writer.forget(policy_id, time.time())
        return Change(snapshot, reset)

    def tables(self) -> dict[str, Table]:
        """policy → opponent → probability, from all matches that have been written.

        Raises:
            StorageError: they cannot be read.
        """
        self.payoffs.read()
        return {policy: self._table(policy) for policy in self.players.roles}

    def report(self) -> dict[str, Any]:
        """Counters, and how each policy does against its rivals' snapshots."""
        found: dict[str, Any] = {"matches": self.payoffs.num_matches, "snapshots": len(self.players.snapshots)}
        for policy in self.players.roles:
            opponents = list(self.players.pool(self._rivals[policy]).snapshots)
            if opponents:
                rates = self.payoffs.win_rates(policy, opponents)
                found |= {f"{policy}/win_rate_mean": float(rates.mean()), f"{policy}/win_rate_min": float(rates.min())}
        return found | ({"gap": self.gap} if self._config.matchmaking == "psro" else {})

    def close(self) -> None:
        """Harmless when repeated."""
        self._writer.close()
        self.players.close()

    def _table(self, policy: str) -> Table:
        pool, win_rates = self.players.pool(self._rivals[policy]), self.payoffs.win_rates
        role, kind = self.players.roles[policy], self._config.matchmaking
        if role == "main_exploiter":
            return matchmaking.main_exploiter(policy, pool, win_rates)
        if role == "league_exploiter":
            return matchmaking.league_exploiter(policy, pool, win_rates)
        if kind == "alphastar":
            return matchmaking.main_player(policy, pool, win_rates)
        newest = [policy] if policy in pool.roles else pool.learning("main")
        now = matchmaking.fictitious(newest)
        past = self._past(policy, newest, pool) if pool.snapshots and kind != "self_play" else {}
        share = self._config.self_play_share
        return mixed([(share, now), (1.0 - share, past)]) if past else now

    def _past(self, policy: str, newest: Sequence[str], pool: Pool) -> Table:
        config = self._config
        if config.matchmaking == "pfsp":
            return matchmaking.by_pfsp(policy, list(pool.snapshots), self.payoffs.win_rates, config.pfsp_weighting)
        if config.matchmaking == "psro":
            return self._equilibrium(policy, pool)
        if config.matchmaking == "delta_uniform":
            versions = [
                {one.name: one.version for one in self.players.snapshots if one.policy_id == name} for name in newest
            ]
            tables = [matchmaking.delta_uniform(one, config.delta) for one in versions if one]
            return mixed([(1.0 / len(tables), table) for table in tables])
        return matchmaking.fictitious(list(pool.snapshots))

    def _equilibrium(self, policy: str, pool: Pool) -> Table:
        """PSRO's meta-strategy over the opponents (Lanctot et al. 2017, arXiv 1711.00832): of the game in which each
        side chooses a snapshot and a win pays 1, a loss −1. Anybody, as long as no snapshots have met."""
        known = (self.payoffs.num_settled, len(self.players.snapshots))
        if policy in self._solved and self._solved[policy][0] == known:
            return self._solved[policy][1]
        side = [name for name, rivals in self._rivals.items() if rivals == self._rivals[policy]]
        own, others = list(self.players.pool(side).snapshots), list(pool.snapshots)
        wins, draws, losses = self.payoffs.counts(own, others)
        matches = wins + draws + losses
        if not matches.any():
            return matchmaking.fictitious(others)
        payoff = (wins - losses) / (matches + _PRIOR)
        if self._config.meta_solver == "nash":
            found = nash(payoff)
        else:
            found = risk_averse(payoff, self._config.risk_aversion, self._config.risk_floor)
        self.gap = found.gap
        table = mixed([(1.0, dict(zip(others, found.columns.tolist(), strict=True)))])
        self._solved[policy] = known, table
        return table
