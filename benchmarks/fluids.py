"""Prints one JSON line: how fast the environments and their fluid solver run on one core, the bounds of this machine,
and how fast other packages are on it.

    python benchmarks/fluids.py [--environments ID …] [--fidelities NAME …] [--seconds S] [--peers NAME …]

All seconds are of one core, CPU time, so that other work on the machine hardly counts (it still takes cache and memory
bandwidth). Medians over short runs; nothing is asserted: this measures. Before its first measurement an environment
develops the flows that its episodes begin with, and keeps them: many minutes for all of the finest levels.

``environments``: ``mlups`` counts the cells that a whole control step updates a second, bodies and environment
included; ``fluid_mlups`` is the bare collision on the same grid; ``beam_share`` the part of the step that the
filaments' equations of motion take; ``s_per_convective_unit`` the time for L/U (fins) or D/U (cylinders).

``team``: one environment on all cores (its option ``threads``), how much faster than on one in wall time, and that by
the number of cores.

``memory_bandwidth_share``: the copy of nine float32 populations, the least memory traffic that a collision can have
(72 bytes a cell), as a bound for it on the same grid, and the shares of it that the bare collision and the whole step
reach.

``peers`` solve other problems with other methods, so that their steps do not compare. ``crossings_per_s`` does, within
the limits of accuracy: cells times (U Δt / Δx) a second, how many cells the flow crosses with every one computed. A
spectral method resolves more with a cell, a body-fitted mesh needs fewer of them. ``make fluid-peers`` installs those
from PyPI, ``apt-get install openfoam`` the last.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import resource
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numba as nb
import numpy as np

from distrl.core.errors import DistrlError
from distrl.envs import REGISTRY
from distrl.envs.fluids import beam as beam_term
from distrl.envs.fluids import lattice
from distrl.envs.fluids.bodies import Filament
from distrl.envs.fluids.fluid import Fluid

ROOT = Path(__file__).parents[1]
OPENFOAM = "distrl/OpenFOAMCylinder-v0"
PEERS = {  # by the name of their environment in .venv-fluid-peers
    "hydrogym": ["hydrogym_kolmogorov.py"],
    "phiflow": ["phiflow_cylinder.py", "144", "120", "24"],  # the grid of FinRay's default level
}
_BLOCK_S = 0.02  # runs are repeated to this before a time is taken
_PEER_TIMEOUT_S = 900
_BEYOND_CACHE = 2048  # cells along either edge: 300 MB of populations
# JAX on one core, as everything else here
_ONE_CORE = {
    "JAX_PLATFORMS": "cpu",
    "OMP_NUM_THREADS": "1",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
}


def core_s() -> float:
    """CPU seconds of this process and of those that it has waited for."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def median_s(timed: Callable[[], float], seconds: float) -> float:
    """Median of what ``timed`` takes, called for about ``seconds`` and at least five times, after one warm-up."""
    block = max(1, round(_BLOCK_S / max(timed(), 1e-7)))
    found: list[float] = []
    while len(found) < 5 or sum(found) * block < seconds:
        found.append(sum(timed() for _ in range(block)) / block)
    return statistics.median(found)


def calls(run: Callable[[], object]) -> Callable[[], float]:
    """CPU seconds of one call."""

    def timed() -> float:
        start = core_s()
        run()
        return core_s() - start

    return timed


def machine() -> dict[str, object]:
    """What the figures depend on."""
    model = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo") as file:
            model = next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "load_1min": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "numba": nb.__version__,
        "numpy": np.__version__,
    }


def environment_class(id: str) -> Any:
    module, name = REGISTRY[id].split(":")
    return getattr(importlib.import_module(module), name)


def measure(id: str, fidelity: str | None, seconds: float) -> dict[str, Any]:
    """One environment under random actions; of those on a lattice (``env.case`` has ``grid``) also what is below."""
    print(f"{id} {fidelity or ''}", file=sys.stderr)
    env = environment_class(id)(**({} if fidelity is None else {"fidelity": fidelity}))
    env.action_space.seed(0)
    env.reset(seed=0)

    def step() -> float:
        action = env.action_space.sample()
        start = core_s()
        *_, terminated, truncated, _ = env.step(action)
        taken = core_s() - start
        if terminated or truncated:
            env.reset()
        return taken

    found: dict[str, Any] = {"id": id, "fidelity": fidelity}
    step_s = median_s(step, seconds)
    found["s_per_control_step"] = float(f"{step_s:.3g}")
    case: Any = getattr(env, "case", None)
    if hasattr(case, "grid"):
        (nx, ny), steps, speed = case.grid, case.interval_steps, case.lattice_speed
        updates = nx * ny * steps / step_s
        collision_s = median_s(calls(_collision(Fluid(nx, ny, 0.01, speed))), seconds / 2)
        found |= {
            "grid": [nx, ny],
            "lattice_steps": steps,
            "mlups": round(updates / 1e6, 1),
            "fluid_mlups": round(nx * ny / collision_s / 1e6, 1),
            "s_per_convective_unit": float(f"{step_s * case.cells / (speed * steps):.3g}"),
            "crossings_per_s": float(f"{updates * speed:.3g}"),
        }
        if beam_s := sum(_beam_s(case, fin, seconds / 2) for fin in _filaments(env)):
            found["beam_share"] = round(beam_s * steps / step_s, 3)
    env.close()
    return found


