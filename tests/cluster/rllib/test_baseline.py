"""RLlib as a baseline: what is refused, what is counted, and a run directory like any other."""

import json
import os
from math import nan

import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete

from distrl.api import load_policy, train
from distrl.cluster.recorder import Recorder
from distrl.cluster.rllib.baseline import Progress, algorithm_config, check_baseline, cpus_of, with_spaces
from distrl.cluster.rllib.counted import Counted, Tally
from distrl.core.config import RunConfig
from distrl.core.errors import ConfigError
from distrl.core.metrics import read_json_lines
from distrl.core.types import EnvRecipe, EnvSpec
from distrl.envs.resolve import make
from distrl.report import write_report

CARTPOLE = EnvSpec("CartPole-v1", Box(-1, 1, (4,)), Discrete(2))


def config_of(name="rllib:PPO", algorithm=None, **sections):
    return RunConfig(env={"id": "CartPole-v1"}, algorithm={"name": name, **(algorithm or {})}, **sections)


def test_options_are_rllibs_own():
    options = {"lr": 1e-3, "lambda": 0.9, "train_batch_size_per_learner": 500, "model_config": {"fcnet_hiddens": [16]}}
    actors = {"env_workers": 2, "envs_per_worker": 3}
    found = with_spaces(algorithm_config(config_of(algorithm=options, actors=actors)), config_of(), CARTPOLE)
    assert (found.lr, found.lambda_, found.train_batch_size_per_learner) == (1e-3, 0.9, 500)
    assert (found.num_env_runners, found.num_envs_per_env_runner) == (2, 3)
    assert found.model_config["fcnet_hiddens"] == [16]
    assert cpus_of(found) == 3  # two env runners and the driver


@pytest.mark.parametrize(
    ("name", "algorithm", "sentence"),
    [
        ("rllib:ppo", {}, "needs one of PPO, SAC, APPO, IMPALA, did you mean rllib:PPO"),
        ("rllib:DreamerV3", {}, "'rllib:DreamerV3' needs one of"),
        ("rllib:PPO", {"learning_rate": 1.0}, "RLlib's PPO has no option 'learning_rate'"),
        ("rllib:PPO", {"clip_parm": 1.0}, "has no option 'clip_parm', did you mean 'clip_param'"),
        ("rllib:PPO", {"num_env_runners": 3}, "algorithm.num_env_runners of rllib:PPO is actors.env_workers here"),
        ("rllib:PPO", {"model_config": {"hiddens": [8]}}, "algorithm.model_config has no 'hiddens'"),
        ("rllib:PPO", {"train_batch_size_per_learner": -3, "minibatch_size": 10}, "rllib:PPO cannot be made for"),
    ],
)
def test_what_rllib_does_not_have_is_named(name, algorithm, sentence):
    with pytest.raises(ConfigError, match=sentence):
        with_spaces(algorithm_config(config_of(name, algorithm)), config_of(name), CARTPOLE)


def test_spaces_that_rllib_cannot_handle_are_refused():
    spec = EnvSpec("X", Dict({"a": Box(-1, 1, (2,)), "b": Discrete(3)}), Discrete(2))
    with pytest.raises(ConfigError, match=r"rllib:SAC cannot be made for Dict\(.*RLlib says"):
        with_spaces(algorithm_config(config_of("rllib:SAC")), config_of("rllib:SAC"), spec)


@pytest.mark.parametrize(
    ("arguments", "sections", "sentence"),
    [
        ({"local": True}, {}, "rllib:PPO runs on Ray, but --local came"),
        ({"resume": "runs/x"}, {}, "rllib:PPO cannot be resumed"),
        ({"address": "auto"}, {}, "runs on this machine, but the address auto came"),
        ({}, {"policies": {"a": {"agents": ["*"]}}}, "policies is distrl's own"),
        ({}, {"offline": {"data": ["runs/x"]}}, "offline.data is distrl's own"),
    ],
)
def test_what_a_run_of_rllibs_cannot_do_is_refused(arguments, sections, sentence):
    given = {"local": False, "address": None, "resume": None} | arguments
    with pytest.raises(ConfigError, match=sentence):
        check_baseline(config_of(**sections), **given)


