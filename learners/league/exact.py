"""A policy for tic-tac-toe in, exact numbers by full tree search out: NashConv, outcomes, and the perfect player (numpy
only).

The game is ``pettingzoo.classic.tictactoe_v3``: a policy sees ``observation`` int8 [N, 3, 3, 2] (its marks, the
other's) and ``action_mask`` int8 [N, 9], and gives probabilities [N, 9]. The first to move is seat 0. A win pays 1,
a loss −1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from distrl.core.errors import ConfigError

Policy = Callable[[np.ndarray, np.ndarray], np.ndarray]

_LINES = np.array([[0, 1, 2], [3, 4, 5], [6, 7, 8], [0, 3, 6], [1, 4, 7], [2, 5, 8], [0, 4, 8], [2, 4, 6]])
_POWERS = 3 ** np.arange(9)
_ILLEGAL = 1e-6  # probability that rounding may leave on moves that are not allowed


class Outcome(NamedTuple):
    """Probabilities of the first player's result."""

    win: float
    draw: float
    loss: float


@dataclass(frozen=True)
class _Tree:
    """All positions in which somebody is to move, in the order of their marks.

    Attributes:
        squares: int8 [S, 9]: 1 the mover's, 2 the other's. ply: int64 [S], marks on the board.
        child: int64 [S, 9], the position after a move; −1 where it is not allowed or ends the game.
        legal, wins: bool [S, 9].
    """

    squares: np.ndarray
    ply: np.ndarray
    child: np.ndarray
    legal: np.ndarray
    wins: np.ndarray

    @property
    def observation(self) -> np.ndarray:
        """int8 [S, 3, 3, 2]."""
        return np.stack([self.squares == 1, self.squares == 2], -1).astype(np.int8).reshape(-1, 3, 3, 2)

    def backwards(self) -> Iterator[np.ndarray]:
        """Positions with 8 marks, then those with 7, …"""
        for ply in range(8, -1, -1):
            yield np.flatnonzero(self.ply == ply)


def nash_conv(policy: Policy, second: Policy | None = None) -> float:
    """What best responses gain against a pair of policies, added up over both seats (Lanctot et al. 2017, arXiv
    1711.00832): 0 for perfect play, 1.92 for ``uniform``, at most 4.

    Args:
        policy: of both seats, or of seat 0 where ``second`` is given.

    Raises:
        ConfigError: see ``best_response``.
    """
    return best_response(second or policy, seat=0) + best_response(policy, seat=1)


def best_response(policy: Policy, seat: int) -> float:
    """Expected payoff of the best player in that seat against ``policy`` in the other.

    Raises:
        ConfigError: its probabilities are not finite, do not add up to 1, or lie on moves that are not allowed.
    """
    tree = _tree()
    probabilities = _probabilities(policy)
    value = np.zeros(len(tree.ply))
    for now in tree.backwards():
        worth = _worth(tree, now, value)
        best = np.where(tree.legal[now], worth, -np.inf).max(1)
        mean = (probabilities[now] * worth).sum(1)
        value[now] = np.where(tree.ply[now] % 2 == seat, best, mean)
    return float(value[0] if seat == 0 else -value[0])


def outcome(first: Policy, second: Policy) -> Outcome:
    """How games of these two end.

    Raises:
        ConfigError: see ``best_response``.
    """
    tree = _tree()
    seats = np.where((tree.ply % 2 == 0)[:, None], _probabilities(first), _probabilities(second))
    result = np.zeros((len(tree.ply), 2))  # P(the mover wins), P(it loses)
    for now in tree.backwards():
        after = np.where((tree.child[now] >= 0)[..., None], result[tree.child[now]][..., ::-1], 0.0)
        after[..., 0] += tree.wins[now]
        result[now] = (seats[now][..., None] * after).sum(1)
    win, loss = result[0].tolist()
    return Outcome(win, 1.0 - win - loss, loss)


def perfect(observation: np.ndarray, action_mask: np.ndarray) -> np.ndarray:
    """The perfect player: any of the moves that minimax finds best, each as likely.

    Raises:
        ConfigError: a board that no game leads to.
    """
    tree, best = _tree(), _perfect_moves()
    marks = observation.reshape(-1, 9, 2).astype(np.int64)
    keys = (marks[..., 0] + 2 * marks[..., 1]) @ _POWERS
    known = tree.squares.astype(np.int64) @ _POWERS
    order = np.argsort(known)
    at = order[np.minimum(np.searchsorted(known, keys, sorter=order), len(known) - 1)]
    if not np.array_equal(known[at], keys):
        raise ConfigError("a perfect player needs boards of tic-tac-toe, the mover's marks first; this is none")
    return best[at] / best[at].sum(1, keepdims=True)


