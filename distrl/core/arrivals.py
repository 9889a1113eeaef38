"""The order of arrival in, a schedule out: how many records of the log were in the replay when each update drew its
batch.

With it, and because sampling is a function of seed and update index, an asynchronous run's updates can be repeated
from its log. The file is a sequence of 24-byte entries (kind, update, records), little-endian unsigned 64-bit:

    kind 0: ``records`` of the log were in before update ``update`` (from 0) drew its batch
    kind 1: a learner began, or began again, at update ``update`` with ``records`` of the log in its replay
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from distrl.core.errors import StorageError

_ENTRY = struct.Struct("<QQQ")
_ARRIVED, _BEGAN = 0, 1


class Arrivals:
    """Appends to a run's ``log/arrivals.bin``.

    Attributes:
        num_lives: learners that have begun, this one included once it has.
    """

    def __init__(self, path: Path):
        self._file: BinaryIO = path.open("ab", buffering=0)
        torn = self._file.tell() % _ENTRY.size
        if torn:  # its writer died within the write
            self._file.truncate(self._file.tell() - torn)
            self._file.seek(0, 2)
        self.num_lives = sum(kind == _BEGAN for kind, _, _ in _entries(path.read_bytes()))

    def began(self, update: int, records: int) -> None:
        """A learner continues from this update with so many records."""
        self.num_lives += 1
        self._write(_BEGAN, update, records)

    def arrived(self, update: int, records: int) -> None:
        """So many records are in; ``update`` is the first that can draw from the newest."""
        self._write(_ARRIVED, update, records)

    def _write(self, *entry: int) -> None:
        try:
            self._file.write(_ENTRY.pack(*entry))
        except OSError as error:
            raise StorageError(
                f"{self._file.name} cannot take another {_ENTRY.size} bytes: {error.strerror or error}; make room and "
                "continue with --resume"
            ) from error

    def close(self) -> None:
        """Close the file; harmless when repeated."""
        self._file.close()


def read_arrivals(path: Path) -> list[tuple[int, int]]:
    """(update, records), both increasing: before that update, so many records were in. Only what led to the newest
    state: where a learner began again at an earlier update, what its predecessor did beyond is left out.

    Raises:
        StorageError: there is none, or it is not such a file.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise StorageError(f"the order of arrival cannot be read from {path}: {error.strerror}") from error
    schedule: list[tuple[int, int]] = []
    for kind, update, records in _entries(content):
        if kind not in (_ARRIVED, _BEGAN):
            raise StorageError(f"{path} is not an order of arrival that this version can read (entry kind {kind})")
        if kind == _BEGAN:
            while schedule and schedule[-1][0] > update:
                schedule.pop()
        if schedule and schedule[-1][0] == update:
            schedule.pop()
        schedule.append((update, records))
    return schedule


def _entries(content: bytes) -> Iterator[tuple[int, int, int]]:
    return _ENTRY.iter_unpack(content[: len(content) // _ENTRY.size * _ENTRY.size])
