"""Sweeps on a real Ray: trials are runs, populations take over networks and experience, and a table comes out."""

import csv
import json
import os
import runpy
from pathlib import Path

import pytest
import ray
from ray.tune import with_parameters

from distrl.api import train, tune
from distrl.cluster.resources import bundles
from distrl.core.config import RunConfig
from distrl.core.errors import ConfigError
from distrl.core.metrics import read_json_lines
from distrl.core.sweep import SweepConfig

EXAMPLE = Path(__file__).parents[2] / "examples" / "sweep.py"
RUN = {
    "env": {"id": "Pendulum-v1", "hosting": "process", "delay": {"median_s": 0.002}},
    "run": {"steps": 400},
    "actors": {"envs_per_worker": 1},
    "algorithm": {"hidden": [32, 32]},
    "replay": {"min_size": 100, "samples_per_insert": 16},
    "evaluation": {"period": 200, "episodes": 1},
}
SPACE = {
    "algorithm.actor_learning_rate": {"loguniform": [1e-4, 1e-2]},
    "algorithm.hidden": {"choice": [[64, 64], [32, 32]]},
}


@pytest.fixture(scope="module", autouse=True)
def ray_here():
    os.environ["OMP_NUM_THREADS"] = "1"
    ray.init(
        address="local", namespace="distrl", num_cpus=4, include_dashboard=False, object_store_memory=128 << 20
    )  # fmt: skip
    yield
    ray.shutdown()


def sweep(**keys):
    return SweepConfig.validated({"config": "sac", "set": RUN, "space": SPACE, "samples": 2} | keys)


@pytest.fixture(scope="module")
def searched(tmp_path_factory, ray_here):
    """The example's sweep, shorter."""
    folder = tmp_path_factory.mktemp("sweep") / "out"
    return runpy.run_path(str(EXAMPLE))["search"](steps=300, samples=2, out=str(folder))


def test_each_trial_is_a_run_with_the_values_drawn(searched):
    assert [row.status for row in searched.rows] == ["finished"] * 2
    for row in searched.rows:
        config = RunConfig.load(row.directory / "config.toml")
        assert config.wandb.group == searched.directory.name
        held = config.algorithm.options
        assert held["actor_learning_rate"] == row.values["algorithm.actor_learning_rate"]
        assert held["hidden"] == row.values["algorithm.hidden"]
        assert row.result["env_steps"] >= 300
    assert len({row.values["algorithm.actor_learning_rate"] for row in searched.rows}) == 2


def test_the_best_comes_first_and_its_configuration_is_one_that_train_accepts(searched, tmp_path):
    found = searched
    best = [row.result["best_return_mean"] for row in found.rows]
    assert best == sorted(best, reverse=True)
    with (found.directory / "trials.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [row["trial"] for row in table] == [row.trial for row in found.rows]
    config = RunConfig.load(found.directory / "best.toml", ["run.steps=150", f"run.out={tmp_path / 'run'}"])
    assert config.algorithm.options["hidden"] == found.rows[0].values["algorithm.hidden"]
    assert train(config, local=True).summary["env_steps"] == 150
    for picture in ("parallel_coordinates.png", "learning_curves.png"):
        assert (found.directory / picture).stat().st_size > 10_000


def test_checkpoints_of_tune_hold_no_experience(searched):
    found = searched
    for row in found.rows:
        folder = found.directory / "tune" / row.trial
        held = [path.name for path in folder.rglob("*") if path.is_file() and "checkpoint" in path.parent.name]
        assert "learner.pt" in held
        assert not [name for name in held if "log" in name]


def test_a_trial_that_takes_over_another_s_state_keeps_its_own_hyperparameters(searched, tmp_path):
    """What a population does to its worst trial, without waiting for one to be the worst."""
    from distrl.cluster.sweeps.trial import SweepTrial

    found = searched
    donor = found.rows[0]
    (checkpoint,) = sorted((found.directory / "tune" / donor.trial).glob("checkpoint_*"))[-1:]
    values = {"algorithm.actor_learning_rate": 7e-3, "algorithm.hidden": json.dumps(donor.values["algorithm.hidden"])}
    plain = sweep().model_dump(by_alias=True)
    trial = with_parameters(SweepTrial, sweep=plain, directory=str(tmp_path))(values)
    trial.load_checkpoint(str(checkpoint))
    result = trial.step()
    trial.cleanup()
    run = next((tmp_path / "runs").iterdir())
    origin = json.loads((checkpoint / "origin.json").read_text())
    assert RunConfig.load(run / "config.toml").algorithm.options["actor_learning_rate"] == 7e-3
    assert result["env_steps"] > origin["env_steps"]
    summary = json.loads((run / "summary.json").read_text())
    assert summary["transitions_warm"] > 0  # the other's experience, by its log
    assert summary["env_steps"] >= result["env_steps"] - origin["env_steps"]  # its own, and those after its last result
    notes = [event["text"] for event in read_json_lines(run / "events.jsonl") if event["kind"] == "note"]
    assert any("starts from the networks of another run" in note for note in notes)


def test_a_trial_larger_than_the_cluster_is_refused_before_it_starts(tmp_path):
    large = sweep(out=str(tmp_path / "out"), set=RUN | {"actors": {"envs_per_worker": 64}})
    assert bundles(large.run_config({})) == [{"CPU": 1.0}, {"CPU": 64.0}]
    with pytest.raises(ConfigError, match=r"a bundle of the placement group asks Ray for 64 CPUs on one node"):
        tune(large)


@pytest.mark.slow
def test_a_metric_that_never_appears_is_one_sentence(tmp_path):
    from distrl.core.errors import RunFailed

    wrong = sweep(out=str(tmp_path / "out"), samples=1, metric="learner/critic_los", max_failures=0)
    with pytest.raises(
        RunFailed, match=r"the metric 'learner/critic_los' did not appear; the learner reports learner/"
    ):
        tune(wrong)
