"""Forces on an inextensible elastic filament in, its next shape out: an Euler-Bernoulli beam with active curvature.

Equations, per unit length: m X_tt = (T X_s)_s - B [(kappa - kappa_a) n]_ss - F, |X_s| = 1, with the position of the
root (and for a clamped root its direction) prescribed and a free tip (Huang, Shin & Sung, J. Comput. Phys. 226, 2007).
Lengths in cells, times in lattice steps; nodes are one cell apart, so a beam of N segments has N + 1 nodes ``[N + 1,
2]``, float64, node 0 the root.

Energies: bending (B/2) sum |X_{i-1} - 2 X_i + X_{i+1}|² + B |X_1 - X_0 - t|², where t is the root's direction: the
root's half cell bends from t, at s = 0, to the first segment, at s = 1/2. Muscle: -B sum kappa_a,i (d_{i-1} x d_i),
d_{-1} = t.

Time step (constant matrix): with P = diag(m + c) + theta B K,

    m (X+ - 2 X + X-) = -B K [theta X+ + (1 - theta) X-] + F_a(X) - D^T (lambda d) - c (X+ - X - u*)

The last term is the marker force on the fluid, implicit in X+, which is stable down to a mass ratio of 0.01 without
sub-iterations; u* is the fluid's velocity at the markers without it, and c = 0 is a beam in vacuum. The tensions lambda
make every segment of X+ one cell long. theta = 1/2 conserves energy; theta = 0.6 adds a viscosity (2 theta - 1) B, in
steps, that damps only what the fluid cannot resolve; ``account`` books it. F_a is taken at X: extrapolated, it
destabilised a bent beam.
"""

from dataclasses import dataclass

import numba as nb
import numpy as np

# Segment lengths are right to this; Newton's matrix is factorised anew every so many steps because it hardly changes.
_TOLERANCE = 1e-11
_MAX_ITERATIONS = 12
REFACTOR_PERIOD = 8

WORK_NAMES = ("force_x", "force_y", "root_work", "muscle_work", "muscle_work_spent", "fluid_work", "numerical_loss")


@dataclass(frozen=True)
class Beam:
    """Constants of one beam: what ``step`` needs beside the state. Made by ``make_beam``."""

    mass: np.ndarray  # float64 [N + 1], of each node, in cells² of fluid
    coupling: np.ndarray  # float64 [N + 1], marker force per slip velocity c; 0 in vacuum
    inverse: np.ndarray  # float64 [N, N], P^-1 over the free nodes 1..N
    tension_response: np.ndarray  # float64 [N, N], Q = D P^-1 D^T
    profile: np.ndarray  # float64 [N], active curvature per cell at nodes 0..N-1 for unit activation
    parameters: np.ndarray  # float64 [4]: B, theta, 1 if clamped else 0 if hinged, weight per unit mass along x

    @property
    def arrays(self) -> tuple[np.ndarray, ...]:
        """The fields in the order in which ``step`` takes them."""
        return self.mass, self.coupling, self.inverse, self.tension_response, self.profile, self.parameters


def make_beam(
    segments: int,
    mass_per_length: float,
    stiffness: float,
    *,
    coupling: float = 3.0,
    profile: np.ndarray | None = None,
    theta: float = 0.6,
    clamped: bool = True,
    gravity: float = 0.0,
) -> Beam:
    """Constants of a beam of ``segments`` cells, all in lattice units; ``profile`` defaults to a passive beam."""
    n = segments
    mass = np.full(n + 1, float(mass_per_length))
    mass[[0, -1]] /= 2
    markers = np.full(n + 1, float(coupling))
    curvature = np.zeros((n - 1, n + 1))
    for i in range(n - 1):
        curvature[i, i : i + 3] = 1, -2, 1
    stiffness_matrix = curvature.T @ curvature
    if clamped:
        stiffness_matrix[:2, :2] += 2 * np.array([[1, -1], [-1, 1]])
    inverse = np.linalg.inv(np.diag((mass + markers)[1:]) + theta * stiffness * stiffness_matrix[1:, 1:])
    inverse = (inverse + inverse.T) / 2
    difference = np.eye(n) - np.eye(n, k=-1)
    return Beam(
        mass,
        markers,
        np.ascontiguousarray(inverse),
        np.ascontiguousarray(difference @ inverse @ difference.T),
        np.zeros(n) if profile is None else np.ascontiguousarray(profile, dtype=np.float64),
        np.array([stiffness, theta, float(clamped), gravity]),
    )


