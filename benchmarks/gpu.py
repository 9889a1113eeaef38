"""Prints one JSON line: how fast a CUDA device advances fluid scenes, beside one core of the same machine.

    python -m benchmarks.gpu [--seconds S]

A cylinder at Re 100 and a hinged filament, on grids of several sizes; ``mlups`` are million cell updates a second of
the whole lattice step, medians over runs of a hundred. Where there is no CUDA device the line says so and holds no
figures. ``distrl.envs.fluids.devices.WORTHWHILE_CELLS`` should lie where the GPU overtakes the core.
"""

import argparse
import json
import statistics
import time
from typing import Any

from benchmarks.fluids import machine
from distrl.core.errors import ConfigError
from distrl.envs.fluids.beam import make_beam
from distrl.envs.fluids.bodies import Filament, RigidBody
from distrl.envs.fluids.fluid import Fluid, graded_sponge
from distrl.envs.fluids.scene import Scene

_SPEED = 0.05
_STEPS = 100
_HEIGHTS = (80, 160, 320, 640, 1280)  # cells; every grid is 1.5 times as long


def _scene(body: str, height: int, device: str) -> Scene:
    length = height * 3 // 2
    size = height / 8  # of the body
    x, y = length / 4 + 0.5, height / 2 + 0.5
    bodies: dict[str, RigidBody | Filament]
    if body == "cylinder":
        bodies = {body: RigidBody.circle(x, y, size)}
    else:
        stiffness = 0.1 * _SPEED**2 * size**3
        bodies = {body: Filament.straight(make_beam(round(size), size, stiffness, clamped=False), x, y)}
    sponge = graded_sponge(length, size, size)
    return Scene(Fluid(length, height, _SPEED * size / 100, _SPEED, sponge=sponge), bodies, device=device)


def _mlups(scene: Scene, seconds: float) -> float:
    """Median over repeated runs of ``_STEPS`` lattice steps, after one that compiles and records."""
    bounds = (0.5, 1.5, 1.0)  # the guard waits for the device
    durations: list[float] = []
    end = 0.0
    while len(durations) < 4 or time.perf_counter() < end:
        start = time.perf_counter()
        if scene.advance(_STEPS).outcome != "fine" or scene.cells_out_of_bounds(*bounds):
            raise SystemExit("the benchmark's flow diverged: its figures would mean nothing.")
        durations.append(time.perf_counter() - start)
        end = end or time.perf_counter() + seconds
    return round(scene.fluid.nx * scene.fluid.ny * _STEPS / statistics.median(durations[1:]) / 1e6, 1)


def measure(seconds: float) -> dict[str, Any]:
    """The benchmark's JSON; without a CUDA device only the reason."""
    try:
        _scene("cylinder", _HEIGHTS[0], "cuda")
    except ConfigError as error:
        return {"benchmark": "gpu", "skipped": str(error), "machine": machine()}
    import warp

    scenes = [
        {
            "body": body,
            "grid": [height * 3 // 2, height],
            "mlups": _mlups(_scene(body, height, "cuda"), seconds),
            "one_core_mlups": _mlups(_scene(body, height, "cpu"), seconds),
        }
        for body in ("cylinder", "filament")
        for height in _HEIGHTS
    ]
    gpu = {"gpu": warp.get_device("cuda:0").name, "warp": warp.__version__}
    return {"benchmark": "gpu", "scenes": scenes, "machine": machine() | gpu}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=2.0, help="for each figure")
    print(json.dumps(measure(parser.parse_args().seconds)))


if __name__ == "__main__":
    main()
