"""What several learners cannot do is refused before anything starts; their reports become one. No Ray here."""

import numpy as np
import pytest

from distrl.api import train
from distrl.cluster.checks import algorithm_model, policy_specs, try_environment
from distrl.cluster.learner_reports import together
from distrl.cluster.resources import Node, check_cluster
from distrl.core.config import RunConfig
from distrl.core.errors import ConfigError
from distrl.core.staleness import StalenessHistogram

IN_STEP = ("learner.mode='all_reduce'", "learner.count=2", "actors.env_workers=2")
SHARDED = ("learner.mode='parameter_server'", "learner.count=2", "actors.env_workers=2")


@pytest.mark.parametrize(
    ("preset", "options", "words"),
    [
        ("sac", ["learner.count=2"], "learner.count = 2 needs learner.mode = all_reduce or parameter_server"),
        ("sac", ["learner.shards=2"], "learner.shards = 2 is of learner.mode = parameter_server, but single came"),
        ("sac", [*IN_STEP, "learner.staleness_bound=1"], "of learner.mode = parameter_server, but all_reduce came"),
        ("sac", [*IN_STEP, "actors.env_workers=1"], "fed by env workers of its own, but actors.env_workers = 1: try 2"),
        ("cartpole", [*IN_STEP, "actors.env_workers=3"], "of its own, as many as the others, .* = 3: try 4"),
        ("cartpole", SHARDED, "must follow each other, .*: use all_reduce"),
        ("sac", [*SHARDED, "replay.warm_start=['runs/old']"], "replay.warm_start is read by one learner"),
    ],
)
def test_what_does_not_go_with_several_learners_is_refused(preset, options, words):
    with pytest.raises(ConfigError, match=words):
        algorithm_model(RunConfig.load(preset, list(options)))


def test_a_league_and_several_policies_are_of_one_learner():
    config = RunConfig.load("tic-tac-toe", [*IN_STEP, "actors.env_workers=2"])
    with pytest.raises(ConfigError, match="trains one policy, but the run has a league: use single"):
        policy_specs(config, try_environment(config).spec)


def test_one_process_has_one_learner(tmp_path):
    with pytest.raises(ConfigError, match="needs Ray, which starts the learners; leave --local out"):
        train(RunConfig.load("sac", [f"run.out={tmp_path / 'run'}", *IN_STEP]), local=True)


def test_more_learners_than_the_cluster_has_cores_for_are_refused():
    config = RunConfig.load("sac", [*SHARDED, "learner.count=6", "actors.env_workers=6"])
    nodes = [Node({"CPU": 4.0}, {}) for _ in range(2)]
    check_cluster(config, nodes, grows=False)
    with pytest.raises(ConfigError, match=r"6 learners of learner.threads = 1 are more than the 4 CPUs of the cluster"):
        check_cluster(config, nodes[:1], grows=False)


def report(rank, updates, staleness, waits_for=None):
    histogram = StalenessHistogram()
    histogram.count(np.array(staleness))
    numbers = dict.fromkeys(
        ("sampled", "unsampled", "evicted", "replay_size", "inserted", "warm", "duplicates", "update_s", "cpu_s"), 10
    )
    return {
        **numbers,
        **histogram.summary(),
        "updates": updates,
        "version": updates + rank,
        "secured": {rank: 5, 7: 1},
        "rejected": {},
        "step_s_counts": [[0.1, 2], [0.2 + rank, 1]],
        "waits_for": waits_for,
        "training_s": 1.0 + rank,
        "running": rank == 0,
        "metrics": {"critic_loss": float(rank)},
    }


def test_the_learners_reports_become_one():
    reports = [report(0, 40, [0, 1, 2, 8], "a"), report(1, 40, [3, 3], "b")]
    found = together(reports, "all_reduce")
    assert (found["updates"], found["version"], found["sampled"]) == (40, 41, 20)
    assert found["secured"] == {0: 5, 1: 5, 7: 2}
    assert found["staleness_mean"] == pytest.approx(17 / 6)
    assert sum(count for _, count in found["staleness_counts"]) == 6
    assert found["staleness_max"] == reports[0]["staleness_max"]
    assert found["step_s_counts"] == [[0.1, 4], [0.2, 1], [1.2, 1]]
    assert found["waits_for"] == "learner 0: a; learner 1: b"
    assert (found["running"], found["training_s"], found["metrics"]) == (True, 2.0, {"critic_loss": 0.0})
    assert together(reports, "parameter_server")["updates"] == 80
    assert together([report(0, 1, [0], "a"), report(1, 1, [0])], "parameter_server")["waits_for"] is None
