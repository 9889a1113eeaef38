"""A run may begin with what others have logged, if it is of the same kind, and never takes it for its own."""

import json
from dataclasses import replace

import numpy as np
import pytest
from gymnasium import spaces

from distrl.core.config import RunConfig
from distrl.core.errors import ConfigError, StorageError
from distrl.core.log_facts import read_facts, write_facts
from distrl.core.warm_start import WARM_UIDS, check_warm_start, warm_fragments
from distrl.learners.replay import Replay
from tests.fakes.fragments import fragment
from tests.fakes.logs import facts_of, flip, logged


def test_fragments_come_source_by_source_as_episodes_of_nobody(tmp_path):
    logged(tmp_path / "a", [fragment(episode_uid=7, version=30), fragment(episode_uid=7, first_step=4, version=31)])
    logged(tmp_path / "b", [fragment(rows=2, episode_uid=7, version=5)])
    sources = [str(tmp_path / "a"), str(tmp_path / "b")]
    check_warm_start(sources, facts_of())
    found = list(warm_fragments(sources))
    assert [index for index, _ in found] == [0, 0, 1]
    uids = [item.columns["episode_uid"] - np.uint64(WARM_UIDS) for _, item in found]
    assert [uid[0].tolist() for uid in uids] == [[0], [0], [1, 2]]  # the same number in two runs is two episodes
    assert all((item.columns["policy_version"] == 0).all() for _, item in found)
    assert [int(item.columns["step"][0, 0]) for _, item in found] == [0, 4, 0]


def test_the_replay_links_what_belongs_together(tmp_path):
    logged(tmp_path / "a", [fragment(episode_uid=7), fragment(episode_uid=7, first_step=4)])
    logged(tmp_path / "b", [fragment(episode_uid=7, first_step=8)])
    replay = Replay(100, n_step=20, gamma=1.0)
    for _, item in warm_fragments([tmp_path / "a", tmp_path / "b"]):
        replay.add(item)
    batch = replay.sample(300, np.random.default_rng(0))
    assert set(batch.horizon[batch.number < 8]) == set(range(1, 9))
    assert set(batch.horizon[batch.number >= 8]) == set(range(1, 5))


@pytest.mark.parametrize(
    ("other", "sentence"),
    [
        (
            {"observations": spaces.Box(-1, 1, (4,))},
            r"the observation space is Box\(-1e\+09.* against Box\(-1\.0",
        ),
        ({"actions": spaces.Discrete(2)}, r"the action space is Box.* against Discrete\(2\)"),
        ({"id": "Pendulum-v2"}, r"the reward is that of Pendulum-v1 against Pendulum-v2"),
        ({"kwargs": {"g": 9.0}}, r"env\.kwargs\.g is '\(not given\)' against 9\.0"),
        ({"fidelity": "fine"}, r"the fidelity is \(the environment's own\) against fine"),
    ],
    ids=["observations", "actions", "environment", "arguments", "fidelity"],
)
def test_what_does_not_fit_is_refused_with_both_values(tmp_path, other, sentence):
    logged(tmp_path / "a", [fragment()])
    with pytest.raises(ConfigError, match=sentence):
        check_warm_start([tmp_path / "a"], facts_of(**other))


def test_a_time_limit_or_a_delay_is_no_difference(tmp_path):
    logged(tmp_path / "a", [fragment()])
    check_warm_start([tmp_path / "a"], facts_of(max_episode_steps=50, delay={"median_s": 1.0}))


def test_fidelities_may_be_fewer_than_the_runs_own_but_not_others(tmp_path):
    logged(tmp_path / "a", [fragment()], fidelity="coarse")
    mixed = replace(facts_of(fidelity="fine"), scheduled=("coarse",))
    check_warm_start([tmp_path / "a"], mixed)
    with pytest.raises(ConfigError, match="the fidelity is coarse against fine"):
        check_warm_start([tmp_path / "a"], facts_of(fidelity="fine"))
    write_facts(tmp_path / "a" / "log", replace(mixed, run_id=read_facts(tmp_path / "a" / "log").run_id))
    with pytest.raises(ConfigError, match="the fidelity is coarse or fine against fine"):
        check_warm_start([tmp_path / "a"], facts_of(fidelity="fine"))


def test_what_is_no_log_of_another_run_is_refused(tmp_path):
    run = logged(tmp_path / "a", [fragment()])
    with pytest.raises(ConfigError, match="missing is not a run directory"):
        check_warm_start([tmp_path / "missing"], facts_of())
    with pytest.raises(ConfigError, match="is this run itself"):
        check_warm_start([tmp_path / "a"], facts_of(run.id))
    with pytest.raises(ConfigError, match=r"is the same run as .*count twice"):
        check_warm_start([tmp_path / "a", tmp_path / "a"], facts_of())
    document = json.loads((tmp_path / "a" / "run.json").read_text())
    (tmp_path / "a" / "run.json").write_text(json.dumps({**document, "id": "else"}))
    with pytest.raises(ConfigError, match=f"is run else, but its log was written by run {run.id}"):
        check_warm_start([tmp_path / "a"], facts_of())
    (tmp_path / "a" / "log" / "log.json").unlink()
    with pytest.raises(ConfigError, match=r"has no log\.json"):
        check_warm_start([tmp_path / "a"], facts_of())


def test_a_resume_reads_what_the_first_start_read(tmp_path):
    run = logged(tmp_path / "a", [fragment(episode_uid=uid) for uid in range(3)])
    logged(tmp_path / "b", [fragment(episode_uid=9)])
    sources = [run.path, tmp_path / "b"]
    read = [item.columns["episode_uid"][0, 0] for _, item in warm_fragments(sources, [2, 1])]  # the first has grown
    assert read == [WARM_UIDS, WARM_UIDS + 1, WARM_UIDS + 2]
    with pytest.raises(StorageError, match=r"began with 2 fragments of .*b .*only 1 of them"):
        list(warm_fragments(sources, [2, 2]))


def test_damage_is_passed_over_on_request(tmp_path):
    run = logged(tmp_path / "a", [fragment(episode_uid=uid) for uid in range(3)])
    segment = run.path / "log" / "00000000.log"
    flip(segment, segment.stat().st_size // 2)
    with pytest.raises(StorageError, match="damaged"):
        list(warm_fragments([run.path]))
    damaged = []
    assert len(list(warm_fragments([run.path], damaged=damaged))) == 2
    assert len(damaged) == 1


def test_sources_are_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = RunConfig.load("sac", ["env.id=Pendulum-v1", 'replay.warm_start=["runs/a"]'])
    assert config.replay.warm_start == [str(tmp_path / "runs" / "a")]
