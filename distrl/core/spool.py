"""Finished transitions of one env worker in, onto its node's disk before they are published; out again after its death.

A spool belongs to one life (incarnation) of an env worker. When that life has ended and nobody holds the spool, it is
an *orphan* (distrl.core.orphans): whoever finds it adopts it, sends again what the learner had not secured, and the
files go when all of that is acknowledged. Delivery is therefore at least once.

A commit survives the death of the process at once, SIGKILL included: its pages have been handed to the operating
system. It survives a loss of power when it was made with ``synchronous=FULL``, SQLite's setting for "fdatasync the WAL
behind this commit". The setting may change between transactions, and because the WAL is one file, a FULL commit takes
all earlier NORMAL ones to the disk with it. After a loss of power the spool holds a prefix of the commits, no hole.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, get_args

from distrl.core.errors import ConfigError, StorageError
from distrl.core.experience_log import encode
from distrl.core.orphans import Orphan, orphans
from distrl.core.spool_files import (
    FORMAT,
    TABLES,
    checksum,
    connect,
    lock,
    refuse_network_file_system,
    remove,
    signed,
    unlock,
)
from distrl.core.types import Cursor, Fragment

__all__ = ["Cursor", "Orphan", "Spool", "Sync", "orphans"]

Sync = Literal["transition", "fragment", "seconds"]


def _own(path: Path) -> int:
    """Lock a spool that is not there yet; a number for ``unlock``."""
    refuse_network_file_system(path.parent)
    path.parent.mkdir(parents=True, exist_ok=True)
    held = lock(path)
    if held is not None and not path.exists():
        return held
    if held is not None:
        unlock(held)
    raise StorageError(
        f"the spool {path} is there already: every life of an env worker needs an incarnation of its own"
    )


def _create(path: Path, worker: int, incarnation: int) -> sqlite3.Connection:
    connection = connect(path)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    life = f"{worker:d}, {incarnation:d}, {checksum(b'', worker, incarnation)}"
    connection.executescript(
        f"BEGIN; {TABLES} INSERT INTO life VALUES ({life}); PRAGMA user_version={FORMAT}; COMMIT; "
        "PRAGMA wal_checkpoint(TRUNCATE)"
    )
    for folder in (path.parent, path.parent.parent):  # the names of new files and folders must reach the disk too
        descriptor = os.open(folder, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
    return connection


class Spool:
    """What one env worker's life has finished and the learner has not yet secured.

    ``commit``, ``flush`` and ``close`` are called from one thread at a time; ``forget`` from one thread, which may be
    another.

    Attributes:
        num_committed: transitions committed in this life.
    """

    def __init__(
        self, directory: Path, incarnation: int, *, worker: int, sync: Sync = "seconds", sync_period_s: float = 1.0
    ):
        """
        Args:
            directory: on a local file system; made where it does not exist.
            sync: which commits are on the disk itself when ``commit`` returns: every one (``transition``), those that
                end a fragment (``fragment``), or the first one after each ``sync_period_s`` (``seconds``). Each takes
                all earlier ones with it; ``flush`` does so at any time.

        Raises:
            StorageError: the directory cannot be written, is full, or is on a network file system; or this
                incarnation has a spool already.
        """
        if sync not in get_args(Sync):
            raise ConfigError(f"sync must be one of {', '.join(get_args(Sync))}, not {sync!r}")
        self._path = Path(directory) / f"{incarnation}.sqlite"
        self._sync, self._sync_period_s, self._synced_at = sync, sync_period_s, -float("inf")
        self.num_committed = self._num_forgotten = 0
        self._next_id = 1
        self._unsynced = False  # commits since the last sync
        self._unforgotten: dict[int, tuple[list[int], list[int]]] = {}  # number → (ids, transitions) of its pieces
        self._to_delete: list[int] = []  # ids of forgotten pieces, deleted by the next transaction
        self._environments: dict[int, tuple[int, int, int]] = {}  # env_index → (episode_uid, step, num_committed)
        self._lock: int | None = None
        try:
            self._lock = _own(self._path)
            self._connection = _create(self._path, worker, incarnation)
        except (OSError, sqlite3.Error) as error:
            if self._lock is not None:
                remove(self._path)
                unlock(self._lock)
            raise StorageError(
                f"the spool {self._path} cannot be made: {error}; name a directory on a local disk with room, which "
                "this user may write to, with run.spool_dir"
            ) from error

    @property
    def num_pending(self) -> int:
        """Transitions committed and not forgotten."""
        return self.num_committed - self._num_forgotten

    def commit(self, pieces: Sequence[tuple[int, Fragment]], *, ends_fragment: bool = False) -> None:
        """Commit pieces in one transaction.

        Args:
            pieces: (number of the fragment that it is part of, the piece), those of one number in the order of their
                steps. The episode_uid of an environment never decreases.
            ends_fragment: the last piece of a fragment is among them (what ``sync="fragment"`` waits for).

        Raises:
            StorageError: the disk is full or failed. Nothing of this call is committed, what was committed before is
                untouched, and the call may be repeated.
        """
        now = time.monotonic()
        durable = (
            self._sync == "transition"
            or (self._sync == "fragment" and ends_fragment)
            or (self._sync == "seconds" and now - self._synced_at >= self._sync_period_s)
        )
        rows: list[tuple[int, int, int, bytes]] = []
        environments: dict[int, tuple[int, int, int]] = {}
        for row_id, (number, piece) in enumerate(pieces, self._next_id):
            payload = encode(piece)
            rows.append((row_id, number, checksum(payload, row_id, number), payload))
            last = (piece.columns[name][-1].tolist() for name in ("episode_uid", "step"))
            for env_index, uid, step in zip(piece.columns["env_index"].tolist(), *last, strict=True):
                *newest, count = environments.get(env_index) or self._environments.get(env_index, (-1, -1, 0))
                environments[env_index] = (*max(newest, [uid, step]), count + piece.num_steps)
        if not rows and not self._to_delete:
            return  # SQLite writes nothing then, and so syncs nothing
        self._transaction(rows, environments, durable)
        self._next_id += len(rows)
        self._environments |= environments
        for (row_id, *_), (number, piece) in zip(rows, pieces, strict=True):
            ids, transitions = self._unforgotten.setdefault(number, ([], []))
            ids.append(row_id)
            transitions.append(piece.num_transitions)
            self.num_committed += piece.num_transitions
        self._unsynced = not durable  # a durable commit takes all earlier ones with it
        if durable:
            self._synced_at = now

    def keep_up(self) -> None:
        """Called a few times a second, also when nothing is to be committed: with ``sync="seconds"``, what the last
        commits have left unsynced follows within the period.

        Raises:
            StorageError: the disk is full or failed.
        """
        if self._sync == "seconds" and self._unsynced and time.monotonic() - self._synced_at >= self._sync_period_s:
            self.flush()

    def _transaction(
        self, rows: Sequence[tuple], environments: Mapping[int, tuple[int, int, int]], durable: bool
    ) -> None:
        deleted = [(row_id,) for row_id in self._to_delete[:]]
        execute = self._connection.execute
        try:
            execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")  # refused inside a transaction
            execute("BEGIN IMMEDIATE")
            self._connection.executemany("INSERT INTO pieces VALUES (?, ?, ?, ?)", rows)
            values = [(env, signed(uid), step, count) for env, (uid, step, count) in environments.items()]
            self._connection.executemany(
                "INSERT OR REPLACE INTO environments VALUES (?, ?, ?, ?, ?)",
                [(*value, checksum(b"", *value)) for value in values],
            )
            self._connection.executemany("DELETE FROM pieces WHERE id = ?", deleted)
            execute("COMMIT")
        except sqlite3.Error as error:
            if self._connection.in_transaction:
                execute("ROLLBACK")
            raise StorageError(
                f"the spool {self._path} cannot take another {sum(len(row[3]) for row in rows)} bytes: {error}. What "
                "was committed before is safe; make room on that disk, or name another with run.spool_dir"
            ) from error
        del self._to_delete[: len(deleted)]  # another thread may have appended

    def inherit(self, cursors: Mapping[int, Cursor]) -> None:
        """Keep how far the episodes have come that this life continues, so that it can die before its first commit.

        Raises:
            StorageError: the disk is full or failed.
        """
        environments = {env: (cursor.episode_uid, cursor.step, 0) for env, cursor in cursors.items()}
        if environments:
            self._transaction([], environments, durable=True)
            self._environments |= environments

    def forget(self, number: int) -> None:
        """The learner has secured that whole fragment. Takes effect with the next commit, flush or close; a number
        that is not there (acknowledged twice) is ignored.
        """
        ids, transitions = self._unforgotten.pop(number, ([], []))
        self._to_delete.extend(ids)
        self._num_forgotten += sum(transitions)

    def flush(self) -> None:
        """Everything committed is on the disk itself, and what is forgotten is deleted.

        Raises:
            StorageError: the disk is full or failed.
        """
        if self._to_delete:
            self._transaction([], {}, durable=False)
        try:
            self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)")  # syncs the WAL, then the database
        except sqlite3.Error as error:
            raise StorageError(f"the spool {self._path} cannot be written to its disk: {error}") from error
        self._synced_at = time.monotonic()
        self._unsynced = False

    def close(self) -> None:
        """Everything forgotten: the files go; otherwise they stay for an adopter. Harmless when repeated.

        Raises:
            StorageError: the disk is full or failed; the files stay.
        """
        if self._lock is None:
            return
        try:
            if self.num_pending:
                self.flush()
        finally:
            self._connection.close()
            if not self.num_pending:
                remove(self._path)
            unlock(self._lock)
            self._lock = None
