"""What a run asks of Ray, and which requests are refused before a start."""

import pytest

from distrl.cluster.resources import (
    Node,
    Request,
    bundle_labels,
    bundles,
    check_cluster,
    check_group,
    check_shares,
    env_worker,
    fullest,
)
from distrl.core.config import RunConfig
from distrl.core.errors import ConfigError


def config(*overrides):
    return RunConfig.load("sac", ["env.id=Pendulum-v1", *overrides])


def solver(*overrides):
    """Four environments of 8 MPI ranks, 12 GB and a quarter of a GPU each, in two env workers."""
    needs = ["env.cores=8", "env.memory_gb=12", "env.gpus=0.25", "env.labels={market='!spot'}"]
    return config(*needs, "actors.envs_per_worker=2", "actors.env_workers=2", *overrides)


def test_an_env_worker_asks_for_what_all_its_environments_need():
    asked = env_worker(solver())
    assert asked.bundle() == {"CPU": 16, "GPU": 0.5, "memory": 24e9}
    assert asked.options() == {
        "num_cpus": 16, "num_gpus": 0.5, "memory": 24e9, "label_selector": {"market": "!spot"}
    }  # fmt: skip
    assert str(asked) == "16 CPUs and 0.5 GPUs and 24 GB of memory and a node labelled market=!spot"


def test_a_run_as_a_placement_group():
    worker = {"CPU": 16.0, "GPU": 0.5, "memory": 24e9}
    assert bundles(solver("learner.threads=3")) == [{"CPU": 3.0}, worker, worker]
    assert bundles(solver("learner.gpus=0.5"), num_gpus=2) == [{"CPU": 1.0}, {"GPU": 0.5}, worker, worker]
    assert bundles(solver("learner.device=cpu"), num_gpus=2) == [{"CPU": 1.0}, worker, worker]
    servers = solver("actors.inference=server", "actors.inference_servers=2")
    assert bundles(servers, num_gpus=4)[1] == {"GPU": 3.0}  # the learner's and the servers'
    labelled = solver("learner.labels={accelerator='H100'}")
    spot = {"market": "!spot"}
    assert bundle_labels(labelled, num_gpus=1) == [{}, {"accelerator": "H100"}, spot, spot]


@pytest.mark.parametrize(
    ("selector", "labels", "matches"),
    [
        ("spot", {"market": "spot"}, True),
        ("spot", {}, False),
        ("!spot", {}, True),
        ("!spot", {"market": "spot"}, False),
        ("in(spot, reserved)", {"market": "reserved"}, True),
        ("!in(spot, reserved)", {"market": "reserved"}, False),
    ],
)
def test_labels_are_ray_s_selectors(selector, labels, matches):
    assert Request(labels={"market": selector}).matches(labels) is matches


def test_what_no_node_has_is_refused_with_what_was_asked_and_what_there_is():
    small = [Node({"CPU": 8.0, "memory": 32e9}), Node({"CPU": 8.0, "memory": 32e9})]
    with pytest.raises(ConfigError, match=r"an env worker asks Ray for 32 CPUs .*env.cores.* nodes have 8 CPUs"):
        check_cluster(config("env.cores=8"), small, grows=False)
    check_cluster(config("env.cores=8"), small, grows=True)  # only the cluster knows what it could start
    with pytest.raises(ConfigError, match="none has the labels: zone=b"):
        check_cluster(config("env.labels={zone='a'}"), [Node({"CPU": 8.0}, {"zone": "b"})], grows=False)


def test_the_learner_and_an_env_worker_must_both_find_their_share_of_the_gpus():
    one_gpu = [Node({"CPU": 8.0, "GPU": 1.0})]
    with pytest.raises(ConfigError, match=r"each learner asks Ray for 1 GPU .* but the cluster has 1 GPU"):
        check_cluster(config("env.gpus=0.25"), one_gpu, grows=False)
    check_cluster(config("env.gpus=0.125", "learner.gpus=0.5"), one_gpu, grows=False)


def test_more_env_workers_than_there_is_room_for_hold_up_nobody():
    check_cluster(config("actors.env_workers=100"), [Node({"CPU": 4.0})], grows=False)


def test_a_placement_group_must_fit_as_a_whole():
    nodes = [Node({"CPU": 4.0}), Node({"CPU": 4.0})]
    check_group(bundles(config("actors.env_workers=1")), nodes, grows=False)
    with pytest.raises(ConfigError, match=r"the placement group asks Ray for 13 CPUs, but the cluster has 8 CPUs"):
        check_group(bundles(config("actors.env_workers=3")), nodes, grows=False)


def test_ray_gives_one_env_worker_a_share_of_a_gpu_or_whole_ones():
    check_shares(config("env.gpus=0.5", "actors.envs_per_worker=4"))
    with pytest.raises(ConfigError, match=r"4 × env.gpus = 1.2 came"):
        check_shares(config("env.gpus=0.3", "actors.envs_per_worker=4"))


def test_packing_fills_the_fullest_node_that_still_has_room():
    free = {"a": Node({"CPU": 8.0}), "b": Node({"CPU": 3.0}), "c": Node({"CPU": 1.0})}
    assert fullest(Request(cpus=2), free) == "b"
    assert fullest(Request(cpus=4), free) == "a"
    assert fullest(Request(cpus=9), free) is None


def test_an_env_worker_takes_its_room_once_whether_ray_has_placed_it_yet_or_not(monkeypatch):
    """Four of one CPU fit a node of four, though Ray tells late what is free."""
    from distrl.cluster import placement

    told = iter([4.0, 4.0, 2.0, 2.0, 0.0])  # free CPUs of the smaller one, each time that Ray is asked
    small, large = "0" * 56, "1" * 56  # the form of Ray's ids
    nodes = [{"NodeID": name, "Labels": {}, "Alive": True} for name in (small, large)]
    monkeypatch.setattr(placement.ray, "nodes", lambda: nodes)
    monkeypatch.setattr(placement.ray.util, "get_current_placement_group", lambda: None)
    monkeypatch.setattr(
        placement.state, "available_resources_per_node", lambda: {small: {"CPU": next(told)}, large: {"CPU": 8.0}}
    )
    packed = placement.Placement(config("actors.placement=pack", "actors.envs_per_worker=1"))
    chosen = [packed.options()["scheduling_strategy"].node_id for _ in range(5)]
    assert chosen == [small] * 4 + [large]
