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
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from distrl.api import train
from distrl.cluster.resources import bundles
from distrl.core.experience_log import read_log
from distrl.core.metrics import read_json_lines
from tests.chaos.balance import MARK, assert_balanced, ledgered
from tests.fakes.processes import wait_until

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
        self.where = {}  # component → node at that moment

    def __call__(self, status):
        if self.done is None and status["phase"] == "training" and status["env_steps"] >= self._steps:
            self.where = nodes_of(status)
            (node,) = [node for node in self._cluster.worker_nodes if node.node_id == self.where["env_worker_0"]]
            self.done = node
            self._act(node)


def nodes_of(status):
    """Component → the id of its node."""
    alive = {a["Pid"]: a["Address"]["NodeID"] for a in state.actors().values() if a["State"] == "ALIVE"}
    return {name: alive[pid] for name, pid in status["pids"].items() if pid in alive}


def events(run, kind):
    return [event for event in read_json_lines(run / "events.jsonl") if event["kind"] == kind]


def test_a_node_that_is_gone_without_a_word(cluster, tmp_path):
    end = At(cluster, 400, lambda node: cluster.remove_node(node, allow_graceful=False))
    config = ledgered(tmp_path / "run", "actors.placement=pack", "env.memory_gb=0.01")  # where Ray can: it may spill
    try:
        result = train(config, show=end, keep_ray=True)
    finally:
        cluster.add_node(num_cpus=4, **SMALL)  # the next test needs two, also after a failure
    assert end.done is not None
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
    config = ledgered(tmp_path / "run", "run.steps=2500", "actors.placement=spread")
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


@pytest.mark.slow
def test_a_run_begins_with_the_env_workers_that_there_is_room_for_and_the_others_come_with_a_node(cluster, tmp_path):
    before = len(cluster.worker_nodes) * 2  # env workers of two CPUs on nodes of four
    counts = []

    def join(status):
        counts.append(status.get("env_workers", 0))
        if status["phase"] == "training" and status["env_steps"] >= 500 and len(cluster.worker_nodes) * 2 == before:
            cluster.add_node(num_cpus=4, **SMALL)

    config = ledgered(tmp_path / "run", "run.steps=8000", f"actors.env_workers={before + 2}")
    result = train(config, show=join, keep_ray=True)
    assert before in counts
    assert counts.index(before) < counts.index(before + 2)
    assert events(result.directory, "restart") == []
    assert_balanced(result.directory, in_flight=2 * (before + 2), mark=os.environ[MARK])


@pytest.mark.slow
@pytest.mark.parametrize(("placement", "num_nodes"), [("pack", 1), ("spread", 3)])
def test_env_workers_fill_one_node_or_go_to_as_many_as_there_are(cluster, tmp_path, placement, num_nodes):
    """Three of one CPU each, where each of three nodes has room for all."""
    added = [cluster.add_node(num_cpus=4, **SMALL) for _ in range(3 - len(cluster.worker_nodes))]
    found = {}

    def look(status):
        if status["phase"] == "training":
            found.update({name: node for name, node in nodes_of(status).items() if name.startswith("env_worker")})

    workers = "actors.env_workers=3", "actors.envs_per_worker=1"
    config = ledgered(tmp_path / "run", "run.steps=1000", f"actors.placement={placement}", *workers)
    try:  # all of them idle: Ray would put what a busy one has no room for elsewhere
        assert wait_until(lambda: ray.available_resources().get("CPU") == ray.cluster_resources()["CPU"])
        result = train(config, show=look, keep_ray=True)
    finally:
        for node in added:  # the other tests count on two
            cluster.remove_node(node)
    assert len(found) == 3
    assert len(set(found.values())) == num_nodes
    assert events(result.directory, "restart") == []


@pytest.mark.slow
def test_the_learner_goes_to_the_node_that_it_asks_for_and_the_run_directory_is_on_storage_that_all_see(
    cluster, tmp_path
):
    """It writes the log there, the driver on the head the summary, and the evaluator the best policy."""
    node = cluster.add_node(num_cpus=1, labels={"disk": "fast"}, **SMALL)
    found = {}

    def look(status):
        if status["phase"] == "training":
            found.update(nodes_of(status))

    labels = "learner.labels={disk='fast'}", "env.labels={disk='!fast'}"
    config = ledgered(tmp_path / "run", "run.steps=8000", *labels)
    result = train(config, show=look, keep_ray=True)
    assert found["learner"] == node.node_id
    assert node.node_id not in {found["env_worker_0"], found["env_worker_1"]}
    assert_balanced(result.directory, mark=os.environ[MARK])
    cluster.remove_node(node)


@pytest.mark.slow
def test_shards_are_on_different_nodes_and_one_survives_the_loss_of_its_node(cluster, tmp_path):
    """Env workers and learners are on a node that stays: what is lost is a shard's alone."""
    stays = cluster.add_node(num_cpus=8, labels={"disk": "fast"}, **SMALL)
    found, lost = {}, []

    def look(status):
        if status["phase"] == "training" and status["updates"] > 40 and not lost:
            found.update(nodes_of(status))
            if {"parameter_shard_0", "parameter_shard_1"} <= set(found):
                goes = [node for node in cluster.worker_nodes if node is not stays]
                lost.extend(node for node in goes if node.node_id == found["parameter_shard_0"])
                lost.extend(node for node in goes if node.node_id == found["parameter_shard_1"])
                cluster.remove_node(lost[0], allow_graceful=False)

    sharded = "learner.mode='parameter_server'", "learner.count=2", "learner.shards=2"
    labels = "learner.labels={disk='fast'}", "env.labels={disk='fast'}"
    config = ledgered(tmp_path / "run", "run.steps=3000", *sharded, *labels)
    try:
        result = train(config, show=look, keep_ray=True)
    finally:
        cluster.remove_node(stays)
        if lost:
            cluster.add_node(num_cpus=4, **SMALL)
    assert found["parameter_shard_0"] != found["parameter_shard_1"]
    restarted = {event["role"] for event in events(result.directory, "restart")}
    assert {"parameter_shard"} <= restarted <= {"parameter_shard", "parameter_server", "evaluator"}
    assert_balanced(result.directory, mark=os.environ[MARK])


@pytest.mark.slow
def test_inside_a_placement_group_everything_is_in_the_group(cluster, tmp_path):
    """As Ray Tune runs a trial: the first bundle is the driver's, whose children are captured."""
    config = ledgered(tmp_path / "run", "run.steps=600", "actors.env_workers=1", "env.memory_gb=0.05")
    group = ray.util.placement_group(bundles(config), strategy="STRICT_PACK")
    assert group.wait(30)
    within = PlacementGroupSchedulingStrategy(group, 0, placement_group_capture_child_tasks=True)

    @ray.remote(num_cpus=1, scheduling_strategy=within)
    def trial():
        seen = []

        def look(status):
            if status["phase"] == "training" and status["env_steps"] > 300:
                seen.append((ray.available_resources()["CPU"], nodes_of(status)))

        train(config, show=look, keep_ray=True)
        return seen, ray.get_runtime_context().get_node_id()

    free_before = ray.available_resources()["CPU"]  # beside the group
    seen, here = ray.get(trial.remote(), timeout=120)
    for free, where in seen:
        assert free == free_before, "an env worker has taken CPUs beside the group's"
        assert set(where.values()) == {here}
    ray.util.remove_placement_group(group)
    assert_balanced(tmp_path / "run", mark=os.environ[MARK])
