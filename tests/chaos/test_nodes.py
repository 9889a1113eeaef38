"""Whole nodes that go, without a word or with a notice: the run goes on elsewhere.

The nodes are emulated: they are on one machine and so have one spool folder. What a dead node's env workers had
committed is therefore found here; on real nodes it stays on that node's disk until the run is resumed there.
"""

import os
import time
import uuid

import pytest
import ray
from ray._private import state
from ray.cluster_utils import Cluster
from ray.core.generated import autoscaler_pb2

from distrl.api import train
from distrl.core.experience_log import read_log
from distrl.core.metrics import read_json_lines
from tests.chaos.balance import MARK, assert_balanced, ledgered

FAST_HEALTH_CHECKS = {
    "health_check_initial_delay_ms": 500,
    "health_check_period_ms": 500,
    "health_check_timeout_ms": 1000,
    "health_check_failure_threshold": 3,
}
SMALL = {"object_store_memory": 80 << 20, "include_dashboard": False}


@pytest.fixture(scope="module")
def cluster():
    """A head without CPUs, and two nodes that have room for both env workers each."""
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ[MARK] = uuid.uuid4().hex
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "_system_config": FAST_HEALTH_CHECKS, **SMALL}
    )
    ray.init(address=cluster.address, namespace="distrl", log_to_driver=False)
    for _ in range(2):
        cluster.add_node(num_cpus=4, **SMALL)
    yield cluster
    ray.shutdown()
    cluster.shutdown()
    del os.environ[MARK]


class At:
    """Does something to the node of env worker 0 once the run has made so many steps."""

    def __init__(self, cluster, steps, act):
        self._cluster, self._steps, self._act, self.done = cluster, steps, act, None

    def __call__(self, status):
        if self.done is None and status["phase"] == "training" and status["env_steps"] >= self._steps:
            pid = status["pids"]["env_worker_0"]
            (address,) = [a["Address"] for a in state.actors().values() if a["Pid"] == pid and a["State"] == "ALIVE"]
            (node,) = [node for node in self._cluster.worker_nodes if node.node_id == address["NodeID"]]
            self.done = node
            self._act(node)


def events(run, kind):
    return [event for event in read_json_lines(run / "events.jsonl") if event["kind"] == kind]


def test_a_node_that_is_gone_without_a_word(cluster, tmp_path):
    end = At(cluster, 400, lambda node: cluster.remove_node(node, allow_graceful=False))
    result = train(ledgered(tmp_path / "run"), show=end, keep_ray=True)
    assert end.done is not None
    cluster.add_node(num_cpus=4, **SMALL)
    assert 0 in [event.get("worker") for event in events(result.directory, "restart")]
    assert result.summary["env_steps"] >= 1500
    assert_balanced(result.directory, in_flight=4 + 2 * 4, mark=os.environ[MARK])


def test_a_node_with_five_seconds_notice_loses_nothing(cluster, tmp_path):
    def drain(node):
        reason = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
        deadline_ms = int(time.time() * 1000) + 5000
        gcs = ray._raylet.GcsClient(address=cluster.address)
        accepted, why = gcs.drain_node(node.node_id, reason, "the spot price rose", deadline_ms)
        assert accepted, why

    notice = At(cluster, 400, drain)
    config = ledgered(tmp_path / "run", "run.steps=2500")
    result = train(config, show=notice, keep_ray=True)
    assert notice.done is not None
    cluster.remove_node(notice.done, allow_graceful=False)
    drained, left = events(result.directory, "drain"), events(result.directory, "leave")
    assert {event["node_id"] for event in drained} == {notice.done.node_id}
    assert {event["worker"] for event in drained} == {event["worker"] for event in left} >= {0}
    assert max(event["time_s"] for event in left) - min(event["time_s"] for event in drained) < 5
    assert events(result.directory, "restart") == []
    assert_balanced(result.directory, mark=os.environ[MARK])
    assert result.summary["transitions_rejected"] == {}
    lives = {}
    for _, fragment in read_log(result.directory / "log"):
        lives.setdefault(int(fragment.columns["episode_uid"][0, 0]), set()).add(fragment.incarnation)
    assert any(len(found) > 1 for found in lives.values()), "no episode went on elsewhere"
