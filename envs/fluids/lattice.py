"""Populations in, populations out: the D2Q9 two-relaxation-time collision fused with streaming, and the fields it
carries.

Populations are stored as deviations ``h_k = f_k - w_k`` from the fluid at rest, which keeps single precision accurate
at low Mach number (Skordos, Phys. Rev. E 48, 1993). An array of populations has shape ``[9, nx + 2, ny + 2]``, float32
or float64, with one ghost cell on every edge that ``boundaries`` fills; all lengths are in cells, times in lattice
steps and densities relative to 1. Velocities of the lattice, by index k:

    6 2 5        c_0 = (0, 0), c_1 = (1, 0), c_2 = (0, 1), c_3 = (-1, 0), c_4 = (0, -1),
    3 0 1        c_5 = (1, 1), c_6 = (-1, 1), c_7 = (-1, -1), c_8 = (1, -1)
    7 4 8

Collision: Ginzburg, Verhaeghe & d'Humieres, Commun. Comput. Phys. 3 (2008); forcing: Guo, Zheng & Shi, Phys. Rev. E 65
(2002). The even rate sets the viscosity nu = (1 / omega_even - 1/2) / 3, the odd one the magic number
Lambda = (1 / omega_even - 1/2) (1 / omega_odd - 1/2).
"""

import numba as nb
import numpy as np

WEIGHTS = np.array([4 / 9, 1 / 9, 1 / 9, 1 / 9, 1 / 9, 1 / 36, 1 / 36, 1 / 36, 1 / 36])
VELOCITIES = np.array([[0, 0], [1, 0], [0, 1], [-1, 0], [0, -1], [1, 1], [-1, 1], [-1, -1], [1, -1]])
SOUND_SPEED = 1 / np.sqrt(3.0)

# Contracting a*b+c and reciprocal division change rounding only; NaN must survive, because the guards look for it.
_FAST = {"contract", "arcp", "nsz"}


def relaxation_rates(viscosity: np.ndarray, magic: float, dtype: type = np.float32) -> np.ndarray:
    """Rates ``[2, nx + 2]`` (even, odd) for a kinematic viscosity ``[nx + 2]`` in cells²/step, constant along y."""
    even = 3.0 * np.asarray(viscosity, dtype=np.float64)
    return np.stack([1 / (0.5 + even), 1 / (0.5 + magic / even)]).astype(dtype)


def equilibrium(density: np.ndarray, ux: np.ndarray, uy: np.ndarray, dtype: type = np.float32) -> np.ndarray:
    """Second-order equilibrium deviations ``[9, *shape]`` of fields of one shape (ghost cells included)."""
    density, ux, uy = np.broadcast_arrays(density, ux, uy)
    out = np.empty((9, *density.shape), dtype)
    for k, ((cx, cy), w) in enumerate(zip(VELOCITIES, WEIGHTS, strict=True)):
        cu = cx * ux + cy * uy
        out[k] = w * ((density - 1) + density * (3 * cu + 4.5 * cu**2 - 1.5 * (ux**2 + uy**2)))
    return out


# The nine populations are passed as separate arrays: only then can LLVM prove which loads and stores are independent
# and use the full vector width (five times faster than indexing one three-dimensional array).
@nb.njit(cache=True, fastmath=_FAST, error_model="numpy")
def _collide(a0, a1, a2, a3, a4, a5, a6, a7, a8, b0, b1, b2, b3, b4, b5, b6, b7, b8, rates, const):  # pragma: no cover
    half, one, three_halves, three, nine_halves, w0, w1, w2 = const
    for x in range(1, a0.shape[0] - 1):
        even = half * rates[0, x]
        odd = half * rates[1, x]
        for y in range(1, a0.shape[1] - 1):
            h0 = a0[x, y]
            h1 = a1[x - 1, y]
            h2 = a2[x, y - 1]
            h3 = a3[x + 1, y]
            h4 = a4[x, y + 1]
            h5 = a5[x - 1, y - 1]
            h6 = a6[x + 1, y - 1]
            h7 = a7[x + 1, y + 1]
            h8 = a8[x - 1, y + 1]
            s1 = h1 + h3
            s2 = h2 + h4
            s5 = h5 + h7
            s6 = h6 + h8
            d1 = h1 - h3
            d2 = h2 - h4
            d5 = h5 - h7
            d6 = h6 - h8
            excess = h0 + (s1 + s2) + (s5 + s6)
            jx = d1 + (d5 - d6)
            jy = d2 + (d5 + d6)
            inverse = one / (one + excess)
            ux = jx * inverse
            uy = jy * inverse
            base = excess - three_halves * (jx * ux + jy * uy)
            qx = nine_halves * jx * ux
            qy = nine_halves * jy * uy
            qxy = (nine_halves + nine_halves) * jx * uy
            lx = three * jx
            ly = three * jy
            e1 = even * (s1 - (w1 + w1) * (base + qx))
            e2 = even * (s2 - (w1 + w1) * (base + qy))
            e5 = even * (s5 - (w2 + w2) * (base + qx + qy + qxy))
            e6 = even * (s6 - (w2 + w2) * (base + qx + qy - qxy))
            o1 = odd * (d1 - (w1 + w1) * lx)
            o2 = odd * (d2 - (w1 + w1) * ly)
            o5 = odd * (d5 - (w2 + w2) * (lx + ly))
            o6 = odd * (d6 - (w2 + w2) * (ly - lx))
            b0[x, y] = h0 - (even + even) * (h0 - w0 * base)
            b1[x, y] = h1 - e1 - o1
            b2[x, y] = h2 - e2 - o2
            b3[x, y] = h3 - e1 + o1
            b4[x, y] = h4 - e2 + o2
            b5[x, y] = h5 - e5 - o5
            b6[x, y] = h6 - e6 - o6
            b7[x, y] = h7 - e5 + o5
            b8[x, y] = h8 - e6 + o6


