"""Matches and updates in; snapshots, resets and who meets whom out: all that a learner calls."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from distrl.core.matchups import MATCHUPS, Matchups, Table, policy_of
from distrl.core.types import PolicySpec, Weights
from distrl.learners.league import matchmaking
from distrl.learners.league.config import LeagueConfig, roles_of
from distrl.learners.league.matchmaking import Pool, least_played, mixed
from distrl.learners.league.meta_solver import nash, risk_averse
from distrl.learners.league.payoffs import MatchWriter, Payoffs
from distrl.learners.league.players import Players, Snapshot, begins_again, is_due

_PRIOR = 2.0  # draws that every pair of snapshots is taken to have played, in the empirical game


@dataclass(frozen=True)
class Change:
    """What an update has led to.

    Attributes:
        snapshot: a new player, or None.
        reset: the policy begins again: its trainer takes the first weights and forgets the optimizers' state.
    """

    snapshot: Snapshot | None = None
    reset: bool = False


class League:
    """The learner's side of a league.

        league.publish()                                                  # when there is a new parameter server
        change = league.after_update("main", version, weights, spec)      # after each update

    Published are snapshots, each as a policy of its name, and the ``Matchups`` from which env workers draw. Finished
    matches come back through the files of ``MatchWriter``. All that it knows is in the directory: after a death it goes
    on from there.

    Args:
        directory: ``RUN/league``. policies: those that learn.
        seed: of resets. writer: of this process's lines in the ledger of matches.
        rivals: policy → the policies that can sit opposite; without it everybody can, itself too.
        publish: takes (version, weights, player).

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
        publish: Callable[[int, Weights, str], Any] = lambda version, weights, player: None,
    ):
        self._rivals = {policy: list(policies if rivals is None else rivals.get(policy, ())) for policy in policies}
        self.players = Players(directory, roles_of(config, self._rivals))
        self.payoffs = Payoffs(directory, config.window)
        self._writer = MatchWriter(directory, writer)
        self._config, self._seed, self._publish = config, seed, publish
        self._solved: dict[str, tuple[tuple[int, int], Table]] = {}  # policy → (what was known, its equilibrium)
        self._period = max(1, config.snapshot_period // 10)  # of matchups, in updates of all policies
        self._updates = 0
        self.gap = 0.0
        self.payoffs.read()

    def publish(self) -> None:
        """Offer all snapshots and who meets whom.

        Raises:
            StorageError: they cannot be read.
        """
        for snapshot in self.players.snapshots:
            self._publish(snapshot.version, self.players.parts(snapshot.name)[1], snapshot.name)
        self._publish_matchups()

    def after_update(
        self, policy_id: str, version: int, weights: Callable[[], Weights], spec: Callable[[], PolicySpec]
    ) -> Change:
        """Keep a snapshot where one is due, and publish who meets whom now and then.

        Args:
            version: of the policy after the update. weights, spec: what a snapshot is made of; called where it is.

        Raises:
            StorageError: it cannot be written.
        """
        change = self._change(policy_id, version, weights, spec)
        self._updates += 1
        if change.snapshot is not None or self._updates % self._period == 0:
            self._publish_matchups()
        return change

    def _change(
        self, policy_id: str, version: int, weights: Callable[[], Weights], spec: Callable[[], PolicySpec]
    ) -> Change:
        updates = version - self.players.began[policy_id]
        if updates < self._config.snapshot_period:
            return Change()
        role, pool = self.players.roles[policy_id], self.players.pool(self._rivals[policy_id])
        self.payoffs.read()
        opponents = pool.learning("main") if role == "main_exploiter" else list(pool.snapshots)
        if not is_due(updates, self.payoffs.win_rates(policy_id, opponents), self._config):
            return Change()
        kept = weights()
        snapshot = self.players.add(policy_id, version, kept, spec())
        self._publish(version, kept, snapshot.name)
        rng = np.random.default_rng([self._seed, list(self.players.roles).index(policy_id), version])
        reset = begins_again(role, self._config, rng)
        if reset:
            self.players.reset(policy_id, version)
            self._writer.forget(policy_id, time.time())
        return Change(snapshot, reset)

    def matchups(self) -> Matchups:
        """Of all matches that have been written: each policy has its turn as often as any other.

        Raises:
            StorageError: they cannot be read.
        """
        self.payoffs.read()
        opponents = {policy: self._table(policy) for policy in self.players.roles}
        pair = self._to_measure() if self._config.matchmaking == "psro" else None
        share = 0.0 if pair is None else self._config.payoff_share
        players = dict.fromkeys(self.players.roles, (1.0 - share) / len(self.players.roles))
        if pair is not None:
            players[pair[0]], opponents[pair[0]] = share, {pair[1]: 1.0}
        return Matchups(players, opponents)

    def _publish_matchups(self) -> None:
        matchups = self.matchups()
        # what they follow from only grows, also over restarts
        self._publish(self.payoffs.num_lines + len(self.players.snapshots), matchups.weights(), MATCHUPS)

    def _to_measure(self) -> tuple[str, str] | None:
        """The snapshots that have met least often."""
        names = [snapshot.name for snapshot in self.players.snapshots]
        wins, draws, losses = self.payoffs.counts(names, names)
        matches = wins + draws + losses
        may_meet = [[policy_of(other) in self._rivals[policy_of(one)] for other in names] for one in names]
        pair = least_played(np.where(np.array(may_meet, bool).reshape(matches.shape), matches, np.inf))
        return None if pair is None else (names[pair[1]], names[pair[0]])

    def report(self) -> dict[str, Any]:
        """Counters, and how each policy does against its rivals' snapshots. Any thread."""
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
