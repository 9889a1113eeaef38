"""Prints one JSON line: how fast the fluid environments run on one core of this machine, and on which machine that was.

    python benchmarks/fluids.py [--fidelity NAME …] [--seconds S]

``mlups`` counts the fluid cells updated by the whole step, fin and environment included; ``fluid_mlups`` is the bare
collision on the same grid. Both are medians over short runs, so that a moment's load does not count; other work on the
machine still lowers them. Nothing is asserted: this measures.
"""

import argparse
import json
import os
import platform
import statistics
import time

import numba
import numpy as np

from distrl.envs.fluids import lattice
from distrl.envs.fluids.fin_case import FIDELITIES
from distrl.envs.fluids.fin_ray import FinRay
from distrl.envs.fluids.sinusoid import Sinusoid

_STEPS = 20  # control steps, or collisions, in one timed run


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
        "numba": numba.__version__,
        "numpy": np.__version__,
    }


def _median_s(run, seconds: float) -> float:
    """Median duration of ``run``, repeated for ``seconds`` and at least five times, after one warm-up."""
    run()
    durations: list[float] = []
    end = time.perf_counter() + seconds
    while len(durations) < 5 or time.perf_counter() < end:
        start = time.perf_counter()
        run()
        durations.append(time.perf_counter() - start)
    return statistics.median(durations)


def measure(fidelity: str, seconds: float) -> dict[str, object]:
    """The fin ray at one fidelity under its usual sinusoid."""
    env = FinRay(fidelity=fidelity, episode_steps=10**9)
    policy = Sinusoid(2.7, np.pi / 2)
    last, _ = env.reset(seed=0)

    def control_steps() -> None:
        nonlocal last
        for _ in range(_STEPS):
            last = env.step(policy.act(last))[0]

    fluid = env.case.fluid()
    f, out, rates, const, _ = fluid.arrays

    def collisions() -> None:
        for _ in range(_STEPS):
            lattice.collide(f, out, rates, const)

    cells = fluid.nx * fluid.ny
    step_s = _median_s(control_steps, seconds) / _STEPS
    return {
        "id": "distrl/FinRay-v0",
        "fidelity": fidelity,
        "grid": [fluid.nx, fluid.ny],
        "lattice_steps": env.case.interval_steps,
        "mlups": round(cells * env.case.interval_steps / step_s / 1e6, 1),
        "fluid_mlups": round(cells / (_median_s(collisions, seconds) / _STEPS) / 1e6, 1),
        "s_per_control_step": round(step_s, 6),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fidelity", nargs="*", choices=list(FIDELITIES), default=list(FIDELITIES))
    parser.add_argument("--seconds", type=float, default=3.0, help="for each figure")
    arguments = parser.parse_args()
    environments = [measure(fidelity, arguments.seconds) for fidelity in arguments.fidelity]
    print(json.dumps({"benchmark": "fluids", "environments": environments, "machine": machine()}))


if __name__ == "__main__":
    main()