def team(fidelity: str, seconds: float) -> dict[str, Any]:
    """A fin ray on all cores beside one on one of them, step by step in turns."""
    cores = len(os.sched_getaffinity(0))
    print(f"on {cores} cores {fidelity}", file=sys.stderr)
    envs = [environment_class("distrl/FinRay-v0")(fidelity=fidelity, threads=threads) for threads in (1, cores)]
    for env in envs:
        env.action_space.seed(0)
        env.reset(seed=0)
    taken: list[list[float]] = []
    start = time.perf_counter()
    while len(taken) < 50 or time.perf_counter() - start < 4 * seconds:
        row = []
        for env in envs:
            action = env.action_space.sample()
            begin = time.perf_counter()
            *_, terminated, truncated, _ = env.step(action)
            row.append(time.perf_counter() - begin)
            if terminated or truncated:
                env.reset()
        taken.append(row)
    alone, shared = np.median(taken[20:], axis=0)  # the first steps share out the work
    return {
        "id": "distrl/FinRay-v0",
        "fidelity": fidelity,
        "threads": cores,
        "s_per_control_step": float(f"{shared:.3g}"),
        "speedup": round(float(alone / shared), 2),
        "efficiency": round(float(alone / shared / cores), 2),
    }


def _filaments(env: Any) -> Iterator[Filament]:
    return (body for body in env.flow.scene.bodies.values() if isinstance(body, Filament))


def _collision(fluid: Fluid) -> Callable[[], None]:
    f, out, rates, const, _ = fluid.arrays
    return lambda: lattice.collide(f, out, rates, const, 1, fluid.nx + 1)


@nb.njit
def _move(fluid, beam, x, x_old, root, tension, roots, activation, work, with_beam):  # pragma: no cover
    """Collide, and move a filament in air that holds it back as the fluid does, as often as ``roots`` has rows."""
    f, out, rates, const, _ = fluid
    slip, force, x_new = np.zeros_like(x), np.empty_like(x), np.empty_like(x)
    space = beam_term.workspace(x.shape[0] - 1)
    converged = True
    for n in range(roots.shape[0]):
        lattice.collide(f, out, rates, const, 1, f.shape[1] - 1)
        if with_beam:
            shapes, turns = (x_old, x, x_new), (root[0], root[1], roots[n])
            refactor = n % beam_term.REFACTOR_PERIOD == 0
            converged &= beam_term.step(beam, shapes, turns, tension, activation[n], slip, refactor, force, space)
            beam_term.account(beam, shapes, turns, tension, activation[n], force, work, space)
            x_old, x, x_new = x, x_new, x_old
            root[0] = root[1]
            root[1] = roots[n]
    return converged


def _beam_s(case: Any, fin: Filament, seconds: float) -> float:
    """Seconds of a filament's equation of motion in a lattice step, next to a collision that takes the cache."""
    nx, ny = case.grid
    fluid = Fluid(nx, ny, 0.01, case.lattice_speed)
    step = np.arange(1.0, 5 * case.interval_steps + 1)
    phase = case.angular_rate(case.frequency) * step
    envelope = np.minimum(1.0, step / step[-1])
    roots = case.root_position(0, phase, envelope)
    activation = 2.7 * envelope * np.sin(phase)

    def difference() -> float:
        taken = []
        for with_beam in (False, True):
            still = Filament.straight(fin.beam, *roots[0, :2])
            state = (still.shape, still.shape_old, still.root, still.tension)
            start = core_s()
            if not _move(fluid.arrays, fin.beam.arrays, *state, roots, activation, still.work, with_beam):
                raise RuntimeError("the filament that is timed did not converge: its figures mean nothing")
            taken.append(core_s() - start)
        return taken[1] - taken[0]

    difference()
    found = [difference() for _ in range(max(9, round(seconds / 0.1)))]
    return statistics.median(found) / len(step)


@nb.njit(fastmath=True)
def _copy(a0, a1, a2, a3, a4, a5, a6, a7, a8, b0, b1, b2, b3, b4, b5, b6, b7, b8):  # pragma: no cover
    for x in range(1, a0.shape[0] - 1):
        for y in range(1, a0.shape[1] - 1):
            b0[x, y] = a0[x, y]
            b1[x, y] = a1[x, y]
            b2[x, y] = a2[x, y]
            b3[x, y] = a3[x, y]
            b4[x, y] = a4[x, y]
            b5[x, y] = a5[x, y]
            b6[x, y] = a6[x, y]
            b7[x, y] = a7[x, y]
            b8[x, y] = a8[x, y]


