"""The spools that dead env workers left in, what the learner has not secured of them out.

Whoever finds an orphan adopts it: a restarted env worker on the node, the supervisor, a resumed run. What is not
acknowledged before the adopter dies too waits for the next one.
"""

from __future__ import annotations

import sqlite3
import struct
from collections.abc import Iterator
from operator import itemgetter
from pathlib import Path

from distrl.core.errors import StorageError
from distrl.core.experience_log import decode
from distrl.core.spool_files import FORMAT, checksum, connect, is_held, lock, remove, unlock, unsigned
from distrl.core.types import Cursor, Fragment

_DAMAGE = (sqlite3.DatabaseError, UnicodeDecodeError)  # what reading a damaged file raises; names may not decode
_PAGE_BYTES = 4096  # SQLite's default, and the size of a database without tables


def orphans(directory: Path) -> list[Path]:
    """The spools of dead lives in a directory, oldest incarnation first; none where it does not exist."""
    found = [path for path in Path(directory).glob("*.sqlite") if path.stem.isdecimal()]
    return [path for path in sorted(found, key=lambda path: int(path.stem)) if not is_held(path)]


def _intact(found: object, payload: bytes, *numbers: int) -> bool:
    """Whether a row has its checksum; a flipped byte may also have turned any of its values into another type."""
    try:
        return checksum(payload, *numbers) == found
    except (struct.error, TypeError):
        return False


class _NeverBegunError(Exception):
    """The owner died while it made the file: nothing was ever committed to it."""


