"""Disks that are full or lie: one sentence, nothing that was acknowledged is lost, and the run goes on afterwards.

A full disk is a small file system in memory of its own where this user may mount one, else a limit on the size of
files.
"""

import contextlib
import resource
import signal
import subprocess

import pytest

from distrl.core.errors import StorageError
from distrl.core.experience_log import read_log
from distrl.core.orphans import Orphan, orphans
from distrl.core.spool import Spool
from tests.fakes.fragments import fragment
from tests.fakes.logs import flip
from tests.learners.test_learner import make

STEPS = 50


@contextlib.contextmanager
def full_after(folder, size):
    """A folder that takes about ``size`` bytes; calling what this gives makes room."""
    folder.mkdir()
    options = f"size={size}"
    if subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True).returncode == 0:
        try:
            yield lambda: subprocess.run(["mount", "-o", "remount,size=64m", folder], check=True)
        finally:
            subprocess.run(["umount", "-l", folder], check=True)
        return
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    def lift():
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, limits[1]))
    try:
        yield lift
    finally:
        lift()
        signal.signal(signal.SIGXFSZ, handler)


def deliver(learner, uids, acknowledged):
    """Episodes for a learner; those that it has acknowledged are appended."""
    for uid in uids:
        learner.receive(fragment(STEPS, episode_uid=uid, terminated=True))
        acknowledged.append(uid)


def commit(spool, numbers, committed):
    """Fragments for a spool; those that it has committed are appended."""
    for number in numbers:
        spool.commit([(number, fragment(STEPS, episode_uid=number))])
        committed.append(number)


def logged(path):
    return [int(item.columns["episode_uid"][0, 0]) for _, item in read_log(path / "log")]


def test_a_log_on_a_full_disk_loses_nothing_acknowledged_and_goes_on_with_room(tmp_path):
    path = tmp_path / "disk"
    with full_after(path, 512 << 10) as make_room:
        learner, acknowledged = make(path), []
        with pytest.raises(
            StorageError, match=r"cannot take another \d+ bytes: .*make room and continue with --resume"
        ):
            deliver(learner, range(10_000), acknowledged)
        assert logged(path) == acknowledged
        assert learner.report()["inserted"] == STEPS * len(acknowledged)
        make_room()
        deliver(learner, [len(acknowledged)], acknowledged)  # the very one that was refused is no duplicate
        assert logged(path) == acknowledged
        learner.close()
        again = make(path)
        assert again.report()["inserted"] == STEPS * len(acknowledged)
        deliver(again, [acknowledged[-1], len(acknowledged)], [])
        assert logged(path) == [*acknowledged, len(acknowledged)]
        again.close()


def test_a_spool_on_a_full_disk_keeps_what_it_has_and_goes_on_with_room(tmp_path):
    path = tmp_path / "disk"
    with full_after(path, 512 << 10) as make_room:
        spool, committed = Spool(path, 0, worker=0), []
        with pytest.raises(StorageError, match=r"cannot take another \d+ bytes.*What was committed before is safe"):
            commit(spool, range(10_000), committed)
        make_room()
        commit(spool, [len(committed)], committed)
        spool.close()  # without a word from the learner: all of it waits for an adopter
        (left,) = orphans(path)
        with Orphan.adopt(left) as orphan:
            assert [number for number, _ in orphan.pieces()] == committed
            assert orphan.complaints == []


def test_a_torn_end_of_the_log_costs_only_what_was_never_acknowledged(tmp_path):
    learner = make(tmp_path)
    deliver(learner, range(4), [])
    learner.close()
    segment = tmp_path / "log" / "00000000.log"
    with segment.open("ab") as file:
        file.write(segment.read_bytes()[:100])  # the beginning of a fifth record
    again = make(tmp_path)
    assert any("torn record of 100 bytes" in note for note in again.notes)
    deliver(again, [4], [])
    again.close()
    assert logged(tmp_path) == [0, 1, 2, 3, 4]


def test_a_flipped_byte_costs_one_fragment_and_is_named(tmp_path):
    learner = make(tmp_path)
    deliver(learner, range(4), [])
    learner.close()
    segment = tmp_path / "log" / "00000000.log"
    flip(segment, segment.stat().st_size // 2 - 100)
    with pytest.raises(StorageError, match="the experience log is damaged"):
        make(tmp_path)
    damaged = []
    found = [int(f.columns["episode_uid"][0, 0]) for _, f in read_log(tmp_path / "log", damaged=damaged)]
    assert (len(found), len(damaged)) == (3, 1)

    spool = Spool(tmp_path / "spool", 0, worker=0)
    commit(spool, range(4), [])
    spool.close()
    (left,) = orphans(tmp_path / "spool")
    flip(left, left.stat().st_size - 1000)
    with Orphan.adopt(left) as orphan:
        assert len(list(orphan.pieces())) == 3
        assert len(orphan.complaints) == 1
