"""What a scene's bodies are told to do in, the loads on them out, with the populations on a device of NVIDIA Warp.

It does what the kernel of ``scene`` does, step by step. What is prescribed (the places of rigid bodies, the inflow)
goes to the device for many steps at once; the kernels of a step are recorded once and replayed (a CUDA graph), so that
starting them costs little. Filaments stay on the host, where a beam's small solve is faster than a round trip: each
step the fluid's velocity at their markers comes here and their forces go there.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import warp as wp

from distrl.envs.fluids import coupling, immersed_boundary
from distrl.envs.fluids import warp_kernels as kernels
from distrl.envs.fluids.fluid import Fluid

_CHUNK = 128  # lattice steps whose prescribed motions travel together


class WarpScene:
    """The populations of one scene on a device, in the two buffers that its kernels exchange.

    Args:
        device: "cuda:0" and so on, or "warp:cpu".
        fluid: whose populations it advances, float32.
        edges: (whether periodic along x, index of the sides in ``coupling.SIDES``, inflow profile float64 [ny + 2]).
        first: int64 [rigid bodies + 1], where the markers of each begin.
        filaments: number of markers of each.
        iterations: of the direct forcing of rigid bodies.
    """

    def __init__(
        self, device: str, fluid: Fluid, edges: tuple, first: np.ndarray, filaments: list[int], iterations: int
    ) -> None:
        self._device = wp.get_device("cpu" if device == "warp:cpu" else device)
        self._fluid = fluid
        self._periodic, self._sides, profile = edges
        self._iterations = iterations
        self._num_bodies = len(first) - 1
        ends = np.cumsum([first[-1], *filaments])
        self._parts = [slice(a, b) for a, b in pairwise(ends)]  # markers of each filament
        rigid, total = int(ends[0]), int(ends[-1])
        bodies = self._num_bodies + len(filaments)

        def zeros(shape: Any, kind: Any) -> Any:
            return wp.zeros(shape, dtype=kind, device=self._device)

        shape = (9, fluid.nx + 2, fluid.ny + 2)
        self._buffers = [zeros(shape, float), zeros(shape, float)]
        self._now = 0  # the buffer that holds the present
        self._graphs: dict[tuple[str, int], Any] = {}
        self._rates = wp.array(fluid.rates, dtype=float, device=self._device)
        self._profile = wp.array(profile, dtype=float, device=self._device)
        self._first = wp.array(np.concatenate([first, ends[1:]]), dtype=int, device=self._device)
        self._clock = zeros(1, int)
        self._drive = zeros(_CHUNK, wp.vec2)
        self._rigid_markers = zeros((_CHUNK, rigid), kernels.Marker)
        self._rigid_boxes = zeros((_CHUNK, self._num_bodies), wp.vec4i)
        self._forces = zeros((_CHUNK, rigid), wp.vec2)
        self._wanted = [zeros(rigid, wp.vec2), zeros(rigid, wp.vec2)]
        self._markers = zeros(total, kernels.Marker)
        self._boxes = zeros(bodies, wp.vec4i)
        self._slip = zeros(total, wp.vec2)
        self._force = zeros(total, wp.vec2)
        self._bad = zeros(1, int)
        # What travels every step goes through host memory that the device can read by itself.
        pinned = {"device": "cpu", "pinned": self._device.is_cuda}
        self._marker_post = wp.zeros(total, dtype=kernels.Marker, **pinned)
        self._box_post = wp.zeros(bodies, dtype=wp.vec4i, **pinned)
        self._slip_post = wp.zeros(total, dtype=wp.vec2, **pinned)
        self._force_post = wp.zeros(total, dtype=wp.vec2, **pinned)
        wp.load_module(kernels, device=self._device)

    def fetch(self, populations: np.ndarray) -> None:
        """Write the populations float32 [9, nx + 2, ny + 2] to the host's array."""
        wp.copy(_on_host(populations, float), self._buffers[self._now])
        wp.synchronize_device(self._device)

    def cells_out_of_bounds(self, lowest_density: float, highest_density: float, highest_speed: float) -> int:
        """As of ``lattice``, of the populations on the device."""
        self._bad.zero_()
        limits = (lowest_density - 1, highest_density - 1, highest_speed**2)
        inputs = [self._buffers[self._now], *limits, self._bad]
        wp.launch(kernels.count_out_of_bounds, self._interior, inputs, device=self._device)
        return int(self._bad.numpy()[0])

    def advance(
        self, speeds: np.ndarray, push: float, rigid: tuple, fins: tuple, displacement_limit: float, loads: np.ndarray
    ) -> int:
        """Advance by ``len(speeds)`` lattice steps; the index of an outcome. Arguments are those of ``scene``'s kernel;
        ``loads`` [rigid bodies, steps, 3] is written."""
        if self._fluid.ahead is None:
            wp.copy(self._buffers[self._now], _on_host(self._fluid.populations, float))
            self._fluid.ahead = self
        for start in range(0, len(speeds), _CHUNK):
            part = slice(start, min(start + _CHUNK, len(speeds)))
            drive = np.stack([speeds[part], np.full(part.stop - start, push)], axis=1)
            self._send(self._drive, drive.astype(np.float32), wp.vec2)
            markers = self._place(rigid, part)
            if markers is None:
                return coupling.OUTCOMES.index("left_domain")
            self._clock.zero_()
            for n in range(start, part.stop):
                if fins:
                    code = self._step_with_filaments(fins, n, displacement_limit)
                    if code:
                        return code
                else:
                    self._replay("step")
                self._now = 1 - self._now
            self._take_loads(rigid, markers, part, loads)
        return 0

    def _place(self, rigid: tuple, part: slice) -> np.ndarray | None:
        """Send the markers of rigid bodies for the steps ``part``; their places float64 [steps, n, 2], or None if one
        leaves the domain."""
        outline, blowing, first, poses, moves, _ = rigid
        steps, count = part.stop - part.start, len(outline)
        markers, velocity = np.empty((steps, count, 2)), np.empty((steps, count, 2))
        nodes, weights = np.empty((steps, count, 2), np.int64), np.empty((steps, count, 2, 3))
        boxes = np.empty((steps, len(moves), 4), np.int32)
        for b, moving in enumerate(moves):
            of = slice(first[b], first[b + 1])
            for n in range(steps):
                coupling.place(outline[of], poses[b], part.start + n, markers[n, of], velocity[n, of], blowing[of])
                if n == 0 or moving:
                    immersed_boundary.kernel_weights(markers[n, of], nodes[n, of], weights[n, of])
                    boxes[n, b] = immersed_boundary.support(nodes[n, of], self._fluid.nx, self._fluid.ny)
                else:
                    nodes[n, of], weights[n, of], boxes[n, b] = nodes[0, of], weights[0, of], boxes[0, b]
        if not boxes[:, :, 1].all():
            return None
        rows: Any = np.empty((steps, count), kernels.Marker.numpy_dtype())  # type: ignore[attr-defined]
        rows["node"], rows["wx"], rows["wy"], rows["velocity"] = nodes, weights[:, :, 0], weights[:, :, 1], velocity
        self._send(self._rigid_markers, rows, kernels.Marker)
        self._send(self._rigid_boxes, boxes, wp.vec4i)
        return markers

    def _take_loads(self, rigid: tuple, markers: np.ndarray, part: slice, loads: np.ndarray) -> None:
        """Sum the forces of the markers of each rigid body, and their torque."""
        _, _, first, poses, _, _ = rigid
        forces = self._forces.numpy()[: len(markers)].astype(np.float64)
        for b in range(self._num_bodies):
            of = slice(first[b], first[b + 1])
            arm = markers[:, of] - poses[b, part, None, :2]
            loads[b, part, :2] = forces[:, of].sum(1)
            loads[b, part, 2] = (arm[:, :, 0] * forces[:, of, 1] - arm[:, :, 1] * forces[:, of, 0]).sum(1)

    def _step_with_filaments(self, fins: tuple, n: int, displacement_limit: float) -> int:
        """One step, in which the filaments are moved here; the index of an outcome."""
        markers, boxes = self._marker_post.numpy(), self._box_post.numpy()
        for b, (fin, of) in enumerate(zip(fins, self._parts, strict=True), self._num_bodies):
            shape, (nodes, weights, *_) = fin[1], fin[8]
            immersed_boundary.kernel_weights(shape, nodes, weights)
            boxes[b] = immersed_boundary.support(nodes, self._fluid.nx, self._fluid.ny)
            if not boxes[b, 1]:
                return coupling.OUTCOMES.index("left_domain")
            markers["node"][of], markers["wx"][of], markers["wy"][of] = nodes, weights[:, 0], weights[:, 1]
        self._post(self._markers, self._marker_post, self._parts[0].start)
        self._post(self._boxes, self._box_post, self._num_bodies)
        self._replay("sense")
        self._post(self._slip_post, self._slip, self._parts[0].start)
        wp.synchronize_device(self._device)
        seen, force = self._slip_post.numpy(), self._force_post.numpy()
        for fin, of in zip(fins, self._parts, strict=True):
            fin[8][2][:] = seen[of]
            code = coupling.move_filament(fin, n, displacement_limit)
            if code:
                return code
            force[of] = fin[8][3]
        self._post(self._force, self._force_post, self._parts[0].start)
        self._replay("respond")
        return 0

    # The kernels of a step.

    def _replay(self, stage: str) -> None:
        """Launch the kernels of ``stage``: "sense", "respond" or both, "step"; recorded when they are first needed."""
        key = (stage, self._now)
        if key not in self._graphs:
            with wp.ScopedCapture(device=self._device) as capture:
                if stage != "respond":
                    self._sense()
                if stage != "sense":
                    self._respond()
            self._graphs[key] = capture.graph
        wp.capture_launch(self._graphs[key])

    def _launch(self, kernel: Any, dim: Any, *inputs: Any) -> None:
        if np.prod(dim) > 0:
            wp.launch(kernel, dim, list(inputs), device=self._device)

    def _sense(self) -> None:
        self._launch(
            kernels.sense, len(self._markers), self._buffers[self._now], self._clock, self._rigid_markers,
            self._rigid_boxes, self._markers, self._boxes, self._slip,
        )  # fmt: skip

    def _respond(self) -> None:
        f, out = self._buffers[self._now], self._buffers[1 - self._now]
        rigid, total = len(self._wanted[0]), len(self._markers)
        for iteration in range(self._iterations):
            # The first sees the forces of the filaments, the others those of the iteration before.
            given = (0, rigid, self._wanted[iteration % 2]) if iteration else (rigid, total, self._force)
            self._launch(
                kernels.direct_forcing, rigid, self._clock, self._markers, *given, iteration == 0,
                self._slip, self._wanted[1 - iteration % 2], self._force, self._forces,
            )  # fmt: skip
        self._launch(
            kernels.collide, self._interior, f, self._rates, self._clock, self._drive, self._markers, self._force,
            self._boxes, self._first, out,
        )  # fmt: skip
        nx, ny = self._interior
        if self._periodic:
            self._launch(kernels.fill_periodic_x, (9, ny + 2), out)
        if self._sides == coupling.SIDES["slip"]:
            self._launch(kernels.fill_slip_sides, nx + 2, out)
        elif self._sides == coupling.SIDES["no_slip"]:
            self._launch(kernels.fill_no_slip_sides, nx, out)
        else:
            self._launch(kernels.fill_periodic_y, (9, nx + 2), out)
        if not self._periodic:
            self._launch(kernels.fill_inlet_and_outlet, ny, out, self._clock, self._drive, self._profile)
        self._launch(kernels.tick, 1, self._clock)

    @property
    def _interior(self) -> tuple[int, int]:
        return self._fluid.nx, self._fluid.ny

    # Copies.

    def _send(self, target: Any, rows: np.ndarray, kind: Any) -> None:
        """Copy an array of the host to the beginning of one of the device."""
        count = rows.shape[0] * (target.shape[1] if target.ndim > 1 else 1)
        if count:
            wp.copy(target, _on_host(rows, kind), count=count)

    def _post(self, target: Any, source: Any, first: int) -> None:
        """Copy the end of an array, from ``first`` on, to the same place in another."""
        wp.copy(target, source, first, first, len(source) - first)


def _on_host(array: np.ndarray, kind: Any) -> Any:
    """A Warp array of the host over the memory of ``array``."""
    return wp.array(np.ascontiguousarray(array), dtype=kind, device="cpu", copy=False)
