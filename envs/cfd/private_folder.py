"""A prefix in, a working folder that nobody else uses out; folders that killed processes have left are removed."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from pathlib import Path

from distrl.core.errors import StorageError


class PrivateFolder:
    """A folder of this process's own, until ``close`` or the end of the process.

    Its owner holds a lock on the file ``owner`` in it, which the system releases however the owner ends. Whoever makes
    the next folder beside it removes those that nobody holds any more.

    Args:
        prefix: of its name. parent: where it lies, on a local file system; None: the system's temporary folder.

    Attributes:
        path: the folder.

    Raises:
        StorageError: it cannot be made.
    """

    def __init__(self, prefix: str, parent: str | os.PathLike[str] | None = None) -> None:
        folder = Path(parent or tempfile.gettempdir())
        prefix = f"{prefix}-{os.getuid()}-"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            # one at a time, so that nobody takes a folder for abandoned that is just being made
            with (folder / f"{prefix}lock").open("w") as turn:
                fcntl.flock(turn, fcntl.LOCK_EX)
                for other in folder.glob(f"{prefix}*/"):
                    _remove_if_abandoned(other)
                self.path = Path(tempfile.mkdtemp(prefix=prefix, dir=folder))
                self._lock = os.open(self.path / "owner", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC)
                fcntl.flock(self._lock, fcntl.LOCK_EX)
        except OSError as error:
            raise StorageError(f"a solver needs a working folder, but {folder} gave: {error}.") from error
        self._owner = os.getpid()

    def close(self) -> None:
        """Remove it, with everything in it."""
        if self._owner == os.getpid():  # a forked child that closes its copy must not take it from its parent
            self._owner = 0
            shutil.rmtree(self.path, ignore_errors=True)
            os.close(self._lock)


def _remove_if_abandoned(folder: Path) -> None:
    with contextlib.suppress(OSError):  # held, or going
        lock = os.open(folder / "owner", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(lock)
