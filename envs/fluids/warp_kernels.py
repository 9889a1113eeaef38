"""The terms of the fluid again, for a GPU: populations and markers on a device in, populations and marker forces out.

Each kernel says which numba function it repeats; equations, sources and the order of the populations are there. Three
things differ from the CPU, because a GPU has thousands of threads: forces are not spread by the markers but gathered by
the cells, so that no two threads write to one place and results repeat bit by bit; a marker interpolates from the
populations themselves, without fields in between; every cell is collided with a force, mostly zero.

Populations float32 [9, nx + 2, ny + 2]. ``clock`` int32 [1] is the lattice step within a run: kernels are recorded once
and replayed for every step.
"""

import warp as wp

wp.set_module_options({"enable_backward": False})


@wp.struct
class Marker:
    """One marker: its centre cell, its weights along x and y, and the velocity that its body wants of the fluid."""

    node: wp.vec2i
    wx: wp.vec3
    wy: wp.vec3
    velocity: wp.vec2


@wp.kernel
def sense(
    f: wp.array3d[float],
    clock: wp.array[int],
    rigid_markers: wp.array2d[Marker],
    rigid_boxes: wp.array2d[wp.vec4i],
    markers: wp.array[Marker],
    boxes: wp.array[wp.vec4i],
    slip: wp.array[wp.vec2],
):
    """Put this step's rigid markers ``[steps, n]`` in place; write the fluid's velocity at every marker.

    ``lattice.streamed_fields`` and ``immersed_boundary.interpolate``.
    """
    i = wp.tid()
    n = clock[0]
    if i < rigid_boxes.shape[1]:
        boxes[i] = rigid_boxes[n, i]
    m = markers[i]
    if i < rigid_markers.shape[1]:
        m = rigid_markers[n, i]
        markers[i] = m
    vx = float(0.0)
    vy = float(0.0)
    for p in range(3):
        x = m.node[0] + p - 1
        for q in range(3):
            y = m.node[1] + q - 1
            h1 = f[1, x - 1, y]
            h2 = f[2, x, y - 1]
            h3 = f[3, x + 1, y]
            h4 = f[4, x, y + 1]
            h5 = f[5, x - 1, y - 1]
            h6 = f[6, x + 1, y - 1]
            h7 = f[7, x + 1, y + 1]
            h8 = f[8, x - 1, y + 1]
            w = m.wx[p] * m.wy[q] / (1.0 + (f[0, x, y] + h1 + h2 + h3 + h4 + h5 + h6 + h7 + h8))
            vx += w * (h1 - h3 + h5 - h6 - h7 + h8)
            vy += w * (h2 - h4 + h5 + h6 - h7 - h8)
    slip[i] = wp.vec2(vx, vy)


@wp.kernel
def direct_forcing(
    clock: wp.array[int],
    markers: wp.array[Marker],
    start: int,
    stop: int,
    given: wp.array[wp.vec2],
    first: bool,
    slip: wp.array[wp.vec2],
    wanted: wp.array[wp.vec2],
    force: wp.array[wp.vec2],
    forces: wp.array2d[wp.vec2],
):
    """One iteration of the direct forcing of rigid bodies, without the fields between the markers.

    Raises ``slip`` by what the forces ``given`` of the markers from ``start`` to ``stop`` do to the fluid at a marker,
    spread and interpolated again; writes what is then still ``wanted`` and adds it to ``force`` and, for this step, to
    ``forces`` [steps, n]. Thread i is a rigid marker.
    """
    i = wp.tid()
    m = markers[i]
    vx = float(0.0)
    vy = float(0.0)
    for j in range(start, stop):
        dx = markers[j].node[0] - m.node[0]
        dy = markers[j].node[1] - m.node[1]
        if wp.abs(dx) <= 2 and wp.abs(dy) <= 2:
            other = markers[j]
            common_x = float(0.0)
            common_y = float(0.0)
            for p in range(3):
                if p - dx >= 0 and p - dx <= 2:
                    common_x += m.wx[p] * other.wx[p - dx]
                if p - dy >= 0 and p - dy <= 2:
                    common_y += m.wy[p] * other.wy[p - dy]
            half = 0.5 * common_x * common_y
            vx += half * given[j][0]
            vy += half * given[j][1]
    seen = slip[i] + wp.vec2(vx, vy)
    more = 2.0 * (m.velocity - seen)
    slip[i] = seen
    wanted[i] = more
    if first:
        force[i] = more
    else:
        force[i] = force[i] + more
    forces[clock[0], i] = force[i]


