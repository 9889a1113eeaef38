"""Runs whose actions come from inference servers; each comes to an end once."""

import os
import re
import signal

import pytest
import ray

from distrl.api import train
from distrl.cluster.inference_choice import choose, step_s
from distrl.cluster.launch import connect
from distrl.cluster.resources import gpu_shares
from distrl.core.config import RunConfig
from distrl.core.errors import ConfigError
from distrl.core.metrics import read_json_lines
from distrl.core.run_directory import RunDirectory
from distrl.envs import describe
from tests.actors.test_inference import Untrained
from tests.cluster.test_local import balanced, small
from tests.cluster.test_ray import Watcher, slow


@pytest.fixture(scope="module", autouse=True)
def a_ray():
    os.environ["OMP_NUM_THREADS"] = "1"
    ray.init(
        address="local", namespace="distrl", num_cpus=8, include_dashboard=False, object_store_memory=128 << 20,
    )  # fmt: skip
    yield
    ray.shutdown()


def run(config, watcher):
    connect(config.actors.env_workers * config.actors.envs_per_worker, None)
    return train(config, show=watcher, keep_ray=True)


def hang(actor):
    """The loop of an ``InferenceServerActor`` stands still, as it would have for 100 s already; it answers reports."""
    import time

    server = actor._server

    def act(*unused):
        server._turned_s -= 100
        time.sleep(1000)

    server._inference.act = act


def test_servers_choose_every_action_and_the_run_survives_the_end_of_each(tmp_path):
    """Two env workers, each with a server of its own; when the run has made 300 steps one server is killed, and the
    loop of the other hangs."""

    def end(status):
        os.kill(status["pids"]["inference_server_0"], signal.SIGKILL)
        supervisor = ray.get_actor(RunDirectory.open(tmp_path / "run").facts["ray"]["supervisor"])
        server = ray.get(supervisor.__ray_call__.remote(lambda supervisor: supervisor._crew._acting.inference[1].actor))
        ray.get(server.__ray_call__.remote(hang))

    watcher = Watcher(300, end)
    overrides = ["actors.inference=server", "actors.inference_servers=2", "run.steps=2500"]
    result = run(slow(tmp_path / "run", *overrides), watcher)
    summary = result.summary
    assert summary["restarts"] == {"inference_server": 2}
    restarts = [event for event in read_json_lines(tmp_path / "run" / "events.jsonl") if event["kind"] == "restart"]
    (cause,) = [event["cause"] for event in restarts if event["server"] == 1]
    assert re.search(r"stood still for 1\d\d s", cause), cause
    assert balanced(summary)
    assert summary["env_steps"] >= 2500
    assert summary["transitions_lost"] == 0
    assert 1 <= summary["inference_rows_per_batch"] <= 2
    pids = watcher.statuses[-1]["pids"]
    assert len({pids["inference_server_0"], pids["inference_server_1"]}) == 2
    # the env workers' own copies stood in between; before and after, the servers answered
    assert 300 < summary["inference_rows"] < summary["transitions_produced"] + 8


def test_an_on_policy_run_by_a_server_stays_within_its_staleness(tmp_path):
    config = RunConfig.load(
        "cartpole",
        [
            f"run.out={tmp_path / 'run'}",
            "run.steps=4000",
            "env.hosting=inline",
            "actors.inference=server",
            "actors.env_workers=2",
            "actors.envs_per_worker=4",
            "actors.fragment_steps=16",
            "algorithm.batch_size=512",
            "algorithm.max_staleness=1",
            "evaluation.period=4000",
            "evaluation.final_episodes=2",
        ],
    )
    summary = run(config, Watcher()).summary
    assert summary["env_steps"] >= 4000
    assert balanced(summary)
    assert summary["staleness_max"] <= 1
    assert summary["inference_rows"] >= summary["transitions_produced"]
    assert 4 <= summary["inference_rows_per_batch"] <= 8
    assert summary["restarts"] == {}


class Slow(Untrained):
    """Takes as long for one row as for a hundred, as a large network on a GPU does."""

    def __init__(self, fixed_s):
        super().__init__()
        self._fixed_s = fixed_s

    def step(self, *arguments):
        import time

        time.sleep(self._fixed_s)
        return super().step(*arguments)


@pytest.mark.parametrize(("fixed_s", "where"), [(0.0, "local"), (0.005, "server")])
def test_auto_takes_a_server_where_it_serves_all_rows_in_half_the_time(tmp_path, fixed_s, where):
    """16 rows, one by one, of a policy that takes as long for all of them."""
    config = small(tmp_path, "env.hosting=process", "actors.env_workers=1", "actors.envs_per_worker=16")
    spec = describe.try_environment(config.env.recipe()).spec
    choice = choose(Slow(fixed_s), spec, config)
    assert choice.where == where
    assert f"actors.inference = {where}: all 16 rows" in choice.reason
    assert step_s(Slow(0.01), spec, 3) >= 0.01


def test_gpus_are_shared_where_there_are_too_few(tmp_path):
    config = small(tmp_path, "actors.inference=server", "actors.inference_servers=2")
    assert gpu_shares(config, 0) == (0.0, 0.0)
    assert gpu_shares(config, 1) == (0.5, 0.25)
    assert gpu_shares(config, 3) == (1.0, 1.0)
    assert gpu_shares(small(tmp_path), 1) == (1.0, 0.0)


def test_a_local_run_has_no_server(tmp_path):
    with pytest.raises(ConfigError, match=r'actors\.inference = "server" lets speed decide'):
        train(small(tmp_path / "run", "actors.inference=server"), local=True)
