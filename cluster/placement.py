"""What a run asks for and what its cluster has in, where its actors go out: the placement group of a Ray Tune trial
where there is one, else packed, spread, or as Ray likes.

Env workers are placed one by one, never as one group: a group starts only once all of it can be placed, and a run
should begin with those that can.
"""

from __future__ import annotations

import json
import time
from typing import Any

import ray
from ray._private import state
from ray.experimental.internal_kv import _internal_kv_get
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy, PlacementGroupSchedulingStrategy

from distrl.cluster.resources import Node, env_worker, fullest
from distrl.core.config import RunConfig

_NODE_GROUP = "ray.io/node-group"  # a label that Ray gives a node
_SOME_MEMORY = 1 << 20  # bytes; where an actor asks for nothing at all Ray heeds no strategy (tried with 2.60)
_PROMISE_S = 5.0  # within which Ray has placed what it can, and tells it in what is free


def nodes() -> list[Node]:
    """Those of the connected cluster that are alive."""
    return [Node(node["Resources"], node["Labels"]) for node in ray.nodes() if node["Alive"]]


def grows() -> bool:
    """Whether the connected cluster may start nodes when something waits for them, as far as Ray tells a job: its nodes
    are of groups, which the cluster launcher and KubeRay name, or its head knows of other kinds of nodes."""
    if any(node["Labels"].get(_NODE_GROUP) for node in ray.nodes()):
        return True
    status = _internal_kv_get("__autoscaling_status")  # where nobody has named kinds, each is named after its node
    try:
        kinds = json.loads(status or b"{}").get("autoscaler_report", {}).get("active_nodes", {})
    except ValueError:
        return True
    return any(not kind.startswith("node_") for kind in kinds)


def num_gpus() -> float:
    """That the learner's side may use: of the cluster, or of its bundle of a placement group (``resources.bundles``),
    which has no CPUs."""
    group = ray.util.get_current_placement_group()
    if group is None:
        return ray.cluster_resources().get("GPU", 0.0)
    return sum(bundle.get("GPU", 0.0) for bundle in group.bundle_specs[1:] if not bundle.get("CPU"))


def beside_driver() -> Any:
    """The scheduling strategy of what lives and dies with this process; in a placement group, what it starts is in the
    group, too."""
    group = ray.util.get_current_placement_group()
    if group is not None:
        return PlacementGroupSchedulingStrategy(group, 0, placement_group_capture_child_tasks=True)
    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)


def in_group(options: dict[str, Any]) -> dict[str, Any]:
    """An actor's options inside a placement group, whose bundles have the labels already; else as they are."""
    if ray.util.get_current_placement_group() is None:
        return options
    return {name: value for name, value in options.items() if name != "label_selector"}


def on_another_node(number: int) -> dict[str, Any]:
    """Options of one of several actors that are to be on different nodes, as far as there are so many with CPUs; in a
    placement group it is in the group."""
    group = ray.util.get_current_placement_group()
    if group is not None:
        return {}
    alive = [node for node in ray.nodes() if node["Alive"]]
    there = sorted(node["NodeID"] for node in alive if node["Resources"].get("CPU")) or [alive[0]["NodeID"]]
    here = NodeAffinitySchedulingStrategy(there[number % len(there)], soft=True)  # if it dies now: anywhere
    return {"scheduling_strategy": here, "memory": _SOME_MEMORY}


class Placement:
    """Options of each env worker's actor."""

    def __init__(self, config: RunConfig):
        self.asked = env_worker(config)
        self._kind = config.actors.placement
        # Node → (when, what is left of it by those that Ray is about to place, or just has)
        self._left: dict[str, tuple[float, dict[str, float]]] = {}

    def options(self) -> dict[str, Any]:
        """Of the next one; where nothing is free it waits, and holds up nobody."""
        options = in_group(self.asked.options())
        if self._kind is None or ray.util.get_current_placement_group() is not None:
            return options
        if self._kind == "spread":
            return options | {"scheduling_strategy": "SPREAD"}
        free = self._free()
        chosen = fullest(self.asked, free)
        if chosen is None:
            return options
        taken = self.asked.bundle()
        left = {name: amount - taken.get(name, 0.0) for name, amount in free[chosen].resources.items()}
        self._left[chosen] = (time.monotonic(), left)
        # another job may take it meanwhile: then anywhere else
        here = NodeAffinitySchedulingStrategy(chosen, soft=True, _spill_on_unavailable=True)
        return options | {"scheduling_strategy": here}

    def _free(self) -> dict[str, Node]:
        recent = time.monotonic() - _PROMISE_S
        left = {node: amounts for node, (when, amounts) in self._left.items() if when > recent}
        labels = {node["NodeID"]: node["Labels"] for node in ray.nodes() if node["Alive"]}
        return {
            node: Node(
                {name: min(amount, left.get(node, {}).get(name, amount)) for name, amount in available.items()},
                labels[node],
            )
            for node, available in state.available_resources_per_node().items()
            if node in labels
        }
