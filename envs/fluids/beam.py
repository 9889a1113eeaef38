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

# Segment lengths are right to this; the inverse of Newton's matrix serves so many steps because it hardly changes.
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


@nb.njit(cache=True, fastmath={"contract", "reassoc", "nsz"}, error_model="numpy")
def _invert(response, d, inverse, row):  # pragma: no cover
    """Write the inverse of Newton's matrix Q_ij d_i.d_j to ``inverse`` [N, N]; False if it is not positive definite."""
    n = d.shape[1]
    for i in range(n):
        for j in range(i + 1):
            inverse[i, j] = response[i, j] * (d[0, i] * d[0, j] + d[1, i] * d[1, j])
    # Gauss-Jordan elimination of the lower triangle, in place: each round sweeps one row and column (Goodnight 1979).
    for k in range(n):
        if not inverse[k, k] > 0:
            return False
        pivot = np.float32(1) / inverse[k, k]
        for j in range(n):
            row[j] = inverse[k, j] if j < k else inverse[j, k]
        row[k] = 0
        for i in range(n):
            scale = row[i] * pivot
            for j in range(i + 1):
                inverse[i, j] -= scale * row[j]
        for j in range(k):
            inverse[k, j] = row[j] * pivot
        for j in range(k + 1, n):
            inverse[j, k] = row[j] * pivot
        inverse[k, k] = -pivot
    for i in range(n):
        for j in range(i + 1):
            inverse[i, j] = -inverse[i, j]
            inverse[j, i] = inverse[i, j]
    return True


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


@nb.njit(cache=True, fastmath={"contract", "reassoc", "nsz"})
def _correct(tension, inverse, residual):  # pragma: no cover
    """Add ``inverse`` times ``residual`` to the tensions."""
    n = tension.shape[0]
    for i in range(n):
        s = np.float32(0)
        for k in range(n):
            s += inverse[i, k] * residual[k]
        tension[i] += s


@nb.njit(cache=True)
def workspace(n):  # pragma: no cover
    """Scratch arrays of ``step`` for N = n segments."""
    return (
        np.zeros((2, n)),  # forces on the free nodes
        np.zeros((2, n)),  # segments without tension
        np.zeros((2, n)),  # segments at X
        np.zeros((2, n)),  # tension vectors
        np.zeros((2, n)),  # segments at X+
        np.zeros(n, np.float32),  # residual
        np.zeros((n, n), np.float32),  # inverse of Newton's matrix
    )


