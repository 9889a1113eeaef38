"""A level of detail in, its developed flows out: on one rank, with the shedding that a push has set off."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np

from distrl.envs.cfd import cylinder_case, cylinder_flow
from distrl.envs.cfd.cylinder_case import CONTROL_INTERVAL, Level
from distrl.envs.cfd.cylinder_flow import CylinderFlow
from distrl.envs.cfd.private_folder import PrivateFolder
from distrl.envs.flow_pool import FlowPool, digest

NUM_FLOWS = 7  # one control interval apart: a shedding period
#: (time in D/U, rotation in U/D) from rest: a push sets off the shedding, which is periodic at the end.
PUSH = ((0.0, 0.0), (0.5, 1.0), (1.5, 1.0), (2.0, 0.0), (30.0, 0.0))


def flow_pool(level: Level, directory: Path | None = None) -> FlowPool:
    """Unactuated flows, each the arrays of ``CylinderFlow.state`` and ``reference``, the mean drag coefficient of all.

    Args:
        directory: where they are kept; None: the user's cache.
    """
    solver = Path(shutil.which("pimpleFoam") or "pimpleFoam").resolve()
    version = [str(solver), solver.stat().st_size, solver.stat().st_mtime_ns]
    version += map(digest, (cylinder_case.__file__, cylinder_flow.__file__, __file__))
    return FlowPool("OpenFOAMCylinder", asdict(level), lambda: develop(level), version, directory)


def develop(level: Level) -> Iterator[dict[str, np.ndarray]]:
    """``NUM_FLOWS`` flows."""
    work = PrivateFolder("distrl-openfoam")
    try:
        flow = CylinderFlow(work.path, level)
        flow.run(PUSH, patience=PUSH[-1][0] / CONTROL_INTERVAL)
        flow.advance(0.0)  # for the loads before the first flow
        states = []
        for _ in range(NUM_FLOWS):
            flow.advance(0.0)
            states.append(flow.state())
    finally:
        work.close()
    reference = np.mean([state["numbers"][0] for state in states])
    for state in states:
        yield state | {"reference": np.array(reference)}
