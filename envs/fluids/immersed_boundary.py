"""Marker positions and a velocity field in, marker velocities out; marker forces in, a force field out.

The three-point kernel of Roma, Peskin & Berger, J. Comput. Phys. 153 (1999), on cell centres. Markers ``[n, 2]`` are in
array indices (ghost cell = 0), float64; a marker's force is the momentum it gives the fluid per lattice step.
"""

import math

import numba as nb


@nb.njit(cache=True, inline="always")
def _inner(r):  # pragma: no cover
    """Weight at distance |r| <= 1/2."""
    return (1.0 + math.sqrt(max(0.0, 1.0 - 3.0 * r * r))) / 3.0


@nb.njit(cache=True)
def kernel_weights(markers, nodes, weights):  # pragma: no cover
    """Write the centre cell of each marker, ``nodes`` int64 ``[n, 2]``, and its weights float64 ``[n, 2, 3]``."""
    for i in range(markers.shape[0]):
        for axis in range(2):
            centre = math.floor(markers[i, axis] + 0.5)
            r = markers[i, axis] - centre
            middle = _inner(r)
            nodes[i, axis] = centre
            # The three weights follow from the middle one, sum = 1 and first moment = r.
            weights[i, axis, 0] = 0.5 * (1.0 - middle - r)
            weights[i, axis, 1] = middle
            weights[i, axis, 2] = 0.5 * (1.0 - middle + r)


@nb.njit(cache=True)
def interpolate(ux, uy, nodes, weights, velocity):  # pragma: no cover
    """Write ``velocity`` float64 ``[n, 2]`` of the fluid at the markers."""
    for i in range(nodes.shape[0]):
        x, y = nodes[i, 0], nodes[i, 1]
        vx = 0.0
        vy = 0.0
        for p in range(3):
            for q in range(3):
                w = weights[i, 0, p] * weights[i, 1, q]
                vx += w * ux[x + p - 1, y + q - 1]
                vy += w * uy[x + p - 1, y + q - 1]
        velocity[i, 0] = vx
        velocity[i, 1] = vy


@nb.njit(cache=True)
def spread(force, nodes, weights, fx, fy, scale):  # pragma: no cover
    """Add ``scale`` times the marker forces float64 ``[n, 2]`` to the fields ``fx, fy`` ``[nx + 2, ny + 2]``."""
    for i in range(nodes.shape[0]):
        x, y = nodes[i, 0], nodes[i, 1]
        px, py = scale * force[i, 0], scale * force[i, 1]
        for p in range(3):
            for q in range(3):
                w = weights[i, 0, p] * weights[i, 1, q]
                fx[x + p - 1, y + q - 1] += w * px
                fy[x + p - 1, y + q - 1] += w * py


@nb.njit(cache=True)
def support(nodes, nx, ny):  # pragma: no cover
    """The box ``(x0, x1, y0, y1)`` of the cells that the markers touch, half open; empty if one leaves the interior."""
    x0, x1, y0, y1 = nodes[0, 0], nodes[0, 0], nodes[0, 1], nodes[0, 1]
    for i in range(1, nodes.shape[0]):
        x0 = min(x0, nodes[i, 0])
        x1 = max(x1, nodes[i, 0])
        y0 = min(y0, nodes[i, 1])
        y1 = max(y1, nodes[i, 1])
    if x0 < 2 or y0 < 2 or x1 > nx - 1 or y1 > ny - 1:
        return 0, 0, 0, 0
    return x0 - 1, x1 + 2, y0 - 1, y1 + 2
