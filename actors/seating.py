"""A league's matchups in; who acts for which agents of each environment's episode out, and the opponents' weights.

With every new episode a player is drawn whose turn it is, a side for it, and opponents for the other sides. Where it
is a policy, it learns from this episode: what it does becomes fragments, on every side that it was drawn for. Opponents
act with the weights of their snapshot, or with the newest of another policy, and what they do is counted only.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from distrl.actors.agent_rows import PolicyRows
from distrl.actors.inference import LocalInference
from distrl.actors.policy_stream import PolicyStream
from distrl.core.contracts import Policy, Requests, WeightsSource
from distrl.core.matchups import MATCHUPS, Matchups, Table, draw, is_snapshot, policy_of

_MOST = 32  # opponents of one player whose weights are held at a time; of more, so many are drawn with each new table


class Seating:
    """Who sits where, in the environments of one env worker.

        seating.pull()                    # in another thread: newer matchups, and the weights of whoever is in them
        seating.begin(requests)           # draws for environments whose episode is new
        seating.stream[env, agent]        # the stream that acts: a policy's number, or, of an opponent, that of its
                                          # policy and ``len(policies)`` more

    Args:
        sides: each side's agents, by index; every agent is on one.
        policies: policy → the agents that it can act for; whole sides.
        build: a policy of that name, without weights.
        source_of: where the weights of a player come from.

    Attributes:
        stream: int [environments, agents].
    """

    def __init__(
        self,
        sides: Sequence[Sequence[int]],
        policies: Mapping[str, Sequence[int]],
        build: Callable[[str], Policy],
        source_of: Callable[[str], WeightsSource],
        num_envs: int,
        seed: int,
    ):
        self._sides = [list(side) for side in sides]
        self._policies = list(policies)
        self._can_sit = {name: [set(side) <= set(its) for side in sides] for name, its in policies.items()}
        self._build, self._source_of = build, source_of
        self._source = source_of(MATCHUPS)
        self._rng = np.random.default_rng(seed)
        self._thinning = np.random.default_rng([seed, 1])  # in another thread
        self._matchups: Matchups | None = None
        self._version = -1
        self._opponents = {name: LocalInference(build(name), source_of(name)) for name in policies}
        self._uid: list[int | None] = [None] * num_envs
        self._players: list[tuple[str, ...]] = [()] * num_envs  # by side
        self._player = np.full((num_envs, sum(map(len, sides))), "", object)
        self.stream = np.full(self._player.shape, -1)

    @property
    def ready(self) -> bool:
        """Whether episodes can begin."""
        return self._matchups is not None

    def newest(self, policy_id: str) -> LocalInference:
        """Of a policy as an opponent."""
        return self._opponents[policy_id]

    def pull(self) -> None:
        """Take newer matchups once the weights of everybody in them are here, and newer weights of policies that are
        others' opponents."""
        newer = self._source.pull_if_newer(self._version)
        matchups = self._matchups if newer is None else self._thinned(Matchups.of_weights(newer[1]))
        if matchups is None:
            return
        for name in matchups.names():
            if not is_snapshot(name):
                if any(name in table for player, table in matchups.opponents.items() if player != name):
                    self._opponents[name].pull()
                    if not self._opponents[name].ready:
                        return
            elif name not in self._opponents:
                opponent = LocalInference(self._build(policy_of(name)), self._source_of(name))
                opponent.pull()
                if not opponent.ready:
                    return  # a new parameter server does not have it yet: until then by the matchups before
                self._opponents[name] = opponent
        if newer is not None:
            self._version, self._matchups = newer[0], matchups

    def pull_for_ever(self, stop: threading.Event, period_s: float) -> None:
        """By the clock."""
        while not stop.wait(period_s):
            self.pull()

    def begin(self, requests: Requests) -> None:
        """Draw for the environments whose episode is another one."""
        for env, uid in zip(requests.rows.tolist(), requests.episode_uid.tolist(), strict=True):
            if self._uid[env] != uid:
                self._uid[env] = uid
                self._draw(env)

    def players(self, env: int) -> tuple[str, ...]:
        """Of the environment's episode, by side."""
        return self._players[env]

    def scores(self, returns: np.ndarray) -> tuple[float, ...]:
        """By side, the mean over its agents of their returns, float64 [agents]."""
        return tuple(float(returns[side].mean()) for side in self._sides)

    def sitting(self, rows: PolicyRows, at: np.ndarray) -> Iterator[tuple[LocalInference, np.ndarray]]:
        """(opponent, positions in ``at``) of a policy's rows ``at`` that opponents act for."""
        names = self._player[rows.env_index[at], rows.agent_index[at]]
        for name in dict.fromkeys(names):
            yield self._opponents[name], np.flatnonzero(names == name)

    def _draw(self, env: int) -> None:
        assert self._matchups is not None
        matchups, rng = self._matchups, self._rng
        player = draw(matchups.players, rng)
        own = rng.choice(np.flatnonzero(self._can_sit[policy_of(player)]))
        players = []
        for side, agents in enumerate(self._sides):
            name = player if side == own else draw(self._for(side, matchups.opponents[player]), rng)
            number = self._policies.index(policy_of(name))
            learns = name == player and not is_snapshot(name)
            self.stream[env, agents] = number if learns else number + len(self._policies)
            self._player[env, agents] = name
            players.append(name)
        self._players[env] = tuple(players)
        self._forget(matchups)

    def _for(self, side: int, table: Table) -> Table:
        return {name: chance for name, chance in table.items() if self._can_sit[policy_of(name)][side]}

    def _forget(self, matchups: Matchups) -> None:
        """Weights of snapshots that nobody meets any more."""
        if len(self._opponents) > 2 * (len(matchups.names()) + len(self._policies)) + self.stream.size:
            needed = matchups.names().union(self._policies, *self._players)
            for name in set(self._opponents) - needed:
                del self._opponents[name]

    def _thinned(self, matchups: Matchups) -> Matchups:
        def some(table: Table) -> Table:
            if len(table) <= _MOST:
                return table
            return dict(Counter(draw(table, self._thinning) for _ in range(_MOST)))

        return Matchups(matchups.players, {player: some(table) for player, table in matchups.opponents.items()})


class OpponentStream(PolicyStream):
    """The rows in which opponents act that have one policy's network, each with its own weights."""

    def __init__(self, rows: PolicyRows, seating: Seating, send: Callable[[np.ndarray, np.ndarray], None]):
        super().__init__(rows, seating.newest(rows.policy_id), None, send)
        self._rows, self._seating = rows, seating

    def _act(self, requests: Requests) -> None:
        for opponent, positions in self._seating.sitting(self._rows, requests.rows):
            its = requests if len(positions) == len(requests.rows) else requests.select(positions)
            state = self._state_before(its)
            self._send(its, state, opponent.act(its.observation, state, its.is_first))
