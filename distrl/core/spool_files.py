"""What the owner and the adopter of a spool share: its files, their format, and the lock that ends with its holder.

    <incarnation>.sqlite   an SQLite database in WAL mode (with ``.sqlite-wal`` while it is open, or after a kill)
    <incarnation>.lock     locked by whoever owns the spool; the kernel releases it at the owner's death

Only the holder of the lock opens the database, so SQLite runs in exclusive locking mode, which keeps the WAL's index in
the holder's memory: no shared-memory file, whose pages a full disk would turn into SIGBUS.
"""

from __future__ import annotations

import fcntl
import getpass
import os
import re
import sqlite3
import struct
import zlib
from pathlib import Path

from distrl.core.errors import StorageError

FORMAT = 1
# ``environments`` outlives forgetting: one row each, so that a commit rewrites one page of it and not all
TABLES = """
    CREATE TABLE life (worker INTEGER NOT NULL, incarnation INTEGER NOT NULL, checksum INTEGER NOT NULL);
    CREATE TABLE environments (env_index INTEGER PRIMARY KEY, episode_uid INTEGER NOT NULL, step INTEGER NOT NULL,
                               num_committed INTEGER NOT NULL, checksum INTEGER NOT NULL);
    CREATE TABLE pieces (id INTEGER PRIMARY KEY, number INTEGER NOT NULL, checksum INTEGER NOT NULL,
                         payload BLOB NOT NULL);
"""

_WAL_BYTES = 16 << 20  # what the WAL may keep after one large commit
_WAL_PAGES = 256  # then it begins again from its start: a short one is soon all allocated, which makes fdatasync cheap
_MOUNTS = Path("/proc/self/mounts")
_NETWORK = frozenset(
    """9p afs beegfs ceph cifs glusterfs gpfs lustre ncpfs nfs nfs4 orangefs panfs pvfs2 smb3 smbfs wekafs
    fuse.ceph-fuse fuse.gcsfuse fuse.glusterfs fuse.juicefs fuse.rclone fuse.s3fs fuse.sshfs""".split()  # noqa: SIM905
)

_held: set[int] = set()  # file descriptors of this process's locks


def _leave_to_parent() -> None:
    # a forked child shares its parent's locks: while it lives, its parent's death would release nothing
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_leave_to_parent)


def connect(path: Path) -> sqlite3.Connection:
    """Open a spool whose lock is held; transactions begin and end where the caller says.

    Raises:
        sqlite3.Error: it is no such file, or cannot be opened.
    """
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA locking_mode=EXCLUSIVE")
    connection.execute(f"PRAGMA journal_size_limit={_WAL_BYTES}")
    connection.execute(f"PRAGMA wal_autocheckpoint={_WAL_PAGES}")
    connection.execute("PRAGMA secure_delete=OFF")  # some builds overwrite what is deleted, at twice the pages
    return connection


def checksum(payload: bytes, *numbers: int) -> int:
    """CRC-32 of a row: its payload and the integers beside it, as signed 64 bits."""
    return zlib.crc32(payload, zlib.crc32(struct.pack(f"<{len(numbers)}q", *numbers)))


def signed(uid: int) -> int:
    """An unsigned 64-bit number as SQLite holds it, whose integers are signed."""
    return uid - (1 << 64) if uid >= 1 << 63 else uid


def unsigned(value: int) -> int:
    """The inverse of ``signed``."""
    return value % (1 << 64)


def lock_path(spool: Path) -> Path:
    """Where the lock of a spool is."""
    return spool.with_suffix(".lock")


def lock(spool: Path) -> int | None:
    """Lock a spool for this process, until ``unlock`` or its death. A number for ``unlock``, or None: it is held.

    Raises:
        OSError: the lock's file cannot be made or opened.
    """
    path = lock_path(spool)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)  # Python adds O_CLOEXEC: programs do not inherit it
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(descriptor), path.stat()):
            _held.add(descriptor)
            return descriptor
    except (BlockingIOError, FileNotFoundError):  # not there any more: its holder removed the spool, and then the lock
        pass
    os.close(descriptor)
    return None


def unlock(descriptor: int) -> None:
    """Give up a lock."""
    _held.discard(descriptor)
    os.close(descriptor)


def is_held(spool: Path) -> bool:
    """Whether a living process holds a spool's lock."""
    try:
        descriptor = os.open(lock_path(spool), os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        # Shared, so that two who look at once do not take each other for the owner. One who looks can make another's
        # ``lock`` fail for a moment; it then adopts the spool itself, so somebody always does.
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)


def remove(spool: Path) -> None:
    """Delete the files of a spool whose lock is held; the lock last, so that nobody meets a spool without one."""
    for path in (spool, *(spool.with_name(spool.name + kind) for kind in ("-wal", "-journal")), lock_path(spool)):
        path.unlink(missing_ok=True)


def default_spool_directory() -> Path:
    """On this machine's own disk as a rule, and kept over a restart of it."""
    return Path("/var/tmp") / f"distrl-{getpass.getuser()}"


def refuse_network_file_system(directory: Path) -> None:
    """
    Raises:
        StorageError: ``directory``, which need not exist yet, would be on a network file system.
    """
    try:
        mounts = _MOUNTS.read_text()
    except OSError:  # not Linux
        return
    path, longest, kind = os.path.realpath(directory), "", ""
    for line in mounts.splitlines():
        _, point, found, *_ = line.split(" ")
        point = re.sub(r"\\(\d{3})", lambda octal: chr(int(octal[1], 8)), point)  # a space is written as \040
        if (path + "/").startswith(point.rstrip("/") + "/") and len(point) >= len(
            longest
        ):  # the later hides the earlier
            longest, kind = point, found
    if kind in _NETWORK:
        raise StorageError(
            f"a spool must be on a local disk, but {directory} is on a network file system ({kind}, mounted at "
            f"{longest}), where SQLite's WAL, which needs memory shared on one machine, and file locks do not hold; "
            "name a local directory with run.spool_dir"
        )
