"""Choices of partners, moves and punishments in, payoffs and reputations of a population out: ``PartnerGame``.

Players meet in pairs for a matrix game. Who meets whom, what is known of a player and what follows a move are
mechanisms that can be switched on one by one. Partner selection: N. Anastassacos, S. Hailes & M. Musolesi, AAAI 2020
(arXiv 1902.03185). Punishment, reputation and their numbers: N. Dasgupta & M. Musolesi, Auton. Agents Multi-Agent Syst.
39 (2025) (arXiv 2301.08278) and its code. What is theirs and what is not: docs/multi_agent_environments.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from gymnasium.utils import seeding
from pettingzoo import ParallelEnv

from distrl.core.errors import ConfigError, EnvironmentFault
from distrl.core.spaces import MASK
from distrl.envs import options as check
from distrl.envs.multi_agent import partner_picture

SELECT, PLAY, DIRECT, THIRD_PARTY = "select", "play", "direct", "third_party"
PHASES = (SELECT, PLAY, DIRECT, THIRD_PARTY)
PRISONERS_DILEMMA = ((3.0, 0.0), (4.0, 1.0))  # what the row's player gets, cooperation first
COOPERATION, PUNISH = 0, 1

# What a reputation gains (Dasgupta & Musolesi).
BY_COOPERATION, BY_DEFECTION, BY_JUST_PUNISHMENT, BY_UNJUST_PUNISHMENT = 1.0, -1.0, 2.0, -3.0

NOBODY = -1
UNKNOWN = -1  # the last move of who has not moved yet

Observations = dict[str, dict[str, np.ndarray]]


class PartnerGame(ParallelEnv[str, dict[str, np.ndarray], int]):
    """A population that plays a matrix game in pairs, with partner selection, reputation and punishment.

    An episode is ``turns`` turns. In a turn pairs form, and play ``rounds`` rounds. Every step of the environment is
    one phase, in which all players act: ``select`` once a turn (with ``partner_selection``; else pairs are drawn), then
    in each round ``play``, ``direct`` (with ``direct_punishment``) and ``third_party`` (with
    ``third_party_punishment``).

    Args:
        num_players: 2 or more, 4 with ``third_party_punishment``. Of an odd number one sits out each turn.
        partner_selection: in ``select`` each names a candidate; in random order, whoever is free yet gets the one named
            if that one is free too. Those left over are paired at random.
        reputation: sums of what each has done are observed.
        direct_punishment: after a move each may punish the partner.
        third_party_punishment: each may punish one player of another pair, drawn anew each round.
        payoffs: [moves, moves], what a player gets for its move (row) against the partner's (column). Move 0 is
            cooperation; every other is a defection.
        penalty: what a punishment takes from the punished.
        just, unjust: what the punisher is given for punishing a defection, and cooperation.
        candidates: how many others, drawn anew each turn, can be selected by each; None: all.
        turns, rounds: as above. The time limit truncates.
        render_mode: None or "rgb_array".

    An action is Discrete, a choice of the phase: the position of a candidate, a move, or PUNISH (1) or not (0). Actions
    beyond the phase's choices count as their remainder by the number of choices; the mask allows the choices alone, one
    where there is nothing to decide.

    ``infos`` has, beside the players' empty ones, an entry "common": ``cooperation``, the share of cooperation among
    the moves of the newest round, and at the last step ``episode_cooperation``, ``episode_just`` and
    ``episode_unjust``: per move of the episode, how many cooperated, were punished justly, were punished unjustly.

    Attributes:
        moves: int64 [players], each one's newest move, UNKNOWN at first. partner: int64 [players], or NOBODY.
        reputations: float64 [players], the sums. phase: of the step to come.
        max_cycles: steps of an episode (PettingZoo's name for it).
    """

    metadata: ClassVar[dict[str, Any]] = {
        "name": "partner_game_v0",
        "is_parallelizable": True,
        "render_modes": ["rgb_array"],
        "render_fps": 10,
    }

    def __init__(
        self,
        *,
        num_players: int = 5,
        partner_selection: bool = True,
        reputation: bool = True,
        direct_punishment: bool = False,
        third_party_punishment: bool = False,
        payoffs: Sequence[Sequence[float]] = PRISONERS_DILEMMA,
        penalty: float = 3.0,
        just: float = 2.0,
        unjust: float = -10.0,
        candidates: int | None = None,
        turns: int = 10,
        rounds: int = 10,
        render_mode: str | None = None,
    ) -> None:
        self.name = type(self).__name__
        switches = {
            "partner_selection": partner_selection,
            "reputation": reputation,
            "direct_punishment": direct_punishment,
            "third_party_punishment": third_party_punishment,
        }
        for name, value in switches.items():
            check.flag(self.name, name, value)
        self.num_players = check.count(self.name, "num_players", num_players, 4 if third_party_punishment else 2)
        self.reputation = reputation
        self.payoffs = _matrix(self.name, payoffs)
        self.penalty, self.just, self.unjust = (
            check.number(self.name, name, value, -1e6, 1e6, "it is added to payoffs")
            for name, value in (("penalty", penalty), ("just", just), ("unjust", unjust))
        )
        others = self.num_players - 1
        self.num_candidates = others if candidates is None else check.count(self.name, "candidates", candidates)
        check.require(
            self.num_candidates <= others,
            f"{self.name} needs candidates to be at most the other {others} players, got {candidates!r}.",
        )
        self.turns = check.count(self.name, "turns", turns)
        self.rounds = check.count(self.name, "rounds", rounds)
        if render_mode is not None:
            check.one_of(self.name, "render_mode", render_mode, self.metadata["render_modes"])
        self.render_mode = render_mode

        after = [DIRECT] * direct_punishment + [THIRD_PARTY] * third_party_punishment
        self._turn = [SELECT] * partner_selection + [PLAY, *after] * self.rounds
        self.max_cycles = self._num_steps = self.turns * len(self._turn)

        self.possible_agents = [f"player_{player}" for player in range(self.num_players)]
        self.agents: list[str] = []
        moves = len(self.payoffs)
        self._num_choices = max(moves, 2, self.num_candidates if partner_selection else 0)
        self.observation_names = self._names(partner_selection)
        space = gym.spaces.Dict(
            {
                "observation": gym.spaces.Box(-np.inf, np.inf, (len(self.observation_names),), np.float32),
                MASK: gym.spaces.Box(0, 1, (self._num_choices,), np.int8),
            }
        )
        self.observation_spaces = dict.fromkeys(self.possible_agents, space)
        self.action_spaces: dict[str, gym.Space[Any]] = {
            agent: gym.spaces.Discrete(self._num_choices) for agent in self.possible_agents
        }
        known = self.num_players * (moves + self.reputation)
        self.state_space = gym.spaces.Box(-np.inf, np.inf, (len(PHASES) + known,), np.float32)
        self._random, _ = seeding.np_random()
        self._begin()

    def observation_space(self, agent: str) -> gym.Space[dict[str, np.ndarray]]:
        """The same object at every call."""
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> gym.Space[int]:
        """The same object at every call."""
        return self.action_spaces[agent]

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observations, dict[str, dict[str, Any]]]:
        """Begin an episode; everything random in it comes from the seed. ``options`` are not used."""
        if seed is not None:
            self._random, _ = seeding.np_random(seed)
        self._begin()
        self.agents = list(self.possible_agents)
        return self._observations(), {agent: {} for agent in [*self.agents, "common"]}

    def step(
        self, actions: Mapping[str, int]
    ) -> tuple[Observations, dict[str, float], dict[str, bool], dict[str, bool], dict[str, dict[str, Any]]]:
        """One phase of all players.

        Raises:
            EnvironmentFault: a player's action is missing or no action, or one is nobody's.
        """
        chosen = self._given(actions) % self._choices()
        rewards = np.zeros(self.num_players)
        phase = self.phase
        if phase == SELECT:
            self._pair(self._candidates[np.arange(self.num_players), chosen])
        elif phase == PLAY:
            self._play(chosen, rewards)
        else:
            self._punish(chosen == PUNISH, self.partner if phase == DIRECT else self._judged, rewards)
        self._steps += 1
        over = self._steps == self._num_steps
        if self._steps % len(self._turn) == 0:
            self._begin_turn()
        common = {"cooperation": self._cooperation}
        if over:
            shares = (self._counts / max(self._num_moves, 1)).tolist()
            common |= dict(zip(("episode_cooperation", "episode_just", "episode_unjust"), shares, strict=True))
        agents = self.possible_agents
        self.agents = [] if over else list(agents)
        return (
            self._observations(),
            dict(zip(agents, rewards.tolist(), strict=True)),
            dict.fromkeys(agents, False),
            dict.fromkeys(agents, over),
            {agent: {} for agent in agents} | {"common": common},
        )

    @property
    def phase(self) -> str:
        """Of the step to come."""
        return self._turn[self._steps % len(self._turn)]

    def state(self) -> np.ndarray:
        """float32: which of PHASES, every player's newest move (one-hot), every player's reputation if observed."""
        parts = [self._phase(), self._one_hot(self.moves).ravel(), self._reputation().ravel()]
        return np.concatenate(parts).astype(np.float32)

    def render(self) -> np.ndarray | None:
        """The moves of the episode so far, punishments and reputations, uint8 [h, w, 3]; None without a render mode."""
        if self.render_mode is None:
            return None
        return partner_picture.population(self._history, self._punished, self.reputations)

    def close(self) -> None:
        """Nothing is open."""

    # The episode.

    def _begin(self) -> None:
        players, total = self.num_players, self.turns * self.rounds
        self._steps = 0
        self.moves = np.full(players, UNKNOWN)
        self.reputations = np.zeros(players)
        self._cooperation = 0.0
        self._num_moves, self._counts = 0, np.zeros(3)
        self._round = 0  # rounds that have begun
        self._history = np.full((players, total), UNKNOWN)
        self._punished = np.zeros((players, total), int)
        self._judged = np.full(players, NOBODY)
        self._begin_turn()

    def _begin_turn(self) -> None:
        players = self.num_players
        self.partner = np.full(players, NOBODY)
        if self._turn[0] != SELECT:
            self._pair(np.full(players, NOBODY))
            return
        if self.num_candidates == players - 1:
            offsets = np.broadcast_to(np.arange(1, players), (players, players - 1))
        else:
            offsets = 1 + self._random.random((players, players - 1)).argsort(1)[:, : self.num_candidates]
        self._candidates = (np.arange(players)[:, None] + offsets) % players

    def _pair(self, named: np.ndarray) -> None:
        """Form pairs: ``named``, int64 [players], whom each wants, or NOBODY."""
        partner, order = [NOBODY] * self.num_players, self._random.permutation(self.num_players).tolist()
        wanted = named.tolist()
        for player in order:
            other = wanted[player]
            if other != NOBODY and partner[player] == NOBODY and partner[other] == NOBODY:
                partner[player], partner[other] = other, player
        alone = [player for player in order if partner[player] == NOBODY]
        for one, other in zip(alone[::2], alone[1::2], strict=False):
            partner[one], partner[other] = other, one
        self.partner = np.array(partner)

    def _play(self, chosen: np.ndarray, rewards: np.ndarray) -> None:
        paired = np.flatnonzero(self.partner != NOBODY)
        moves = chosen[paired]
        rewards[paired] = self.payoffs[moves, chosen[self.partner[paired]]]
        self.moves[paired] = moves
        cooperates = moves == COOPERATION
        self.reputations[paired] += np.where(cooperates, BY_COOPERATION, BY_DEFECTION)
        self._cooperation = float(cooperates.mean())
        self._num_moves += len(paired)
        self._counts[0] += cooperates.sum()
        self._history[paired, self._round] = moves
        self._round += 1
        if THIRD_PARTY in self._turn:
            self._draw_judges(paired)

    def _draw_judges(self, paired: np.ndarray) -> None:
        """Of a random ring of pairs each is judged by the one before it: so everybody judges and is judged once."""
        one = self._random.permutation(paired[paired < self.partner[paired]])
        other = self.partner[one]
        ring = np.where(self._random.random(len(one))[:, None] < 0.5, np.c_[one, other], np.c_[other, one])
        self._judged = np.full(self.num_players, NOBODY)
        self._judged[ring] = np.roll(ring, -1, 0)

    def _punish(self, punishes: np.ndarray, whom: np.ndarray, rewards: np.ndarray) -> None:
        punishers = np.flatnonzero(punishes & (whom != NOBODY))
        victims = whom[punishers]
        is_just = self.moves[victims] != COOPERATION
        rewards[victims] -= self.penalty  # nobody is punished twice in one phase
        rewards[punishers] += np.where(is_just, self.just, self.unjust)
        self.reputations[punishers] += np.where(is_just, BY_JUST_PUNISHMENT, BY_UNJUST_PUNISHMENT)
        self._counts[1:] += is_just.sum(), (~is_just).sum()
        self._punished[victims, self._round - 1] += 1

    # What is observed, and what came.

    def _names(self, partner_selection: bool) -> tuple[str, ...]:
        def known(whose: str) -> list[str]:
            moves = [f"{whose}_move_{move}" for move in range(len(self.payoffs))]
            return [*moves, f"{whose}_reputation"] if self.reputation else moves

        judged = [f"{whose}_move_{move}" for whose in ("judged", "against") for move in range(len(self.payoffs))]
        candidates = range(self.num_candidates if partner_selection else 0)
        return (
            *(f"phase_{phase}" for phase in PHASES),
            *known("own"),
            *known("partner"),
            *judged,
            *(name for candidate in candidates for name in known(f"candidate_{candidate}")),
        )

    def _phase(self) -> np.ndarray:
        return np.array([self.phase == phase for phase in PHASES], float)

    def _one_hot(self, moves: np.ndarray) -> np.ndarray:
        return (moves[..., None] == np.arange(len(self.payoffs))).astype(float)

    def _reputation(self) -> np.ndarray:
        """Of every player, per round so far, float64 [players, 1], or [players, 0] where there is none."""
        return (self.reputations / max(self._round, 1))[:, None][:, : int(self.reputation)]

    def _choices(self) -> np.ndarray:
        """Number of choices of each player in this phase, int64 [players]."""
        if self.phase == SELECT:
            return np.full(self.num_players, self.num_candidates)
        number = len(self.payoffs) if self.phase == PLAY else 2
        about = self._judged if self.phase == THIRD_PARTY else self.partner
        return np.where(about == NOBODY, 1, number)

    def _observations(self) -> Observations:
        players, moves = self.num_players, len(self.payoffs)
        known = np.zeros((players + 1, moves + self.reputation), np.float32)  # the last row is NOBODY's
        known[:players] = np.concatenate([self._one_hot(self.moves), self._reputation()], 1)
        nobody = np.full(players, NOBODY)
        judged = {DIRECT: self.partner, THIRD_PARTY: self._judged}.get(self.phase, nobody)
        against = np.append(self.partner, NOBODY)[judged]
        parts = [known[:players], known[self.partner], known[judged, :moves], known[against, :moves]]
        if self.phase == SELECT:
            parts.append(known[self._candidates].reshape(players, -1))
        rows = np.zeros((players, len(self.observation_names)), np.float32)
        rows[:, : len(PHASES)] = self._phase()
        told = np.concatenate(parts, 1)
        rows[:, len(PHASES) : len(PHASES) + told.shape[1]] = told
        masks = (np.arange(self._num_choices) < self._choices()[:, None]).astype(np.int8)
        return {
            agent: {"observation": row, MASK: mask}
            for agent, row, mask in zip(self.possible_agents, rows, masks, strict=True)
        }

    def _given(self, actions: Mapping[str, int]) -> np.ndarray:
        """Every player's action, int64 [players]."""
        if not self.agents:
            raise EnvironmentFault(f"{self.name} needs reset() before step(): no player lives.")
        strangers = [agent for agent in actions if agent not in self.action_spaces]
        if strangers:
            known = f"player_0 … player_{self.num_players - 1}"
            raise EnvironmentFault(
                f"{self.name} got an action of {strangers[0]!r}: its agents are {known}.", kind="protocol"
            )
        given = [actions.get(agent) for agent in self.agents]
        for agent, action in zip(self.agents, given, strict=True):
            if not isinstance(action, int | np.integer) or not 0 <= action < self._num_choices:
                raise EnvironmentFault(
                    f"{self.name} needs of agent {agent!r} a whole number from 0 to {self._num_choices - 1}, "
                    f"got {action!r}.",
                    kind="protocol",
                )
        return np.array(given)


def _matrix(owner: str, payoffs: Any) -> np.ndarray:
    """Payoffs, float64 [moves, moves]."""
    try:
        matrix = np.array(payoffs, float)
    except (TypeError, ValueError):
        matrix = np.zeros(0)
    if matrix.ndim != 2 or len(matrix) < 2 or matrix.shape[0] != matrix.shape[1] or not np.isfinite(matrix).all():
        raise ConfigError(
            f"{owner} needs payoffs to be a square matrix of finite numbers, at least 2 by 2, got {payoffs!r}: row by "
            "row what a player gets for its move against each of the partner's."
        )
    return matrix