class Orphan:
    """A dead life's spool, held by its adopter.

        if orphan := Orphan.adopt(path):
            with orphan:
                for number, piece in orphan.pieces(): ...   # send again
                orphan.forget(number)                       # … when the learner has secured it

    Damage costs the rows that it hit: they are named in ``complaints``, and when all others are acknowledged, the file
    is renamed to ``<incarnation>.damaged`` instead of deleted, where nobody adopts it again.

    Attributes:
        incarnation, worker: whose life it was; worker is -1 where that cannot be read.
        num_committed: transitions committed in it.
        cursors: env_index → the newest committed step, also of what was forgotten long ago.
        complaints: what could not be read, one sentence each; complete when ``pieces`` has been called.
    """

    def __init__(self, path: Path, held: int):
        """Use ``adopt``."""
        self._path = path
        self._lock: int | None = held
        self._unforgotten: dict[int, list[int]] = {}  # number → ids of the pieces that were read
        self._forgotten: list[int] = []
        self._read_all = False
        self.incarnation, self.worker = int(path.stem), -1
        self.complaints: list[str] = []
        self.cursors: dict[int, Cursor] = {}
        self.num_committed = 0
        self._connection = connect(path)
        try:
            self._connection.execute("PRAGMA writable_schema=ON")  # read what there is of a file that was cut short
            self._connection.text_factory = bytes  # a flipped byte can turn a number into text that is not UTF-8
            (version,) = self._connection.execute("PRAGMA user_version").fetchone()
            if version == 0 and path.stat().st_size in (0, _PAGE_BYTES) and not self._has_tables():
                raise _NeverBegunError
            if version != FORMAT:
                raise StorageError(
                    f"{path} is a spool of format {version}, but this version of distrl reads format {FORMAT}: "
                    "continue the run with the version that began it; the file is left as it is"
                )
            self._read_life()
            self._read_environments()
        except BaseException:
            self._connection.close()
            raise

    @classmethod
    def adopt(cls, path: Path) -> Orphan | None:
        """Take an orphan over; None: somebody else holds it, or it has been dealt with and is gone.

        Raises:
            StorageError: it is of another format, it is damaged so that nothing can be read, or the disk is read-only.
                The file is left as it is.
        """
        if not path.exists():
            return None
        try:
            held = lock(path)
        except OSError as error:
            raise StorageError(f"the spool {path} cannot be adopted: {error.strerror or error}") from error
        if held is None:
            return None
        try:
            if path.exists():
                return cls(path, held)
            raise _NeverBegunError  # it went between the two looks, and this made a new lock
        except _NeverBegunError:
            remove(path)
            unlock(held)
            return None
        except (sqlite3.Error, UnicodeDecodeError) as error:
            unlock(held)
            raise StorageError(
                f"nothing can be read from the spool {path} ({error}): the file is damaged. It is left as it is; "
                "delete it to hear no more of it"
            ) from error
        except StorageError:
            unlock(held)
            raise

    def __enter__(self) -> Orphan:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _has_tables(self) -> bool:
        return self._connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] > 0

    def _read_life(self) -> None:
        try:
            *value, found = self._connection.execute("SELECT worker, incarnation, checksum FROM life").fetchone()
            intact = _intact(found, b"", *value)
        except (*_DAMAGE, TypeError):  # TypeError: no row
            intact = False
        if intact:
            self.worker, self.incarnation = value
        else:
            self.complaints.append(f"{self._path}: which env worker's it was cannot be read")

    def _read_environments(self) -> None:
        try:
            for *value, found in self._connection.execute("SELECT * FROM environments"):
                if not _intact(found, b"", *value):
                    self.complaints.append(
                        f"{self._path}: how far environment {value[0]} had got cannot be read (the checksum of its row "
                        "is wrong)"
                    )
                    continue
                env_index, uid, step, count = value
                self.cursors[env_index] = Cursor(unsigned(uid), step)
                self.num_committed += count
        except _DAMAGE as error:
            self.complaints.append(f"{self._path}: how far some environments had got cannot be read ({error})")

    def pieces(self) -> Iterator[tuple[int, Fragment]]:
        """(number of its fragment, piece) of what was not forgotten: number by number, the pieces of one in the order
        of their commits. To be called once; it reads everything.

        Those of several environments were committed in turns. Given out so, an adopter could take the first pieces of
        a fragment for all of it, and forget the others with them.
        """
        return iter(sorted(self._read(), key=itemgetter(0)))

    def _read(self) -> Iterator[tuple[int, Fragment]]:
        last = 0
        rows = "SELECT id, number, checksum, payload FROM pieces"
        try:
            for row in self._connection.execute(rows):
                if piece := self._checked(row):
                    last = row[0]
                    yield row[1], piece
            (state,) = self._connection.execute("PRAGMA quick_check(1)").fetchone()
            if state != b"ok":
                self.complaints.append(
                    f"{self._path} is damaged, rows may be missing: {state.decode(errors='replace')}"
                )
        except _DAMAGE as error:
            # A page that leads to others is damaged: try each row by itself. Ids count pieces, so none is above this.
            lost = []
            for row_id in range(last + 1, self.num_committed + 1):
                try:
                    row = self._connection.execute(f"{rows} WHERE id = ?", (row_id,)).fetchone()
                except _DAMAGE:
                    lost.append(row_id)
                    continue
                if row and (piece := self._checked(row)):
                    yield row[1], piece
            among = f", among them rows {lost[0]} to {lost[-1]}" if lost else ""
            self.complaints.append(
                f"{self._path} is damaged ({error}): what could be found was read, but not all{among}"
            )
        self._read_all = True

    def _checked(self, row: tuple) -> Fragment | None:
        row_id, number, found, payload = row
        if not _intact(found, payload, row_id, number):
            complaint = f"{self._path}: row {row_id} cannot be read (its checksum is wrong)"
            if complaint not in self.complaints:
                self.complaints.append(complaint)
            return None
        self._unforgotten.setdefault(number, []).append(row_id)
        return decode(payload)

    def forget(self, number: int) -> None:
        """The learner has secured all pieces of that fragment; a number that is not there is ignored."""
        self._forgotten.extend(self._unforgotten.pop(number, []))

    def close(self) -> None:
        """Delete the files if everything has been read and forgotten, otherwise leave the rest to another adopter.
        Harmless when repeated.
        """
        if self._lock is None:
            return
        finished = self._read_all and not self._unforgotten
        try:
            if not finished and not self.complaints:  # writing into a damaged file could damage more of it
                self._connection.execute("BEGIN")
                self._connection.executemany("DELETE FROM pieces WHERE id = ?", [(row,) for row in self._forgotten])
                self._connection.execute("COMMIT")
        except sqlite3.Error:
            pass  # a full disk: what was forgotten will be sent again, and recognised
        self._connection.close()
        if finished and self.complaints:
            self._path.rename(self._path.with_suffix(".damaged"))
        if finished:
            remove(self._path)
        unlock(self._lock)
        self._lock = None
