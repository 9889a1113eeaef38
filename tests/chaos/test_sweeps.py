"""Sweeps that lose their driver or a node, and a population that takes over states while it runs: minutes."""

import json
import os
import signal
import subprocess
import sys
import uuid

import pytest
import ray
import tomli_w
from ray._private import state
from ray.cluster_utils import Cluster

from distrl.api import read_sweep, tune
from distrl.core.config import RunConfig
from distrl.core.metrics import read_json_lines
from distrl.core.sweep import SweepConfig
from tests.chaos.balance import MARK, marked
from tests.chaos.test_nodes import FAST_HEALTH_CHECKS, SMALL
from tests.fakes.processes import wait_until

pytestmark = pytest.mark.slow

RUN = {
    "env": {"id": "Pendulum-v1", "hosting": "process", "delay": {"median_s": 0.01}},
    "run": {"steps": 2000},
    "actors": {"envs_per_worker": 1},
    "algorithm": {"hidden": [16]},
    "replay": {"min_size": 100, "samples_per_insert": 16},
    "evaluation": {"period": 250, "episodes": 1},
}
RATE = "algorithm.actor_learning_rate"
SWEEP = {"config": "sac", "set": RUN, "space": {RATE: {"loguniform": [1e-5, 1e-2]}}, "samples": 2, "max_concurrent": 2}


def of_runs(folder):
    """Run directory → its trial.json, oldest first."""
    found = [path.parent for path in folder.glob("runs/*/trial.json")]
    return {path: json.loads((path / "trial.json").read_text()) for path in sorted(found)}


def test_a_killed_sweep_goes_on_where_it_was(tmp_path):
    folder, mark = tmp_path / "out", uuid.uuid4().hex
    written = tmp_path / "sweep.toml"
    plain = {**SWEEP, "scheduler": {"name": "none"}}
    written.write_text(tomli_w.dumps(plain))

    def begin(*arguments):
        with (tmp_path / "output.txt").open("ab") as output:
            return subprocess.Popen(
                [sys.executable, "-m", "distrl.cli", "tune", *arguments],
                stdout=output, stderr=output, start_new_session=True,
                env=os.environ | {MARK: mark, "OMP_NUM_THREADS": "1"},
            )  # fmt: skip

    process = begin(str(written), "--out", str(folder))
    spent = folder / "spent.json"
    assert wait_until(lambda: spent.exists() and len(json.loads(spent.read_text())) == 2, 180)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert wait_until(lambda: not marked(mark), 60)  # nobody is left behind
    before = {path.name: json.loads((path / "run.json").read_text())["sessions"] for path in of_runs(folder)}
    process = begin("--resume", str(folder))
    assert process.wait(300) == 0, (tmp_path / "output.txt").read_text()
    assert read_sweep(folder).samples == 2
    for path in of_runs(folder):  # the same runs went on, and all of their experience is there
        facts = json.loads((path / "run.json").read_text())
        assert facts["sessions"] == before[path.name] + 1
        notes = [event["text"] for event in read_json_lines(path / "events.jsonl") if event["kind"] == "note"]
        assert any("continues from checkpoint" in note for note in notes)
        assert json.loads((path / "summary.json").read_text())["transitions_lost"] == 0
    assert len(of_runs(folder)) == 2
    assert (folder / "best.toml").exists()


