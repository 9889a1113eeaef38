"""A fin case in, one of its developed flows out: built once, kept on disk, shared by every process of the user.

The file is ``<hash of case and solver>.flows`` under ``$XDG_CACHE_HOME/distrl`` (or ``~/.cache/distrl``): one line of
JSON with the position and SHA-256 of every flow, then the flows as npz. It is written beside and moved into place, so a
reader never sees half of one; a lock makes processes that start together build it once; a damaged one is built again.
"""

import fcntl
import hashlib
import io
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from distrl.core.errors import EnvironmentFault, StorageError
from distrl.envs.fluids import fin_case, fin_flow, scene
from distrl.envs.fluids.fin_case import RANDOM_FREQUENCIES, FinCase
from distrl.envs.fluids.fin_flow import FinFlow

SIZE = 8  # developed flows in a pool
_WARM_UP = 50  # unactuated control intervals: four cycles at the default frequency

# Part of a pool's name: a flow made by another version of these files is not this version's flow.
_SOURCES = [
    hashlib.sha256(Path(path).read_bytes()).hexdigest()
    for path in (scene.__file__, fin_case.__file__, fin_flow.__file__, __file__)
]


def cache_directory() -> Path:
    """Where pools are kept for this user."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "distrl"


def pool_path(case: FinCase, directory: Path | None = None) -> Path:
    """The pool's file: its name changes with the physics and with the source of what computes it."""
    identity = json.dumps([case.as_dict(), scene.kernel_sources(), *_SOURCES], sort_keys=True)
    name = hashlib.sha256(identity.encode()).hexdigest()[:20]
    return (directory or cache_directory()) / f"{name}.flows"


def frequencies(case: FinCase) -> np.ndarray:
    """Root frequency of every flow, float64 [SIZE], in U/L: the middles of equal parts of the range, or one."""
    if not case.random_frequency:
        return np.full(SIZE, case.frequency)
    low, high = RANDOM_FREQUENCIES
    return low + (high - low) * (np.arange(SIZE) + 0.5) / SIZE


def _develop(case: FinCase) -> Iterator[dict[str, np.ndarray]]:
    """Unactuated flows at phases spread over a cycle, one after another."""
    flow: FinFlow | None = None
    history: list[list[float]] = []
    for index, frequency in enumerate(frequencies(case)):
        if flow is None or case.random_frequency:
            flow, history = FinFlow(case), []
            flow.rate = case.angular_rate(frequency)
        per_cycle = 10 / frequency
        until = _WARM_UP + int(index * per_cycle / SIZE)
        while flow.intervals < until:
            loads, outcome = flow.advance(0.0)
            if loads is None:
                raise EnvironmentFault(
                    f"FinRay needs a case whose unactuated flow develops, but it diverged ({outcome}) after "
                    f"{flow.intervals} control intervals: lower reynolds or choose a finer fidelity."
                )
            history.append([loads.thrust, loads.lift, loads.root_power, loads.muscle_power, loads.muscle_power_spent])
        cycle = np.array(history[-round(per_cycle) :]).mean(0)
        yield flow.state() | {"loads": np.array(history[-1]), "cycle": cycle}


def _build(case: FinCase, path: Path) -> None:
    """Write the pool, atomically."""
    blobs = []
    for flow in _develop(case):
        buffer = io.BytesIO()
        np.savez(buffer, **flow)  # type: ignore[arg-type]
        blobs.append(buffer.getvalue())
    header = json.dumps(
        {
            "case": case.as_dict(),
            "sizes": [len(b) for b in blobs],
            "sha256": [hashlib.sha256(b).hexdigest() for b in blobs],
        }
    )
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.stem, suffix=".tmp")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(header.encode() + b"\n")
            file.writelines(blobs)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError:
        Path(temporary).unlink(missing_ok=True)
        raise


def _read(path: Path, index: int) -> dict[str, np.ndarray] | None:
    """Flow ``index`` of a pool, or None if the file is missing, unreadable or not what it should be."""
    try:
        with path.open("rb") as file:
            header = json.loads(file.readline())
            file.seek(sum(header["sizes"][:index]), os.SEEK_CUR)
            blob = file.read(header["sizes"][index])
        if hashlib.sha256(blob).hexdigest() != header["sha256"][index]:
            return None
        with np.load(io.BytesIO(blob), allow_pickle=False) as arrays:
            return dict(arrays)
    except (OSError, ValueError, KeyError, IndexError, TypeError):
        return None


def developed_flow(case: FinCase, index: int, directory: Path | None = None) -> dict[str, np.ndarray]:
    """The arrays of ``FinFlow.state`` of flow ``index``, with its last ``loads`` and their means over a ``cycle``.

    ``loads`` and ``cycle`` are float64 [5]: thrust, lift, root power, muscle power, muscle power spent, as
    coefficients. Builds the pool if it is not there or damaged.
    """
    path = pool_path(case, directory)
    flow = _read(path, index)
    if flow is not None:
        return flow
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # released by the system whatever becomes of this process
            flow = _read(path, index)  # another process may have built it while this one waited
            if flow is None:
                _build(case, path)
                flow = _read(path, index)
    except OSError as error:
        raise StorageError(
            f"FinRay needs a writable folder for its developed flows, but {path.parent} gave: {error}. "
            "Set XDG_CACHE_HOME to one that is writable and not full."
        ) from error
    if flow is None:
        raise StorageError(f"FinRay wrote {path} and could not read it back: check the disk or set XDG_CACHE_HOME.")
    return flow
