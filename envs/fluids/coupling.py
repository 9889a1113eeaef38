"""One lattice step of the whole scene: fluid, bodies and edges in; the state a step later and the loads out.

A time step: read the fluid's velocity at the markers, after streaming; let each body turn it into marker forces;
collide, with those forces where they act; fill the edges. Each line of ``advance`` is one term of the equations, in a
file of its own: ``lattice``, ``immersed_boundary``, ``beam``, ``boundaries``. Several threads may run it together: the
first moves the bodies while the others collide; each computes the rows of its strip.
"""

from hashlib import sha256
from pathlib import Path

import numba as nb
import numpy as np

from distrl.envs.fluids import beam as beam_term
from distrl.envs.fluids import boundaries, immersed_boundary, lattice, team
from distrl.envs.fluids.beam import REFACTOR_PERIOD
from distrl.envs.fluids.team import LOOKS, OUTCOME

# Why a run of steps ended; the index is what the kernel returns.
OUTCOMES = ("fine", "displacement", "left_domain", "inextensibility")

SIDES = {"slip": 0, "no_slip": 1, "periodic": 2}


def kernel_sources() -> int:
    """A digest of every kernel file. Numba's cache looks only at the file of the function that it compiled, so that an
    edit of ``lattice.py`` alone would leave old machine code inside the scene's kernel: the digest is part of its
    key."""
    digest = sha256()
    for module in (lattice, boundaries, immersed_boundary, beam_term, team):
        digest.update(Path(module.__file__ or "").read_bytes())
    return int.from_bytes(digest.digest()[:6], "big")


@nb.njit(cache=True)
def place(outline, poses, n, markers, velocity, blowing):  # pragma: no cover
    """Write position and velocity of the markers of one rigid body at step ``n``."""
    x, y, angle, vx, vy, spin, blow = poses[n]
    cosine, sine = np.cos(angle), np.sin(angle)
    for i in range(outline.shape[0]):
        rx = cosine * outline[i, 0] - sine * outline[i, 1]
        ry = sine * outline[i, 0] + cosine * outline[i, 1]
        markers[i, 0] = x + rx
        markers[i, 1] = y + ry
        velocity[i, 0] = vx - spin * ry + blow * (cosine * blowing[i, 0] - sine * blowing[i, 1])
        velocity[i, 1] = vy + spin * rx + blow * (sine * blowing[i, 0] + cosine * blowing[i, 1])


# Each kernel's closure holds ``sources`` alone: numba's cache key has the closure in it, and one that held another
# kernel would be another key in every process, which would compile all of them again.


def _build_parts(sources: int):
    @nb.njit(cache=True)
    def fill_edges(f, edges, speed):  # pragma: no cover
        """Fill all ghost cells."""
        if sources < 0:  # part of the cache key
            return
        fill_strip(f, edges, speed, 0, f.shape[1])

    @nb.njit(cache=True)
    def move_filament(fin, n, displacement_limit):  # pragma: no cover
        """One step of a filament whose slip velocity is known; the index of an outcome."""
        if sources < 0:  # part of the cache key
            return 0
        beam, x, x_old, root, tension, roots, activation, work, (_, _, slip, force, x_new, space) = fin
        shapes = (x_old, x, x_new)
        turns = (root[0], root[1], roots[n])
        refactor = n % REFACTOR_PERIOD == 0
        if not beam_term.step(beam, shapes, turns, tension, activation[n], slip, refactor, force, space):
            return 3
        limit = displacement_limit * displacement_limit
        for i in range(x.shape[0]):
            moved = (x_new[i, 0] - x[i, 0]) ** 2 + (x_new[i, 1] - x[i, 1]) ** 2
            if not moved < limit:
                return 1
        beam_term.account(beam, shapes, turns, tension, activation[n], force, work, space)
        x_old[:] = x
        x[:] = x_new
        root[0] = root[1]
        root[1] = roots[n]
        return 0

    return fill_edges, move_filament


@nb.njit
def fill_strip(f, edges, speed, x0, x1):  # pragma: no cover
    """Fill the ghost cells of the rows ``x0`` to ``x1``; with periodic x edges only all at once."""
    periodic, sides, profile = edges
    if periodic:
        boundaries.fill_periodic_x(f)
    if sides == 0:
        boundaries.fill_slip_sides(f, x0, x1)
    elif sides == 1:
        boundaries.fill_no_slip_sides(f, x0, x1)
    else:
        boundaries.fill_periodic_y(f)
    if not periodic:
        if x0 == 0:
            boundaries.fill_velocity_inlet(f, speed, profile)
        if x1 == f.shape[1]:
            boundaries.fill_pressure_outlet(f)


fill_edges, move_filament = _build_parts(kernel_sources())


@nb.njit
def make_room(count):  # pragma: no cover
    """What ``move_bodies`` works with: position, velocity, cell, weights, the fluid's velocity and force at each marker
    of the rigid bodies."""
    return (
        np.empty((count, 2)), np.empty((count, 2)), np.empty((count, 2), np.int64), np.empty((count, 2, 3)),
        np.empty((count, 2)), np.empty((count, 2)),
    )  # fmt: skip


