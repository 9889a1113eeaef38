"""A run that begins with cheap levels: deterministic, resumable, told apart in everything that it reports."""

import shutil

import pytest

from distrl.api import train
from distrl.core.errors import ConfigError, StorageError
from distrl.core.experience_log import read_log
from distrl.core.metrics import read_json_lines
from distrl.core.run_directory import RunDirectory
from distrl.experience import open_log, survey
from distrl.reproduce import reproduce
from tests.cluster.test_local import balanced, small
from tests.fakes.leveled import LEVELS

SCHEDULE = (
    "fidelity.schedule=[{from_env_steps=0, mix={coarse=1}}, {from_env_steps=200, mix={coarse=1, fine=1}},"
    " {from_env_steps=400, mix={fine=1}}]"
)


def leveled(out, *overrides):
    """Episodes of 10 steps on two env workers with two environments each."""
    env = ["env.id=tests.fakes.leveled:Leveled", "env.kwargs={length=10}", "env.fidelity=fine"]
    return small(out, *env, SCHEDULE, *overrides)


def levels_of_steps(directory):
    """The level of each logged transition, in order of arrival."""
    return [LEVELS[k] for _, f in read_log(directory / "log") for k in f.columns["fidelity"].ravel().tolist()]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return train(leveled(tmp_path_factory.mktemp("fidelity") / "run"), local=True)


def test_the_mix_follows_the_runs_env_steps(finished):
    levels = levels_of_steps(finished.directory)
    assert set(levels[:200]) == {"coarse"}
    assert set(levels[440:]) == {"fine"}  # episodes that had begun before 400 end as they began
    assert 60 < levels[200:440].count("fine") < 180
    assert balanced(finished.summary)


def test_what_is_reported_is_told_apart_by_level(finished):
    summary = finished.summary
    levels = levels_of_steps(finished.directory)
    counts = {level: levels.count(level) for level in ("coarse", "fine")}
    assert summary["env_steps_by_fidelity"] == counts == survey(open_log(finished.directory)).fidelities
    assert set(summary["core_hours_by_fidelity"]) == {"coarse", "fine"}
    means = summary["recent_return_mean_by_fidelity"]
    assert summary["recent_return_mean"] == means["fine"] > 9_000 > means["coarse"]  # fine pays 1000 a step
    assert min(summary["final_returns"]) > 9_000  # evaluations are at env.fidelity
    episodes = [r for r in read_json_lines(finished.directory / "metrics.jsonl") if r["kind"] == "episode"]
    assert all((r["return"] > 5_000) == (r["fidelity"] == "fine") for r in episodes)


def test_the_same_seed_gives_the_same_run_and_its_updates_can_be_repeated(finished, tmp_path):
    again = train(leveled(tmp_path / "again"), local=True)
    name = "metrics.jsonl"
    assert (again.directory / name).read_bytes() == (finished.directory / name).read_bytes()
    assert reproduce(RunDirectory.open(again.directory)).difference is None


def test_a_resume_is_in_the_same_stage_and_may_extend_the_schedule(finished, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished.directory, run)
    longer = SCHEDULE.replace("]", ", {from_env_steps=700, mix={coarse=1}}]")
    other = longer.replace("coarse=1}}]", "odd=1}}]")
    with pytest.raises(ConfigError, match=r"same spaces at every level, but .* has the observation space .* at odd"):
        train(leveled(run, other), local=True, resume=run)
    with pytest.raises(StorageError, match="the fidelity is coarse or fine against fine"):
        train(leveled(run, "fidelity.schedule=[]", "run.steps=800"), local=True, resume=run)
    result = train(leveled(run, longer, "run.steps=800"), local=True, resume=run)
    levels = levels_of_steps(run)
    assert set(levels[600:700]) == {"fine"}
    assert set(levels[740:]) == {"coarse"}
    assert result.summary["env_steps_by_fidelity"] == {level: levels.count(level) for level in ("coarse", "fine")}
    assert balanced(result.summary)


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["fidelity.schedule=[{from_env_steps=0, mix={medium=1}}]"], "coarse, fine, odd, but 'medium' came"),
        (["fidelity.schedule=[{from_env_steps=9, mix={fine=1}}]"], r"begin with 0 and increase, but \[9\] came"),
        (["fidelity.schedule=[{from_env_steps=0, mix={fine=0}}]"], "needs a weight above 0"),
        (["env.id=Pendulum-v1", "env.kwargs={}"], "Pendulum-v1 has no fidelities"),
    ],
)
def test_a_schedule_that_cannot_be_kept_is_refused_before_anything_starts(tmp_path, overrides, sentence):
    with pytest.raises(ConfigError, match=sentence):
        train(leveled(tmp_path / "run", *overrides), local=True)
    assert not (tmp_path / "run").exists()


def test_a_schedule_needs_a_target(tmp_path):
    with pytest.raises(ConfigError, match=r"fidelity\.schedule needs env\.fidelity"):
        small(tmp_path / "run", "env.id=tests.fakes.leveled:Leveled", SCHEDULE)
