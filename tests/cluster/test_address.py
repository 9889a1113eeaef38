"""Training on a cluster that is already running: the user's own modules travel with the job."""

import os
import subprocess
import sys

import pytest
import ray
from ray.cluster_utils import Cluster

import distrl
from distrl.cluster import placement
from distrl.cluster.launch import connect
from distrl.core.config import RunConfig
from distrl.core.errors import ConfigError
from tests.cluster.test_local import balanced
from tests.fakes.run_files import status

OWN_MODULE = '''
import gymnasium
import numpy as np


class Own(gymnasium.Env):
    """Keep a point near zero."""

    observation_space = gymnasium.spaces.Box(-10.0, 10.0, (1,), np.float32)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x, self.t = float(self.np_random.uniform(-1, 1)), 0
        return np.array([self.x], np.float32), {}

    def step(self, action):
        self.x, self.t = self.x + 0.1 * float(action[0]), self.t + 1
        return np.array([self.x], np.float32), -(self.x**2), False, self.t == 20, {}
'''


@pytest.fixture(scope="module")
def cluster():
    os.environ["OMP_NUM_THREADS"] = "1"
    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 4, "include_dashboard": False, "object_store_memory": 128 << 20},
    )
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def test_an_environment_of_the_users_own_trains_on_a_running_cluster(cluster, tmp_path, monkeypatch):
    (tmp_path / "my_simulations.py").write_text(OWN_MODULE)
    monkeypatch.undo()  # the final evaluation finds it, too
    monkeypatch.chdir(tmp_path)
    config = RunConfig.load(
        "sac",
        [
            "env.id=my_simulations:Own",
            "run.out=result",
            "run.steps=400",
            "actors.envs_per_worker=2",
            "algorithm.hidden=[16]",
            "algorithm.batch_size=32",
            "replay.min_size=100",
            "replay.samples_per_insert=8",
            "evaluation.period=200",
            "evaluation.final_episodes=2",
        ],
    )
    result = distrl.train(config, address=cluster.address)
    assert result.directory == tmp_path / "result"
    assert balanced(result.summary)
    assert not ray.is_initialized()
    ray.init(address=cluster.address)  # the cluster was there before, and is left alone
    assert [node["Alive"] for node in ray.nodes()] == [True]


PHASES = [(1, "training"), (2, "training"), (3, "ended")]


def test_a_run_on_a_cluster_is_watched_without_its_directory(cluster):
    if not ray.is_initialized():
        ray.init(address=cluster.address)
    answers = [status(50 * asked) | {"phase": phase, "steps": 1000, "failure": None} for asked, phase in PHASES]

    class Supervising:  # here, so that it travels to a process that cannot import these tests
        """A run's supervisor as far as somebody elsewhere sees it."""

        def status(self):
            return answers.pop(0) if len(answers) > 1 else answers[0]

    actor = ray.remote(Supervising).options(name="supervisor-0123", namespace="distrl", num_cpus=0).remote()
    watch = [sys.executable, "-m", "distrl.cli", "watch"]
    other = subprocess.Popen([*watch, "4567", "--address", cluster.address], stdout=subprocess.PIPE, text=True)
    seen = subprocess.run([*watch, "0123", "--address", cluster.address], capture_output=True, text=True, check=True)
    assert "150/1000 env steps" in seen.stdout
    assert seen.stdout.endswith("0123: its training has ended\n")
    said = " ".join(other.communicate(timeout=60)[0].split())
    assert f"no run with the id 4567 is running at {cluster.address}; there are 0123" in said
    ray.kill(actor)


def test_what_no_node_has_is_refused_before_anything_starts(cluster, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = RunConfig.load("sac", ["env.id=Pendulum-v1", "env.cores=64", "run.out=result"])
    with pytest.raises(ConfigError, match=r"an env worker asks Ray for 256 CPUs .* nodes have 4 CPUs"):
        distrl.train(config, address=cluster.address)
    assert not (tmp_path / "result").exists()


def test_a_cluster_with_groups_of_nodes_may_grow(cluster, monkeypatch):
    if not ray.is_initialized():
        ray.init(address=cluster.address)
    assert not placement.grows()
    node = {"Labels": {"ray.io/node-group": "simulations"}}  # as the cluster launcher and KubeRay leave it
    monkeypatch.setattr(ray, "nodes", lambda: [node])
    assert placement.grows()


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        ("127.0.0.1:9", "but nobody answers at 127.0.0.1:9"),
        ("http://127.0.0.1:8265", "from elsewhere use distrl submit"),
        ("there", "but there came"),
    ],
)
def test_an_address_where_no_cluster_is(address, sentence):
    ray.shutdown()
    with pytest.raises(ConfigError, match=sentence):
        connect(1, address)
