"""How environments are best hosted: the choice from scripted measurements, and the measuring itself on small cases."""

import json
import os
import time
import tomllib

import numpy as np
import pytest
from typer.testing import CliRunner

from distrl import cli
from distrl.cluster import pool_trials
from distrl.cluster.pool_choice import Needs, choose, lockstep_efficiency
from distrl.cluster.pool_trials import Ladder, Rung, Stopwatch, climb
from distrl.cluster.tune_pool import tune
from distrl.core.config import RunConfig
from distrl.core.errors import EnvironmentFault
from distrl.learners.registry import algorithm_config

NEEDS = Needs(
    cores=2, memory_bytes=8e9, env_cores=1.0, learner_s=10e-6, learner_cores=1, rollout=128, in_turn=False
)  # an on-policy learner that trains on 100,000 env steps/s
QUICK, SLOW = np.full(100, 10e-6), np.full(100, 0.05)  # seconds of single steps


def rung(hosting, rows, rate, cpu_s=None, worker_cpu_s=None, memory=1e6):
    """Of environments that compute all the time, unless told otherwise."""
    cpu_s = 1 / rate if cpu_s is None else cpu_s
    return Rung(hosting, rows, rate, cpu_s, cpu_s if worker_cpu_s is None else worker_cpu_s, memory, QUICK, 0.0)


def needs(**changes):
    return Needs(**{**NEEDS.__dict__, **changes})


def layout(rungs, step_s=QUICK, **changes):
    """(hosting, env workers, environments of each) that is chosen."""
    found = choose(rungs, step_s, needs(**changes)).layout
    return found.hosting, found.env_workers, found.envs_per_worker


VECTOR = [rung("vector", rows, rate) for rows, rate in ((1, 5e3), (16, 60e3), (64, 180e3), (128, 250e3))]


def test_one_env_worker_with_the_most_rows_feeds_a_learner_that_is_slower():
    choice = choose([*VECTOR, rung("process", 1, 3e3)], QUICK, NEEDS)
    assert layout(VECTOR) == ("vector", 1, 128)
    assert (choice.layout.bound, choice.layout.trained_per_s) == ("learner", pytest.approx(100e3))
    assert "250,000" in choice.reasons["env.hosting"]
    assert "the learner is the bound" in choice.reasons["actors.env_workers"]


def test_two_env_workers_share_two_cores_with_a_learner_that_needs_little():
    inline = [rung("inline", 1, 5e3), rung("inline", 16, 20e3)]
    choice = choose(inline, QUICK, needs(learner_s=5e-6))
    assert (choice.layout.env_workers, choice.layout.envs_per_worker) == (2, 16)
    assert choice.layout.trained_per_s == pytest.approx(2 / (50e-6 + 5e-6))  # cores / CPU time of an env step in all
    assert choice.layout.bound == "cores"


@pytest.mark.parametrize(("rollout", "chosen"), [(16, 16), (12, 12), (7, 7), (1, 1)])
def test_environments_divide_the_rollout(rollout, chosen):
    assert layout(VECTOR, rollout=rollout, cores=1) == ("vector", 1, chosen)


def test_a_rollout_that_is_too_short_for_the_best_layout_is_named():
    (hint,) = choose(VECTOR, QUICK, needs(rollout=16, learner_s=1e-6)).hints
    assert "algorithm.batch_size = 256 × actors.fragment_steps" in hint


def test_an_off_policy_learner_that_is_the_bound_gets_no_more_environments_than_it_needs():
    inline = [rung("inline", 1, 5e3), rung("inline", 16, 20e3)]
    choice = choose(inline, QUICK, needs(rollout=None, learner_s=8e-3))
    assert (choice.layout.env_workers, choice.layout.envs_per_worker, choice.layout.bound) == (1, 1, "learner")
    assert "replay.samples_per_insert" in choice.hints[0]


def test_environments_that_wait_are_as_many_as_the_learner_can_follow():
    waiting = [rung("process", 2, 40.0, cpu_s=1e-3, worker_cpu_s=5e-4)]  # 20 env steps/s each, with hardly any CPU time
    hosting, workers, envs = layout(waiting, SLOW, rollout=None, learner_s=4e-3)
    assert (hosting, workers) == ("process", 1)
    assert 0.95 * 250 / 20 <= envs <= 250 / 20 + 1


def test_environments_with_several_cores_each_fit_the_machine():
    computing = [rung("process", 2, 2.0, cpu_s=2.0, worker_cpu_s=1e-3)]  # 1 env step/s each, with 2 of 4 cores busy
    assert layout(computing, np.full(9, 1.0), rollout=None, cores=8, env_cores=4.0) == ("process", 1, 2)
    assert layout(computing, np.full(9, 1.0), rollout=None, cores=2, env_cores=4.0) == ("process", 1, 1)


def test_environments_fit_the_memory():
    large = [rung("process", 1, 1.0, cpu_s=1e-3, memory=1e9)]
    assert layout(large, np.full(9, 1.0), rollout=None, memory_bytes=5e9) == ("process", 1, 4)


def test_long_steps_are_protected_at_a_small_price_and_short_ones_are_not():
    for step_s, expected in ((np.full(9, 2e-3), "process"), (np.full(9, 1e-4), "inline")):
        mean = step_s.mean()
        rungs = [rung("inline", 1, 1 / mean), rung("process", 1, 0.95 / mean)]
        assert layout(rungs, step_s, cores=1, learner_s=1e-9)[0] == expected


