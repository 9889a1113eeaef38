"""What a spool said was committed is there after any death of its owner, in order, until it is acknowledged; damage
costs what it hit and no more.
"""

import json
import multiprocessing
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from distrl.core import spool_files
from distrl.core.errors import ConfigError, StorageError
from distrl.core.spool import Cursor, Orphan, Spool, orphans
from tests.fakes.fragments import fragment
from tests.fakes.processes import wait_until

ROOT = Path(__file__).parents[2]


def piece(step: int, *, env_index: int = 0, episode_uid: int = 7, steps: int = 1, size: int = 3):
    """Consecutive steps of one environment's episode."""
    made = fragment(steps, episode_uid=episode_uid, first_step=step, size=size, incarnation=3)
    made.columns["env_index"][:] = env_index
    return made


def adopt(path: Path) -> Orphan:
    """Adopt what nobody else wants."""
    orphan = Orphan.adopt(path)
    assert orphan is not None
    return orphan


def first_steps(orphan: Orphan) -> list[tuple[int, int]]:
    """(number, first step) of all its pieces."""
    return [(number, int(found.columns["step"][0, 0])) for number, found in orphan.pieces()]


def run_python(code: str, *arguments: object, prefix: tuple[str, ...] = ()) -> subprocess.Popen:
    """A real process that has this file's names."""
    command = [*prefix, sys.executable, "-c", f"from tests.core.test_spool import *\n{code}", *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture
def dead(tmp_path):
    """The path of a spool whose owner has died with 40 pieces of 10 fragments in it, all in the database file."""
    spool = Spool(tmp_path, 3, worker=1)
    spool.commit([(step // 4, piece(step, env_index=step % 2)) for step in range(40)])
    spool.close()
    return tmp_path / "3.sqlite"


def test_what_is_not_acknowledged_waits_for_an_adopter(tmp_path):
    spool = Spool(tmp_path / "run", 3, worker=1)
    spool.commit([(0, piece(0)), (1, piece(0, env_index=2, episode_uid=2**64 - 1, steps=5))])
    spool.commit([(0, piece(1))])
    spool.forget(1)
    assert (spool.num_committed, spool.num_pending) == (7, 2)
    assert orphans(tmp_path / "run") == []  # its owner lives
    spool.close()
    spool.close()

    (path,) = orphans(tmp_path / "run")
    with adopt(path) as orphan:
        assert (orphan.incarnation, orphan.worker, orphan.num_committed) == (3, 1, 7)
        assert orphan.cursors == {0: Cursor(7, 1), 2: Cursor(2**64 - 1, 4)}  # of what was forgotten too
        found = list(orphan.pieces())
        assert [number for number, _ in found] == [0, 0]
        for step, (_, read) in enumerate(found):
            for name, column in piece(step).columns.items():
                np.testing.assert_array_equal(read.columns[name], column)
        orphan.forget(0)
    assert list((tmp_path / "run").iterdir()) == []


def test_the_files_go_when_everything_is_acknowledged(tmp_path):
    spool = Spool(tmp_path, 0, worker=0)
    spool.commit([(5, piece(0))])
    spool.forget(5)
    spool.forget(5)  # an acknowledgement may come twice
    spool.close()
    assert list(tmp_path.iterdir()) == []


def test_an_adopter_that_gives_up_leaves_the_rest_to_the_next(dead):
    with adopt(dead) as orphan:
        assert len(list(orphan.pieces())) == 40
        orphan.forget(0)
    with adopt(dead) as orphan:
        assert first_steps(orphan) == [(step // 4, step) for step in range(4, 40)]
    with adopt(dead) as orphan:
        orphan.forget(1)  # without having read it: ignored
    with adopt(dead) as orphan:
        assert first_steps(orphan) == [(step // 4, step) for step in range(4, 40)]
        for number in range(10):
            orphan.forget(number)
    assert Orphan.adopt(dead) is None


def test_the_pieces_of_a_fragment_come_together(tmp_path):
    spool = Spool(tmp_path, 0, worker=0)
    for step in range(3):
        spool.commit([(8, piece(step, env_index=1)), (5, piece(step))])
    spool.close()
    with adopt(tmp_path / "0.sqlite") as orphan:
        assert first_steps(orphan) == [(5, 0), (5, 1), (5, 2), (8, 0), (8, 1), (8, 2)]


def test_agents_of_one_environment_share_its_cursor(tmp_path):
    spool = Spool(tmp_path, 0, worker=0)
    for step in (8, 4):  # the second agent's fragment closes later and holds older steps
        spool.commit([(step, piece(step))])
    spool.close()
    assert adopt(tmp_path / "0.sqlite").cursors == {0: Cursor(7, 8)}


def test_orphans_come_oldest_first(tmp_path):
    for incarnation in (11, 2, 100):
        spool = Spool(tmp_path, incarnation, worker=0)
        spool.commit([(0, piece(0))])
        spool.close()
    assert [path.stem for path in orphans(tmp_path)] == ["2", "11", "100"]
    assert orphans(tmp_path / "nothing") == []


def test_an_incarnation_has_one_spool(tmp_path, dead):
    owner = Spool(tmp_path, 4, worker=0)
    for incarnation in (3, 4):
        with pytest.raises(StorageError, match="incarnation of its own"):
            Spool(tmp_path, incarnation, worker=0)
    assert orphans(tmp_path) == [dead]
    owner.close()


class SpoolAgainstModel(RuleBasedStateMachine):
    """The spool against a list; a crash is a copy of its files as they are, which is what a kill leaves."""

    parent: Path

    @initialize()
    def begin(self):
        self.directory = Path(tempfile.mkdtemp(dir=self.parent)) / "run"
        self.lives = 0
        self.next_number, self.step = 0, 0
        self.open_spool()

    def open_spool(self):
        self.spool = Spool(self.directory, self.lives, worker=self.lives % 3, sync="fragment")
        self.kept, self.deleted, self.committed, self.cursors = [], set(), 0, {}

    @rule(count=st.integers(1, 5), steps=st.integers(1, 3), env_index=st.integers(0, 2), ends=st.booleans())
    def commit(self, count, steps, env_index, ends):
        batch = []
        for _ in range(count):
            batch.append((self.next_number, piece(self.step, env_index=env_index, steps=steps)))
            self.step += steps
            self.next_number += ends
        self.spool.commit(batch, ends_fragment=ends)
        self.kept = [item for item in self.kept if item[0] not in self.deleted]
        self.deleted.clear()
        self.kept += [(number, int(made.columns["step"][0, 0])) for number, made in batch]
        self.committed += count * steps
        self.cursors[env_index] = Cursor(7, self.step - 1)

    @precondition(lambda self: self.next_number)
    @rule(data=st.data())
    def forget(self, data):
        number = data.draw(st.integers(0, self.next_number - 1))  # a closed fragment
        self.spool.forget(number)
        self.deleted.add(number)

    @rule()
    def flush(self):
        self.spool.flush()
        self.kept = [item for item in self.kept if item[0] not in self.deleted]

    @rule(acknowledged=st.integers(0, 3))
    def crash(self, acknowledged):
        copy = self.directory.with_name(self.directory.name + "-copy")
        shutil.copytree(self.directory, copy)
        with adopt(copy / f"{self.lives}.sqlite") as orphan:
            assert first_steps(orphan) == self.kept
            assert (orphan.num_committed, orphan.cursors) == (self.committed, self.cursors)
            for number in {number for number, _ in self.kept[: acknowledged * 3]}:
                orphan.forget(number)
                self.kept = [item for item in self.kept if item[0] != number]
        if self.kept:
            with adopt(copy / f"{self.lives}.sqlite") as orphan:
                assert first_steps(orphan) == self.kept
        else:
            assert list(copy.iterdir()) == []
        shutil.rmtree(copy)
        self.spool.close()
        shutil.rmtree(self.directory)
        self.lives += 1
        self.open_spool()

    @invariant()
    def counts(self):
        if hasattr(self, "spool"):
            assert self.spool.num_committed == self.committed

    def teardown(self):
        if hasattr(self, "spool"):
            self.spool.close()


def test_any_sequence_of_commits_acknowledgements_and_crashes(tmp_path):
    SpoolAgainstModel.parent = tmp_path
    run_state_machine_as_test(
        SpoolAgainstModel, settings=settings(max_examples=25, stateful_step_count=20, deadline=None)
    )


WRITE_FOREVER = """
spool = Spool(Path(sys.argv[1]), 5, worker=2, sync=sys.argv[2])
for step in range(10**6):
    spool.commit([(step, piece(2 * step)), (step, piece(2 * step + 1))])
    os.write(1, f"{step}\\n".encode())
"""


@pytest.mark.parametrize("sync", ["seconds", "transition"])
def test_what_it_said_was_committed_survives_a_kill(tmp_path, sync):
    writer = run_python(WRITE_FOREVER, tmp_path, sync)
    for _ in range(200):
        writer.stdout.readline()
    assert orphans(tmp_path) == []
    writer.send_signal(signal.SIGKILL)
    said = 199 + len(writer.communicate()[0].split())
    with adopt(orphans(tmp_path)[0]) as orphan:
        found = first_steps(orphan)
        assert len(found) >= 2 * said > 0
        assert found == [(index // 2, index) for index in range(len(found))]
        assert len(found) % 2 == 0  # a commit is there as a whole or not at all
        assert orphan.cursors[0].step == len(found) - 1
        assert orphan.complaints == []


ADOPT = """
sys.stdin.readline()
found = [orphan for path in orphans(Path(sys.argv[1])) if (orphan := Orphan.adopt(path))]
print(len(found), flush=True)
sys.stdin.readline()
"""


def test_of_several_adopters_one_gets_it(dead):
    command = [sys.executable, "-c", f"from tests.core.test_spool import *\n{ADOPT}", str(dead.parent)]
    several = [
        subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(3)
    ]
    for adopter in several:
        adopter.stdin.write("go\n")
        adopter.stdin.flush()
    assert sorted(adopter.stdout.readline() for adopter in several) == ["0\n"] * 2 + ["1\n"]
    for adopter in several:
        adopter.communicate()
    assert orphans(dead.parent) == [dead]  # that one ended without acknowledging


FORK_AND_DIE = """
spool = Spool(Path(sys.argv[1]), 5, worker=2)
spool.commit([(0, piece(0))])
child = multiprocessing.get_context("fork").Process(target=signal.pause)
child.start()
program = subprocess.Popen(["sleep", "60"])
print(child.pid, program.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_children_that_live_on_do_not_hold_the_lock(tmp_path):
    assert multiprocessing  # used by the process below
    owner = run_python(FORK_AND_DIE, tmp_path)
    children = [int(pid) for pid in owner.stdout.readline().split()]
    try:
        owner.wait()
        # a child lets go in its first moments, of which the owner did not wait for the end
        assert wait_until(lambda: orphans(tmp_path) == [tmp_path / "5.sqlite"], timeout_s=5.0)
    finally:
        for pid in children:
            os.kill(pid, signal.SIGKILL)
        owner.communicate()


def flip(path: Path, offset: int) -> None:
    """Flip one bit of a file."""
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)


def test_a_flipped_bit_in_a_piece_costs_that_piece(dead):
    needle = piece(17).columns["observation/array"].tobytes()
    flip(dead, dead.read_bytes().index(needle))
    with adopt(dead) as orphan:
        assert first_steps(orphan) == [(step // 4, step) for step in range(40) if step != 17]
        assert len(orphan.complaints) == 1
        assert re.search("row 18 cannot be read .its checksum is wrong", orphan.complaints[0])
        for number in range(10):
            orphan.forget(number)
    assert [path.name for path in dead.parent.iterdir()] == ["3.damaged"]  # kept for whoever can repair it
    assert orphans(dead.parent) == []


def test_a_flipped_bit_anywhere_is_noticed_and_nothing_false_is_read(dead, tmp_path):
    """In strides over the file. The bits that say what the file is make it unreadable, others cost a few rows."""
    whole, copy = dead.read_bytes(), tmp_path / "copy" / "3.sqlite"
    copy.parent.mkdir()
    expected = [(step // 4, step) for step in range(40)]
    refused = 0
    for offset in range(0, len(whole), 211):
        copy.write_bytes(whole)
        flip(copy, offset)
        try:
            orphan = adopt(copy)
        except StorageError:
            refused += 1
        else:
            found = first_steps(orphan)
            assert [item for item in expected if item in found] == sorted(found), offset
            assert found == expected or orphan.complaints, offset
            orphan.close()
    assert refused < 0.05 * len(whole) / 211


@pytest.mark.parametrize("share", [0.5, 0.7, 0.95])
def test_of_a_file_cut_short_what_is_left_is_read(dead, share):
    os.truncate(dead, int(dead.stat().st_size * share))
    with adopt(dead) as orphan:
        found = first_steps(orphan)
        assert 0 < len(found) < 40
        assert found == sorted(found)
        assert "is damaged" in orphan.complaints[-1]
    assert dead.exists()


def test_a_wal_cut_short_loses_its_tail(tmp_path):
    spool = Spool(tmp_path / "run", 3, worker=1)
    for step in range(10):
        spool.commit([(step, piece(step))])
    shutil.copytree(tmp_path / "run", tmp_path / "copy")
    wal = tmp_path / "copy" / "3.sqlite-wal"
    os.truncate(wal, wal.stat().st_size - 100)
    with adopt(tmp_path / "copy" / "3.sqlite") as orphan:
        assert first_steps(orphan) == [(step, step) for step in range(9)]
        assert orphan.cursors == {0: Cursor(7, 8)}
    spool.close()


@pytest.mark.parametrize("content", [b"no database", b"no database" * 1000])
def test_a_file_that_holds_no_spool_is_refused_and_kept(tmp_path, content):
    path = tmp_path / "3.sqlite"
    path.write_bytes(content)
    with pytest.raises(StorageError, match="nothing can be read from the spool"):
        Orphan.adopt(path)
    assert path.read_bytes() == content
    assert orphans(tmp_path) == [path]


@pytest.mark.parametrize("journal_mode", [None, "WAL"])
def test_a_life_that_ended_while_it_made_its_spool_leaves_nothing(tmp_path, journal_mode):
    path = tmp_path / "3.sqlite"
    path.touch()
    if journal_mode:
        connection = sqlite3.connect(path)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.close()
    assert Orphan.adopt(path) is None
    assert list(tmp_path.iterdir()) == []


def test_another_version_of_the_format_is_refused_and_kept(dead):
    connection = sqlite3.connect(dead)
    connection.execute("PRAGMA user_version=2")
    connection.close()
    with pytest.raises(StorageError, match="format 2, but this version of distrl reads format 1"):
        Orphan.adopt(dead)
    assert orphans(dead.parent) == [dead]


FILL_THE_DISK = """
import resource
spool = Spool(Path(sys.argv[1]), 5, worker=2)
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, resource.RLIM_INFINITY))
step = 0
try:
    while True:
        spool.commit([(step, piece(2 * step, size=500)), (step, piece(2 * step + 1, size=500))])
        step += 1
except StorageError as error:
    full = str(error)
before = spool.num_committed, spool.num_pending
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
spool.commit([(step, piece(2 * step, size=500)), (step, piece(2 * step + 1, size=500))])
print(json.dumps([step, before, full]), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_full_disk_costs_only_the_commit_that_it_refused_and_that_can_be_repeated(tmp_path):
    output, errors = run_python(FILL_THE_DISK, tmp_path).communicate()
    assert output, errors
    step, before, full = json.loads(output)
    assert step > 3
    assert before == [2 * step, 2 * step]
    assert re.search(r"cannot take another \d+ bytes: .*make room", full)
    with adopt(tmp_path / "5.sqlite") as orphan:
        assert first_steps(orphan) == [(index // 2, index) for index in range(2 * step + 2)]
        assert orphan.complaints == []


def test_a_directory_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"cannot be made: .*run\.spool_dir"):
        Spool(tmp_path / "file" / "run", 0, worker=0)


def test_an_unknown_way_of_syncing_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="transition, fragment, seconds, not 'never'"):
        Spool(tmp_path, 0, worker=0, sync="never")


@pytest.mark.parametrize(
    ("mounts", "kind"),
    [
        ("/dev/sda / ext4 rw 0 0\nserver:/home /home nfs4 rw 0 0", "nfs4"),
        ("/dev/sda / ext4 rw 0 0\ns:/ /home fuse.sshfs rw 0 0\n/dev/sdb /homes xfs rw 0 0", "fuse.sshfs"),
        ("/dev/sda /home ext4 rw 0 0\ns:/ /home/with\\040space lustre rw 0 0", "lustre"),
        ("server:/ / nfs rw 0 0\n/dev/sdb /home xfs rw 0 0\ntmpfs /home/with\\040space/run tmpfs rw 0 0", None),
        ("s:/ /home nfs rw 0 0\n/dev/sdb /home ext4 rw 0 0", None),  # the later mount hides the earlier
    ],
)
def test_a_network_file_system_is_refused(tmp_path, monkeypatch, mounts, kind):
    (tmp_path / "mounts").write_text(mounts)
    monkeypatch.setattr(spool_files, "_MOUNTS", tmp_path / "mounts")
    directory = Path("/home/with space/run")
    if kind is None:
        spool_files.refuse_network_file_system(directory)
    else:
        with pytest.raises(StorageError, match=rf"network file system \({kind}, .*run\.spool_dir"):
            Spool(directory, 0, worker=0)


SYNC = """
for sync in ("transition", "fragment", "seconds"):
    spool = Spool(Path(sys.argv[1]) / sync, 0, worker=0, sync=sync, sync_period_s=1000.0)
    for step in range(9):
        os.write(1, f"{sync} {step}\\n".encode())
        spool.commit([(step // 3, piece(step))], ends_fragment=step % 3 == 2)
    os.write(1, b"end\\n")
    os._exit(0) if sync == "seconds" else None
"""


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace shows what reaches the disk")
def test_each_way_of_syncing_reaches_the_disk_when_it_says(tmp_path):
    """The system calls of a real process: which commits were followed by fdatasync of the WAL."""
    prefix = ("strace", "-f", "-y", "-e", "trace=write,pwrite64,fdatasync")
    _, errors = run_python(SYNC, tmp_path, prefix=prefix).communicate()
    synced, commit = {}, ("begin", "")
    for line in errors.splitlines():
        if marker := re.search(r'write\(1<.*"(\w+) ?(\d*)\\n"', line):
            commit = marker.groups()
            synced.setdefault(commit, False)
        elif "sqlite-wal" in line:  # whether the last thing that became of the WAL was a sync
            synced[commit] = "fdatasync" in line
    of = {sync: [synced[sync, str(step)] for step in range(9)] for sync in ("transition", "fragment", "seconds")}
    assert of["transition"] == [True] * 9
    assert of["fragment"] == [False, False, True] * 3
    assert of["seconds"] == [True] + [False] * 8  # the next one would be after 1000 s


def test_the_files_stay_small_while_pieces_come_and_go(tmp_path):
    spool = Spool(tmp_path, 0, worker=0)
    for number in range(1500):
        spool.commit([(number, piece(number, size=300))])
        spool.forget(number - 20)
    assert (tmp_path / "0.sqlite").stat().st_size < 300_000  # 20 pieces of 2 kB, not 1500
    assert (tmp_path / "0.sqlite-wal").stat().st_size < 1_200_000
    spool.commit([(2000, piece(0, size=3_000_000))])
    spool.forget(2000)
    for number in range(3):
        spool.commit([(3000 + number, piece(number))])
    assert (tmp_path / "0.sqlite-wal").stat().st_size < 17_000_000  # a large commit does not leave a large WAL
    spool.close()


def test_an_inherited_cursor_is_there_for_the_next_life_too(tmp_path):
    # an env worker that continues an episode may die before its first commit
    code = "Spool(Path(sys.argv[1]), 3, worker=0).inherit({1: Cursor(77, 12)}); os.kill(os.getpid(), signal.SIGKILL)"
    assert run_python(code, tmp_path).wait() == -signal.SIGKILL
    orphan = adopt(tmp_path / "3.sqlite")
    assert orphan.cursors == {1: Cursor(77, 12)}
    assert orphan.num_committed == 0
    orphan.close()


def test_what_the_last_commits_left_unsynced_follows_when_no_more_come(tmp_path, monkeypatch):
    """With a simulator of minutes a step, the next commit may be far away; a sync moves the WAL into the database."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr("distrl.core.spool.time", SimpleNamespace(monotonic=lambda: clock.now))
    database = tmp_path / "0.sqlite"
    spool = Spool(tmp_path, 0, worker=0, sync="seconds", sync_period_s=1.0)
    for step in range(2):  # the first is synced, the second is within its second
        spool.commit([(0, piece(step, size=10_000))])
    before = database.stat().st_size
    clock.now = 0.9
    spool.keep_up()
    assert database.stat().st_size == before
    clock.now = 1.1
    spool.keep_up()
    assert database.stat().st_size > before
    spool.close()
