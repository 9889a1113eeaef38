"""One learner against several, in step and through parameter shards, on emulated nodes. One JSON line a case.

    python -m benchmarks.learners [--cases single all_reduce-2 server-2 server-4 server-2-killed] [--seeds 0 1 2]

Pendulum whose steps sleep a lognormal time (median 20 ms, σ 1), sixteen of them, and a SAC that makes one update per
transition: more than one learner can do here. Each case trains until an evaluation reaches the return that is asked
for. The nodes are Ray's own, on this machine, the head has no CPUs; all learners share its cores, so that what is
gained here is what one learner leaves idle. ``killed``: one of the two shards dies midway.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

NODES, CPUS = 3, 16
MODES = {
    "single": (),
    "all_reduce-2": ("learner.mode='all_reduce'", "learner.count=2"),
    "server-1": ("learner.mode='parameter_server'", "learner.count=1", "learner.shards=2"),
    "server-2": ("learner.mode='parameter_server'", "learner.count=2", "learner.shards=2"),
    "server-4": ("learner.mode='parameter_server'", "learner.count=4", "learner.shards=2"),
    "server-2-killed": ("learner.mode='parameter_server'", "learner.count=2", "learner.shards=2"),
}


def measure(case: str, seed: int, folder: Path, until: float, seconds: float) -> dict[str, Any]:
    """One run, on the nodes that there are."""
    from distrl.api import train
    from distrl.core.config import RunConfig

    out, ending = folder / f"{case}-{seed}", threading.Event()
    config = RunConfig.load(
        "sac",
        [
            f"run.out={out}",
            f"run.seed={seed}",
            f"run.spool_dir={folder / 'spool'}",
            "run.steps=1000000",
            f"run.wall_limit_s={seconds}",
            "env.id=Pendulum-v1",
            "env.hosting=process",
            "env.delay={kind='lognormal', median_s=0.02, sigma=1.0}",
            "actors.env_workers=4",
            "actors.envs_per_worker=4",
            "actors.inference=local",
            "replay.samples_per_insert=128",
            "replay.min_size=500",
            "learner.finish_updates=false",
            "algorithm.batch_size=128",
            "algorithm.hidden=[256, 256]",
            "evaluation.period=500",
            "evaluation.episodes=5",
            *MODES[case],
        ],
    )
    seen: dict[str, Any] = {}

    def look(status: dict[str, Any]) -> None:
        if status.get("phase") != "training" or not status.get("updates"):
            return
        now = time.monotonic()
        seen.setdefault("first", (now, status["updates"], status["env_steps"]))
        seen["last"] = (now, status["updates"], status["env_steps"])
        if case.endswith("killed") and "killed" not in seen and status["updates"] > 600:
            seen["killed"] = status["updates"]
            os.kill(status["pids"]["parameter_shard_0"], signal.SIGKILL)
        if status["best"] is not None and status["best"] >= until and "reached" not in seen:
            seen["reached"] = now
            ending.set()

    summary = train(config, show=look, keep_ray=True, stop=ending).summary
    took_s = seen["last"][0] - seen["first"][0]
    updates, steps = (seen["last"][index] - seen["first"][index] for index in (1, 2))
    return {
        "case": case,
        "seed": seed,
        "until": until,
        "reached": "reached" in seen,
        "wall_s": seen.get("reached", seen["last"][0]) - seen["first"][0],
        "env_steps": seen["last"][2],
        "updates_per_s": updates / took_s,
        "env_steps_per_s": steps / took_s,
        "busy": summary["env_busy_fraction"],
        "restarts": summary["restarts"],
        **(pushes(summary, took_s) if "shards" in summary else {}),
    }


def pushes(summary: dict[str, Any], took_s: float) -> dict[str, Any]:
    """What the shards took in."""
    return {
        "shard_nodes": summary["shard_nodes"],
        "pushes_per_s": summary["shard_pushes"] / summary["shards"] / took_s,
        "pushed_mb_per_s": summary["shard_bytes"] / took_s / 1e6,
        "gradient_staleness_mean": summary["gradient_staleness_mean"],
        "gradient_staleness_max": summary["gradient_staleness_max"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", default=[case for case in MODES if case != "server-1"], choices=MODES)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--until", type=float, default=-250.0, help="mean return of an evaluation")
    parser.add_argument("--seconds", type=float, default=240.0, help="after which a case ends without it")
    options = parser.parse_args()
    from distrl.cluster.launch import ENVIRONMENT

    os.environ.update(ENVIRONMENT)
    folder = Path(tempfile.mkdtemp(prefix="distrl-learners-"))
    import ray
    from ray.cluster_utils import Cluster

    store = {"object_store_memory": 80 << 20, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **store})
    try:
        for _ in range(NODES):
            cluster.add_node(num_cpus=CPUS, **store)
        ray.init(address=cluster.address, namespace="distrl", log_to_driver=False)
        for seed in options.seeds:  # in turns, so that a busy neighbour slows all cases alike
            for case in options.cases:
                found = measure(case, seed, folder, options.until, options.seconds)
                print(
                    json.dumps({"benchmark": "learners", "cores": os.cpu_count(), "nodes": NODES, **found}), flush=True
                )
    finally:
        ray.shutdown()
        cluster.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
