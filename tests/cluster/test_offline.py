"""A run may learn from logs alone: the same learner, checkpoints, evaluations and files, without env workers. (Several
policies: tests/cluster/test_multi_agent.py.)"""

import json
import threading

import numpy as np
import pytest

from distrl.api import load_policies, train
from distrl.cluster.offline import read_data
from distrl.core.config import RunConfig
from distrl.core.errors import ConfigError, StorageError
from distrl.core.experience_log import read_log
from distrl.core.log_facts import read_facts
from distrl.core.metrics import read_json_lines
from distrl.core.run_directory import RunDirectory
from distrl.core.types import EnvSpec
from distrl.reproduce import reproduce
from tests.fakes.logs import played


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A run whose log has 12 episodes of Pendulum, of 50 steps each."""
    path = tmp_path_factory.mktemp("source") / "run"
    return played(path, "Pendulum-v1", lambda seen, rng, number: rng.uniform(-2, 2, 1), 12, max_episode_steps=50)


def offline(out, *sources, updates=60, **sections):
    settings = {
        "run": {"out": str(out)},
        "env": {"id": "Pendulum-v1", "max_episode_steps": 50},
        "algorithm": {"name": "sac", "hidden": [16], "batch_size": 32},
        "offline": {"data": [str(path) for path in sources], "updates": updates},
        "evaluation": {"period": 20, "episodes": 2, "final_episodes": 2},
        "checkpoint": {"period": 30},
    }
    return RunConfig.validated(settings | sections)


@pytest.fixture(scope="module")
def finished(source, tmp_path_factory):
    return train(offline(tmp_path_factory.mktemp("offline") / "run", source.path))


def test_it_leaves_what_any_run_leaves(source, finished):
    summary = json.loads((finished.directory / "summary.json").read_text())
    assert (summary["updates"], summary["env_steps"], summary["transitions_produced"]) == (60, 0, 0)
    assert summary["transitions_warm"] == summary["data_transitions"] == 600
    assert summary["transitions_trained"] + summary["transitions_queued"] == 600
    records = list(read_json_lines(finished.directory / "metrics.jsonl"))
    assert [r["updates"] for r in records if r["kind"] == "evaluation"] == [20, 40, 60]
    assert [r["updates"] for r in records if r["kind"] == "learner"] == list(range(2, 61, 2))
    rewards = [fragment.columns["reward"].sum() for _, fragment in read_log(source.path / "log")]
    assert summary["data_episodes"] == 12
    assert summary["data_return_mean"] == pytest.approx(np.mean(rewards), rel=1e-4)
    assert load_policies(finished.directory)["default"].ready
    assert (finished.directory / "learning_curve.png").stat().st_size > 10_000


def test_the_same_data_and_seed_give_the_same_run(source, finished, tmp_path):
    again = train(offline(tmp_path / "again", source.path), local=True)
    first, second = ((run.directory / "metrics.jsonl").read_bytes() for run in (finished, again))
    assert first == second
    found = reproduce(RunDirectory.open(again.directory))
    assert found.difference is None
    assert (found.updates, found.checkpoints_compared) == (60, 2)


def test_a_resume_goes_on_as_if_there_had_been_no_pause(source, finished, tmp_path):
    half = train(offline(tmp_path / "run", source.path, updates=30))
    whole = train(offline(tmp_path / "run", source.path), resume=half.directory)
    assert whole.summary["transitions_trained"] == finished.summary["transitions_trained"]
    *_, mine = read_json_lines(whole.directory / "metrics.jsonl")
    *_, theirs = read_json_lines(finished.directory / "metrics.jsonl")
    assert mine["updates"] == theirs["updates"] == 60
    assert mine["returns"] == theirs["returns"]


def test_it_can_be_stopped(source, tmp_path):
    stop = threading.Event()
    result = train(offline(tmp_path / "run", source.path, updates=10**6), show=lambda status: stop.set(), stop=stop)
    assert result.summary["interrupted"]


def test_it_ends_with_its_time(source, tmp_path):
    limited = {"out": str(tmp_path / "run"), "wall_limit_s": 1e-6}
    assert train(offline(tmp_path / "run", source.path, run=limited)).summary["updates"] == 0


def test_iql_may_go_on_by_itself_where_the_data_ends(source, tmp_path):
    config = offline(
        tmp_path / "run",
        algorithm={"name": "iql", "hidden": [16], "batch_size": 32},
        run={"out": str(tmp_path / "run"), "steps": 100},
        replay={"warm_start": [str(source.path)], "samples_per_insert": 16, "min_size": 50},
        evaluation={"period": 100, "episodes": 1, "final_episodes": 1},
    )
    summary = train(config, local=True).summary
    assert (summary["transitions_warm"], summary["transitions_produced"]) == (600, 100)
    assert summary["updates"] > 0


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"algorithm": {"name": "ppo"}}, r"ppo learns from what its own newest policy does"),
        ({"replay": {"min_size": 5}}, r"offline run draws from all of offline\.data .* replay\.min_size = 5 came"),
        ({"league": {}}, r"nobody plays .* \[league\] came"),
        ({"env": {"id": "MountainCarContinuous-v0"}}, r"offline\.data: what .* the observation space is Box"),
    ],
)
def test_what_cannot_be_learned_from_is_refused_before_anything_starts(source, tmp_path, changes, sentence):
    with pytest.raises(ConfigError, match=sentence):
        train(offline(tmp_path / "run", source.path, **changes))
    assert not (tmp_path / "run").exists()


def test_an_empty_log_is_refused(source, finished, tmp_path):
    with pytest.raises(ConfigError, match=r"holds none of what 'default' acts for: .*run\.experience_log"):
        train(offline(tmp_path / "run", finished.directory))  # an offline run makes no experience


def test_data_that_has_shrunk_is_noticed_by_a_resume(source, tmp_path):
    config = offline(tmp_path / "run", source.path)
    run = RunDirectory.create(tmp_path / "run", config)
    run.note(offline_fragments=[10**6])
    found = read_facts(source.path / "log")
    with pytest.raises(StorageError, match=r"began with 1000000 fragments of .* \(offline\.data\)"):
        read_data(config, EnvSpec("Pendulum-v1", found.observation_space, found.action_space), run)
