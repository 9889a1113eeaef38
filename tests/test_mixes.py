"""Datasets of whole episodes, chosen by how good the policy was when it played them."""

import json

import numpy as np
import pytest

from distrl import cli
from distrl.core.episodes import EpisodeReturns, Quality
from distrl.core.errors import ConfigError
from distrl.core.experience_log import read_log
from distrl.core.warm_start import check_warm_start
from distrl.experience import open_log, survey
from distrl.mixes import mix
from tests.fakes.fragments import fragment
from tests.fakes.logs import facts_of, flip, logged


def episode(uid, value, *, agents=1, steps=4):
    """Of one fragment; every agent is given ``value`` at its end."""
    item = fragment(steps, rows=agents, episode_uid=uid, terminated=True)
    item.columns["episode_uid"][:] = uid
    item.columns["agent_index"][:] = np.arange(agents)
    item.columns["reward"][:] = 0
    item.columns["reward"][-1] = value
    item.columns["policy_version"][:] = uid
    return item


def level(uid):
    """The mean return of the policy that played episode ``uid``: 0 at first, then 5, then 10, and 10 for long."""
    return [0, 5, 10, 10, 10][uid // 40]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """200 episodes of two agents: what each is given is half the level, or up to 4 more or less, by luck."""
    luck = np.random.default_rng(0).uniform(-4, 4, 200)
    luck -= np.repeat(luck.reshape(10, 20).mean(1), 20)  # none at all over a stage
    items = [episode(uid, (level(uid) + luck[uid]) / 2, agents=2) for uid in range(200)]
    return logged(tmp_path_factory.mktemp("runs") / "run", items)


def versions(path):
    """Of the policies whose episodes are in a mix: here the numbers that the episodes had."""
    return {int(item.columns["policy_version"][0, 0]) for _, item in read_log(path / "log")}


@pytest.mark.parametrize(("quality", "expected"), [("poor", 0), ("medium", 5), ("good", 10)])
def test_episodes_are_from_when_the_policy_was_that_good(run, tmp_path, quality, expected):
    found = mix([run.path], Quality(quality), 30, tmp_path / quality)
    assert {level(uid) for uid in versions(found.path)} == {expected}
    assert (found.num_episodes, found.num_transitions) == (30, 30 * 2 * 4)
    assert found.returns.mean() == pytest.approx(expected, abs=2)
    assert found.returns.std() > 1  # good luck is no quality


def test_a_replay_is_of_everything(run, tmp_path):
    found = mix([run.path], Quality.REPLAY, 200, tmp_path / "replay")
    assert versions(found.path) == set(range(200))
    assert (found.returns.mean(), found.damaged) == (pytest.approx(7.0), [])
    assert found.returns.min() < 0 < 10 < found.returns.max()


def test_a_mix_is_a_log_of_whole_episodes(run, tmp_path):
    found = mix([run.path], Quality.GOOD, 25, tmp_path / "good")
    log = open_log(found.path)
    seen = survey(log)
    assert (log.damaged, log.facts.env_id) == ([], "Pendulum-v1")
    assert (seen.num_episodes, seen.num_ended, seen.num_gaps) == (50, 50, 0)  # of each agent
    returns = EpisodeReturns()
    for _, item in read_log(found.path / "log"):
        returns.add(item)
    assert list(returns.whole()) == list(range(25))
    assert np.mean(list(returns.whole().values())) == pytest.approx(found.returns.mean())
    document = json.loads((found.path / "run.json").read_text())
    assert document["mix"] == {"runs": [str(run.path)], "quality": "good", "episodes": 25, "seed": 0}
    assert document["statistics"] == found.statistics()
    check_warm_start([found.path], facts_of(), "offline.data")  # may be learned from


def test_the_seed_decides_which_episodes(run, tmp_path):
    first, same, other = (
        versions(mix([run.path], Quality.GOOD, 25, tmp_path / f"mix-{k}", seed=seed).path)
        for k, seed in enumerate((0, 0, 1))
    )
    assert first == same != other


def test_several_runs_share_one_scale_of_levels(run, tmp_path):
    """What is good for a run that learned nothing is poor beside one that did."""
    poor = logged(tmp_path / "weak", [episode(uid, uid / 1000) for uid in range(60)])
    found = mix([poor.path, run.path], Quality.POOR, 100, tmp_path / "poor")
    assert found.num_episodes == 100  # 60 of one and 40 of the other
    alone = mix([poor.path], Quality.GOOD, 20, tmp_path / "good")
    assert versions(alone.path) == set(range(40, 60))


def test_coverage_is_the_share_of_steps_that_are_new(tmp_path):
    twice = [episode(uid, uid) for uid in range(4)]
    for item in twice:  # the same observations and actions in all of them
        for name in item.columns:
            if name.startswith("observation/"):
                item.columns[name] = twice[0].columns[name]
    run = logged(tmp_path / "run", twice)
    assert mix([run.path], Quality.REPLAY, 4, tmp_path / "same").coverage == 1 / 4
    turns = [episode(0, 1.0), episode(0, 1.0, steps=3)]
    turns[1].columns["agent_index"][:] = 1
    assert mix([logged(tmp_path / "turns", turns).path], Quality.REPLAY, 1, tmp_path / "turn").coverage is None


def test_episodes_that_are_not_whole_are_left_out(tmp_path):
    items = [episode(uid, 1.0) for uid in range(5)]
    items[2].columns["terminated"][:] = False
    items[4].columns["step"][:] += 1
    run = logged(tmp_path / "run", items)
    found = mix([run.path], Quality.REPLAY, 3, tmp_path / "mix")
    assert versions(found.path) == {0, 1, 3}


def test_a_damaged_record_costs_its_episode_and_is_said(tmp_path):
    run = logged(tmp_path / "run", [episode(uid, 1.0) for uid in range(5)])
    segment = run.path / "log" / "00000000.log"
    flip(segment, segment.stat().st_size // 2)
    found = mix([run.path], Quality.REPLAY, 4, tmp_path / "mix")
    assert versions(found.path) == {0, 1, 3, 4}
    assert len(found.damaged) == 1


@pytest.mark.parametrize(
    ("quality", "number", "sentence"),
    [
        (
            "poor",
            41,
            r"41 whole episodes of quality poor are wanted, but the runs have 40 \(of 200 in all: 40 poor, 40",
        ),
        ("replay", 201, r"the runs have 200 \(of 200 in all"),
    ],
)
def test_too_few_episodes_are_refused_with_what_there_is(run, tmp_path, quality, number, sentence):
    with pytest.raises(ConfigError, match=sentence):
        mix([run.path], Quality(quality), number, tmp_path / "mix")
    assert not (tmp_path / "mix").exists()


def test_runs_of_several_environments_are_refused(run, tmp_path):
    other = logged(tmp_path / "other", [episode(0, 1.0)], kwargs={"g": 9.0})
    with pytest.raises(ConfigError, match=r"need one environment, but .*env\.kwargs\.g is 9\.0 against"):
        mix([run.path, other.path], Quality.REPLAY, 1, tmp_path / "mix")


def test_a_run_that_comes_twice_is_refused(run, tmp_path):
    with pytest.raises(ConfigError, match="comes twice"):
        mix([run.path, run.path], Quality.REPLAY, 1, tmp_path / "mix")


def test_one_level_is_neither_good_nor_poor(tmp_path):
    run = logged(tmp_path / "run", [episode(uid, 1.0) for uid in range(10)])
    with pytest.raises(ConfigError, match="the 10 whole episodes have one level: take --quality replay"):
        mix([run.path], Quality.GOOD, 1, tmp_path / "mix")


def test_the_command_says_what_it_wrote(run, tmp_path, monkeypatch, capsys):
    out = tmp_path / "good"
    arguments = ["log", "mix", str(run.path), "--quality", "good", "--episodes", "25", "--out", str(out)]
    monkeypatch.setattr("sys.argv", ["distrl", *arguments])
    cli.main()
    said = capsys.readouterr().out
    assert "25 episodes with 200 transitions, returns " in said
    assert f"different: {out}" in said