def acting(policy: Any, deterministic: bool = True) -> Policy:
    """A ``distrl.core.contracts.Policy`` without memory.

    Args:
        deterministic: it was built so, and what it does has probability 1; else it tells its ``probabilities``
            (``distrl.learners.actor_policies.ActorPolicy``).
    """

    def chances(observation: np.ndarray, action_mask: np.ndarray) -> np.ndarray:
        rows = len(observation)
        seen = {"observation": observation, "action_mask": action_mask}
        if not deterministic:
            return policy.probabilities(seen)
        action, _, _ = policy.step(seen, policy.initial_state(rows), np.ones(rows, bool))
        return np.eye(9)[policy.env_action(action).reshape(rows)]

    return chances


def uniform(observation: np.ndarray, action_mask: np.ndarray) -> np.ndarray:
    """Any move that is allowed, each as likely."""
    return action_mask / action_mask.sum(1, keepdims=True)


@cache
def _perfect_moves() -> np.ndarray:
    """bool [S, 9]."""
    tree = _tree()
    value, moves = np.zeros(len(tree.ply)), np.zeros((len(tree.ply), 9), bool)
    for now in tree.backwards():
        worth = np.where(tree.legal[now], _worth(tree, now, value), -np.inf)
        value[now] = worth.max(1)
        moves[now] = worth == value[now][:, None]
    return moves


def _worth(tree: _Tree, now: np.ndarray, value: np.ndarray) -> np.ndarray:
    """[N, 9]: of each move to the mover, from what positions are worth to theirs."""
    return np.where(tree.child[now] >= 0, -value[tree.child[now]], tree.wins[now])


def _probabilities(policy: Policy) -> np.ndarray:
    """[S, 9] of all positions, the policy being asked once."""
    tree = _tree()
    found = np.asarray(policy(tree.observation, tree.legal.astype(np.int8)), np.float64)
    if found.shape != tree.legal.shape or not np.isfinite(found).all() or found.min() < 0.0:
        raise ConfigError(
            f"a policy of tic-tac-toe needs probabilities of the shape {tree.legal.shape}, finite and not negative; "
            f"got {found.shape} from {found.min() if found.size else None} to {found.max() if found.size else None}"
        )
    illegal = np.where(tree.legal, 0.0, found).sum(1).max()
    off = np.abs(found.sum(1) - 1.0).max()
    if illegal > _ILLEGAL or off > 1e-4:
        raise ConfigError(
            f"a policy of tic-tac-toe needs probabilities that add up to 1 over the moves that are allowed; got "
            f"{illegal:.2g} on others in one position, and sums that are off by {off:.2g}"
        )
    legal = np.where(tree.legal, found, 0.0)
    return legal / legal.sum(1, keepdims=True)


@cache
def _tree() -> _Tree:
    layers = [np.zeros((1, 9), np.int8)]
    children, legals, winners = [], [], []
    first = 0  # number of the layer's first position
    for ply in range(9):
        squares = layers[ply]
        legal = squares == 0
        after = np.repeat(squares[:, None], 9, axis=1)  # [N, 9, 9]: the boards after each move
        after[:, range(9), range(9)] = 1
        wins = (after[..., _LINES] == 1).all(-1).any(-1) & legal
        goes_on = legal & ~wins & (ply < 8)
        following = np.array([0, 2, 1], np.int8)[after[goes_on]]  # as the other sees them
        first += len(squares)
        child = np.full(legal.shape, -1)
        if len(following):
            _, places, numbers = np.unique(following.astype(np.int64) @ _POWERS, return_index=True, return_inverse=True)
            layers.append(following[places])
            child[goes_on] = first + numbers
        children.append(child)
        legals.append(legal)
        winners.append(wins)
    ply_of = np.repeat(np.arange(9), [len(layer) for layer in layers])
    return _Tree(
        np.concatenate(layers), ply_of, np.concatenate(children), np.concatenate(legals), np.concatenate(winners)
    )