def test_without_staleness_environments_and_learner_take_turns():
    found = choose(VECTOR, QUICK, needs(in_turn=True, cores=1)).layout
    assert (found.bound, found.trained_per_s) == ("turns", pytest.approx(1 / (1 / 250e3 + 10e-6)))


def test_lockstep_waits_for_the_slowest():
    assert lockstep_efficiency(np.full(50, 0.3), 16) == pytest.approx(1.0)
    assert lockstep_efficiency(np.array([1.0, 3.0]), 2) == pytest.approx(2.0 / 2.5)  # E[max] = ¼·1 + ¾·3
    draws = np.sort(np.random.default_rng(0).lognormal(size=400))
    maxima = np.random.default_rng(1).choice(draws, (20_000, 8)).max(axis=1)
    assert lockstep_efficiency(draws, 8) == pytest.approx(draws.mean() / maxima.mean(), rel=0.05)


# -- measured ----------------------------------------------------------------------------------------------------------

CARTPOLE = ["run.steps=1000", "algorithm.hidden=[8]"]


def ladder_of(config, hosting, rows, seconds=0.1):
    """What ``tune`` would climb."""
    from distrl.envs.describe import describe

    algorithm = algorithm_config(config.algorithm.name)().build(describe(config.env.recipe(), steps=0))
    data = config.model_copy(update={"env": config.env.model_copy(update={"hosting": hosting})}).model_dump()
    return Ladder(data, algorithm.policy_spec(), algorithm.policy_weights(), rows, seconds, 2, 8e9, keep=True)


def test_the_stopwatch_counts_computing_and_sleeping():
    watch, begin, cpu_s = Stopwatch([os.getpid()]), time.monotonic(), time.process_time()
    time.sleep(0.1)
    while time.process_time() - cpu_s < 0.1:
        pass
    assert 0.19 < watch.seconds() <= time.monotonic() - begin + 0.01


def test_a_rung_is_a_real_env_worker_measured_in_a_process_of_its_own():
    first, second = climb(ladder_of(RunConfig.load("cartpole", CARTPOLE), "vector", [1, 32]), 30.0)
    assert (first.hosting, first.rows, second.rows) == ("vector", 1, 32)
    assert second.env_steps_per_s > 4 * first.env_steps_per_s > 0
    assert second.cpu_s < first.cpu_s
    assert len(first.step_s)
    assert (np.diff(first.step_s) >= 0).all()
    assert first.fragments[0].num_rows == 1


def test_an_environment_that_ends_its_process_ends_only_the_measurement():
    config = RunConfig.load("sac", ["env.id=tests.fakes.environments:Misbehaving", "env.kwargs.mode=exit"])
    with pytest.raises(EnvironmentFault, match="it did not: exit code 9"):
        list(climb(ladder_of(config, "inline", [1]), 5.0))


def test_an_environment_that_never_returns_is_given_up(monkeypatch):
    monkeypatch.setattr(pool_trials, "_START_S", 2.0)
    config = RunConfig.load("sac", ["env.id=tests.fakes.environments:Misbehaving", "env.kwargs.mode=hang"])
    with pytest.raises(EnvironmentFault, match="2 s were not enough"):
        list(climb(ladder_of(config, "inline", [1]), 0.0))


def test_steps_that_wait_are_measured_in_processes():
    config = RunConfig.load(
        "sac",
        [
            "env.delay.kind=lognormal",
            "env.delay.median_s=0.02",
            "env.delay.hang_share=0.5",  # measured without
            "algorithm.hidden=[8]",
            "algorithm.batch_size=8",
        ],
    )
    found = tune(config, 1.0, cores=2)
    assert [(rung.hosting, rung.rows) for rung in found.rungs] == [("process", 2)]
    assert found.choice.layout.hosting == "process"
    assert 0.005 < np.median(found.step_s) < 0.2
    assert "in lockstep" in found.choice.reasons["env.hosting"]


def test_the_command_recommends_what_the_run_accepts(monkeypatch):
    from distrl.cli.console import console
    from distrl.cluster import checks

    monkeypatch.setattr(console, "_width", 120)
    given = ["algorithm.batch_size=128", "algorithm.hidden=[8]"]  # 4 fragments
    sets = [word for override in given for word in ("--set", override)]
    result = CliRunner().invoke(cli.app, ["tune-pool", "cartpole", *sets, "--seconds", "0.5", "--cores", "1"])
    assert result.exit_code == 0, result.output
    table, toml = result.output.split("[env]")
    assert [word for word in ("vector", "inline", "process") if word in table] == ["vector", "inline", "process"]
    toml, line = toml.split("or: ")
    layout = tomllib.loads("[env]" + toml)
    config = RunConfig.load("cartpole", [*given, *(word for word in line.split() if word != "--set")])
    checks.algorithm_model(config)
    assert layout["env"]["hosting"] == config.env.hosting
    assert layout["actors"]["envs_per_worker"] == config.actors.envs_per_worker <= 4


def test_a_given_hosting_is_kept_and_json_is_one_line():
    sets = ["--set", "env.hosting=vector", "--set", "algorithm.batch_size=32", "--set", "algorithm.minibatches=1"]
    result = CliRunner().invoke(cli.app, ["tune-pool", "cartpole", *sets, "--seconds", "0.5", "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout.splitlines()[-1])
    assert {rung["hosting"] for rung in found["measured"]} == {"vector"}
    assert found["recommended"] == {
        "env.hosting": "vector",
        "actors.env_workers": 1,
        "actors.envs_per_worker": 1,  # a rollout is one fragment
    }
    assert found["reasons"].keys() == found["recommended"].keys()
    assert 0 < found["lockstep_efficiency"]["share"] <= 1
