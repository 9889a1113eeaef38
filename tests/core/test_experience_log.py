"""The log gives back every fragment that it acknowledged, in order, whatever was cut, flipped or full."""

import os

import numpy as np
import pytest

from distrl.core.errors import StorageError
from distrl.core.experience_log import ExperienceLog, decode, encode, read_log
from tests.fakes.fragments import fragment


def test_what_is_appended_comes_back_in_order(tmp_path):
    log = ExperienceLog(tmp_path)
    written = [fragment(steps=3, episode_uid=uid) for uid in range(5)]
    assert [log.append(item) for item in written] == [0, 1, 2, 3, 4]
    log.close()
    read = list(read_log(tmp_path))
    assert [number for number, _ in read] == [0, 1, 2, 3, 4]
    for (_, found), original in zip(read, written, strict=True):
        assert found.incarnation == original.incarnation
        for name, column in original.columns.items():
            np.testing.assert_array_equal(found.columns[name], column)
            assert found.columns[name].dtype == column.dtype


def test_an_encoded_fragment_keeps_empty_columns():
    original = fragment(steps=2)
    assert decode(encode(original)).columns["final_index"].shape == (0, 2)


def test_segments_roll_over_and_are_read_as_one(tmp_path):
    log = ExperienceLog(tmp_path, segment_bytes=2000)
    for uid in range(20):
        log.append(fragment(steps=4, episode_uid=uid))
    log.close()
    assert len(list(tmp_path.glob("*.log"))) > 3
    assert [int(f.columns["episode_uid"][0, 0]) for _, f in read_log(tmp_path)] == list(range(20))
    assert ExperienceLog(tmp_path).num_records == 20


@pytest.mark.parametrize("lost", [1, 7, 40])
def test_a_torn_tail_is_cut_and_appending_goes_on(tmp_path, lost):
    log = ExperienceLog(tmp_path)
    for uid in range(3):
        log.append(fragment(steps=3, episode_uid=uid))
    log.close()
    (segment,) = tmp_path.glob("*.log")
    os.truncate(segment, segment.stat().st_size - lost)
    assert len(list(read_log(tmp_path))) == 2
    again = ExperienceLog(tmp_path)
    assert again.num_records == 2
    assert again.num_bytes_cut > 0
    again.append(fragment(steps=3, episode_uid=9))
    again.close()
    assert [int(f.columns["episode_uid"][0, 0]) for _, f in read_log(tmp_path)] == [0, 1, 9]


def test_a_flipped_bit_in_an_older_segment_is_named(tmp_path):
    log = ExperienceLog(tmp_path, segment_bytes=1500)
    for uid in range(6):
        log.append(fragment(steps=4, episode_uid=uid))
    log.close()
    first = min(tmp_path.glob("*.log"))
    content = bytearray(first.read_bytes())
    content[len(content) // 2] ^= 1
    first.write_bytes(content)
    with pytest.raises(StorageError, match=r"damaged: .*00000000\.log"):
        list(read_log(tmp_path))


def test_a_failed_write_changes_nothing(tmp_path, monkeypatch):
    log = ExperienceLog(tmp_path)
    log.append(fragment(steps=3))

    class FullDisk:
        def __init__(self, file):
            self._file = file

        def __getattr__(self, name):
            return getattr(self._file, name)

        def write(self, data):
            self._file.write(data[:10])
            raise OSError(28, "No space left on device")

    real = log._file
    log._file = FullDisk(real)
    with pytest.raises(StorageError, match=r"No space left on device.*--resume"):
        log.append(fragment(steps=3))
    log._file = real
    log.append(fragment(steps=3, episode_uid=5))
    log.close()
    assert [int(f.columns["episode_uid"][0, 0]) for _, f in read_log(tmp_path)] == [0, 5]


def test_an_unwritable_folder_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be written"):
        ExperienceLog(tmp_path / "file" / "log")