@pytest.fixture(scope="module")
def cluster():
    """A head without CPUs, and three nodes that have room for one bundle of a trial each."""
    os.environ["OMP_NUM_THREADS"] = "1"
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "_system_config": FAST_HEALTH_CHECKS, **SMALL}
    )
    ray.init(address=cluster.address, namespace="distrl", log_to_driver=False)
    for _ in range(3):
        cluster.add_node(num_cpus=1, **SMALL)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def test_a_trial_goes_on_when_the_node_of_its_env_worker_is_lost(cluster, tmp_path):
    folder, lost = tmp_path / "out", []

    def lose(trial, values, result):
        """After the first result: the node that holds environments, and not the trial itself."""
        if lost:
            return
        alive = [actor for actor in state.actors().values() if actor["State"] == "ALIVE"]
        nodes = {actor["ActorClassName"]: actor["Address"]["NodeID"] for actor in alive}
        assert nodes["EnvWorkerActor"] != nodes["Supervisor"]  # which lives beside the trial
        (node,) = [node for node in cluster.worker_nodes if node.node_id == nodes["EnvWorkerActor"]]
        lost.append(node)
        cluster.remove_node(node, allow_graceful=False)

    found = tune(SweepConfig.validated(SWEEP | {"samples": 1, "out": str(folder), "max_failures": 0}), show=lose)
    assert lost
    (row,) = found.rows
    assert row.status == "finished"  # with max_failures = 0: Tune has seen no failure
    restarts = [event for event in read_json_lines(row.directory / "events.jsonl") if event["kind"] == "restart"]
    assert "env_worker" in [event["role"] for event in restarts]
    cluster.add_node(num_cpus=1, **SMALL)


def copies_of_a_population(tmp_path, key, run, **keys):
    """(Its run directory, configuration, trial.json) of each trial that went on from another's networks, each with a
    value of ``key`` that the donor did not have.

    Whose returns are better is no matter of luck: all are the same, so that the first trial always copies the second.
    """
    ray.shutdown()
    ray.init(address="local", namespace="distrl", num_cpus=4, include_dashboard=False, log_to_driver=False)
    run = run | {"run": {"steps": 2500}}
    population = {"scheduler": {"name": "pbt", "period": 500, "quantile": 0.5}, "metric": "return_mean", "set": run}
    try:
        found = tune(SweepConfig.validated(SWEEP | population | {"out": str(tmp_path / "out")} | keys))
    finally:
        ray.shutdown()
    assert [row.status for row in found.rows] == ["finished"] * 2
    runs = of_runs(found.directory)
    copies = {path: facts for path, facts in runs.items() if facts["origin"] is not None}
    assert copies
    for path, facts in copies.items():
        (donor,) = [other for other in runs if other.name == facts["origin"]["run"].rpartition("/")[2]]
        assert donor.name.partition("-")[0] != path.name.partition("-")[0]
        assert runs[donor]["values"][key] != facts["values"][key]
        notes = [event["text"] for event in read_json_lines(path / "events.jsonl") if event["kind"] == "note"]
        assert any("starts from the networks of another run" in note for note in notes)
    return [(path, RunConfig.load(path / "config.toml"), facts) for path, facts in copies.items()]


def test_the_worst_of_a_population_take_over_the_best(tmp_path):
    env = {"id": "tests.chaos.environments:Even", "hosting": "process", "delay": {"median_s": 0.01}}
    for path, config, facts in copies_of_a_population(tmp_path, RATE, RUN | {"env": env}):
        assert config.algorithm.options["actor_learning_rate"] == facts["values"][RATE]
        assert config.replay.warm_start[-1] == facts["origin"]["run"]
        assert json.loads((path / "summary.json").read_text())["transitions_warm"] > 0


def test_a_population_of_an_on_policy_algorithm_takes_over_networks_alone(tmp_path):
    """Another policy's transitions are of no use to it. (What a learner holds each trial compares with its values.)"""
    rate = "algorithm.learning_rate"
    env = {"id": "tests.chaos.environments:Even", "kwargs": {"discrete": True}, "hosting": "process"}
    run = {
        "env": env | {"delay": {"median_s": 0.01}},
        "actors": {"envs_per_worker": 1, "fragment_steps": 25},
        "algorithm": {"name": "ppo", "hidden": [16], "batch_size": 100, "minibatches": 1, "epochs": 2},
        "evaluation": {"period": 250, "episodes": 1},
    }
    space = {rate: {"loguniform": [1e-5, 1e-2]}}
    for path, config, facts in copies_of_a_population(tmp_path, rate, run, config="cartpole", space=space):
        assert config.algorithm.options["learning_rate"] == facts["values"][rate]
        assert facts["origin"]["logs"] == config.replay.warm_start == []
        assert config.learner.start_from is not None
        assert json.loads((path / "summary.json").read_text()).get("transitions_warm", 0) == 0
