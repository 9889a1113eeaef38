"""Curves, fields and actions in, rgb images out: plain numpy, so that a frame costs a millisecond."""

from __future__ import annotations

import numpy as np

WIDTH, HEIGHT = 480, 240  # pixels of a curve's image
GROUND = np.array([12, 15, 26], np.uint8)
CURVE = np.array([255, 214, 120], np.uint8)
GRID = np.array([52, 58, 78], np.uint8)
POSITIVE = np.array([232, 108, 60], np.uint8)
NEGATIVE = np.array([92, 170, 240], np.uint8)

# From cold to hot over a dark middle.
_STOPS = np.array([[120, 210, 255], [28, 98, 190], [12, 15, 26], [196, 74, 28], [255, 214, 120]], float)
_TABLE = np.stack([np.interp(np.linspace(0, 4, 256), range(5), _STOPS[:, c]) for c in range(3)], 1).astype(np.uint8)

BAR_HEIGHT = 24  # pixels of a full action, at the lower edge


def curve(values: np.ndarray, low: float, high: float, periodic: bool = False) -> np.ndarray:
    """An image, uint8 [HEIGHT, WIDTH, 3], of ``values``, float [n], over evenly spaced points; the middle is marked."""
    image = np.empty((HEIGHT, WIDTH, 3), np.uint8)
    image[:] = GROUND
    add_curve(image, [(low + high) / 2] * 2, low, high, GRID)
    return add_curve(image, np.append(values, values[0]) if periodic else values, low, high, CURVE)


def add_curve(
    image: np.ndarray, values: np.ndarray | list[float], low: float, high: float, colour: np.ndarray
) -> np.ndarray:
    """Draw ``values`` from the left edge to the right, ``low`` and ``high`` at the bars' and the upper edge."""
    space = HEIGHT - 2 * BAR_HEIGHT - 8
    at = np.interp(np.linspace(0, len(values) - 1, WIDTH + 1), np.arange(len(values)), values)
    rows = 4 + (1 - (np.clip(np.nan_to_num(at), low, high) - low) / (high - low)) * space
    first, last = np.minimum(rows[1:], rows[:-1]) - 1, np.maximum(rows[1:], rows[:-1]) + 1
    row = np.arange(HEIGHT)[:, None]
    image[(row >= first) & (row <= last)] = colour
    return image


def bars(image: np.ndarray, places: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Draw actions, float [n] in [-1, 1], as bars at ``places``, float [n] in [0, 1) of the image's width."""
    middle = image.shape[0] - BAR_HEIGHT - 2
    image[middle, :] = GRID
    for place, value in zip(places, values, strict=True):
        left = int(np.clip(place * image.shape[1] - 4, 0, image.shape[1] - 8))
        top = round(middle - np.clip(value, -1, 1) * BAR_HEIGHT)
        image[min(top, middle) : max(top, middle) + 1, left : left + 8] = POSITIVE if value > 0 else NEGATIVE
    return image


def heat(field: np.ndarray, low: float, high: float, scale: int) -> np.ndarray:
    """An image, uint8 [ny scale, nx scale, 3], of ``field``, float [nx, ny], y upwards, each value a square."""
    index = np.clip(255 * (field - low) / (high - low), 0, 255).astype(np.uint8)
    return _TABLE[index.T[::-1]].repeat(scale, 0).repeat(scale, 1)
