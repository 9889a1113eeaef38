"""Who meets whom, from a league's learner through the parameter server to the env workers that begin its episodes.

A player is a policy that learns, by its name, or a snapshot of one, ``main:000123``: its weights under that version.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from distrl.core.types import Weights

Table = dict[str, float]  # player → probability

MATCHUPS = ":matchups"  # what they are published as: no policy's name has a colon
_BETWEEN = "/"  # player/opponent


@dataclass(frozen=True)
class Matchups:
    """Whoever begins an episode draws a player, then its opponent.

    Attributes:
        players: whose turn it is to play. One that is a snapshot plays to be measured, and nobody learns.
        opponents: of each of these.
    """

    players: Table
    opponents: dict[str, Table]

    def names(self) -> set[str]:
        """Everybody who can be drawn."""
        return set(self.players).union(*self.opponents.values())

    def weights(self) -> Weights:
        """As a parameter server holds them: ``player`` and ``player/opponent`` → float64 []."""
        found = {player: np.array(probability) for player, probability in self.players.items()}
        for player, table in self.opponents.items():
            found |= {f"{player}{_BETWEEN}{one}": np.array(probability) for one, probability in table.items()}
        return found

    @staticmethod
    def of_weights(weights: Weights) -> Matchups:
        """What ``weights`` gave."""
        players: Table = {}
        opponents: dict[str, Table] = {}
        for key, probability in weights.items():
            player, between, opponent = key.partition(_BETWEEN)
            if between:
                opponents.setdefault(player, {})[opponent] = float(probability)
            else:
                players[player] = float(probability)
        return Matchups(players, opponents)


def is_snapshot(player: str) -> bool:
    """Whether the name is a snapshot's, whose weights never change."""
    return ":" in player


def policy_of(player: str) -> str:
    """Whose weights they are or were."""
    return player.partition(":")[0]


def draw(table: Mapping[str, float], rng: np.random.Generator) -> str:
    """One of them; probabilities need not add up to 1."""
    chances = np.fromiter(table.values(), np.float64, len(table))
    return list(table)[rng.choice(len(chances), p=chances / chances.sum())]
