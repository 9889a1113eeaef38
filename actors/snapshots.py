"""An environment's running episode goes out into files (snapshots and a journal of its steps) and comes back from them
in another process.

    <directory>/env-<row>/<episode_uid>/
        journal                             one record for each step since the first snapshot
        <step>/                             the state after ``step`` finished steps:
            environment/                        what the environment's own ``snapshot`` wrote
            state                               wrappers, global random generators, last observation

A snapshot appears and goes whole (by renaming). Nothing is synced: this outlives processes, not the machine. The state
is a pickle, written and read by processes of the same run only.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import pickle
import random
import shutil
import time
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from distrl.actors.shared_rows import RowLayout
from distrl.core.errors import StorageError
from distrl.core.spaces import Leaf
from distrl.core.types import OBSERVATION

#: A finished step may be committed so much later. A snapshot at least this old is kept, also of an ended episode, so
#: that a new env worker finds one that is not ahead of what was committed.
COMMIT_LAG_S = 10.0
RTOL, ATOL = 1e-5, 1e-8  # within which a step that is computed again must give the same
_Targets = list[tuple[Leaf, np.ndarray]]


@dataclass(frozen=True)
class SnapshotPlan:
    """Where snapshots go, and how many.

    Attributes:
        directory: on a local file system. cost_share: of the time inside steps that taking snapshots may cost.
        keep: newest snapshots of a running episode that are kept.
    """

    directory: str
    cost_share: float = 0.01
    keep: int = 2


@dataclass(frozen=True)
class Continuation:
    """The order to continue an episode.

    Attributes:
        episode_uid: which. snapshot: where to begin. step: finished steps to arrive at, then to go on from.
        attempt: how often step ``step`` has been begun before.
    """

    episode_uid: int
    snapshot: int
    step: int
    attempt: int = 0


class Discontinued(Exception):
    """An episode cannot be continued: what was computed again differs from what had been given out."""


@dataclass
class Saved:
    """A snapshot, read.

    Attributes:
        environment: folder for the environment's ``restore``. state: as ``EpisodeFiles.snapshot`` has written it.
        records: journal records [steps] up to the step asked for. num_later: of those beyond it.
    """

    environment: str
    state: dict[str, Any]
    records: np.ndarray
    num_later: int


def snapshot_steps(directory: str, row: int, episode_uid: int, until: int) -> list[int]:
    """Steps at which an episode has snapshots, newest first, none beyond ``until``."""
    return [step for step in _steps_in(Path(directory, f"env-{row}", str(episode_uid))) if step <= until]


def read_state(plan: SnapshotPlan, row: int, order: Continuation) -> dict[str, Any]:
    """What was kept with a snapshot beside the environment's files, ``facts`` of ``EpisodeFiles.snapshot`` among it.

    Raises:
        StorageError: it is damaged or not there.
    """
    folder = Path(plan.directory, f"env-{row}", str(order.episode_uid), str(order.snapshot))
    try:
        blob = (folder / "state").read_bytes()
    except OSError as error:
        raise StorageError(f"the snapshot {folder} cannot be read: {error.strerror}.") from error
    if zlib.crc32(blob[4:]) != int.from_bytes(blob[:4], "little"):
        raise StorageError(f"the snapshot {folder} is damaged: the checksum of its state is wrong.")
    return pickle.loads(blob[4:])


def supports(env: gymnasium.Env) -> bool:
    """Whether an environment can be continued."""
    return all(callable(getattr(env.unwrapped, name, None)) for name in ("snapshot", "restore"))


class EpisodeFiles:
    """The files of one row's episodes, for the environment process.

    files.begin(uid)                      # an episode; files.append(…) for every step, before it is told of
    if files.due(step_s): files.snapshot(…)
    files.end()
    saved = files.read(continuation)      # in another process; then files.settle(continuation, saved.records)
    """

    def __init__(self, plan: SnapshotPlan, row: int, layout: RowLayout):
        self._plan, self._row = plan, row
        self._folder = Path(plan.directory, f"env-{row}")
        self._dtype = np.dtype(
            [
                ("crc", "u4"),
                ("step", "i4"),
                ("reward", "f8"),
                ("terminated", "?"),
                ("truncated", "?"),
                ("action", layout.action.dtype, layout.action.shape),
                *((OBSERVATION + path, spec.dtype, spec.shape) for path, spec in layout.observation.items()),
            ]
        )
        self._record = np.zeros(1, self._dtype)
        self._raw = memoryview(self._record.view(np.uint8))  # type: ignore[arg-type]
        self._journal: int | None = None  # file descriptor
        self._uid = 0
        self._cost_s = 0.0  # running estimate of one snapshot
        self._since_s = 0.0  # inside steps since the last one
        self.failing = False  # the last attempt to write failed

    def begin(self, episode_uid: int) -> None:
        """Another episode; files appear with its first snapshot."""
        self._close_journal()
        self._uid = episode_uid

    def end(self) -> None:
        """The episode has ended; its files stay for COMMIT_LAG_S."""
        if self._journal is not None:
            self._close_journal()
            os.utime(self._folder / str(self._uid))

    def append(
        self, step: int, action: np.ndarray, reward: float, terminated: bool, truncated: bool, observation: _Targets
    ) -> None:
        """Write a finished step to the journal, in one call; nothing before the first snapshot.

        Raises:
            OSError: the file system is full; there is no journal any more until the next snapshot.
        """
        if self._journal is None:
            return
        record = self._record[0]
        record["step"], record["reward"], record["terminated"], record["truncated"] = (
            step,
            reward,
            terminated,
            truncated,
        )
        record["action"] = action
        for leaf, array in observation:
            record[OBSERVATION + leaf.path] = array
        record["crc"] = zlib.crc32(self._raw[4:])
        try:
            if os.write(self._journal, self._raw) != len(self._raw):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            self._close_journal()
            raise

    def due(self, step_s: float) -> bool:
        """Whether to take a snapshot now, after a step of so many wall seconds."""
        self._since_s += step_s
        if self._journal is None and not self.failing:
            return True
        return self._since_s * self._plan.cost_share >= self._cost_s

    def snapshot(self, env: gymnasium.Env, step: int, observation: _Targets, **facts: Any) -> float:
        """Write the state after ``step`` finished steps; the seconds that it took.

        Args:
            facts: plain values that come back in ``Saved.state``.

        Raises:
            Exception: whatever the environment or the file system gives; the older snapshots are still there.
        """
        begin = time.monotonic()
        episode = self._folder / str(self._uid)
        partial = episode / f"{step}.partial"
        try:
            shutil.rmtree(partial, ignore_errors=True)
            (partial / "environment").mkdir(parents=True)
            env.unwrapped.snapshot(str(partial / "environment"))  # type: ignore[attr-defined]
            state = {
                **facts,
                "observation": {leaf.path: array.copy() for leaf, array in observation},
                "wrappers": [(type(wrapper).__qualname__, _own_state(wrapper)) for wrapper in _wrappers(env)],
                "random": (random.getstate(), np.random.get_state()),  # noqa: NPY002
            }
            blob = pickle.dumps(state)
            (partial / "state").write_bytes(zlib.crc32(blob).to_bytes(4, "little") + blob)
            if self._journal is None:
                for older in _steps_in(episode):  # the steps since are not in any journal
                    _remove(episode / str(older))
                flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC
                self._journal = os.open(episode / "journal", flags, 0o600)
            os.rename(partial, episode / str(step))
        except BaseException:
            self.failing = True
            # tried again, ever more rarely
            self._cost_s = 4 * max(self._cost_s, time.monotonic() - begin, 0.01)
            self._since_s = 0.0
            shutil.rmtree(partial, ignore_errors=True)
            raise
        self.failing = False
        self._prune(episode)
        cost = time.monotonic() - begin
        self._cost_s = cost if self._cost_s == 0 else 0.5 * (self._cost_s + cost)
        self._since_s = 0.0
        return cost

    def read(self, order: Continuation) -> Saved:
        """What is needed to continue.

        Raises:
            StorageError: it is damaged, or the journal does not reach the step asked for.
        """
        state = read_state(self._plan, self._row, order)
        episode = self._folder / str(order.episode_uid)
        folder = episode / str(order.snapshot)
        records = self._read_journal(episode / "journal")
        if len(records) and records[0]["step"] <= order.snapshot:
            records = records[order.snapshot - records[0]["step"] :]
        wanted = order.step - order.snapshot
        if len(records) < wanted:
            raise StorageError(
                f"the journal behind the snapshot {folder} must reach step {order.step}; "
                f"it ends at step {order.snapshot + len(records)}."
            )
        return Saved(str(folder / "environment"), state, records[:wanted], len(records) - wanted)

    def settle(self, order: Continuation) -> None:
        """After an episode was brought to ``order.step``: forget what came later, and go on writing behind it."""
        episode = self._folder / str(order.episode_uid)
        for step in _steps_in(episode):
            if step > order.step:
                _remove(episode / str(step))
        self.begin(order.episode_uid)
        journal = os.open(episode / "journal", os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
        first = np.frombuffer(os.pread(journal, self._dtype.itemsize, 0).ljust(self._dtype.itemsize), self._dtype)[0]
        if os.fstat(journal).st_size:
            os.ftruncate(journal, max(order.step - int(first["step"]), 0) * self._dtype.itemsize)
        self._journal = journal

    def _read_journal(self, path: Path) -> np.ndarray:
        """Its records up to the first that is torn or damaged."""
        try:
            raw = path.read_bytes()
        except FileNotFoundError:
            raw = b""
        size = self._dtype.itemsize
        records = np.frombuffer(raw, self._dtype, len(raw) // size)
        for k, record in enumerate(records):
            whole = record["crc"] == zlib.crc32(raw[k * size + 4 : (k + 1) * size])
            if not whole or record["step"] != records[0]["step"] + k:
                return records[:k]
        return records

    def _close_journal(self) -> None:
        if self._journal is not None:
            os.close(self._journal)
            self._journal = None

    def _prune(self, episode: Path) -> None:
        now = time.time()
        for other in os.scandir(self._folder):
            if other.is_dir() and other.name != str(self._uid) and now - other.stat().st_mtime > COMMIT_LAG_S:
                _remove(Path(other.path))
        steps = _steps_in(episode)
        for left in episode.glob("*.partial"):
            _remove(left)
        young = [step for step in steps if now - (episode / str(step)).stat().st_mtime < COMMIT_LAG_S]
        # the oldest young one becomes the newest old one in time
        kept = {*steps[: self._plan.keep], *young[-1:], *[step for step in steps if step not in young][:1]}
        for step in steps:
            if step not in kept:
                _remove(episode / str(step))


def restore_around(env: gymnasium.Env, state: dict[str, Any]) -> None:
    """Give an environment's wrappers and the global random generators the state that a snapshot has kept.

    Raises:
        StorageError: the wrappers are others.
    """
    wrappers = _wrappers(env)
    saved = state["wrappers"]
    if [type(wrapper).__qualname__ for wrapper in wrappers] != [name for name, _ in saved]:
        raise StorageError(
            f"a snapshot must be restored inside the same wrappers; it has {[name for name, _ in saved]}, and the "
            f"environment {[type(wrapper).__qualname__ for wrapper in wrappers]}."
        )
    for wrapper, (_, own) in zip(wrappers, saved, strict=True):
        vars(wrapper).update(pickle.loads(own))
    random.setstate(state["random"][0])
    np.random.set_state(state["random"][1])  # noqa: NPY002


def check_observation(found: _Targets, expected: Any, step: int) -> None:
    """Compare with what was given out before.

    Args:
        expected: path → array, or a journal record's fields.

    Raises:
        Discontinued: they differ by more than rounding.
    """
    for leaf, array in found:
        value = expected[leaf.path]
        same = np.allclose(array, value, RTOL, ATOL) if array.dtype.kind == "f" else np.array_equal(array, value)
        if not same:
            at = int(np.argmax(np.abs(np.asarray(array, np.float64) - np.asarray(value, np.float64))))
            raise Discontinued(
                f"its observation {leaf.path!r} at step {step} was {np.ravel(value)[at]:.9g} at flat index {at} and is "
                f"{np.ravel(array)[at]:.9g} when computed again"
            )


def check_step(record: Any, found: _Targets, reward: float, terminated: bool, truncated: bool) -> None:
    """Compare a step that was computed again with its journal record.

    Raises:
        Discontinued: they differ.
    """
    step = int(record["step"])
    if not np.isclose(reward, record["reward"], RTOL, ATOL):
        raise Discontinued(f"step {step} had reward {record['reward']:.9g} and has {reward:.9g} when computed again")
    if (terminated, truncated) != (bool(record["terminated"]), bool(record["truncated"])):
        raise Discontinued(f"step {step} computed again ends the episode differently")
    check_observation(found, {leaf.path: record[OBSERVATION + leaf.path] for leaf, _ in found}, step + 1)


class _OwnPickler(pickle.Pickler):
    """Refuses environments: what refers to one would bring a second environment back."""

    def persistent_id(self, value: Any) -> None:
        if isinstance(value, gymnasium.Env):
            raise pickle.PicklingError("an environment")


def _own_state(wrapper: gymnasium.Wrapper) -> bytes:
    """A wrapper's own attributes, those left out that cannot be pickled."""
    own = {name: value for name, value in vars(wrapper).items() if name != "env" and _pickled(value) is not None}
    return _pickled(own) or pickle.dumps({})


def _pickled(value: Any) -> bytes | None:
    buffer = io.BytesIO()
    try:
        _OwnPickler(buffer).dump(value)
    except Exception:  # noqa: BLE001 - whatever a foreign object raises when pickled
        return None
    return buffer.getvalue()


def _wrappers(env: gymnasium.Env) -> list[gymnasium.Wrapper]:
    found = []
    while isinstance(env, gymnasium.Wrapper):
        found.append(env)
        env = env.env
    return found


def _remove(folder: Path) -> None:
    """A folder and all in it; nobody finds a part of it, should this process be killed meanwhile."""
    gone = folder if folder.suffix else folder.with_suffix(".partial")
    with contextlib.suppress(OSError):
        os.rename(folder, gone)
    shutil.rmtree(gone, ignore_errors=True)


def _steps_in(episode: Path) -> list[int]:
    """Steps of the whole snapshots in an episode's folder, newest first."""
    try:
        names = os.listdir(episode)
    except FileNotFoundError:
        return []
    return sorted((int(name) for name in names if name.isdigit()), reverse=True)
