"""Fragments in, an append-only checksummed log on disk out; and back again, in the order of arrival.

A log is a folder of segment files ``00000000.log, 00000001.log, …`` beside a ``log.json`` that says whose they are
(distrl.core.log_facts). A segment is a sequence of records:

    magic "DXL1" | length of the payload, u64 | CRC-32 of the payload, u32 | payload
    payload = length of the header, u32 | header (JSON: columns with dtype and shape, policy, worker) | raw arrays

A record is complete or it is not there: a torn tail (the process died while writing) is cut off when the log is opened
to append, and a reader stops in front of it. ``append`` hands the bytes to the operating system before it returns, so
they survive the death of the process; ``sync`` makes them survive a loss of power.

A record damaged later costs itself alone: a reader that asks for what is readable searches for the next magic with a
length and a checksum that fit. Nothing is ever cut off in front of a whole record.
"""

from __future__ import annotations

import json
import math
import mmap
import os
import struct
import threading
import zlib
from collections.abc import Callable, Collection, Iterator
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from distrl.core.errors import StorageError
from distrl.core.log_facts import LogFacts, read_document, read_facts, write_facts
from distrl.core.types import Fragment

LEARNERS = "learners"  # folder in a run's directory: what its learners but the first one keep, by rank
_MAGIC = b"DXL1"
_PREFIX = struct.Struct("<4sQI")
_LENGTH = struct.Struct("<I")
_SEGMENT_BYTES = 64 << 20
_SEARCH_BYTES = 1 << 20  # read at a time when the next whole record is searched for
_CHECKED_BYTES = 1 << 18  # checking a longer record would be to read what nobody asked for


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
        count = math.prod(shape)
        columns[name] = np.frombuffer(payload, dtype=dtype, count=count, offset=offset).reshape(shape)
        offset += columns[name].nbytes
    return Fragment(columns, header["policy_id"], header["worker"], header["incarnation"])


def logs(directory: Path) -> list[Path]:
    """The log of a run, which is its first learner's, and those of its other learners where it has several."""
    others = (directory.parent / LEARNERS).glob(f"*/{directory.name}")
    return [directory, *sorted(others, key=lambda path: int(path.parent.name))]


def segments(directory: Path) -> list[Path]:
    """The files of a run's log, learner by learner, in order."""
    return [path for log in logs(directory) for path in _segments(log)]


def _segments(log: Path) -> list[Path]:
    """Those of one learner's."""
    return sorted(log.glob("[0-9]*.log"))


def _payload(file: BinaryIO, offset: int, size: int) -> bytes | None:
    """The payload of the record at ``offset`` of a file of ``size`` bytes; None where there is no whole record."""
    file.seek(offset)
    prefix = file.read(_PREFIX.size)
    if len(prefix) < _PREFIX.size:
        return None
    magic, length, checksum = _PREFIX.unpack(prefix)
    if magic != _MAGIC or length > size - offset - _PREFIX.size:
        return None
    payload = file.read(length)
    return payload if len(payload) == length and zlib.crc32(payload) == checksum else None


def _next_magic(file: BinaryIO, offset: int) -> int | None:
    """Where the magic occurs next at or behind ``offset``."""
    file.seek(offset)
    window = b""
    while chunk := file.read(_SEARCH_BYTES):
        window += chunk
        found = window.find(_MAGIC)
        if found >= 0:
            return offset + found
        offset += len(window) - len(_MAGIC) + 1
        window = window[-len(_MAGIC) + 1 :]
    return None


def _records(segment: Path, size: int) -> Iterator[tuple[int, int, bytes]]:
    """(begin, end, payload) of every whole record in a segment's first ``size`` bytes; a damaged one leaves a hole."""
    with segment.open("rb") as file:
        offset: int | None = 0
        while offset is not None and offset < size:
            payload = _payload(file, offset, size)
            if payload is None:
                offset = _next_magic(file, offset + 1)
                continue
            end = offset + _PREFIX.size + len(payload)
            yield offset, end, payload
            offset = end


def _walk(
    directory: Path, damage: Callable[[str], None], torn: Callable[[str], None] = lambda sentence: None
) -> Iterator[tuple[Path, int, bytes]]:
    """(segment, end, payload) of every whole record in order, of what is there when the walk begins.

    ``damage`` is called, in order too, with a sentence for whatever is missing before or between records; ``torn`` with
    one for a torn end.
    """
    files = [(segment, segment.stat().st_size) for segment in _segments(directory)]
    expected = 0
    for segment, size in files:
        number = int(segment.stem)
        if number != expected:
            damage(f"{directory} lacks the segments {expected:08d}.log to {number - 1:08d}.log")
        expected = number + 1
        position = 0
        for begin, end, payload in _records(segment, size):
            if begin > position:
                damage(f"{segment} is damaged in the {begin - position} bytes from byte {position} on")
            position = end
            yield segment, end, payload
        if position < size and segment != files[-1][0]:
            damage(f"{segment} is damaged in its last {size - position} bytes, from byte {position} on")
        elif position < size:
            torn(
                f"{segment} ends in {size - position} bytes that are no whole record: one that was being written when "
                "the run died, and so was never acknowledged, or a last one that was damaged later"
            )


