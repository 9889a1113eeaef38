"""A population's moves, punishments and reputations in, an rgb image out: a row for each player, a column a round."""

from __future__ import annotations

import numpy as np

from distrl.envs.dynamics.picture import CURVE, GRID, GROUND, NEGATIVE, POSITIVE

WIDTH, HEIGHT = 480, 240  # about; at least a pixel for each player and round
_BARS = 120  # pixels beside the moves for the reputations
_COLOURS = np.stack([GROUND, CURVE, NEGATIVE])  # not played yet or sitting out, cooperated, defected


def population(moves: np.ndarray, punished: np.ndarray, reputations: np.ndarray) -> np.ndarray:
    """An image, uint8 [even, even, 3].

    Args:
        moves: int [players, rounds], −1 where there is none; 0 is cooperation (amber), all others defection (blue).
        punished: int [players, rounds], how often; those who were have a red lower half.
        reputations: float [players], bars at the right, to either side of their middle.
    """
    players, rounds = moves.shape
    tall, wide = max(2, 2 * round(HEIGHT / players / 2)), max(1, round(WIDTH / rounds))
    cells = _COLOURS[np.clip(moves + 1, 0, 2)]
    image = cells.repeat(tall, 0).repeat(wide, 1)
    lower = (np.arange(players * tall) % tall >= tall // 2)[:, None]
    image[lower & punished.repeat(tall, 0).repeat(wide, 1).astype(bool)] = POSITIVE
    bars = np.empty((len(image), _BARS + image.shape[1] % 2, 3), np.uint8)
    bars[:] = GROUND
    middle = bars.shape[1] // 2
    bars[:, middle] = GRID
    reach = np.round(reputations / max(np.abs(reputations).max(), 1.0) * (middle - 6)).astype(int).repeat(tall)
    across = np.arange(bars.shape[1]) - middle
    gap = (np.arange(len(image)) % tall < max(1, tall - max(tall // 6, 1)))[:, None]
    bars[gap & (across > 0) & (across <= reach[:, None])] = CURVE
    bars[gap & (across < 0) & (across >= reach[:, None])] = NEGATIVE
    return np.concatenate([image, bars], 1)