@nb.njit(cache=True)
def _tighten(response, loose, d, tension, pull, d_new, residual, inverse):  # pragma: no cover
    """Find the tensions that make every segment of ``d_new`` [2, N] one cell long; False if that does not converge."""
    n = d.shape[1]
    for _ in range(_MAX_ITERATIONS):
        for j in range(n):
            pull[0, j] = tension[j] * d[0, j]
            pull[1, j] = tension[j] * d[1, j]
        _multiply(response, pull, d_new)
        worst = 0.0
        for j in range(n):
            d_new[0, j] = loose[0, j] - d_new[0, j]
            d_new[1, j] = loose[1, j] - d_new[1, j]
            excess = 0.5 * (d_new[0, j] ** 2 + d_new[1, j] ** 2 - 1.0)
            residual[j] = excess
            worst = max(worst, abs(excess))
        if worst < _TOLERANCE:
            return True
        if not worst < 1.0:  # also when it is not a number
            return False
        _correct(tension, inverse, residual)
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
        refactor: whether to invert Newton's matrix now; the last step's serves a few more.
        force: float64 [N + 1, 2], written.
        space: ``workspace(N)``.
    """
    mass, coupling, inverse, response, profile, parameters = beam
    stiffness, theta, clamped, gravity = parameters[0], parameters[1], parameters[2] > 0.5, parameters[3]
    x_old, x, x_new = shapes
    root_old, root, root_new = roots
    free, loose, d, pull, d_new, residual, newton = space
    n = x.shape[0] - 1

    for j in range(n):
        d[0, j] = x[j + 1, 0] - x[j, 0]
        d[1, j] = x[j + 1, 1] - x[j, 1]
    # Each joint bends, by energies at X-, and its muscle turns, at X, the segments before and after it: ``pull`` is
    # minus the gradient with respect to each segment. A clamped root is a joint too, of the first with a fixed t.
    explicit = stiffness * (1 - theta)
    strength = activation * stiffness
    pull[:, 0] = 0.0
    if clamped:
        k = strength * profile[0]
        pull[0, 0] = -2 * explicit * (x_old[1, 0] - x_old[0, 0] - root_old[2]) - k * root[3]
        pull[1, 0] = -2 * explicit * (x_old[1, 1] - x_old[0, 1] - root_old[3]) + k * root[2]
    for j in range(1, n):
        k = strength * profile[j]
        bend_x = explicit * (x_old[j + 1, 0] - 2 * x_old[j, 0] + x_old[j - 1, 0])
        bend_y = explicit * (x_old[j + 1, 1] - 2 * x_old[j, 1] + x_old[j - 1, 1])
        pull[0, j - 1] += bend_x + k * d[1, j]
        pull[1, j - 1] += bend_y - k * d[0, j]
        pull[0, j] = -bend_x - k * d[1, j - 1]
        pull[1, j] = -bend_y + k * d[0, j - 1]
    for i in range(1, n + 1):
        for axis in range(2):
            inertia = mass[i] * (2 * x[i, axis] - x_old[i, axis])
            free[axis, i - 1] = pull[axis, i - 1] + inertia + coupling[i] * (x[i, axis] + slip[i, axis])
        free[0, i - 1] += mass[i] * gravity
    for j in range(1, n):
        free[0, j - 1] -= pull[0, j]
        free[1, j - 1] -= pull[1, j]
    # Bending at n + 1 of what is prescribed there; the rest of that term is in the matrix.
    implicit = stiffness * theta
    for axis in range(2):
        free[axis, 0] += 2 * implicit * root_new[axis]
        free[axis, 1] -= implicit * root_new[axis]
        if clamped:
            free[axis, 0] += 2 * implicit * (root_new[axis] + root_new[2 + axis])

    _multiply(inverse, free, loose)  # positions without tension, then their differences
    for axis in range(2):
        before = root_new[axis]
        for j in range(n):
            here = loose[axis, j]
            loose[axis, j] = here - before
            before = here
    if refactor and not _invert(response, d, newton, residual):
        return False
    if not _tighten(response, loose, d, tension, pull, d_new, residual, newton):
        return False

    for axis in range(2):
        x_new[0, axis] = root_new[axis]
        for i in range(1, n + 1):
            x_new[i, axis] = x_new[i - 1, axis] + d_new[axis, i - 1]
        for i in range(n + 1):
            force[i, axis] = coupling[i] * (x_new[i, axis] - x[i, axis] - slip[i, axis])
    return True


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
    d, change = space[2], space[3]  # segments at X, left there by the step, and what they change by from X- to X+
    n = x.shape[0] - 1
    strength = activation * stiffness

    for j in range(n):
        for axis in range(2):
            change[axis, j] = x_new[j + 1, axis] - x_new[j, axis] - x_old[j + 1, axis] + x_old[j, axis]
    muscle = 0.0
    loss = 0.0  # becomes V.K V
    for j in range(1, n):
        ax, ay, bx, by = d[0, j - 1], d[1, j - 1], d[0, j], d[1, j]
        dax, day, dbx, dby = change[0, j - 1], change[1, j - 1], change[0, j], change[1, j]
        muscle += profile[j] * (dax * by - day * bx + ax * dby - ay * dbx)
        loss += (dbx - dax) ** 2 + (dby - day) ** 2
    root_work = 0.0
    for axis in range(2):
        other, sign = 1 - axis, 1 - 2 * axis
        # What bending and muscle pull at the first segment, and through it at the root's node.
        bend_new = x_new[2, axis] - 2 * x_new[1, axis] + x_new[0, axis]
        bend_old = x_old[2, axis] - 2 * x_old[1, axis] + x_old[0, axis]
        pull = stiffness * (theta * bend_new + (1 - theta) * bend_old) + sign * strength * profile[1] * d[other, 1]
        if clamped:  # the root also turns: against the first half cell, and against the muscle anchored to it
            bend_new = x_new[1, axis] - x_new[0, axis] - root_new[2 + axis]
            bend_old = x_old[1, axis] - x_old[0, axis] - root_old[2 + axis]
            turn = root_new[2 + axis] - root_old[2 + axis]
            torque = 2 * stiffness * (theta * bend_new + (1 - theta) * bend_old)
            anchored = sign * strength * profile[0]
            pull -= torque + anchored * root[2 + other]
            root_work -= (torque + anchored * d[other, 0]) * turn
            muscle += sign * profile[0] * (turn * d[other, 0] - change[axis, 0] * root[2 + other])
            loss += 2 * (bend_new - bend_old) ** 2
        acceleration = x_new[0, axis] - 2 * x[0, axis] + x_old[0, axis]
        reaction = force[0, axis] + mass[0] * acceleration + pull - tension[0] * d[axis, 0]
        if axis == 0:
            reaction -= mass[0] * gravity
        root_work += reaction * (x_new[0, axis] - x_old[0, axis])
    muscle *= 0.5 * strength

    for i in range(n + 1):
        work[0] += force[i, 0]
        work[1] += force[i, 1]
        work[5] += 0.5 * (force[i, 0] * (x_new[i, 0] - x_old[i, 0]) + force[i, 1] * (x_new[i, 1] - x_old[i, 1]))
    work[2] += 0.5 * root_work
    work[3] += muscle
    work[4] += max(muscle, 0.0)
    work[6] += (2 * theta - 1) * 0.25 * stiffness * loss


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
