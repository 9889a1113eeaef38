"""Cells along the stream, across it and in a diameter in, one JSON line out: CPU seconds of a phiflow step on one core.

Incompressible flow round a cylinder at Re 100, JAX, compiled. The step of phiflow's own examples: semi-Lagrangian
advection, explicit diffusion, and a pressure solve that begins at the last pressure. A time step is half a cell at the
inflow's speed; longer ones make the diffusion unstable with 48 cells a diameter. One convective unit is D/U.
"""

import json
import statistics
import sys
import time
from importlib.metadata import version

import jax
from phi.jax import flow

TIME_STEP = 0.5  # cells / U
STEPS = 10  # in one timed run


def main() -> None:
    nx, ny, diameter = (int(argument) for argument in sys.argv[1:4])
    cylinder = flow.Obstacle(flow.Sphere(x=1.5 * diameter, y=0.5 * ny + 0.1 * diameter, radius=0.5 * diameter))
    edges = {"x-": flow.vec(x=1, y=0), "x+": flow.ZERO_GRADIENT, "y": flow.PERIODIC}
    velocity = flow.StaggeredGrid((1.0, 0), edges, x=nx, y=ny, bounds=flow.Box(x=nx, y=ny))

    @flow.jit_compile
    def step(velocity, pressure):
        velocity = flow.advect.semi_lagrangian(velocity, velocity, TIME_STEP)
        velocity = flow.diffuse.explicit(velocity, diameter / 100, TIME_STEP)
        return flow.fluid.make_incompressible(velocity, cylinder, flow.Solve(x0=pressure))

    velocity, pressure = flow.fluid.make_incompressible(velocity, cylinder)
    taken = []
    for _ in range(6):
        start = time.process_time()
        for _ in range(STEPS):
            velocity, pressure = step(velocity, pressure)
        jax.block_until_ready(velocity.vector["x"].values.native("x,y"))
        taken.append((time.process_time() - start) / STEPS)
    step_s = statistics.median(taken[1:])  # the first one compiles
    print(
        json.dumps(
            {
                "grid": [nx, ny],
                "cells_per_diameter": diameter,
                "s_per_step": round(step_s, 5),
                "mega_cell_steps_per_s": round(nx * ny / step_s / 1e6, 3),
                "s_per_convective_unit": round(step_s * diameter / TIME_STEP, 3),
                "crossings_per_s": round(nx * ny * TIME_STEP / step_s),
                "phiflow": version("phiflow"),
                "jax": jax.__version__,
            }
        )
    )


if __name__ == "__main__":
    main()
