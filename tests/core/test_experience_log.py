"""The log gives back every fragment that it acknowledged, in order, whatever was cut, flipped or full."""

import contextlib
import json
import os
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from distrl.core.errors import StorageError
from distrl.core.experience_log import ExperienceLog, decode, encode, read_log
from distrl.core.log_facts import LogFacts, read_facts, space_form, space_of
from distrl.core.types import EnvRecipe, EnvSpec
from tests.fakes.fragments import fragment


def uids(directory, **options):
    """The episodes of a log whose fragments hold one each."""
    return [int(found.columns["episode_uid"][0, 0]) for _, found in read_log(directory, **options)]


def write(directory, count, **options):
    """A closed log of ``count`` fragments, one episode each."""
    log = ExperienceLog(directory, **options)
    for uid in range(count):
        log.append(fragment(steps=4, episode_uid=uid))
    log.close()
    return log


def flip(path, position):
    """Flip one bit of a file."""
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


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


def test_a_flipped_bit_is_named_and_costs_one_record(tmp_path):
    write(tmp_path, 6, segment_bytes=2500)  # two a segment
    first = min(tmp_path.glob("*.log"))
    size = len(encode(fragment(steps=4))) + 16
    flip(first, size // 2)
    with pytest.raises(StorageError, match=rf"damaged: .*00000000\.log .*{size} bytes from byte 0 on"):
        list(read_log(tmp_path))
    damaged = []
    assert uids(tmp_path, damaged=damaged) == [1, 2, 3, 4, 5]
    assert [sentence.split("/")[-1] for sentence in damaged] == [
        f"00000000.log is damaged in the {size} bytes from byte 0 on"
    ]


def test_what_lies_behind_a_damaged_record_is_never_cut_off(tmp_path):
    write(tmp_path, 5)
    (segment,) = tmp_path.glob("*.log")
    before = segment.stat().st_size
    flip(segment, before // 2)  # in the newest segment: not to be taken for a torn end
    with pytest.raises(StorageError, match=r"damaged.*warm_start"):
        ExperienceLog(tmp_path)
    assert segment.stat().st_size == before
    assert uids(tmp_path, damaged=[]) == [0, 1, 3, 4]


def test_a_missing_segment_is_named_and_none_is_written_over(tmp_path):
    write(tmp_path, 8, segment_bytes=1500)
    whole = uids(tmp_path)
    missing = sorted(tmp_path.glob("*.log"))[1]
    lost = sum(1 for _ in read_log(copy_of(missing)))
    missing.unlink()
    with pytest.raises(StorageError, match=r"lacks the segments 00000001\.log to 00000001\.log"):
        list(read_log(tmp_path))
    with pytest.raises(StorageError, match="lacks the segments"):
        ExperienceLog(tmp_path)
    damaged = []
    assert len(uids(tmp_path, damaged=damaged)) == len(whole) - lost
    assert len(damaged) == 1


def copy_of(segment):
    """A log of this one segment."""
    folder = segment.parent / "copy"
    folder.mkdir()
    shutil.copy(segment, folder / "00000000.log")
    return folder


def test_a_torn_end_is_no_damage_but_is_reported_on_request(tmp_path):
    write(tmp_path, 3)
    (segment,) = tmp_path.glob("*.log")
    os.truncate(segment, segment.stat().st_size - 5)
    assert uids(tmp_path) == [0, 1]
    damaged = []
    assert uids(tmp_path, damaged=damaged) == [0, 1]
    assert len(damaged) == 1
    assert "no whole record" in damaged[0]


def test_what_is_synced_is_counted(tmp_path):
    log = ExperienceLog(tmp_path, segment_bytes=1500)
    assert log.num_synced == 0
    log.append(fragment(steps=4))
    assert log.num_synced == 0
    log.sync()
    assert log.num_synced == 1
    while len(list(tmp_path.glob("*.log"))) == 1:  # a full segment is synced before the next one begins
        log.append(fragment(steps=4))
    assert log.num_synced == log.num_records - 1
    log.close()
    assert ExperienceLog(tmp_path).num_synced == log.num_records


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


@contextlib.contextmanager
def nobody():
    """Without root's right to write everywhere."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


def test_a_read_only_log_is_read_and_refused_for_writing():
    folder = Path(tempfile.mkdtemp())  # pytest's own folders are closed to others
    try:
        write(folder, 3, facts=FACTS)
        for path in (*folder.iterdir(), folder):
            path.chmod(0o555 if path is folder else 0o444)
        with nobody():
            damaged = []
            assert uids(folder, damaged=damaged) == [0, 1, 2]
            assert damaged == []
            assert read_facts(folder) == FACTS
            with pytest.raises(StorageError, match=r"cannot be written in .*: Permission denied"):
                ExperienceLog(folder, facts=FACTS)
    finally:
        folder.chmod(0o755)
        shutil.rmtree(folder)


# -- what the log says of itself ---------------------------------------------------------------------------------------

SPACE = spaces.Dict(
    {
        "flow": spaces.Box(-np.inf, np.inf, (2, 3), np.float32),
        "valve": spaces.Tuple([spaces.Discrete(3, start=1), spaces.MultiBinary(4)]),
        "gain": spaces.Box(np.array([-1.0, 0.1]), np.array([np.inf, 0.3]), dtype=np.float64),
    }
)
RECIPE = EnvRecipe("distrl/FinRay-v0", {"gust": 0.1, "probes": (1, 2)}, "coarse")
FACTS = LogFacts.of("abc", RECIPE, EnvSpec(RECIPE.id, SPACE, spaces.Box(-1, 1, (2,)), ("coarse", "fine")))


@pytest.mark.parametrize(
    "space",
    [
        SPACE,
        spaces.Box(0, 255, (8, 8, 3), np.uint8),
        spaces.Box(np.array([-1.5]), np.array([0.1]), dtype=np.float32),
        spaces.Discrete(5, start=-2),
        spaces.MultiDiscrete([3, 4]),
        spaces.MultiBinary([2, 3]),
    ],
    ids=lambda space: type(space).__name__,
)
def test_a_space_survives_json(space):
    rebuilt = space_of(json.loads(json.dumps(space_form(space), allow_nan=False)))
    assert rebuilt == space
    assert str(rebuilt) == str(space)
    assert space_form(rebuilt) == space_form(space)


def test_the_log_describes_itself(tmp_path):
    write(tmp_path, 1, facts=FACTS)
    assert read_facts(tmp_path) == FACTS
    document = json.loads((tmp_path / "log.json").read_text())
    assert (document["format"], document["run_id"], document["env"]["id"]) == (1, "abc", "distrl/FinRay-v0")
    assert document["action_space"]["text"] == "Box(-1.0, 1.0, (2,), float32)"
    ExperienceLog(tmp_path, facts=FACTS).close()  # a resume
    ExperienceLog(tmp_path).close()


def test_a_log_of_another_run_or_environment_is_not_appended_to(tmp_path):
    write(tmp_path, 1, facts=FACTS)
    with pytest.raises(StorageError, match="experience of run abc, and this is run xyz"):
        ExperienceLog(tmp_path, facts=replace(FACTS, run_id="xyz"))
    with pytest.raises(
        StorageError, match=r"env\.kwargs\.gust is 0\.1 against 0\.2; the fidelity is coarse against fine"
    ):
        ExperienceLog(tmp_path, facts=replace(FACTS, env_kwargs={**FACTS.env_kwargs, "gust": 0.2}, fidelity="fine"))
    assert len(uids(tmp_path)) == 1


def test_a_log_of_another_format_is_named_and_read_as_far_as_it_can(tmp_path):
    write(tmp_path, 2, facts=FACTS)
    path = tmp_path / "log.json"
    path.write_text(path.read_text().replace('"format": 1', '"format": 7'))
    for use in (lambda: list(read_log(tmp_path)), lambda: ExperienceLog(tmp_path)):
        with pytest.raises(StorageError, match="of format 7, and this version of distrl knows format 1"):
            use()
    damaged = []
    assert uids(tmp_path, damaged=damaged) == [0, 1]
    assert "format 7" in damaged[0]


# -- any history -------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    history=st.lists(st.one_of(st.just("append"), st.just("reopen"), st.integers(1, 900)), max_size=25),
    flips=st.lists(st.integers(0, 10**6), max_size=4),
)
def test_whatever_happens_everything_untouched_is_read_in_order(history, flips):
    """``history``: append a fragment, reopen, or lose so many bytes of the newest segment while closed. Then bits flip,
    all over the log.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        log = ExperienceLog(folder, segment_bytes=2500)
        records = []  # (uid, segment, begin, end) of what must be there
        for uid, event in enumerate(history):
            if event == "append":
                item = fragment(steps=1 + uid % 4, episode_uid=uid)
                log.append(item)
                segment = max(folder.glob("*.log"))
                end = segment.stat().st_size
                records.append((uid, segment, end - len(encode(item)) - 16, end))
                continue
            log.close()
            if event != "reopen":
                segment = max(folder.glob("*.log"))
                size = max(segment.stat().st_size - event, 0)
                os.truncate(segment, size)
                records = [record for record in records if record[1] != segment or record[3] <= size]
            log = ExperienceLog(folder, segment_bytes=2500)
            assert log.num_records == len(records)
        log.close()
        written = [uid for uid, *_ in records]
        assert uids(folder) == written

        touched = set()
        for position in flips:
            if records:
                uid, segment, begin, end = records[position % len(records)]
                flip(segment, begin + position % (end - begin))
                touched ^= {(uid, position % (end - begin))}  # the same bit twice is none
        untouched = [uid for uid in written if uid not in {uid for uid, _ in touched}]
        damaged = []
        assert uids(folder, damaged=damaged) == untouched
        assert bool(damaged) == (untouched != written)
        with contextlib.suppress(StorageError):  # refuses, or has cut off a last record and nothing else
            ExperienceLog(folder).close()
        assert uids(folder, damaged=[]) == untouched