@nb.njit
def move_bodies(f, scratch, n, push, rigid, fins, num_fins, displacement_limit, boxes, loads, room):  # pragma: no cover
    """Every body's step: its forces on the fluid in ``scratch``, the cells that they touch in ``boxes``; the index of
    an outcome."""
    outline, blowing, first, poses, moves, iterations = rigid
    density, ux, uy, fx, fy = scratch[0], scratch[1], scratch[2], scratch[3], scratch[4]
    markers, velocity, nodes, weights, seen, force = room
    nx, ny = f.shape[1] - 2, f.shape[2] - 2
    num_rigid = first.shape[0] - 1
    for b in range(num_rigid):
        part = slice(first[b], first[b + 1])
        place(outline[part], poses[b], n, markers[part], velocity[part], blowing[part])
        if n == 0 or moves[b]:
            immersed_boundary.kernel_weights(markers[part], nodes[part], weights[part])
            boxes[b] = immersed_boundary.support(nodes[part], nx, ny)
    for b in range(num_fins):
        fin = fins[b]
        fin_nodes, fin_weights = fin[8][0], fin[8][1]
        immersed_boundary.kernel_weights(fin[1], fin_nodes, fin_weights)
        boxes[num_rigid + b] = immersed_boundary.support(fin_nodes, nx, ny)
    for b in range(boxes.shape[0]):
        x0, x1, y0, y1 = boxes[b]
        if x1 == 0:
            return 2
        lattice.streamed_fields(f, density, ux, uy, (x0, x1, y0, y1))
        fx[x0:x1, y0:y1] = 0
        fy[x0:x1, y0:y1] = 0
    if push != 0:
        fx[:] = push
    for b in range(num_fins):
        fin = fins[b]
        fin_nodes, fin_weights, slip, fin_force = fin[8][0], fin[8][1], fin[8][2], fin[8][3]
        immersed_boundary.interpolate(ux, uy, fin_nodes, fin_weights, slip)
        outcome = move_filament(fin, n, displacement_limit)
        if outcome:
            return outcome
        immersed_boundary.spread(fin_force, fin_nodes, fin_weights, fx, fy, 1.0)
    for b in range(num_fins if num_rigid else 0):
        # The velocity of a cell rises by half the force density added to it (Guo forcing). Rigid bodies see
        # that; filaments do not see each other's, whatever their order.
        fin_nodes, fin_weights, fin_force = fins[b][8][0], fins[b][8][1], fins[b][8][3]
        immersed_boundary.spread(fin_force, fin_nodes, fin_weights, ux, uy, 0.5)
    for _ in range(iterations if num_rigid else 0):
        immersed_boundary.interpolate(ux, uy, nodes, weights, seen)
        for b in range(num_rigid):
            for i in range(first[b], first[b + 1]):
                force[i, 0] = 2 * (velocity[i, 0] - seen[i, 0])
                force[i, 1] = 2 * (velocity[i, 1] - seen[i, 1])
                rx, ry = markers[i, 0] - poses[b, n, 0], markers[i, 1] - poses[b, n, 1]
                loads[b, n, 0] += force[i, 0]
                loads[b, n, 1] += force[i, 1]
                loads[b, n, 2] += rx * force[i, 1] - ry * force[i, 0]
        immersed_boundary.spread(force, nodes, weights, fx, fy, 1.0)
        immersed_boundary.spread(force, nodes, weights, ux, uy, 0.5)
    return 0


def _build_advance(sources: int):
    @nb.njit(cache=True, nogil=True)
    def advance(
        board, me, strips, fluid, edges, inflow, push, rigid, fins, num_fins, displacement_limit, boxes, loads
    ):  # pragma: no cover
        """What thread ``me`` does in ``len(inflow)`` steps; the index of an outcome and the number of steps done.

        After a step the threads' common work is in ``out``, which becomes ``f``: it has been done when all have met.
        """
        f, out, rates, const, scratch = fluid
        fx, fy = scratch[3], scratch[4]
        nx, ny, size = f.shape[1] - 2, f.shape[2] - 2, board.shape[0]
        first, end = strips[me], strips[me + 1]  # ghost rows counted
        x0, x1 = max(first, 1), min(end, nx + 1)
        room = make_room(rigid[0].shape[0])
        for n in range(inflow.shape[0] if sources >= 0 else 0):  # ``sources`` is part of the cache key
            if me == 0:
                outcome = move_bodies(
                    f, scratch, n, push, rigid, fins, num_fins, displacement_limit, boxes, loads, room
                )
                if outcome:
                    board[0, OUTCOME] = outcome
            if push == 0:
                lattice.collide(f, out, rates, const, x0, x1)
            board[me, LOOKS] += team.meet(board, me)  # the bodies' forces are known to all
            if board[0, OUTCOME]:
                return board[0, OUTCOME], n
            if push != 0:
                lattice.collide_forced(f, out, rates, const, fx, fy, (x0, x1, 1, ny + 1))
            else:
                at_edge = False
                for b in range(boxes.shape[0]):
                    low, high, y0, y1 = boxes[b]
                    mine = (low + (high - low) * me // size, low + (high - low) * (me + 1) // size, y0, y1)
                    lattice.collide_forced(f, out, rates, const, fx, fy, mine)
                    at_edge |= low <= 1 or high > nx or y0 <= 1 or y1 > ny
                if at_edge:  # another thread may have the row whose cells the edge reads
                    team.meet(board, me)
            if not edges[0]:
                fill_strip(out, edges, inflow[n], first, end)
            else:  # each x edge takes what the other strip's cells have
                team.meet(board, me)
                if me == 0:
                    fill_strip(out, edges, inflow[n], 0, nx + 2)
            team.meet(board, me)
            f, out = out, f
        return 0, inflow.shape[0]

    return advance


advance = _build_advance(kernel_sources())