@wp.kernel
def collide(
    f: wp.array3d[float],
    rates: wp.array2d[float],
    clock: wp.array[int],
    drive: wp.array[wp.vec2],
    markers: wp.array[Marker],
    force: wp.array[wp.vec2],
    boxes: wp.array[wp.vec4i],
    first: wp.array[int],
    out: wp.array3d[float],
):
    """Stream and collide one cell with what the markers of the bodies give it: ``lattice.collide_forced``.

    ``drive`` [steps] is (inflow, push); ``first`` [bodies + 1] is where the markers of each body begin, and ``boxes``
    the cells that they touch.
    """
    i, j = wp.tid()
    x = i + 1
    y = j + 1
    px = drive[clock[0]][1]
    py = float(0.0)
    for b in range(boxes.shape[0]):
        box = boxes[b]
        if x >= box[0] and x < box[1] and y >= box[2] and y < box[3]:
            for k in range(first[b], first[b + 1]):
                p = x - markers[k].node[0] + 1
                q = y - markers[k].node[1] + 1
                if p >= 0 and p <= 2 and q >= 0 and q <= 2:
                    w = markers[k].wx[p] * markers[k].wy[q]
                    px += w * force[k][0]
                    py += w * force[k][1]
    h0 = f[0, x, y]
    h1 = f[1, x - 1, y]
    h2 = f[2, x, y - 1]
    h3 = f[3, x + 1, y]
    h4 = f[4, x, y + 1]
    h5 = f[5, x - 1, y - 1]
    h6 = f[6, x + 1, y - 1]
    h7 = f[7, x + 1, y + 1]
    h8 = f[8, x - 1, y + 1]
    s1 = h1 + h3
    s2 = h2 + h4
    s5 = h5 + h7
    s6 = h6 + h8
    d1 = h1 - h3
    d2 = h2 - h4
    d5 = h5 - h7
    d6 = h6 - h8
    w0 = float(4.0 / 9.0)
    w1 = float(1.0 / 9.0)
    w2 = float(1.0 / 36.0)
    even = 0.5 * rates[0, x]
    odd = 0.5 * rates[1, x]
    even_force = 1.0 - even
    odd_force = 1.0 - odd
    excess = h0 + (s1 + s2) + (s5 + s6)
    jx = d1 + (d5 - d6) + 0.5 * px
    jy = d2 + (d5 + d6) + 0.5 * py
    inverse = 1.0 / (1.0 + excess)
    ux = jx * inverse
    uy = jy * inverse
    base = excess - 1.5 * (jx * ux + jy * uy)
    qx = 4.5 * jx * ux
    qy = 4.5 * jy * uy
    qxy = 9.0 * jx * uy
    uf = 3.0 * (ux * px + uy * py)
    gx = 9.0 * ux * px
    gy = 9.0 * uy * py
    gxy = 9.0 * (ux * py + uy * px)
    lx = 3.0 * jx
    ly = 3.0 * jy
    kx = 3.0 * px
    ky = 3.0 * py
    e1 = even * (s1 - 2.0 * w1 * (base + qx)) - even_force * w1 * (gx - uf)
    e2 = even * (s2 - 2.0 * w1 * (base + qy)) - even_force * w1 * (gy - uf)
    e5 = even * (s5 - 2.0 * w2 * (base + qx + qy + qxy)) - even_force * w2 * (gx + gy + gxy - uf)
    e6 = even * (s6 - 2.0 * w2 * (base + qx + qy - qxy)) - even_force * w2 * (gx + gy - gxy - uf)
    o1 = odd * (d1 - 2.0 * w1 * lx) - odd_force * w1 * kx
    o2 = odd * (d2 - 2.0 * w1 * ly) - odd_force * w1 * ky
    o5 = odd * (d5 - 2.0 * w2 * (lx + ly)) - odd_force * w2 * (kx + ky)
    o6 = odd * (d6 - 2.0 * w2 * (ly - lx)) - odd_force * w2 * (ky - kx)
    out[0, x, y] = h0 - 2.0 * even * (h0 - w0 * base) - even_force * w0 * uf
    out[1, x, y] = h1 - e1 - o1
    out[2, x, y] = h2 - e2 - o2
    out[3, x, y] = h3 - e1 + o1
    out[4, x, y] = h4 - e2 + o2
    out[5, x, y] = h5 - e5 - o5
    out[6, x, y] = h6 - e6 - o6
    out[7, x, y] = h7 - e5 + o5
    out[8, x, y] = h8 - e6 + o6


