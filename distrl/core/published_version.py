"""The newest version of the weights that anybody can have acted with in, kept on disk, for a learner's successor."""

from __future__ import annotations

import os
from pathlib import Path

from distrl.core.errors import StorageError


class PublishedVersion:
    """One number, overwritten in place.

    Lost with the page cache at worst; then the versions in the log and the newest checkpoint bound it from below.
    """

    def __init__(self, path: Path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
            self._file = path.open("r+b", buffering=0)
        except OSError as error:
            raise StorageError(f"{path} cannot be written: {error.strerror}") from error

    def read(self) -> int:
        """What was written last; 0 where nothing was."""
        text = self._file.read(20)
        return int(text) if text.strip().isdigit() else 0

    def write(self, version: int) -> None:
        """Before the weights of that version are offered to anybody."""
        os.pwrite(self._file.fileno(), b"%020d" % version, 0)

    def close(self) -> None:
        """Close the file."""
        self._file.close()
