"""What a log holds is counted and exported whole: for Parquet every transition, for Minari every episode."""

import json
import os
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest

from distrl import cli
from distrl.cli.console import console
from distrl.core.errors import ConfigError
from distrl.core.experience_log import read_log
from distrl.core.types import ARRAY, FINAL
from distrl.experience import open_log, survey, trajectories
from distrl.export import to_minari, to_parquet
from tests.fakes.fragments import fragment
from tests.fakes.logs import flip, logged


def ending(item, *, value, terminated=False):
    """The fragment with its last step the end of an episode whose final observation is ``value``."""
    columns = item.columns
    columns["terminated" if terminated else "truncated"][-1] = True
    rows = item.num_rows
    columns["final_index"] = np.array([(item.num_steps - 1, b) for b in range(rows)], np.int32)
    columns[FINAL + ARRAY] = np.full((rows, 3), value, np.float32)
    return item


@pytest.fixture
def run(tmp_path):
    """Episode 1 in three fragments that came in another order, one of them twice; 2 and 3 side by side; 4 with a hole.

    observation = 100·uid + step, reward = step.
    """
    return logged(
        tmp_path / "run",
        [
            fragment(4, episode_uid=1, version=1),
            ending(fragment(2, episode_uid=1, first_step=8, version=3), value=-1, terminated=True),
            ending(fragment(5, rows=2, episode_uid=2, version=2), value=-2),
            fragment(4, episode_uid=1, version=1),
            fragment(4, episode_uid=1, first_step=4, version=2, incarnation=1),
            fragment(3, episode_uid=4),
            fragment(2, episode_uid=4, first_step=5),
        ],
        segment_bytes=2500,
    )


def test_a_survey_counts_what_is_there(run):
    found = survey(open_log(run.path))
    assert found.damaged == []
    assert (found.num_fragments, found.num_transitions, found.num_duplicates) == (7, 25, 4)
    assert (found.num_episodes, found.num_ended) == (4, 3)
    assert (found.num_gaps, found.num_missing) == (1, 2)
    assert found.lives == {(0, 0), (0, 1)}
    assert found.versions == (0, 3)
    assert found.episode_versions == (1, 1.5, 3)
    assert found.fidelities == {"coarse": 25}
    assert found.num_segments == len(list((run.path / "log").glob("*.log"))) > 1


def test_episodes_are_put_together_and_cut_at_holes(run):
    found = list(trajectories(open_log(run.path)))
    steps = [(int(f.columns["episode_uid"][0, 0]), f.columns["step"][:, 0].tolist()) for f in found]
    assert sorted(steps) == [
        (1, list(range(10))),
        (2, list(range(5))),
        (3, list(range(5))),
        (4, [0, 1, 2]),
        (4, [5, 6]),
    ]


def test_parquet_holds_every_transition_in_order_of_arrival(run, tmp_path):
    written = to_parquet(open_log(run.path), tmp_path / "out" / "log.parquet")
    table = pq.read_table(written.paths[0])
    assert table.num_rows == 29
    assert table["fragment"].to_pylist() == [0] * 4 + [1] * 2 + [2] * 10 + [3] * 4 + [4] * 4 + [5] * 3 + [6] * 2
    assert table["episode_uid"].to_pylist()[4:10] == [1, 1, 2, 3, 2, 3]  # time-major within a fragment
    assert json.loads(table.schema.metadata[b"distrl.log"])["run_id"] == run.id
    assert table.schema.field("observation/array").metadata == {b"shape": b"[3]"}
    observation = np.array(table["observation/array"].to_pylist())
    following = np.array(table["next_observation/array"].to_pylist())
    uid, step = (np.array(table[name]) for name in ("episode_uid", "step"))
    np.testing.assert_array_equal(observation, (100.0 * uid + step)[:, None].repeat(3, 1))
    over = np.array(table["terminated"]) | np.array(table["truncated"])
    np.testing.assert_array_equal(following[~over], observation[~over] + 1)
    assert set(following[over].ravel()) == {-1.0, -2.0}  # the final observation, not the next episode's first
    with pytest.raises(ConfigError, match="does not exist yet"):
        to_parquet(open_log(run.path), written.paths[0])


def test_parquet_is_written_in_row_groups(run, tmp_path, monkeypatch):
    monkeypatch.setattr("distrl.export._ROW_GROUP_BYTES", 1)
    file = pq.ParquetFile(to_parquet(open_log(run.path), tmp_path / "log.parquet").paths[0])
    assert file.num_row_groups == 7
    assert file.read().num_rows == 29