def memory_bandwidth(grid: tuple[int, int], mlups: float | None, seconds: float) -> dict[str, Any]:
    """The bound that copying populations sets on a grid, and the shares of it that are reached."""
    nx, ny = grid
    fluid = Fluid(nx, ny, 0.01, 0.05)
    f, out = fluid.arrays[:2]
    collide, copy = calls(_collision(fluid)), calls(lambda: _copy(*f, *out))
    rounds = range(5)  # in turns, so that a change of the machine's load meets both
    times = np.array([(median_s(copy, seconds / 8), median_s(collide, seconds / 8)) for _ in rounds])
    bound, collision = nx * ny / np.median(times, axis=0) / 1e6
    return {
        "grid": [nx, ny],
        "population_mb": round(2 * f.nbytes / 1e6, 1),
        "copy_gb_per_s": round(float(bound) * 72 / 1e3, 1),
        "bound_mlups": round(float(bound)),
        "collision_share": round(float(collision / bound), 2),
        "step_share": None if mlups is None else round(float(mlups / bound), 2),
    }


def peer(name: str) -> dict[str, Any]:
    """Run a peer's script in its own environment; what it printed, or the command that failed and its error."""
    script, *arguments = PEERS[name]
    command = [f".venv-fluid-peers/{name}/bin/python", f"benchmarks/fluid_peers/{script}", *arguments]
    failed = {"peer": name, "command": shlex.join(command)}
    environ = {**os.environ, **_ONE_CORE}
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=_PEER_TIMEOUT_S, env=environ)
    except FileNotFoundError:
        return failed | {"error": "not installed: make fluid-peers"}
    except subprocess.TimeoutExpired:
        return failed | {"error": f"took more than {_PEER_TIMEOUT_S} s"}
    if done.returncode:
        return failed | {"error": (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]}
    return {"peer": name} | json.loads(done.stdout.strip().splitlines()[-1])


def openfoam(seconds: float) -> Iterator[dict[str, Any]]:
    """The cylinder of Schäfer and Turek in OpenFOAM, through distrl's own environment: compare ``CylinderRotation``."""
    try:
        from distrl.envs.cfd.cylinder_case import CONTROL_INTERVAL, FIDELITIES
    except ImportError as error:
        yield {
            "peer": "openfoam",
            "command": f"import {REGISTRY.get(OPENFOAM, 'distrl.envs.cfd')}",
            "error": str(error),
        }
        return
    for fidelity in ("smoke", "default"):  # the flow that an episode at "fine" begins with takes minutes to develop
        try:
            found = measure(OPENFOAM, fidelity, seconds)
        except DistrlError as error:
            yield {"peer": "openfoam", "command": f"{OPENFOAM} at {fidelity}", "error": str(error)}
            return
        step_s = found.pop("s_per_control_step")
        del found["id"]
        yield (
            {"peer": "openfoam"}
            | found
            | {
                "s_per_control_step": step_s,
                "steps": FIDELITIES[fidelity].solver_steps,
                "s_per_convective_unit": float(f"{step_s / CONTROL_INTERVAL:.3g}"),
            }
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ours = [id for id in REGISTRY if id != OPENFOAM and hasattr(environment_class(id), "fidelities")]
    names = [*PEERS, "openfoam"]
    parser.add_argument("--environments", nargs="*", choices=ours, default=ours)
    parser.add_argument("--fidelities", nargs="*", help="default: all of each environment")
    parser.add_argument("--seconds", type=float, default=2.0, help="for each figure")
    parser.add_argument("--peers", nargs="*", choices=names, default=names)
    options = parser.parse_args()
    found = []
    for id in options.environments:
        levels: list[str | None] = list(environment_class(id).fidelities) or [None]
        found += [
            measure(id, level, options.seconds)
            for level in levels
            if options.fidelities is None or level in options.fidelities
        ]
    steps = {tuple(one["grid"]): one["mlups"] for one in found if "grid" in one}
    grids = sorted(steps, key=lambda grid: grid[0] * grid[1])
    bandwidth = [memory_bandwidth(grid, steps[grid], options.seconds) for grid in grids]
    bandwidth.append(memory_bandwidth((_BEYOND_CACHE, _BEYOND_CACHE), None, options.seconds))
    several = len(os.sched_getaffinity(0)) > 1 and "distrl/FinRay-v0" in options.environments
    fins = environment_class("distrl/FinRay-v0").fidelities if several else {}
    teams = [
        team(level, options.seconds) for level in fins if options.fidelities is None or level in options.fidelities
    ]
    peers: list[dict[str, Any]] = []
    for name in options.peers:
        peers += openfoam(options.seconds) if name == "openfoam" else [peer(name)]
    print(
        json.dumps(
            {
                "benchmark": "fluids",
                "environments": found,
                "team": teams,
                "memory_bandwidth_share": bandwidth,
                "peers": peers,
                "machine": machine(),
            }
        )
    )


if __name__ == "__main__":
    main()