def read_log(
    directory: Path | str, start: int = 0, *, damaged: list[str] | None = None, alone: bool = False
) -> Iterator[tuple[int, Fragment]]:
    """(number, fragment) of every record from number ``start`` on, in the order of arrival, learner by learner where
    the run has several. Writes nothing.

    Args:
        alone: leave out what other learners of the run have logged.
        damaged: where given, everything readable is yielded and this list takes a sentence for each damaged place, a
            torn end and a ``log.json`` of another format among them; numbers count the readable records. May be read
            while the log is written.

    Raises:
        StorageError: without ``damaged``: a record in the middle is damaged (everything before it has been yielded),
            or the log is of another format. A torn end is not damage: the reader stops in front of it.
    """
    directory = Path(directory)
    number = 0

    def stop(sentence: str) -> None:
        raise StorageError(
            f"the experience log is damaged: {sentence}; the {number} fragments before it were read. Restore it from a "
            "copy; `distrl log verify` and `distrl log export` read what is readable"
        )

    try:
        read_document(directory)
    except StorageError as error:
        if damaged is None:
            raise
        damaged.append(str(error))
    report = (stop,) if damaged is None else (damaged.append, damaged.append)
    for log in [directory] if alone else logs(directory):
        for _, _, payload in _walk(log, *report):
            if number >= start:
                yield number, decode(payload)
            number += 1


def read_columns(directory: Path | str, columns: Collection[str], damaged: list[str]) -> Iterator[Fragment]:
    """Every readable record as a fragment that has only these columns, in the order of arrival: of a log of pictures,
    what a figure needs in a hundredth of the time. May be called while the log is written.

    Args:
        columns: by name; those that a record lacks are left out.
        damaged: takes a sentence for each damaged place; a torn end is none. Checksums of records above 256 KB are not
            compared, since all of their bytes would have to be read for that (``read_log`` does).
    """
    headers: dict[bytes, tuple[dict[str, Any], list[tuple[str, np.dtype, list[int], int]]]] = {}
    files = [_segments(log) for log in logs(Path(directory))]
    newest = {found[-1] for found in files if found}
    for segment in chain.from_iterable(files):
        if not segment.stat().st_size:
            continue
        with segment.open("rb") as file:
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        position = 0
        while position + _PREFIX.size + _LENGTH.size <= len(content):
            magic, length, checksum = _PREFIX.unpack_from(content, position)
            begin, end = position + _PREFIX.size, position + _PREFIX.size + length
            if magic != _MAGIC or end > len(content) or not _is_whole(content, begin, end, checksum):
                begin, following = position, content.find(_MAGIC, position + 1)
                position = len(content) if following < 0 else following
                if following >= 0 or segment not in newest:  # else it was being written
                    damaged.append(f"{segment} is damaged between bytes {begin} and {position}")
                continue
            text = content[begin + _LENGTH.size : begin + _LENGTH.size + _LENGTH.unpack_from(content, begin)[0]]
            if text not in headers:
                headers[text] = _wanted(text, columns)
            header, wanted = headers[text]
            found = {
                name: np.frombuffer(content, dtype, math.prod(shape), begin + offset).reshape(shape)
                for name, dtype, shape, offset in wanted
            }
            yield Fragment(found, header["policy_id"], header["worker"], header["incarnation"])
            position = end


def _is_whole(content: mmap.mmap, begin: int, end: int, checksum: int) -> bool:
    return end - begin > _CHECKED_BYTES or zlib.crc32(content[begin:end]) == checksum


def _wanted(text: bytes, columns: Collection[str]) -> tuple[dict[str, Any], list[tuple[str, np.dtype, list[int], int]]]:
    """A record's header, and (name, dtype, shape, offset in the payload) of these columns."""
    header, offset, wanted = json.loads(text), _LENGTH.size + len(text), []
    for name, code, shape in header["columns"]:
        dtype = np.dtype(code)
        if name in columns:
            wanted.append((name, dtype, shape, offset))
        offset += math.prod(shape) * dtype.itemsize
    return header, wanted