@nb.njit(cache=True, inline="always")
def _constants(const):  # pragma: no cover
    """The numbers of the collision in the populations' own precision (a literal would promote float32 to float64)."""
    return const[0], const[1], const[2], const[3], const[4], const[5], const[6], const[7]


def kernel_constants(dtype: type) -> np.ndarray:
    """The array ``[8]`` that every kernel takes as ``const``."""
    return np.array([0.5, 1.0, 1.5, 3.0, 4.5, 4 / 9, 1 / 9, 1 / 36], dtype)


@nb.njit(cache=True)
def collide(f, out, rates, const, x0, x1):  # pragma: no cover
    """Stream ``f`` into the rows ``x0`` to ``x1`` (half open) of the interior of ``out`` and collide there, without
    forces."""
    rows = slice(x0 - 1, x1 + 1)  # a view, not bounds: numba takes those for possibly negative, a fifth slower
    _collide(
        f[0][rows], f[1][rows], f[2][rows], f[3][rows], f[4][rows], f[5][rows], f[6][rows], f[7][rows], f[8][rows],
        out[0][rows], out[1][rows], out[2][rows], out[3][rows], out[4][rows], out[5][rows], out[6][rows], out[7][rows],
        out[8][rows], rates[:, rows], _constants(const),
    )  # fmt: skip


@nb.njit(cache=True, fastmath=_FAST, error_model="numpy")
def streamed_fields(f, density, ux, uy, box):  # pragma: no cover
    """Write density and force-free velocity after streaming, each ``[nx + 2, ny + 2]``, in the cells of ``box``.

    ``box`` is ``(x0, x1, y0, y1)``, half open, in array indices.
    """
    f0, f1, f2, f3, f4, f5, f6, f7, f8 = f[0], f[1], f[2], f[3], f[4], f[5], f[6], f[7], f[8]
    for x in range(box[0], box[1]):
        for y in range(box[2], box[3]):
            h1 = f1[x - 1, y]
            h2 = f2[x, y - 1]
            h3 = f3[x + 1, y]
            h4 = f4[x, y + 1]
            h5 = f5[x - 1, y - 1]
            h6 = f6[x + 1, y - 1]
            h7 = f7[x + 1, y + 1]
            h8 = f8[x - 1, y + 1]
            rho = f0[x, y] + h1 + h2 + h3 + h4 + h5 + h6 + h7 + h8 + ux.dtype.type(1)
            density[x, y] = rho
            ux[x, y] = (h1 - h3 + h5 - h6 - h7 + h8) / rho
            uy[x, y] = (h2 - h4 + h5 + h6 - h7 - h8) / rho


