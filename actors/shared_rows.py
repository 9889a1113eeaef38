"""The shared-memory file between a pool and its environment processes: where everything lies, and its counters.

One plain file (memory-mapped by all; best under a RAM file system), never multiprocessing.shared_memory, whose resource
tracker removes segments that are still in use. Layout, little-endian as the machine is:

    0       HEADER: magic, number of rows, record size, data offset, stride, layout, env steps of the run
    64      RECORD × rows: counters and the last step's and the current episode's numbers of each row
    data    stride × rows, at a page boundary, each row: action | next observation | final observation, 64-byte aligned

The *next* slot holds what the policy acts on (after a step or a reset), the *final* slot the last observation of an
episode: the environment process resets by itself right after an episode's last step, so with one slot the first
observation of the next episode would overwrite a final one that the pool has not read yet. Who writes what: the
environment process everything but ``action``, ``process_starts``, ``lifetime_before_s`` and the header, which are the
pool's. Who may read when is settled by the messages on each row's socket (environment_process.py).
"""

from __future__ import annotations

import errno
import mmap
import os
import time
import zlib
from dataclasses import dataclass, field

import numpy as np

from distrl.core.contracts import PoolStats
from distrl.core.errors import StorageError
from distrl.core.types import MAX_FIDELITIES, ArraySpec, Observation

MAGIC = 0x316C6F6F70644C52
HEADER = np.dtype(
    [
        *((name, "u8" if name == "magic" else "i8") for name in ("magic", "num_rows", "record_size", "data_offset")),
        ("stride", "i8"),
        ("layout", "i8"),  # checksum of the rows' layout
        ("env_steps", "i8"),  # of the whole run, as far as the pool has been told: decides an episode's fidelity
    ]
)
HEADER_BYTES = 64
PREFIX = "pool-"  # of a scratch file's name

#: One row's numbers. Times called ``…_at`` and ``…_since`` are time.monotonic() (0: not so), which all processes of a
#: machine share.
RECORD = np.dtype(
    [
        # totals since the pool started; they outlive every process
        ("level_steps", "i8", (MAX_FIDELITIES,)),  # steps finished and valid, by fidelity
        # agents' steps among them: the first number while their sum is even, the second while it is odd, so that one
        # store counts a step in both
        ("transitions", "i8", (2,)),
        ("resets", "i8"),  # episodes begun
        ("step_s", "f8"),  # wall seconds inside step, of the steps in ``level_steps``
        ("reset_s", "f8"),  # wall seconds inside reset
        ("recomputed", "i8"),  # steps computed again to continue an episode
        ("snapshots", "i8"),
        ("snapshot_s", "f8"),
        ("diverged", "i8"),  # episodes that ended with a true ``diverged`` in info
        ("lifetime_before_s", "f8"),  # wall seconds that this row's dead processes had lived
        ("process_starts", "i8"),
        # CPU seconds inside step and reset by fidelity, reaped children included
        ("level_core_s", "f8", (MAX_FIDELITIES,)),
        # the living process
        ("constructed_at", "f8"),
        ("last_seen_at", "f8"),  # last time that the process began or ended anything
        ("in_step_since", "f8"),
        ("in_reset_since", "f8"),  # also: restoring, computing again, and making it anew at another fidelity
        ("in_constructor_since", "f8"),  # within a reset
        ("in_snapshot_since", "f8"),
        # the last finished step
        ("reward", "f8"),
        ("start_s", "f8"),  # Unix time
        ("end_s", "f8"),
        ("step_core_s", "f8"),
        ("terminated", "?"),
        ("truncated", "?"),
        ("attempt", "i2"),
        ("fidelity", "i2"),
        ("pad", "V2"),
        # the current episode
        ("episode", "i8"),  # its number in this row, from 0; -1: none yet
        ("episode_uid", "u8"),
        ("seed", "i8"),
    ],
    align=False,
)


