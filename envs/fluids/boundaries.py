"""Collided populations in, their ghost cells filled: what the fluid meets at each edge of the domain.

Every function writes the ghost layer of ``f`` ``[9, nx + 2, ny + 2]`` so that the next streaming step pulls the right
populations. Walls lie half a cell outside the outermost cell centres. The sides are filled for the rows ``x0`` to
``x1`` (half open, ghost rows counted): each reads its own row of cells only.
"""

import numba as nb


@nb.njit(cache=True)
def fill_slip_sides(f, x0, x1):  # pragma: no cover
    """Specular reflection at both y edges: no flow through them and no friction. With periodic x edges fill those
    first: the corners reflect them."""
    ny = f.shape[2] - 2
    for x in range(x0, x1):
        f[2, x, 0] = f[4, x, 1]
        f[5, x, 0] = f[8, x, 1]
        f[6, x, 0] = f[7, x, 1]
        f[4, x, ny + 1] = f[2, x, ny]
        f[8, x, ny + 1] = f[5, x, ny]
        f[7, x, ny + 1] = f[6, x, ny]


@nb.njit(cache=True)
def fill_no_slip_sides(f, x0, x1):  # pragma: no cover
    """Half-way bounce-back at both y edges: resting walls. For walls between periodic x edges fill those first."""
    nx, ny = f.shape[1] - 2, f.shape[2] - 2
    for x in range(max(x0, 1), min(x1, nx + 1)):
        f[2, x, 0] = f[4, x, 1]
        f[5, x - 1, 0] = f[7, x, 1]
        f[6, x + 1, 0] = f[8, x, 1]
        f[4, x, ny + 1] = f[2, x, ny]
        f[7, x + 1, ny + 1] = f[5, x, ny]
        f[8, x - 1, ny + 1] = f[6, x, ny]


@nb.njit(cache=True)
def fill_periodic_x(f):  # pragma: no cover
    """What leaves through one x edge comes in through the other."""
    nx = f.shape[1] - 2
    for k in range(9):
        for y in range(f.shape[2]):
            f[k, 0, y] = f[k, nx, y]
            f[k, nx + 1, y] = f[k, 1, y]


@nb.njit(cache=True)
def fill_periodic_y(f):  # pragma: no cover
    """What leaves through one y edge comes in through the other; called after ``fill_periodic_x``."""
    ny = f.shape[2] - 2
    for k in range(9):
        for x in range(f.shape[1]):
            f[k, x, 0] = f[k, x, ny]
            f[k, x, ny + 1] = f[k, x, 1]


@nb.njit(cache=True)
def fill_velocity_inlet(f, speed, profile):  # pragma: no cover
    """Velocity ``(speed * profile, 0)`` at the low x edge, by bounce-back from a moving wall (Ladd 1994).

    ``profile`` float64 [ny + 2] is taken half way along each link. Equilibrium and extrapolation inlets diverge at the
    relaxation times used here; this one conserves mass exactly.
    """
    straight = 6 * speed / 9
    diagonal = 3 * speed / 36
    for y in range(1, f.shape[2] - 1):
        f[1, 0, y] = f[3, 1, y] + f.dtype.type(straight * profile[y])
        f[5, 0, y - 1] = f[7, 1, y] + f.dtype.type(diagonal * (profile[y] + profile[y - 1]))
        f[8, 0, y + 1] = f[6, 1, y] + f.dtype.type(diagonal * (profile[y] + profile[y + 1]))


@nb.njit(cache=True)
def fill_pressure_outlet(f):  # pragma: no cover
    """Density 1 at the high x edge, by anti-bounce-back with the velocity of the last cell (Ginzburg et al. 2008)."""
    nx = f.shape[1] - 2
    one = f.dtype.type(1)
    for y in range(1, f.shape[2] - 1):
        h0, h1, h2, h3, h4 = f[0, nx, y], f[1, nx, y], f[2, nx, y], f[3, nx, y], f[4, nx, y]
        h5, h6, h7, h8 = f[5, nx, y], f[6, nx, y], f[7, nx, y], f[8, nx, y]
        density = one + h0 + h1 + h2 + h3 + h4 + h5 + h6 + h7 + h8
        ux = (h1 - h3 + h5 - h6 - h7 + h8) / density
        uy = (h2 - h4 + h5 + h6 - h7 - h8) / density
        uu = f.dtype.type(1.5) * (ux * ux + uy * uy)
        nine_halves = f.dtype.type(4.5)
        f[3, nx + 1, y] = -h1 + f.dtype.type(2 / 9) * (nine_halves * ux * ux - uu)
        f[7, nx + 1, y + 1] = -h5 + f.dtype.type(2 / 36) * (nine_halves * (ux + uy) * (ux + uy) - uu)
        f[6, nx + 1, y - 1] = -h8 + f.dtype.type(2 / 36) * (nine_halves * (ux - uy) * (ux - uy) - uu)
