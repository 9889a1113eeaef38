"""A checkpoint is complete or not there, and damage is noticed."""

import pytest

from distrl.core.checkpoint import list_checkpoints, load_checkpoint, load_latest, prune_checkpoints, save_checkpoint
from distrl.core.errors import StorageError


def test_files_and_facts_come_back(tmp_path):
    path = save_checkpoint(tmp_path, "0000000007", {"a.bin": b"\x00\x01", "b.bin": b"xyz"}, {"updates": 7})
    files, meta = load_checkpoint(path)
    assert files == {"a.bin": b"\x00\x01", "b.bin": b"xyz"}
    assert meta == {"updates": 7}


def test_facts_by_number_are_not_taken_for_damaged(tmp_path):
    path = save_checkpoint(tmp_path, "0000000007", {}, {"secured": dict.fromkeys(range(12), 1)})
    assert load_checkpoint(path)[1]["secured"]["10"] == 1


@pytest.mark.parametrize("name", ["a.bin", "meta.json"])
def test_a_flipped_bit_is_noticed(tmp_path, name):
    path = save_checkpoint(tmp_path, "0000000007", {"a.bin": b"hello"}, {"updates": 7})
    content = (path / name).read_bytes()
    (path / name).write_bytes(content.replace(b"7", b"8") if name == "meta.json" else b"hellp")
    with pytest.raises(StorageError, match="damaged"):
        load_checkpoint(path)


def test_the_newest_whole_one_is_taken_and_the_damaged_one_named(tmp_path):
    for update in (1, 2, 3):
        save_checkpoint(tmp_path, f"{update:010d}", {"a.bin": b"x" * update}, {"updates": update})
    (tmp_path / "0000000003" / "a.bin").unlink()
    found = load_latest(tmp_path)
    assert found is not None
    path, files, meta, complaints = found
    assert (path.name, files["a.bin"], meta["updates"]) == ("0000000002", b"xx", 2)
    assert "0000000003" in complaints[0]


def test_none_readable_is_an_error_and_none_written_is_not(tmp_path):
    assert load_latest(tmp_path) is None
    save_checkpoint(tmp_path, "0000000001", {"a.bin": b"x"}, {})
    (tmp_path / "0000000001" / "a.bin").write_bytes(b"y")
    with pytest.raises(StorageError, match=r"no checkpoint .* can be read"):
        load_latest(tmp_path)


def test_an_interrupted_write_leaves_nothing_that_looks_like_a_checkpoint(tmp_path, monkeypatch):
    save_checkpoint(tmp_path, "0000000001", {"a.bin": b"x"}, {})
    monkeypatch.setattr("os.replace", lambda *names: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(StorageError, match=r"No space left.*untouched"):
        save_checkpoint(tmp_path, "0000000002", {"a.bin": b"x"}, {})
    assert [path.name for path in list_checkpoints(tmp_path)] == ["0000000001"]


def test_the_last_k_are_kept_beside_the_best(tmp_path):
    for update in range(5):
        save_checkpoint(tmp_path, f"{update:010d}", {}, {})
    save_checkpoint(tmp_path, "best", {}, {"first": True})
    save_checkpoint(tmp_path, "best", {}, {"first": False})
    prune_checkpoints(tmp_path, keep=2)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["0000000003", "0000000004"]
    assert load_checkpoint(tmp_path / "best")[1] == {"first": False}
    assert not list(tmp_path.glob(".tmp-*"))


def test_pruning_leaves_alone_what_another_process_is_writing(tmp_path):
    # the evaluator writes the best policy while the learner prunes its own numbered checkpoints
    unfinished_best, left_behind = tmp_path / ".tmp-best-4711", tmp_path / ".tmp-0000000003-4711"
    unfinished_best.mkdir()
    left_behind.mkdir()
    prune_checkpoints(tmp_path, keep=2)
    assert unfinished_best.exists()
    assert not left_behind.exists()
