"""Fragments in, an append-only checksummed log on disk out; and back again, in the order of arrival.

A log is a folder of segment files ``00000000.log, 00000001.log, …``. A segment is a sequence of records:

    magic "DXL1" | length of the payload, u64 | CRC-32 of the payload, u32 | payload
    payload = length of the header, u32 | header (JSON: columns with dtype and shape, policy, worker) | raw arrays

A record is complete or it is not there: a torn tail (the process died while writing) is cut off when the log is opened
to append, and a reader stops in front of it. ``append`` hands the bytes to the operating system before it returns, so
they survive the death of the process; ``sync`` makes them survive a loss of power.
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from distrl.core.errors import StorageError
from distrl.core.types import Fragment

_MAGIC = b"DXL1"
_PREFIX = struct.Struct("<4sQI")
_LENGTH = struct.Struct("<I")
_SEGMENT_BYTES = 64 << 20


def encode(fragment: Fragment) -> bytes:
    """The payload of a record."""
    arrays = {name: np.ascontiguousarray(array) for name, array in fragment.columns.items()}
    header = json.dumps(
        {
            "columns": [[name, array.dtype.str, list(array.shape)] for name, array in arrays.items()],
            "policy_id": fragment.policy_id,
            "worker": fragment.worker,
            "incarnation": fragment.incarnation,
        }
    ).encode()
    return b"".join([_LENGTH.pack(len(header)), header, *(array.tobytes() for array in arrays.values())])


def decode(payload: bytes) -> Fragment:
    """The fragment of a record; its arrays are read-only views of ``payload``."""
    (length,) = _LENGTH.unpack_from(payload)
    offset = _LENGTH.size + length
    header = json.loads(payload[_LENGTH.size : offset])
    columns = {}
    for name, dtype, shape in header["columns"]:
        count = int(np.prod(shape, dtype=np.int64))
        columns[name] = np.frombuffer(payload, dtype=dtype, count=count, offset=offset).reshape(shape)
        offset += columns[name].nbytes
    return Fragment(columns, header["policy_id"], header["worker"], header["incarnation"])


def _segments(directory: Path) -> list[Path]:
    return sorted(directory.glob("[0-9]*.log"))


def _records(segment: Path) -> Iterator[tuple[int, bytes]]:
    """(offset behind the record, payload) of every complete record at the start of a segment."""
    with segment.open("rb") as file:
        offset = 0
        while True:
            prefix = file.read(_PREFIX.size)
            if len(prefix) < _PREFIX.size:
                return
            magic, length, checksum = _PREFIX.unpack(prefix)
            if magic != _MAGIC or length > segment.stat().st_size:
                return
            payload = file.read(length)
            if len(payload) < length or zlib.crc32(payload) != checksum:
                return
            offset += _PREFIX.size + length
            yield offset, payload


def read_log(directory: Path | str, start: int = 0) -> Iterator[tuple[int, Fragment]]:
    """(number, fragment) of every record from number ``start`` on, in the order of arrival.

    Raises:
        StorageError: a record in the middle is damaged (everything before it has been yielded).
    """
    number = 0
    segments = _segments(Path(directory))
    for index, segment in enumerate(segments):
        end = 0
        for offset, payload in _records(segment):
            end = offset
            if number >= start:
                yield number, decode(payload)
            number += 1
        if end < segment.stat().st_size and index < len(segments) - 1:
            raise StorageError(
                f"the experience log is damaged: {segment} has no valid record at byte {end} although later segments "
                "follow; "
                f"the {number} fragments before it were read. Restore that file from a copy to read the rest"
            )


class ExperienceLog:
    """Appends fragments to a folder, from one process.

    Attributes:
        num_records: fragments in the log, those of earlier sessions included: the position that a checkpoint refers to.
        num_bytes_cut: bytes of a torn record that were cut off when the log was opened.
    """

    def __init__(self, directory: Path | str, segment_bytes: int = _SEGMENT_BYTES):
        """
        Raises:
            StorageError: the folder cannot be written, or a record in the middle is damaged.
        """
        self._directory = Path(directory)
        self._segment_bytes = segment_bytes
        self._file: BinaryIO | None = None
        self.num_records = 0
        self.num_bytes_cut = 0
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            for _ in read_log(self._directory):
                self.num_records += 1
            segments = _segments(self._directory)
            self._index = len(segments) - 1 if segments else 0
            self._end = 0
            if segments:
                for offset, _ in _records(segments[-1]):
                    self._end = offset
                self.num_bytes_cut = segments[-1].stat().st_size - self._end
            self._open()
        except OSError as error:
            raise StorageError(
                f"the experience log cannot be written in {self._directory}: {error.strerror or error}"
            ) from error

    def _open(self) -> None:
        path = self._directory / f"{self._index:08d}.log"
        # unbuffered: a record is one write call, handed to the operating system before append returns
        self._file = path.open("r+b" if path.exists() else "w+b", buffering=0)
        self._file.truncate(self._end)
        self._file.seek(self._end)

    def append(self, fragment: Fragment) -> int:
        """Write one fragment; returns its number.

        Raises:
            StorageError: the write failed (a full disk …); the log is as it was before.
        """
        assert self._file is not None, "the log is closed"
        payload = encode(fragment)
        record = memoryview(_PREFIX.pack(_MAGIC, len(payload), zlib.crc32(payload)) + payload)
        try:
            if self._end and self._end + len(record) > self._segment_bytes:
                self.sync()
                self._file.close()
                self._index, self._end = self._index + 1, 0
                self._open()
            written = 0
            while written < len(record):
                written += self._file.write(record[written:])
        except OSError as error:
            self._file.truncate(self._end)
            self._file.seek(self._end)
            raise StorageError(
                f"the experience log in {self._directory} cannot take another {len(record)} bytes: "
                f"{error.strerror or error}. "
                "Everything before is secured; make room and continue with --resume"
            ) from error
        self._end += len(record)
        self.num_records += 1
        return self.num_records - 1

    def sync(self) -> None:
        """Wait until everything appended is on the disk itself."""
        if self._file is not None:
            os.fdatasync(self._file.fileno())

    def close(self) -> None:
        """Sync and close; harmless when repeated."""
        if self._file is not None:
            self.sync()
            self._file.close()
            self._file = None