@dataclass(frozen=True)
class RowLayout:
    """Offsets inside one row's part of the data region: a pure function of the specs, so pool and process agree.

    Attributes:
        action: spec of one action. observation: path → spec. stride: bytes of one row.
    """

    action: ArraySpec
    observation: dict[str, ArraySpec]
    stride: int = field(init=False)
    next_offsets: dict[str, int] = field(init=False)
    final_offsets: dict[str, int] = field(init=False)

    def __post_init__(self) -> None:
        at = _aligned(_bytes(self.action))
        offsets: list[dict[str, int]] = []
        for _ in ("next", "final"):
            slot = {}
            for path, spec in self.observation.items():
                slot[path] = at
                at = _aligned(at + _bytes(spec))
            offsets.append(slot)
        object.__setattr__(self, "next_offsets", offsets[0])
        object.__setattr__(self, "final_offsets", offsets[1])
        object.__setattr__(self, "stride", at)


class SharedRows:
    """The file, mapped. ``records`` is there at once; ``action``, ``next`` and ``final`` after ``map_data``.

    Attributes:
        records: RECORD [rows]. action: [rows, …]. next, final: path → [rows, …]; views into the file.
    """

    def __init__(self, path: str, num_rows: int = 0):
        """Create the file for ``num_rows`` rows, or open an existing one where that is 0.

        Raises:
            StorageError: it cannot be created, or is not such a file.
        """
        self.path = path
        creating = num_rows > 0
        try:
            flags = os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT | os.O_EXCL if creating else 0)
            self._fd = os.open(path, flags, 0o600)
            if creating:
                end = HEADER_BYTES + num_rows * RECORD.itemsize
                data_offset = -(-end // mmap.ALLOCATIONGRANULARITY) * mmap.ALLOCATIONGRANULARITY
                os.posix_fallocate(self._fd, 0, data_offset)
                header = np.array([(MAGIC, num_rows, RECORD.itemsize, data_offset, 0, 0, 0)], HEADER)
                os.pwrite(self._fd, header.tobytes(), 0)
            header = np.frombuffer(os.pread(self._fd, HEADER.itemsize, 0).ljust(HEADER.itemsize, b"\0"), HEADER)[0]
        except OSError as error:
            raise StorageError(f"the scratch file {path} must be writable; {os.strerror(error.errno or 0)}.") from error
        if header["magic"] != MAGIC or header["record_size"] != RECORD.itemsize:
            os.close(self._fd)
            raise StorageError(f"{path} is no scratch file of a process pool of this version.")
        self.num_rows = int(header["num_rows"])
        self._data_offset = int(header["data_offset"])
        control = mmap.mmap(self._fd, self._data_offset)
        self._header = np.frombuffer(control, HEADER, 1)
        self.records = np.frombuffer(control, RECORD, self.num_rows, HEADER_BYTES)
        self.action = np.empty(0)
        self.next: Observation = {}
        self.final: Observation = {}
        if creating:
            self.records["episode"] = -1

    @property
    def env_steps(self) -> int:
        """Env steps of the whole run, as far as the pool has been told."""
        return int(self._header["env_steps"][0])

    @env_steps.setter
    def env_steps(self, value: int) -> None:
        self._header["env_steps"] = value

    def allocate_data(self, layout: RowLayout) -> None:
        """Reserve the data region (the pool, once, when it knows the spaces), then map it.

        Raises:
            StorageError: no room. Reserving says so now; otherwise a later write would kill the process (SIGBUS).
        """
        size = max(layout.stride, 1) * self.num_rows
        try:
            os.posix_fallocate(self._fd, self._data_offset, size)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT):
                raise
            raise StorageError(
                f"the scratch file {self.path} needs {size / 1e6:.1f} MB; its file system is full."
            ) from error
        self._header["stride"], self._header["layout"] = layout.stride, _checksum(layout)
        self.map_data(layout)

    def map_data(self, layout: RowLayout) -> bool:
        """Map the data region; False where the layout is not the file's (another environment's spaces)."""
        if int(self._header["layout"][0]) != _checksum(layout):
            return False
        data = mmap.mmap(self._fd, layout.stride * self.num_rows, offset=self._data_offset)

        def view(spec: ArraySpec, offset: int) -> np.ndarray:
            dtype = np.dtype(spec.dtype)
            inner = np.empty(spec.shape, dtype).strides
            return np.ndarray((self.num_rows, *spec.shape), dtype, data, offset, (layout.stride, *inner))

        self.action = view(layout.action, 0)
        self.next = {path: view(spec, layout.next_offsets[path]) for path, spec in layout.observation.items()}
        self.final = {path: view(spec, layout.final_offsets[path]) for path, spec in layout.observation.items()}
        return True

    def close(self) -> None:
        """Close the file; the maps go when their last view does."""
        os.close(self._fd)

    def produced(self, row: int) -> int:
        """Steps that a row's processes have finished."""
        return int(self.records["level_steps"][row].sum())

    def stats(self, now: float | None = None) -> PoolStats:
        """Totals over the rows; a step or reset in progress counts up to ``now``.

        Args:
            now: time.monotonic(); None takes each process's last sign of life (for a pool that is gone).
        """
        rows = self.records.copy()
        produced = rows["level_steps"].sum(1)
        alive = rows["constructed_at"] > 0
        until = rows["last_seen_at"] if now is None else np.full(self.num_rows, now)
        running = [np.where(rows[name] > 0, until - rows[name], 0.0) for name in ("in_step_since", "in_reset_since")]
        return PoolStats(
            produced=int(produced.sum()),
            resets=int(rows["resets"].sum()),
            step_s=float(rows["step_s"].sum() + running[0].clip(0).sum()),
            reset_s=float(rows["reset_s"].sum() + running[1].clip(0).sum()),
            core_s=float(rows["level_core_s"].sum()),
            lifetime_s=float(rows["lifetime_before_s"].sum() + (until - rows["constructed_at"])[alive].clip(0).sum()),
            process_starts=int(rows["process_starts"].sum()),
            recomputed=int(rows["recomputed"].sum()),
            snapshots=int(rows["snapshots"].sum()),
            snapshot_s=float(rows["snapshot_s"].sum()),
            diverged=int(rows["diverged"].sum()),
            transitions=int(rows["transitions"][np.arange(self.num_rows), produced % 2].sum()),
            level_steps=rows["level_steps"].sum(0),
            level_core_s=rows["level_core_s"].sum(0),
        )

    def bury(self, row: int) -> None:
        """Book the lifetime of a row's dead process (the pool calls it)."""
        record = self.records[row : row + 1]
        if record["constructed_at"][0] > 0:
            record["lifetime_before_s"] += time.monotonic() - record["constructed_at"]
        for name in ("constructed_at", "in_step_since", "in_reset_since", "in_constructor_since", "in_snapshot_since"):
            record[name] = 0.0


def read_counters(scratch_file: str) -> PoolStats:
    """The totals of a pool from its scratch file, also after the pool's owner has died (the machine must still be up).

    Raises:
        StorageError: no such file, or another one.
    """
    rows = SharedRows(scratch_file)
    try:
        return rows.stats()
    finally:
        rows.close()


def read_produced(scratch_dir: str | os.PathLike[str]) -> int | None:
    """Transitions finished in all pools that left a scratch file in a directory; None where there is none."""
    try:
        names = [name for name in os.listdir(scratch_dir) if name.startswith(PREFIX) and not name.endswith(".spec")]
    except FileNotFoundError:
        return None
    counts = [read_counters(os.path.join(scratch_dir, name)).transitions or 0 for name in names]
    return sum(counts) if counts else None


def _checksum(layout: RowLayout) -> int:
    return zlib.crc32(repr(layout).encode())


def _bytes(spec: ArraySpec) -> int:
    return int(np.prod(spec.shape, dtype=np.int64)) * np.dtype(spec.dtype).itemsize


def _aligned(offset: int) -> int:
    return -(-offset // 64) * 64