@nb.njit(cache=True)
def _add_bending(x, tx, ty, clamped, scale, out):  # pragma: no cover
    """Add ``scale`` times the gradient of the bending energy over B, K X - 2 e t, to ``out`` [N + 1, 2]."""
    n = x.shape[0] - 1
    for axis in range(2):
        for i in range(1, n):
            c = scale * (x[i - 1, axis] - 2 * x[i, axis] + x[i + 1, axis])
            out[i - 1, axis] += c
            out[i, axis] -= 2 * c
            out[i + 1, axis] += c
        if clamped:
            c = 2 * scale * (x[1, axis] - x[0, axis] - (tx if axis == 0 else ty))
            out[1, axis] += c
            out[0, axis] -= c


@nb.njit(cache=True)
def _add_muscle(x, tx, ty, clamped, profile, scale, out):  # pragma: no cover
    """Add the muscle's force on the nodes, minus the gradient of its energy, times ``scale``, to ``out`` [N + 1, 2]."""
    n = x.shape[0] - 1
    for i in range(n):
        vx = x[i + 1, 0] - x[i, 0]
        vy = x[i + 1, 1] - x[i, 1]
        k = scale * profile[i]
        if i == 0:
            if clamped:
                out[1, 0] -= k * ty
                out[1, 1] += k * tx
                out[0, 0] += k * ty
                out[0, 1] -= k * tx
        else:
            ux = x[i, 0] - x[i - 1, 0]
            uy = x[i, 1] - x[i - 1, 1]
            out[i + 1, 0] -= k * uy
            out[i + 1, 1] += k * ux
            out[i, 0] += k * (vy + uy)
            out[i, 1] -= k * (vx + ux)
            out[i - 1, 0] -= k * vy
            out[i - 1, 1] += k * vx


@nb.njit(cache=True)
def _factorise(response, d, factor):  # pragma: no cover
    """Cholesky factor (lower) of Q_ij d_i.d_j into ``factor`` [N, N]; its diagonal is stored inverted."""
    n = d.shape[0]
    for i in range(n):
        for j in range(i + 1):
            factor[i, j] = response[i, j] * (d[i, 0] * d[j, 0] + d[i, 1] * d[j, 1])
    for i in range(n):
        for j in range(i):
            s = factor[i, j]
            for k in range(j):
                s -= factor[i, k] * factor[j, k]
            factor[i, j] = s * factor[j, j]
        s = factor[i, i]
        for k in range(i):
            s -= factor[i, k] * factor[i, k]
        if not s > 0:
            return False
        factor[i, i] = 1.0 / np.sqrt(s)
    return True


@nb.njit(cache=True)
def _solve(factor, b):  # pragma: no cover
    """Solve L L^T x = b in place."""
    n = b.shape[0]
    for i in range(n):
        s = b[i]
        for k in range(i):
            s -= factor[i, k] * b[k]
        b[i] = s * factor[i, i]
    for i in range(n - 1, -1, -1):
        b[i] *= factor[i, i]
        for k in range(i):
            b[k] -= factor[i, k] * b[i]


@nb.njit(cache=True, fastmath={"contract", "reassoc", "nsz"})
def _multiply(matrix, b, out):  # pragma: no cover
    """out [2, N] = b [2, N] times a symmetric matrix [N, N]."""
    n = matrix.shape[0]
    for i in range(n):
        sx = 0.0
        sy = 0.0
        for k in range(n):
            sx += matrix[i, k] * b[0, k]
            sy += matrix[i, k] * b[1, k]
        out[0, i] = sx
        out[1, i] = sy


@nb.njit(cache=True)
def workspace(n):  # pragma: no cover
    """Scratch arrays of ``step`` for N = n segments."""
    return (
        np.zeros((n + 1, 2)),  # right-hand side
        np.zeros((2, n)),  # the same, free nodes, transposed
        np.zeros((2, n)),  # segments without tension
        np.zeros((n, 2)),  # segments at X
        np.zeros((2, n)),  # tension vectors
        np.zeros((2, n)),  # segments at X+
        np.zeros(n),  # residual
        np.zeros((n, n)),  # Cholesky factor
    )