def test_every_environment_counts_for_itself(tmp_path):
    tally, envs = Tally(tmp_path), []
    for seed in (1, 2):
        env = Counted(make(EnvRecipe("CartPole-v1")), str(tmp_path))
        env.reset(seed=seed)
        while not any(env.step(0)[2:4]):
            pass
        env.reset()
        env.step(1)
        envs.append(env)
    episodes = tally.new_episodes()
    assert sorted(episode["seed"] for episode in episodes) == [1, 2]
    assert [episode["length"] for episode in episodes] == [episode["return"] for episode in episodes]
    totals = tally.totals()
    assert totals["steps"] == sum(episode["length"] for episode in episodes) + 2
    assert 0 < totals["step_s"] < totals["lifetime_s"]
    assert totals["num_envs"] == 2
    envs[0].close()
    assert tally.totals()["num_envs"] == 1
    assert tally.new_episodes() == []


def test_what_rllib_and_the_environments_say_becomes_the_records_of_a_run(tmp_path):
    counts = tmp_path / "counts"
    counts.mkdir()
    recorder = Recorder(tmp_path, record_period=1)
    progress = Progress(recorder, Tally(counts), "default")
    env = Counted(make(EnvRecipe("CartPole-v1")), str(counts))
    env.reset(seed=1)
    while not any(env.step(0)[2:4]):
        pass
    learned = {"num_module_steps_trained": 500, "module_train_batch_size_mean": 100.0, "entropy": 0.5}
    progress.add({"learners": {"default_policy": learned}})
    progress.add({"learners": {"default_policy": {"num_module_steps_trained": 0, "module_train_batch_size_mean": nan}}})
    progress.used([(os.getpid(), 1e6)])
    progress.stood_still(1e-3)
    progress.add({})
    recorder.tick()
    summary = progress.summary()
    recorder.close()
    env.close()
    assert summary["updates"] == 5
    assert summary["core_hours"] == pytest.approx(1e6 / 3600, rel=0.01)  # the env runner's CPU
    assert not [name for name in summary if name.startswith(("transitions_", "staleness_"))]  # RLlib does not say
    episode, learner = (
        next(record for record in read_json_lines(tmp_path / "metrics.jsonl") if record["kind"] == kind)
        for kind in ("episode", "learner")
    )
    assert (episode["seed"], episode["return"], learner["entropy"]) == (1, summary["env_steps"], 0.5)


@pytest.mark.slow
def test_a_run_of_rllibs_leaves_a_run_directory_like_any_other(tmp_path, monkeypatch):
    monkeypatch.undo()  # with the final evaluation and the pictures
    options = {"train_batch_size_per_learner": 400, "minibatch_size": 100, "num_epochs": 4, "lr": 1e-3}
    config = config_of(
        algorithm=options,
        run={"out": str(tmp_path / "run"), "steps": 2000},
        evaluation={"period": 1000, "episodes": 2, "final_episodes": 2},
        replay={"min_size": 10},
    )
    result = train(config)
    assert (result.directory / "learning_curve.png").exists()
    summary = json.loads((result.directory / "summary.json").read_text())
    assert 2000 <= summary["env_steps"] <= 2000 + 400
    assert summary["updates"] == pytest.approx(summary["env_steps"] / 100 * 4, rel=0.1)
    assert len(summary["final_returns"]) == 2
    assert 0 < summary["env_busy_fraction"] < 1
    metrics = list(read_json_lines(result.directory / "metrics.jsonl"))
    evaluations = [record for record in metrics if record["kind"] == "evaluation"]
    assert 2 <= len(evaluations) <= 3  # an iteration of RLlib's may pass both 1000 and 2000
    assert evaluations[0]["seeds"] == [1_000_000_000, 1_000_000_001]
    steps = sum(record["length"] for record in metrics if record["kind"] == "episode")
    assert 0 <= summary["env_steps"] - steps < 4 * 500
    assert "entropy" in next(record for record in metrics if record["kind"] == "learner")
    assert {record["kind"] for record in read_json_lines(result.directory / "timing.jsonl")} >= {"status", "totals"}
    notes = [record.get("text", "") for record in read_json_lines(result.directory / "events.jsonl")]
    assert any("left out: replay" in note for note in notes)
    assert write_report([result.directory], tmp_path / "report.html").exists()
    assert int(load_policy(result.directory).act(np.zeros(4, np.float32))) in (0, 1)