def test_minari_reads_the_episodes_back(run, tmp_path, monkeypatch):
    minari = pytest.importorskip("minari")
    written = to_minari(open_log(run.path), tmp_path / "datasets")
    assert "MINARI_DATASETS_PATH" not in os.environ
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "datasets"))
    name = f"distrl/Pendulum-v1-{run.id}-v0"
    assert name in minari.list_local_datasets()
    dataset = minari.load_dataset(name)
    assert written.paths[0] == tmp_path / "datasets" / name
    assert (dataset.total_episodes, dataset.total_steps) == (5, 25)
    assert dataset.observation_space.shape == (3,)
    assert dataset.env_spec.id == "Pendulum-v1"
    found = {int(e.infos["episode_uid"][0]) * 10 + int(e.infos["step"][0]): e for e in dataset.iterate_episodes()}
    assert set(found) == {10, 20, 30, 40, 45}
    for key, episode in found.items():
        first = 100.0 * (key // 10) + key % 10
        assert len(episode.observations) == len(episode.rewards) + 1 == len(episode.infos["policy_version"])
        np.testing.assert_array_equal(episode.observations[:-1, 0], first + np.arange(len(episode.rewards)))
        np.testing.assert_array_equal(episode.rewards, key % 10 + np.arange(len(episode.rewards)))
        assert bool(episode.terminations[-1]) is (key == 10)
        assert bool(episode.truncations[-1]) is (key != 10)
        assert not (episode.terminations | episode.truncations)[:-1].any()
        assert bool(episode.infos["cut"][-1]) is (key in (40, 45))
    assert found[10].observations[-1, 0] == -1
    assert found[40].observations[-1, 0] == 403  # a cut episode ends in what it bootstraps from
    assert found[10].infos["policy_version"].tolist() == [1] * 5 + [2] * 4 + [3] * 2
    with pytest.raises(ConfigError, match="exists already"):
        to_minari(open_log(run.path), tmp_path / "datasets")


def test_minari_gets_dicts_and_tuples_as_the_space_has_them(tmp_path):
    minari = pytest.importorskip("minari")
    from gymnasium import spaces

    space = spaces.Dict({"flow": spaces.Box(-9, 9, (2,)), "valves": spaces.Tuple([spaces.Discrete(9)])})
    item = fragment(3, episode_uid=5)
    del item.columns["observation/array"], item.columns["final_observation/array"]
    item.columns |= {
        "observation/flow": np.arange(8, dtype=np.float32).reshape(4, 1, 2),
        "observation/valves/0": np.arange(4).reshape(4, 1),
        "final_observation/flow": np.zeros((0, 2), np.float32),
        "final_observation/valves/0": np.zeros(0, np.int64),
    }
    run = logged(tmp_path / "run", [item], observations=space)
    path = to_minari(open_log(run.path), tmp_path / "datasets").paths[0]
    (episode,) = minari.MinariDataset(path / "data").iterate_episodes()
    assert episode.observations["flow"].tolist() == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert episode.observations["valves"][0].tolist() == [0, 1, 2, 3]
    table = pq.read_table(to_parquet(open_log(run.path), tmp_path / "log.parquet").paths[0])
    assert table["next_observation/valves/0"].to_pylist() == [1, 2, 3]


def test_without_minari_it_says_what_to_install(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "minari", None)
    with pytest.raises(ConfigError, match=r"pip install 'distrl\[export\]'"):
        to_minari(open_log(run.path), tmp_path / "datasets")


# -- the commands ------------------------------------------------------------------------------------------------------


@pytest.fixture
def command(monkeypatch, capsys):
    """Runs ``distrl log …`` in this process: (exit code, output)."""
    monkeypatch.setattr(console, "_width", 200)

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["distrl", "log", *map(str, arguments)])
        try:
            code = cli.main() or 0
        except SystemExit as leave:
            code = leave.code
        return code, capsys.readouterr().out

    return call


def test_ls_shows_what_is_in_it(run, command):
    code, output = command("ls", run.path)
    assert code == 0
    for words in ("Pendulum-v1", run.id, "coarse: 25", "4, 3 of them to the end", "0 to 3"):
        assert words in output


def test_verify_says_what_is_damaged_and_ends_with_1(run, command):
    code, output = command("verify", run.path)
    assert code == 0
    assert "4 transitions are there more than once" in output
    assert "1 episodes lack steps in front of others, 2 in all" in output
    assert "nothing is damaged" in output
    flip(run.path / "log" / "00000000.log", 700)
    code, output = command("verify", run.path)
    assert code == 1
    assert "00000000.log is damaged in the" in output
    assert "6 fragments" in output


def test_a_log_of_another_run_is_said_and_still_read(run, command):
    document = json.loads((run.path / "run.json").read_text())
    (run.path / "run.json").write_text(json.dumps({**document, "id": "other"}))
    code, output = command("verify", run.path)
    assert code == 1
    assert f"written by run {run.id}" in output
    assert "7 fragments" in output


def test_export_writes_what_is_readable_of_a_damaged_log(run, command, tmp_path):
    flip(run.path / "log" / "00000000.log", 700)
    code, output = command("export", run.path, "--to", "parquet", "--out", tmp_path / "log.parquet")
    assert code == 0
    assert "is damaged" in output
    readable = sum(f.num_transitions for _, f in read_log(run.path / "log", damaged=[]))
    assert pq.read_table(tmp_path / "log.parquet").num_rows == readable == 25


def test_without_further_words_it_is_a_parquet_file_beside_the_run(run, command):
    code, output = command("export", run.path)
    assert code == 0
    assert "experience.parquet" in output
    assert pq.read_table(run.path / "export" / "experience.parquet").num_rows == 29


def test_a_folder_without_a_log_is_one_sentence(tmp_path, command):
    code, output = command("ls", tmp_path)
    assert code == 1
    assert "holds no segment" in output
