"""A flow case in, one of its developed flows out: computed once, kept on disk, shared by every process of the user.

The file is ``<hash of case and solver>.flows`` under ``$XDG_CACHE_HOME/distrl`` (or ``~/.cache/distrl``): one line of
JSON with the size and SHA-256 of every flow, then the flows as npz. It is written beside and moved into place, so a
reader never sees half of one; a lock makes processes that start together build it once; a damaged one is built again.
"""

import fcntl
import hashlib
import io
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from distrl.core.errors import StorageError


def cache_directory() -> Path:
    """Where pools are kept for this user."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "distrl"


@cache
def digest(source: str | Path) -> str:
    """Of a source file, for ``FlowPool.version``."""
    return hashlib.sha256(Path(source).read_bytes()).hexdigest()


@dataclass(frozen=True)
class FlowPool:
    """The developed flows of one case.

    Attributes:
        owner: the environment's name, for messages.
        case: the physics, plain data: another case is another file.
        develop: computes the flows, each as arrays by name.
        version: what computes them, plain data: with other sources, or another solver, it is another file.
        directory: in place of ``cache_directory()``.
    """

    owner: str
    case: Mapping[str, Any]
    develop: Callable[[], Iterator[Mapping[str, np.ndarray]]]
    version: Sequence[Any]
    directory: Path | None = None

    @property
    def path(self) -> Path:
        """The pool's file."""
        identity = json.dumps([self.owner, dict(self.case), *self.version], sort_keys=True)
        name = hashlib.sha256(identity.encode()).hexdigest()[:20]
        return (self.directory or cache_directory()) / f"{name}.flows"

    def flow(self, index: int) -> dict[str, np.ndarray]:
        """The arrays of flow ``index``; builds the pool if it is not there or damaged.

        Raises:
            StorageError: the folder cannot be written.
        """
        path = self.path
        flow = _read(path, index)
        if flow is not None:
            return flow
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.with_suffix(".lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)  # released by the system whatever becomes of this process
                flow = _read(path, index)  # another process may have built it while this one waited
                if flow is None:
                    self._build(path)
                    flow = _read(path, index)
        except OSError as error:
            raise StorageError(
                f"{self.owner} needs a writable folder for its developed flows, but {path.parent} gave: {error}. "
                "Set XDG_CACHE_HOME to one that is writable and not full."
            ) from error
        if flow is None:
            raise StorageError(
                f"{self.owner} wrote {path} and could not read it back: check the disk or set XDG_CACHE_HOME."
            )
        return flow

    def _build(self, path: Path) -> None:
        """Write the pool, atomically."""
        blobs = []
        for flow in self.develop():
            buffer = io.BytesIO()
            np.savez(buffer, **flow)  # type: ignore[arg-type]
            blobs.append(buffer.getvalue())
        header = json.dumps(
            {
                "case": dict(self.case),
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