class ExperienceLog:
    """Appends fragments to a folder, from one process; ``sync`` may be called from another thread than the rest.

    Attributes:
        num_records: fragments in the log, those of earlier sessions included: the position that a checkpoint refers to.
        num_synced: how many of them, from the first on, are on the disk itself and survive a loss of power.
        num_bytes_cut: bytes of a torn record that were cut off when the log was opened.
    """

    def __init__(self, directory: Path | str, segment_bytes: int = _SEGMENT_BYTES, *, facts: LogFacts | None = None):
        """
        Args:
            segment_bytes: a record that would make a segment longer begins a new one.
            facts: written as ``log.json`` into a log that has none, and compared with that of one that has.

        Raises:
            StorageError: the folder cannot be written, a record in the middle is damaged, or the log belongs to another
                run, environment or format.
        """
        self._directory = Path(directory)
        self._segment_bytes = segment_bytes
        self._file: BinaryIO | None = None
        self._lock = threading.RLock()  # not held while the disk is waited for
        self.num_records = 0
        self.num_synced = 0
        self.num_bytes_cut = 0
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            if facts is not None:
                self._claim(facts)
            self._open(*self._count())
            self.sync()  # the last session may have died before it did
        except OSError as error:
            raise StorageError(
                f"the experience log cannot be written in {self._directory}: {error.strerror or error}"
            ) from error

    def _claim(self, facts: LogFacts) -> None:
        found = read_facts(self._directory)
        if found is None:
            write_facts(self._directory, facts)
            return
        if found.run_id != facts.run_id:
            raise StorageError(
                f"{self._directory} holds the experience of run {found.run_id}, and this is run {facts.run_id}: give "
                "each run a directory of its own, and fill its replay from another's log with replay.warm_start"
            )
        differences = found.differences(facts)
        if not differences and found.fidelity != facts.fidelity:  # both may train at both levels
            differences = [f"its policy is for the fidelity {found.fidelity} against {facts.fidelity}"]
        if differences:
            raise StorageError(
                f"{self._directory} was begun otherwise: {'; '.join(differences)}. Resume with what the run began "
                "with, or begin a new one"
            )
        if found.levels != facts.levels:
            write_facts(self._directory, facts)  # this session's schedule has more

    def _count(self) -> tuple[int, int]:
        """(number of the last segment, where its last record ends)."""

        def refuse(sentence: str) -> None:
            raise StorageError(
                f"the experience log is damaged: {sentence}. Restore it from a copy, or begin a new run with what is "
                "readable: replay.warm_start"
            )

        read_document(self._directory)  # refuses another format
        last, end = None, 0
        for last, end, _ in _walk(self._directory, refuse):  # noqa: B007
            self.num_records += 1
        files = _segments(self._directory)
        if not files:
            return 0, 0
        if last != files[-1]:
            end = 0
        self.num_bytes_cut = files[-1].stat().st_size - end
        return int(files[-1].stem), end

    def _open(self, index: int, end: int) -> None:
        path = self._directory / f"{index:08d}.log"
        # unbuffered: a record is one write call, handed to the operating system before append returns
        file = path.open("r+b" if path.exists() else "w+b", buffering=0)
        file.truncate(end)
        file.seek(end)
        folder = os.open(self._directory, os.O_RDONLY)
        try:
            os.fsync(folder)  # a file that the folder does not name after a loss of power is lost with its records
        finally:
            os.close(folder)
        self._file, self._index, self._end = file, index, end

    def append(self, fragment: Fragment) -> int:
        """Write one fragment; returns its number.

        Raises:
            StorageError: the write failed (a full disk …); the log is as it was before.
        """
        assert self._file is not None, "the log is closed"
        payload = encode(fragment)
        record = memoryview(_PREFIX.pack(_MAGIC, len(payload), zlib.crc32(payload)) + payload)
        with self._lock:
            try:
                if self._end and self._end + len(record) > self._segment_bytes:
                    self.sync()
                    full = self._file
                    self._open(self._index + 1, 0)
                    full.close()
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
        """Wait until everything appended is on the disk itself.

        Raises:
            OSError: as the system words it; ``num_synced`` is as it was before.
        """
        with self._lock:
            if self._file is None:
                return
            records, file = self.num_records, os.dup(self._file.fileno())
        try:
            os.fdatasync(file)
        finally:
            os.close(file)
        with self._lock:
            self.num_synced = max(self.num_synced, records)

    def close(self) -> None:
        """Sync and close; harmless when repeated."""
        with self._lock:
            if self._file is not None:
                self.sync()
                self._file.close()
                self._file = None