@nb.njit(cache=True)
def _tighten(response, loose, d, tension, pull, d_new, residual, factor):  # pragma: no cover
    """Find the tensions that make every segment of ``d_new`` [2, N] one cell long; False if that does not converge."""
    n = d.shape[0]
    for _ in range(_MAX_ITERATIONS):
        for j in range(n):
            pull[0, j] = tension[j] * d[j, 0]
            pull[1, j] = tension[j] * d[j, 1]
        _multiply(response, pull, d_new)
        worst = 0.0
        for j in range(n):
            d_new[0, j] = loose[0, j] - d_new[0, j]
            d_new[1, j] = loose[1, j] - d_new[1, j]
            residual[j] = 0.5 * (d_new[0, j] ** 2 + d_new[1, j] ** 2 - 1.0)
            worst = max(worst, abs(residual[j]))
        if worst < _TOLERANCE:
            return True
        if not worst < 1.0:  # also when it is not a number
            return False
        _solve(factor, residual)
        for j in range(n):
            tension[j] += residual[j]
    return False


@nb.njit(cache=True)
def step(beam, shapes, roots, tension, activation, slip, refactor, force, space):  # pragma: no cover
    """One step: writes the new shape and the marker ``force`` on the fluid; False if it did not converge.

    Args:
        beam: ``Beam.arrays``.
        shapes: (X-, X, X+), float64 [N + 1, 2] each, in cells; X+ is written.
        roots: (at n - 1, at n, at n + 1), float64 [4] each: position in cells, direction.
        tension: float64 [N], updated; the last step's is the first guess.
        activation: scales the beam's active-curvature profile.
        slip: float64 [N + 1, 2], u*, in cells per step.
        refactor: whether to factorise Newton's matrix now; the last step's serves a few more.
        force: float64 [N + 1, 2], written.
        space: ``workspace(N)``.
    """
    mass, coupling, inverse, response, profile, parameters = beam
    stiffness, theta, clamped, gravity = parameters[0], parameters[1], parameters[2] > 0.5, parameters[3]
    x_old, x, x_new = shapes
    root_old, root, root_new = roots
    rhs, free, loose, d, pull, d_new, residual, factor = space
    n = x.shape[0] - 1

    for j in range(n):
        d[j, 0] = x[j + 1, 0] - x[j, 0]
        d[j, 1] = x[j + 1, 1] - x[j, 1]
    rhs[:] = 0.0
    _add_muscle(x, root[2], root[3], clamped, profile, activation * stiffness, rhs)
    _add_bending(x_old, root_old[2], root_old[3], clamped, -stiffness * (1 - theta), rhs)
    # Bending at n + 1 of what is prescribed there; the rest of that term is in the matrix.
    b = stiffness * theta
    for axis in range(2):
        r = root_new[axis]
        rhs[1, axis] += 2 * b * r
        rhs[2, axis] -= b * r
        if clamped:
            rhs[1, axis] += 2 * b * (r + root_new[2 + axis])
    for i in range(1, n + 1):
        for axis in range(2):
            rhs[i, axis] += mass[i] * (2 * x[i, axis] - x_old[i, axis]) + coupling[i] * (x[i, axis] + slip[i, axis])
        free[0, i - 1] = rhs[i, 0] + mass[i] * gravity
        free[1, i - 1] = rhs[i, 1]

    _multiply(inverse, free, loose)  # positions without tension, then their differences
    for axis in range(2):
        before = root_new[axis]
        for j in range(n):
            here = loose[axis, j]
            loose[axis, j] = here - before
            before = here
    if refactor and not _factorise(response, d, factor):
        return False
    if not _tighten(response, loose, d, tension, pull, d_new, residual, factor):
        return False

    for axis in range(2):
        x_new[0, axis] = root_new[axis]
        for i in range(1, n + 1):
            x_new[i, axis] = x_new[i - 1, axis] + d_new[axis, i - 1]
        for i in range(n + 1):
            force[i, axis] = coupling[i] * (x_new[i, axis] - x[i, axis] - slip[i, axis])
    return True


@nb.njit(cache=True)
def _work_of(forces, x_old, x_new):  # pragma: no cover
    """Sum over the nodes of force times velocity (X+ - X-) / 2."""
    total = 0.0
    for i in range(x_new.shape[0]):
        total += forces[i, 0] * (x_new[i, 0] - x_old[i, 0]) + forces[i, 1] * (x_new[i, 1] - x_old[i, 1])
    return 0.5 * total


