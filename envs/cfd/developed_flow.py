"""A level of detail in, one of its developed flows out: made once, kept on disk, shared by all processes of a user."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np

from distrl.core.errors import StorageError
from distrl.envs.cfd import cylinder_case, cylinder_flow
from distrl.envs.cfd.cylinder_case import CONTROL_INTERVAL, Level
from distrl.envs.cfd.cylinder_flow import CylinderFlow, Files
from distrl.envs.cfd.private_folder import PrivateFolder

NUM_FLOWS = 7  # one control interval apart: a shedding period
#: (time in D/U, rotation in U/D) from rest: a push sets off the shedding, which is periodic at the end.
PUSH = ((0.0, 0.0), (0.5, 1.0), (1.5, 1.0), (2.0, 0.0), (30.0, 0.0))


def developed_flow(level: Level, index: int, directory: Path | None = None) -> tuple[Files, float]:
    """The state of an unactuated flow on one rank (``CylinderFlow.load``), and the mean drag coefficient of all.

    Args:
        index: which of NUM_FLOWS. directory: where they are kept; None: the user's cache.

    Raises:
        StorageError: the directory cannot be written.
    """
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    path = (directory or caches / "distrl") / f"{_identity(level)}.openfoam.npz"
    flow = _read(path, index)
    if flow is not None:
        return flow
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # released by the system whatever becomes of this process
            flow = _read(path, index)  # another process may have made them while this one waited
            if flow is None:
                _make(level, path)
                flow = _read(path, index)
    except OSError as error:
        raise StorageError(
            f"OpenFOAMCylinder needs a writable folder for its developed flows, but {path.parent} gave: {error}. "
            "Set XDG_CACHE_HOME to one that is writable and not full."
        ) from error
    if flow is None:
        raise StorageError(f"OpenFOAMCylinder wrote {path} and could not read it back: check the disk.")
    return flow


def _make(level: Level, path: Path) -> None:
    """Written atomically."""
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
    arrays = {f"{k}/{name}": array for k, state in enumerate(states) for name, array in state.items()}
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            np.savez(file, drag=np.mean([state["numbers"][0] for state in states]), **arrays)  # type: ignore[arg-type]
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _read(path: Path, index: int) -> tuple[Files, float] | None:
    """None if the file is missing or damaged: its archive has a checksum for each entry."""
    try:
        with np.load(path, allow_pickle=False) as file:
            names = [name for name in file.files if name.startswith(f"{index}/")]
            return {name.partition("/")[2]: file[name] for name in names}, float(file["drag"])
    except Exception:  # noqa: BLE001 - a damaged archive raises many kinds, all with one remedy
        return None


def _identity(level: Level) -> str:
    """Changes with the physics, with the source of what computes it, and with the solver."""
    solver = Path(shutil.which("pimpleFoam") or "pimpleFoam").resolve()
    parts = [asdict(level), str(solver), solver.stat().st_size, solver.stat().st_mtime_ns]
    parts += [
        hashlib.sha256(Path(path).read_bytes()).hexdigest()
        for path in (cylinder_case.__file__, cylinder_flow.__file__, __file__)
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:20]
