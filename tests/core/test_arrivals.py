"""The order of arrival comes back as a schedule, also after learners that began again."""

import pytest

from distrl.core.arrivals import Arrivals, read_arrivals
from distrl.core.errors import StorageError


def test_the_newest_count_before_each_update(tmp_path):
    arrivals = Arrivals(tmp_path / "arrivals.bin")
    arrivals.began(0, 0)
    for update, records in ((0, 1), (0, 2), (3, 3), (7, 4)):
        arrivals.arrived(update, records)
    assert read_arrivals(tmp_path / "arrivals.bin") == [(0, 2), (3, 3), (7, 4)]


def test_what_a_dead_learner_did_beyond_its_checkpoint_is_left_out(tmp_path):
    arrivals = Arrivals(tmp_path / "arrivals.bin")
    arrivals.began(0, 0)
    for update, records in ((0, 1), (90, 2), (120, 3)):
        arrivals.arrived(update, records)
    arrivals.began(100, 3)
    arrivals.arrived(105, 4)
    assert read_arrivals(tmp_path / "arrivals.bin") == [(0, 1), (90, 2), (100, 3), (105, 4)]


def test_a_torn_entry_is_cut_off(tmp_path):
    path = tmp_path / "arrivals.bin"
    Arrivals(path).arrived(5, 1)
    path.write_bytes(path.read_bytes() + b"\0" * 11)
    assert read_arrivals(path) == [(5, 1)]
    Arrivals(path).arrived(6, 2)
    assert read_arrivals(path) == [(5, 1), (6, 2)]


def test_no_order_of_arrival_is_one_sentence(tmp_path):
    with pytest.raises(StorageError, match="order of arrival"):
        read_arrivals(tmp_path / "arrivals.bin")
