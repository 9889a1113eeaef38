"""Wall temperatures in, velocity, temperature and heat flux of a fluid layer heated from below out: kernels of numba.

Boussinesq equations of a layer of height 1, periodic in x, between no-slip plates: u_t + u·∇u = -∇p + T e_y +
sqrt(Pr/Ra) ∇²u, T_t + u·∇T = ∇²T / sqrt(Pr Ra), ∇·u = 0. Lengths in the height, temperatures in the difference of the
plates, velocities in the free-fall speed. Second-order finite volumes on a staggered grid (Harlow & Welch, Phys. Fluids
8 (1965) 2182), Adams–Bashforth steps, and an exact projection: Fourier in x, tridiagonal in y.
"""

from __future__ import annotations

import math

import numba
import numpy as np

TOP = -0.5  # temperature of the upper plate; the lower one is 0.5 on the mean
SAFETY = 0.8  # share of the explicit scheme's limit of stability that a time step takes
LARGEST_SPEED = 1.0  # free-fall speeds; convection with these walls stays below 0.7


@numba.njit(cache=True)
def _tendencies(u, v, t, bottom, viscosity, diffusivity, dx, dy, du, dv, dt_) -> None:
    """Rates of u, v, t without the pressure; fills the ghost cells. Arrays as in ``Layer``."""
    nx, ny = u.shape[0], u.shape[1] - 2
    for i in range(nx):
        u[i, 0], u[i, ny + 1] = -u[i, 1], -u[i, ny]
        t[i, 0], t[i, ny + 1] = 2 * bottom[i] - t[i, 1], 2 * TOP - t[i, ny]
    ax, ay, bx, by = 1 / dx**2, 1 / dy**2, 0.25 / dx, 0.25 / dy
    for i in range(nx):
        w, e = (i - 1) % nx, (i + 1) % nx
        uw, uc, ue, vw, vc, ve = u[w], u[i], u[e], v[w], v[i], v[e]
        tw, tc, te = t[w], t[i], t[e]
        for j in range(1, ny + 1):
            conv = bx * ((uc[j] + ue[j]) ** 2 - (uw[j] + uc[j]) ** 2)
            conv += by * ((vw[j] + vc[j]) * (uc[j] + uc[j + 1]) - (vw[j - 1] + vc[j - 1]) * (uc[j - 1] + uc[j]))
            diff = ax * (uw[j] - 2 * uc[j] + ue[j]) + ay * (uc[j - 1] - 2 * uc[j] + uc[j + 1])
            du[i, j] = viscosity * diff - conv
            conv = 2 * bx * (ue[j] * (tc[j] + te[j]) - uc[j] * (tw[j] + tc[j]))
            conv += 2 * by * (vc[j] * (tc[j] + tc[j + 1]) - vc[j - 1] * (tc[j - 1] + tc[j]))
            diff = ax * (tw[j] - 2 * tc[j] + te[j]) + ay * (tc[j - 1] - 2 * tc[j] + tc[j + 1])
            dt_[i, j] = diffusivity * diff - conv
        for j in range(1, ny):
            conv = bx * ((ue[j] + ue[j + 1]) * (vc[j] + ve[j]) - (uc[j] + uc[j + 1]) * (vw[j] + vc[j]))
            conv += by * ((vc[j] + vc[j + 1]) ** 2 - (vc[j - 1] + vc[j]) ** 2)
            diff = ax * (vw[j] - 2 * vc[j] + ve[j]) + ay * (vc[j - 1] - 2 * vc[j] + vc[j + 1])
            dv[i, j] = viscosity * diff - conv + 0.5 * (tc[j] + tc[j + 1])


@numba.njit(cache=True)
def _project(u, v, dx, dy, fourier, factors, sweeps, work, modes) -> None:
    """Take the gradient off the velocity that makes it free of divergence."""
    nx, ny = u.shape[0], u.shape[1] - 2
    modes[:] = 0
    for i in range(nx):
        e = (i + 1) % nx
        for j in range(ny):
            work[i, j] = (u[e, j + 1] - u[i, j + 1]) / dx + (v[i, j + 1] - v[i, j]) / dy
    for m in range(nx):
        for i in range(nx):
            c = fourier[m, i]
            for j in range(ny):
                modes[m, j] += c * work[i, j]
    a = 1 / dy**2
    for m in range(nx):
        row = modes[m]
        row[0] *= factors[m, 0]
        for j in range(1, ny):
            row[j] = (row[j] - a * row[j - 1]) * factors[m, j]
        for j in range(ny - 2, -1, -1):
            row[j] -= sweeps[m, j] * row[j + 1]
    work[:] = 0
    for i in range(nx):
        for m in range(nx):
            c = fourier[m, i]
            for j in range(ny):
                work[i, j] += c * modes[m, j]
    for i in range(nx):
        w = (i - 1) % nx
        for j in range(ny):
            u[i, j + 1] -= (work[i, j] - work[w, j]) / dx
        for j in range(1, ny):
            v[i, j] -= (work[i, j] - work[i, j - 1]) / dy


