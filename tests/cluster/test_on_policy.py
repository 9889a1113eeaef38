"""On-policy runs in one process: the same dataflow as off-policy ones, through a queue, with a bound on staleness."""

import gymnasium
import numpy as np
import pytest

from distrl.api import load_policy, train
from distrl.cluster.checks import algorithm_model
from distrl.core.config import RunConfig
from distrl.core.errors import ConfigError
from distrl.core.experience_log import read_log
from distrl.core.metrics import read_json_lines
from distrl.core.run_directory import RunDirectory
from distrl.reproduce import reproduce
from tests.cluster.test_local import balanced


def small(out, *overrides):
    return RunConfig.load(
        "cartpole",
        [
            f"run.out={out}",
            "run.steps=4000",
            "actors.envs_per_worker=4",
            "actors.env_workers=2",
            "actors.fragment_steps=16",
            "algorithm.batch_size=256",
            "algorithm.hidden=[16]",
            "evaluation.period=2000",
            "evaluation.episodes=2",
            "evaluation.final_episodes=2",
            "checkpoint.period=5",
            *overrides,
        ],
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return train(small(tmp_path_factory.mktemp("run") / "first"), local=True)


@pytest.mark.parametrize("hosting", ["vector", "inline"])
def test_the_same_seed_gives_the_same_metrics_byte_for_byte(tmp_path, hosting):
    runs = [train(small(tmp_path / name, f"env.hosting={hosting}"), local=True) for name in ("a", "b")]
    first, second = ((run.directory / "metrics.jsonl").read_bytes() for run in runs)
    assert first == second


def test_every_transition_is_trained_on_once_or_still_waits(finished):
    summary = finished.summary
    assert balanced(summary)
    assert summary["transitions_trained"] == 256 * summary["updates"]
    assert summary["transitions_evicted"] == 0
    assert summary["transitions_queued"] < 2 * 256


@pytest.mark.parametrize("max_staleness", [0, 2])
def test_nothing_is_staler_than_allowed(tmp_path, max_staleness):
    config = small(
        tmp_path / "run", f"algorithm.max_staleness={max_staleness}", "run.experience_log=on", "env.hosting=inline"
    )
    run = train(config, local=True)
    versions = np.concatenate([f.columns["policy_version"].ravel() for _, f in read_log(run.directory / "log")])
    behind = np.arange(len(versions)) // 256 - versions  # of the update that trained on each
    assert behind.min() >= 0
    assert behind.max() <= max_staleness
    counts = np.bincount(behind[: 256 * run.summary["updates"]])
    assert run.summary["staleness_counts"] == [[k, int(count)] for k, count in enumerate(counts) if count]


def test_cheap_steps_are_not_kept_and_dear_ones_are(finished, tmp_path):
    assert RunDirectory.open(finished.directory).facts["logged"] is False
    assert not list((finished.directory / "log").glob("*.log"))
    with pytest.raises(ConfigError, match=r"kept no log .* run.experience_log = \"on\""):
        reproduce(RunDirectory.open(finished.directory))


def test_a_logged_run_continues_where_it_was_and_can_be_repeated(tmp_path):
    out = tmp_path / "run"
    train(small(out, "run.experience_log=on", "run.steps=2000"), local=True)
    whole = train(small(out, "run.experience_log=on"), local=True, resume=out)
    assert balanced(whole.summary)
    assert whole.summary["updates"] == 4000 // 256
    assert reproduce(RunDirectory.open(out)).difference is None


def test_a_run_without_a_log_continues_from_its_checkpoint(tmp_path):
    out = tmp_path / "run"
    first = train(small(out, "run.steps=2000"), local=True)
    whole = train(small(out), local=True, resume=out)
    assert whole.summary["updates"] > first.summary["updates"]
    updates = [record["updates"] for record in read_json_lines(out / "metrics.jsonl") if record["kind"] == "evaluation"]
    assert updates == sorted(updates)
    assert balanced(whole.summary)


def test_the_policy_acts_on_single_observations(finished):
    policy, env = load_policy(finished.directory), gymnasium.make("CartPole-v1")
    observation, _ = env.reset(seed=0)
    assert env.action_space.contains(policy.act(observation))


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["replay.min_size=5"], "appo is on-policy and has no replay, but replay.min_size = 5 came: leave it out"),
        (["learner.publish_period=7"], "publishes after every update, but learner.publish_period = 7 came"),
        (["algorithm.batch_size=100"], r"multiple of actors.fragment_steps \(16\) .* got 100: try 128"),
        (["algorithm.batch_size=64"], "one fragment of each of the 8 environments, 128; got 64: try 128"),
        (
            ["algorithm.memory_size=8", "algorithm.minibatches=17"],
            "a rollout has 16 .*minibatches = 17 came: at most 16",
        ),
        (["env.hosting=vector", "env.id=Pendulum-v1"], "native vector form"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_starts(tmp_path, overrides, sentence):
    with pytest.raises(ConfigError, match=sentence):
        train(small(tmp_path / "run", *overrides), local=True)


def test_a_learning_rate_can_fall_over_the_whole_run(tmp_path):
    for steps in (4000, 7000):
        config = small(tmp_path / "run", "algorithm.anneal_steps=run", f"run.steps={steps}")
        assert algorithm_model(config).anneal_steps == steps