@nb.njit(cache=True, fastmath=_FAST, error_model="numpy")
def collide_forced(f, out, rates, const, fx, fy, box):  # pragma: no cover
    """Stream and collide the cells of ``box`` again, now with the force density ``fx, fy`` ``[nx + 2, ny + 2]`` in
    them.

    Called after ``collide``, whose result it overwrites in the box: bodies touch few cells, and a kernel without force
    is
    cheaper for all the others.
    """
    half, one, three_halves, three, nine_halves, w0, w1, w2 = _constants(const)
    f0, f1, f2, f3, f4, f5, f6, f7, f8 = f[0], f[1], f[2], f[3], f[4], f[5], f[6], f[7], f[8]
    g0, g1, g2, g3, g4, g5, g6, g7, g8 = out[0], out[1], out[2], out[3], out[4], out[5], out[6], out[7], out[8]
    two = one + one
    for x in range(box[0], box[1]):
        even = half * rates[0, x]
        odd = half * rates[1, x]
        even_force = one - even  # the 1 - omega/2 of Guo's forcing
        odd_force = one - odd
        for y in range(box[2], box[3]):
            h0 = f0[x, y]
            h1 = f1[x - 1, y]
            h2 = f2[x, y - 1]
            h3 = f3[x + 1, y]
            h4 = f4[x, y + 1]
            h5 = f5[x - 1, y - 1]
            h6 = f6[x + 1, y - 1]
            h7 = f7[x + 1, y + 1]
            h8 = f8[x - 1, y + 1]
            s1 = h1 + h3
            s2 = h2 + h4
            s5 = h5 + h7
            s6 = h6 + h8
            d1 = h1 - h3
            d2 = h2 - h4
            d5 = h5 - h7
            d6 = h6 - h8
            px = fx[x, y]
            py = fy[x, y]
            excess = h0 + (s1 + s2) + (s5 + s6)
            jx = d1 + (d5 - d6) + half * px
            jy = d2 + (d5 + d6) + half * py
            inverse = one / (one + excess)
            ux = jx * inverse
            uy = jy * inverse
            base = excess - three_halves * (jx * ux + jy * uy)
            qx = nine_halves * jx * ux
            qy = nine_halves * jy * uy
            qxy = (nine_halves + nine_halves) * jx * uy
            # even part of the force, 9 (c.u)(c.F) - 3 u.F, for each pair of directions
            uf = three * (ux * px + uy * py)
            gx = (nine_halves + nine_halves) * ux * px
            gy = (nine_halves + nine_halves) * uy * py
            gxy = (nine_halves + nine_halves) * (ux * py + uy * px)
            lx = three * jx
            ly = three * jy
            kx = three * px
            ky = three * py
            e1 = even * (s1 - two * w1 * (base + qx)) - even_force * w1 * (gx - uf)
            e2 = even * (s2 - two * w1 * (base + qy)) - even_force * w1 * (gy - uf)
            e5 = even * (s5 - two * w2 * (base + qx + qy + qxy)) - even_force * w2 * (gx + gy + gxy - uf)
            e6 = even * (s6 - two * w2 * (base + qx + qy - qxy)) - even_force * w2 * (gx + gy - gxy - uf)
            o1 = odd * (d1 - two * w1 * lx) - odd_force * w1 * kx
            o2 = odd * (d2 - two * w1 * ly) - odd_force * w1 * ky
            o5 = odd * (d5 - two * w2 * (lx + ly)) - odd_force * w2 * (kx + ky)
            o6 = odd * (d6 - two * w2 * (ly - lx)) - odd_force * w2 * (ky - kx)
            g0[x, y] = h0 - two * even * (h0 - w0 * base) - even_force * w0 * uf
            g1[x, y] = h1 - e1 - o1
            g2[x, y] = h2 - e2 - o2
            g3[x, y] = h3 - e1 + o1
            g4[x, y] = h4 - e2 + o2
            g5[x, y] = h5 - e5 - o5
            g6[x, y] = h6 - e6 - o6
            g7[x, y] = h7 - e5 + o5
            g8[x, y] = h8 - e6 + o6


@nb.njit(cache=True)
def cells_out_of_bounds(f, lowest_density, highest_density, highest_speed):  # pragma: no cover
    """How many interior cells have a density or a speed outside the bounds, or either not finite."""
    bad = 0
    f0, f1, f2, f3, f4, f5, f6, f7, f8 = f[0], f[1], f[2], f[3], f[4], f[5], f[6], f[7], f[8]
    low = f.dtype.type(lowest_density - 1)
    high = f.dtype.type(highest_density - 1)
    limit = f.dtype.type(highest_speed**2)
    one = f.dtype.type(1)
    for x in range(1, f.shape[1] - 1):
        for y in range(1, f.shape[2] - 1):
            jx = f1[x, y] - f3[x, y] + f5[x, y] - f6[x, y] - f7[x, y] + f8[x, y]
            jy = f2[x, y] - f4[x, y] + f5[x, y] + f6[x, y] - f7[x, y] - f8[x, y]
            excess = f0[x, y] + f1[x, y] + f2[x, y] + f3[x, y] + f4[x, y] + f5[x, y] + f6[x, y] + f7[x, y] + f8[x, y]
            rho = one + excess
            fine = (excess > low) & (excess < high) & (jx * jx + jy * jy < limit * rho * rho)
            bad += 0 if fine else 1
    return bad


def fields(f: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Density and velocity ``[nx, ny]`` each, float64, of the interior cells of collided populations."""
    inner = f[:, 1:-1, 1:-1].astype(np.float64)
    density = 1 + inner.sum(0)
    momentum = np.tensordot(VELOCITIES.T.astype(np.float64), inner, 1)
    return density, momentum[0] / density, momentum[1] / density
