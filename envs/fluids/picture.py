"""Populations and the bodies' shapes in, an rgb image out: plain numpy, so that a frame costs milliseconds."""

import itertools
import math
from collections.abc import Sequence

import numpy as np

from distrl.envs.fluids import lattice

WIDTH = 576  # pixels along the stream; the height follows from the domain
_RANGE = 6.0  # vorticity in U/L at which a colour is nearly full
_QUIET = 1.5  # vorticity in U/L below which colours fade: sound waves are weaker than that, the wake is not

# Clockwise, none, anticlockwise: from ice blue over a dark ground to amber.
_STOPS = np.array([[120, 210, 255], [28, 98, 190], [12, 15, 26], [196, 74, 28], [255, 214, 120]], np.float32)
_TABLE = np.stack([np.interp(np.linspace(0, 4, 256), range(5), _STOPS[:, c]) for c in range(3)], 1).astype(np.float32)
_FIN_COLOUR = np.array([250, 250, 245], np.float32)
_BODY_COLOUR = np.array([150, 156, 168], np.float32)


def vorticity(populations: np.ndarray) -> np.ndarray:
    """Vorticity ``[nx, ny]`` of collided populations, per lattice step."""
    _, ux, uy = lattice.fields(populations)
    return np.gradient(uy, axis=0) - np.gradient(ux, axis=1)


def _enlarged(values: np.ndarray, axis: int, size: int) -> np.ndarray:
    """Values interpolated linearly to ``size`` points along an axis, cell centres to pixel centres."""
    n = values.shape[axis]
    at = np.clip((np.arange(size) + 0.5) * n / size - 0.5, 0, n - 1)
    low = np.minimum(at.astype(int), n - 2)
    part = (at - low).astype(np.float32)
    part = part[:, None] if axis == 0 else part[None, :]
    return values.take(low, axis) * (1 - part) + values.take(low + 1, axis) * part


def flow(
    populations: np.ndarray,
    time_scale: float,
    *,
    lines: Sequence[np.ndarray] = (),
    outlines: Sequence[np.ndarray] = (),
    gauges: Sequence[float] | np.ndarray = (),
) -> np.ndarray:
    """An image, uint8 [height, WIDTH, 3], of vorticity and bodies, with actuations as bars at the lower edge.

    Args:
        populations: ``[9, nx + 2, ny + 2]``.
        time_scale: the case's time unit in lattice steps, which makes the vorticity non-dimensional.
        lines: thin bodies, float64 [nodes, 2] each, in array indices.
        outlines: closed bodies, convex, float64 [nodes, 2] each, in array indices.
        gauges: one bar for each actuator, in [-1, 1].
    """
    field = (vorticity(populations) * time_scale).astype(np.float32)
    nx, ny = field.shape
    scale = WIDTH / nx
    height = 2 * round(ny * scale / 2)
    field = _enlarged(_enlarged(field, 0, WIDTH), 1, height)
    field *= np.abs(field) / (np.abs(field) + _QUIET)
    index = (127.5 + 127.5 * np.tanh(field / _RANGE)).astype(np.uint8)
    image = _TABLE[index.T[::-1]]

    def pixels(points: np.ndarray) -> np.ndarray:
        return np.stack([(points[:, 0] - 0.5) * scale, height - (points[:, 1] - 0.5) * scale], 1)

    for outline in outlines:
        _fill(image, pixels(outline), _BODY_COLOUR)
    for line in lines:
        _draw_line(image, pixels(line), 7.0, _STOPS[2])
        _draw_line(image, pixels(line), 3.4, _FIN_COLOUR)
    slot = WIDTH // max(len(gauges), 1)
    reach = min(int(0.15 * WIDTH), int(0.4 * slot))
    for number, value in enumerate(gauges):
        middle = slot // 2 + number * slot
        end = middle + int(reach * float(value))
        image[height - 12 : height - 10, middle - reach : middle + reach] = _FIN_COLOUR * 0.25
        image[height - 14 : height - 8, min(middle, end) : max(middle, end) + 2] = _FIN_COLOUR
    return image.astype(np.uint8)


def _fill(image: np.ndarray, points: np.ndarray, colour: np.ndarray) -> None:
    """Blend a convex polygon, float [n, 2] in pixels (column, row), into the image."""
    x0, y0 = np.maximum(np.floor(points.min(0)).astype(int) - 1, 0)
    x1, y1 = np.ceil(points.max(0)).astype(int) + 1
    part = image[y0:y1, x0:x1]
    rows, columns = np.mgrid[y0 : y0 + part.shape[0], x0 : x0 + part.shape[1]].astype(np.float32) + 0.5
    middle = points.mean(0)
    depth = np.full(part.shape[:2], np.inf, np.float32)  # pixels inside the nearest edge
    for (ax, ay), (bx, by) in itertools.pairwise(np.vstack([points, points[:1]])):
        normal = np.array([ay - by, bx - ax]) / max(math.hypot(bx - ax, by - ay), 1e-9)
        inward = np.sign(normal @ (middle - (ax, ay)))
        depth = np.minimum(depth, inward * (normal[0] * (columns - ax) + normal[1] * (rows - ay)))
    cover = np.clip(depth + 0.5, 0, 1)[..., None]
    part[:] = part * (1 - cover) + colour * cover


def _draw_line(image: np.ndarray, points: np.ndarray, width: float, colour: np.ndarray) -> None:
    """Blend an anti-aliased polyline, float [n, 2] in pixels (column, row), into the image."""
    margin = int(width) + 2
    x0, y0 = np.maximum(np.floor(points.min(0)).astype(int) - margin, 0)
    x1, y1 = np.ceil(points.max(0)).astype(int) + margin
    part = image[y0:y1, x0:x1]
    if not part.size:
        return
    rows, columns = np.mgrid[y0 : y0 + part.shape[0], x0 : x0 + part.shape[1]].astype(np.float32) + 0.5
    distance = np.full(part.shape[:2], np.inf, np.float32)
    for (ax, ay), (bx, by) in itertools.pairwise(points):
        length = max((bx - ax) ** 2 + (by - ay) ** 2, 1e-12)
        along = np.clip(((columns - ax) * (bx - ax) + (rows - ay) * (by - ay)) / length, 0, 1)
        distance = np.minimum(distance, np.hypot(columns - ax - along * (bx - ax), rows - ay - along * (by - ay)))
    cover = np.clip(width / 2 + 0.5 - distance, 0, 1)[..., None]
    part[:] = part * (1 - cover) + colour * cover
