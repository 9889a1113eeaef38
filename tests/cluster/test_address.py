"""Training on a cluster that is already running: the user's own modules travel with the job."""

import os

import pytest
import ray
from ray.cluster_utils import Cluster

import distrl
from distrl.core.config import RunConfig
from tests.cluster.test_local import balanced

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