# The edges: ``boundaries``, functions of the same names.


@wp.kernel
def fill_slip_sides(f: wp.array3d[float]):
    x = wp.tid()
    ny = f.shape[2] - 2
    f[2, x, 0] = f[4, x, 1]
    f[5, x, 0] = f[8, x, 1]
    f[6, x, 0] = f[7, x, 1]
    f[4, x, ny + 1] = f[2, x, ny]
    f[8, x, ny + 1] = f[5, x, ny]
    f[7, x, ny + 1] = f[6, x, ny]


@wp.kernel
def fill_no_slip_sides(f: wp.array3d[float]):
    x = wp.tid() + 1
    ny = f.shape[2] - 2
    f[2, x, 0] = f[4, x, 1]
    f[5, x - 1, 0] = f[7, x, 1]
    f[6, x + 1, 0] = f[8, x, 1]
    f[4, x, ny + 1] = f[2, x, ny]
    f[7, x + 1, ny + 1] = f[5, x, ny]
    f[8, x - 1, ny + 1] = f[6, x, ny]


@wp.kernel
def fill_periodic_x(f: wp.array3d[float]):
    k, y = wp.tid()
    nx = f.shape[1] - 2
    f[k, 0, y] = f[k, nx, y]
    f[k, nx + 1, y] = f[k, 1, y]


@wp.kernel
def fill_periodic_y(f: wp.array3d[float]):
    k, x = wp.tid()
    ny = f.shape[2] - 2
    f[k, x, 0] = f[k, x, ny]
    f[k, x, ny + 1] = f[k, x, 1]


@wp.kernel
def fill_inlet_and_outlet(
    f: wp.array3d[float], clock: wp.array[int], drive: wp.array[wp.vec2], profile: wp.array[float]
):
    """``boundaries.fill_velocity_inlet`` and ``fill_pressure_outlet``; the first of the ``drive`` is the inflow."""
    y = wp.tid() + 1
    nx = f.shape[1] - 2
    speed = drive[clock[0]][0]
    here = profile[y]
    f[1, 0, y] = f[3, 1, y] + 6.0 * speed / 9.0 * here
    f[5, 0, y - 1] = f[7, 1, y] + speed / 12.0 * (here + profile[y - 1])
    f[8, 0, y + 1] = f[6, 1, y] + speed / 12.0 * (here + profile[y + 1])
    h1 = f[1, nx, y]
    h2 = f[2, nx, y]
    h3 = f[3, nx, y]
    h4 = f[4, nx, y]
    h5 = f[5, nx, y]
    h6 = f[6, nx, y]
    h7 = f[7, nx, y]
    h8 = f[8, nx, y]
    inverse = 1.0 / (1.0 + (f[0, nx, y] + h1 + h2 + h3 + h4 + h5 + h6 + h7 + h8))
    ux = (h1 - h3 + h5 - h6 - h7 + h8) * inverse
    uy = (h2 - h4 + h5 + h6 - h7 - h8) * inverse
    uu = 1.5 * (ux * ux + uy * uy)
    f[3, nx + 1, y] = 2.0 / 9.0 * (4.5 * ux * ux - uu) - h1
    f[7, nx + 1, y + 1] = 1.0 / 18.0 * (4.5 * (ux + uy) * (ux + uy) - uu) - h5
    f[6, nx + 1, y - 1] = 1.0 / 18.0 * (4.5 * (ux - uy) * (ux - uy) - uu) - h8


@wp.kernel
def tick(clock: wp.array[int]):
    """The next lattice step."""
    clock[0] = clock[0] + 1


@wp.kernel
def count_out_of_bounds(f: wp.array3d[float], low: float, high: float, limit: float, bad: wp.array[int]):
    """``lattice.cells_out_of_bounds``: ``low`` and ``high`` are densities minus 1, ``limit`` the speed squared."""
    i, j = wp.tid()
    x = i + 1
    y = j + 1
    jx = f[1, x, y] - f[3, x, y] + f[5, x, y] - f[6, x, y] - f[7, x, y] + f[8, x, y]
    jy = f[2, x, y] - f[4, x, y] + f[5, x, y] + f[6, x, y] - f[7, x, y] - f[8, x, y]
    excess = f[0, x, y]
    for k in range(1, 9):
        excess += f[k, x, y]
    density = 1.0 + excess
    fine = excess > low and excess < high and jx * jx + jy * jy < limit * density * density
    if not fine:
        wp.atomic_add(bad, 0, 1)