@nb.njit(cache=True)
def account(beam, shapes, roots, tension, activation, force, work, space):  # pragma: no cover
    """Add the work of one ``step``, just done with the same arguments, to ``work`` float64 [7] (``WORK_NAMES``).

    In the order of the names: force on the fluid along x and y; work of the root, of the muscle, of the muscle where it
    is positive, on the fluid; and what the time scheme dissipates. Each is a term of the discrete equation of motion
    times (X+ - X-) / 2, so that root + muscle = change of ``energy`` + fluid + loss, up to the tension's work, which
    vanishes with the third power of the time step.
    """
    mass, _, _, _, profile, parameters = beam
    stiffness, theta, clamped, gravity = parameters[0], parameters[1], parameters[2] > 0.5, parameters[3]
    x_old, x, x_new = shapes
    root_old, root, root_new = roots
    term = space[0]

    term[:] = 0.0
    _add_muscle(x, root[2], root[3], clamped, profile, activation * stiffness, term)
    muscle = _work_of(term, x_old, x_new)
    reaction_x = force[0, 0] - term[0, 0] - tension[0] * (x[1, 0] - x[0, 0]) - mass[0] * gravity
    reaction_y = force[0, 1] - term[0, 1] - tension[0] * (x[1, 1] - x[0, 1])

    term[:] = 0.0
    _add_bending(x_new, root_new[2], root_new[3], clamped, 0.5 * stiffness, term)
    _add_bending(x_old, root_old[2], root_old[3], clamped, -0.5 * stiffness, term)
    loss = _work_of(term, x_old, x_new)  # becomes (2 theta - 1) B V.K V

    term[:] = 0.0
    _add_bending(x_new, root_new[2], root_new[3], clamped, stiffness * theta, term)
    _add_bending(x_old, root_old[2], root_old[3], clamped, stiffness * (1 - theta), term)
    reaction_x += mass[0] * (x_new[0, 0] - 2 * x[0, 0] + x_old[0, 0]) + term[0, 0]
    reaction_y += mass[0] * (x_new[0, 1] - 2 * x[0, 1] + x_old[0, 1]) + term[0, 1]
    root_work = 0.5 * (reaction_x * (x_new[0, 0] - x_old[0, 0]) + reaction_y * (x_new[0, 1] - x_old[0, 1]))

    if clamped:  # the root also turns: against the first half cell, and against the muscle anchored to it
        for axis in range(2):
            turn = 0.5 * (root_new[2 + axis] - root_old[2 + axis])
            bend_new = x_new[1, axis] - x_new[0, axis] - root_new[2 + axis]
            bend_old = x_old[1, axis] - x_old[0, axis] - root_old[2 + axis]
            loss -= stiffness * (bend_new - bend_old) * turn
            root_work -= 2 * stiffness * (theta * bend_new + (1 - theta) * bend_old) * turn
            across = x[1, 1] - x[0, 1] if axis == 0 else x[0, 0] - x[1, 0]
            anchored = activation * stiffness * profile[0] * turn * across
            root_work -= anchored
            muscle += anchored

    for i in range(force.shape[0]):
        work[0] += force[i, 0]
        work[1] += force[i, 1]
    work[2] += root_work
    work[3] += muscle
    work[4] += max(muscle, 0.0)
    work[5] += _work_of(force, x_old, x_new)
    work[6] += (2 * theta - 1) * loss


def energy(beam: Beam, x: np.ndarray, x_next: np.ndarray, direction: np.ndarray, direction_next: np.ndarray) -> float:
    """Kinetic energy between two successive steps plus the mean of their bending energies, in lattice units.

    With theta = 1/2 and no tension this is what the scheme conserves. Directions float64 [2] are the root's.
    """
    stiffness, _, clamped, gravity = beam.parameters
    kinetic = 0.5 * (beam.mass[:, None] * (x_next - x) ** 2).sum()
    bending = 0.0
    for shape, t in ((x, direction), (x_next, direction_next)):
        curvature = shape[:-2] - 2 * shape[1:-1] + shape[2:]
        bending += 0.5 * (0.5 * (curvature**2).sum() + clamped * ((shape[1] - shape[0] - t) ** 2).sum())
    weight = -gravity * (beam.mass * (x + x_next)[:, 0]).sum() / 2
    return float(kinetic + stiffness * bending + weight)