@numba.njit(cache=True)
def _advance(u, v, t, before, first, bottom, viscosity, diffusivity, dx, dy, dt, steps, fourier, factors, sweeps):
    """Advance in place; returns the mean of v T above each cell of the lower plate, float64 [nx], over the steps."""
    nx, ny = u.shape[0], u.shape[1] - 2
    rates = np.zeros_like(before)
    work, modes = np.empty((nx, ny)), np.empty((nx, ny))
    flux = np.zeros(nx)
    for step in range(steps):
        _tendencies(u, v, t, bottom, viscosity, diffusivity, dx, dy, rates[0], rates[1], rates[2])
        new, old = (dt, 0.0) if first and step == 0 else (1.5 * dt, -0.5 * dt)
        for i in range(nx):
            for j in range(1, ny + 1):
                u[i, j] += new * rates[0, i, j] + old * before[0, i, j]
                t[i, j] += new * rates[2, i, j] + old * before[2, i, j]
            for j in range(1, ny):
                v[i, j] += new * rates[1, i, j] + old * before[1, i, j]
        before, rates = rates, before
        _project(u, v, dx, dy, fourier, factors, sweeps, work, modes)
        for i in range(nx):
            for j in range(1, ny):
                flux[i] += 0.5 * v[i, j] * (t[i, j] + t[i, j + 1])
    if steps % 2:  # the caller keeps the array that it gave
        rates[:] = before
    return flux / (steps * ny)


class Layer:
    """A fluid layer heated from below, at rest and linearly stratified at first.

    Args:
        width: over the height.
        cells: (nx, ny).
        rayleigh: with the full height and the temperature difference of the plates.
        prandtl: viscosity over thermal diffusivity.

    Attributes:
        u: float64 [nx, ny + 2], at the left faces of the cells, with ghost cells below and above.
        v: float64 [nx, ny + 1], at the lower faces; zero at the plates.
        t: float64 [nx, ny + 2], temperature in the cells, with ghost cells.
        largest_step: the longest stable time step.
    """

    def __init__(self, width: float, cells: tuple[int, int], rayleigh: float, prandtl: float) -> None:
        nx, ny = cells
        self.dx, self.dy = width / nx, 1 / ny
        self.viscosity, self.diffusivity = math.sqrt(prandtl / rayleigh), 1 / math.sqrt(prandtl * rayleigh)
        self.u, self.v, self.t = np.zeros((nx, ny + 2)), np.zeros((nx, ny + 1)), np.zeros((nx, ny + 2))
        self.t[:] = 0.5 - (np.arange(ny + 2) - 0.5) * self.dy
        self.before = np.zeros((3, nx, ny + 2))  # rates of u, v, t in the step before
        self.first = True  # no step before
        diffusive = 1 / (4 * max(self.viscosity, self.diffusivity) * (1 / self.dx**2 + 1 / self.dy**2))
        self.largest_step = SAFETY * min(diffusive, 0.5 * min(self.dx, self.dy) / LARGEST_SPEED)
        angle = 2 * math.pi * np.outer(np.arange(nx), np.arange(nx)) / nx
        half = nx // 2
        self._fourier = np.concatenate([np.cos(angle[: half + 1]), np.sin(angle[1 : nx - half])])
        self._fourier /= np.linalg.norm(self._fourier, axis=1, keepdims=True)
        number = np.concatenate([np.arange(half + 1), np.arange(1, nx - half)])
        self._factors, self._sweeps = _tridiagonal(
            (2 - 2 * np.cos(2 * math.pi * number / nx)) / self.dx**2, ny, self.dy
        )

    def advance(self, bottom: np.ndarray, duration: float) -> np.ndarray:
        """Advance over ``duration`` with the lower plate at ``bottom``, float64 [nx].

        Returns:
            The mean convective heat flux v T over time and height above each cell of the plate, float64 [nx].
        """
        steps = math.ceil(duration / self.largest_step)
        flux = _advance(
            self.u, self.v, self.t, self.before, self.first, bottom, self.viscosity, self.diffusivity,
            self.dx, self.dy, duration / steps, steps, self._fourier, self._factors, self._sweeps,
        )  # fmt: skip
        self.first = False
        return flux

    def nusselt(self, flux: np.ndarray) -> np.ndarray:
        """Heat flux over that of conduction, 1 + v T / diffusivity, for plates whose means differ by 1."""
        return 1 + flux / self.diffusivity


def _tridiagonal(eigenvalues: np.ndarray, ny: int, dy: float) -> tuple[np.ndarray, np.ndarray]:
    """The factors of every mode's elimination in y, float64 [nx, ny] each, with no gradient at the plates."""
    a = 1 / dy**2
    factors, sweeps = np.zeros((len(eigenvalues), ny)), np.zeros((len(eigenvalues), ny))
    for m, eigenvalue in enumerate(eigenvalues):
        for j in range(ny):
            diagonal = -eigenvalue - a * ((j > 0) + (j < ny - 1))
            if eigenvalue == 0 and j == 0:
                diagonal -= a  # the pressure's constant is free: this fixes it
            factors[m, j] = 1 / (diagonal - (a * sweeps[m, j - 1] if j else 0))
            sweeps[m, j] = a * factors[m, j]
    return factors, sweeps
