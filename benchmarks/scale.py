"""From 16 to 256 slow environments over 1 to 4 emulated nodes: how busy they stay, how long new weights take to reach
all env workers, and how much of a core each role uses. One JSON line.

    python -m benchmarks.scale [--sizes 1 2 4] [--seconds 40]

The environments are Pendulums whose step sleeps a lognormal time (median 1 s, σ 1), each in a process of its own, 16
for each env worker; the nodes are Ray's own, on this machine, the head has no CPUs. Everything is measured in a window
that begins once every environment is there. SAC learns beside them, 8 samples per transition.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import shutil
import tempfile
import threading
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

NUM_ENVS, WORKERS_PER_NODE = 16, {1: 1, 2: 2, 4: 4}  # environments of an env worker; nodes → env workers on each
MEDIAN_S, SIGMA = 1.0, 1.0
SETTLE_S = 5.0
NOTES = "DISTRL_SCALE_NOTES"  # folder in which processes note when they publish or take weights
#: What processes are called → what the figures call them.
ROLES = {
    "ray::Supervisor": "supervisor",
    "ray::LearnerActor": "learner",
    "ray::ParameterServerActor": "parameter_server",
    "ray::EnvWorkerActor": "env_workers",
    "distrl-child": "environments",
    "gcs_server": "control_store",
    "raylet": "raylets",
}


def note_weights() -> None:
    """In every process of Ray: who publishes or takes a version notes when."""
    folder = os.environ.get(NOTES)
    if folder is None:
        return
    from distrl.actors.inference import LocalInference
    from distrl.cluster.learner_actor import LearnerActor

    def note(kind: str, version: int) -> None:
        with open(f"{folder}/{kind}-{os.getpid()}", "a") as file:
            file.write(f"{version} {time.time()}\n")

    publish, pull = LearnerActor._publish, LocalInference.pull

    def noted_publish(self: Any, version: int, weights: Any, policy_id: str) -> None:
        note("published", version)
        publish(self, version, weights, policy_id)

    def noted_pull(self: Any, wait_s: float = 0.0) -> bool:
        newer = pull(self, wait_s)
        if newer:
            note("pulled", self.version)
        return newer

    LearnerActor._publish, LocalInference.pull = noted_publish, noted_pull  # type: ignore[method-assign]


def config(out: Path, env_workers: int) -> Any:
    from distrl.core.config import RunConfig

    return RunConfig.load(
        "sac",
        [
            f"run.out={out}",
            f"run.spool_dir={out.parent / 'spool'}",
            "run.steps=10000000",
            "env.id=Pendulum-v1",
            "env.hosting=process",
            f"env.delay={{kind='lognormal', median_s={MEDIAN_S}, sigma={SIGMA}}}",
            f"actors.env_workers={env_workers}",
            f"actors.envs_per_worker={NUM_ENVS}",
            "actors.placement=spread",
            "actors.inference=local",
            "replay.samples_per_insert=8",
            "replay.min_size=100",
            "learner.finish_updates=false",
            f"learner.publish_period={env_workers}",  # about one a second at every size
            "algorithm.batch_size=64",
            "algorithm.hidden=[64, 64]",
            "evaluation.period=10000000",
        ],
    )


def measure(cluster: Any, num_nodes: int, seconds: float, folder: Path) -> dict[str, Any]:
    """One size, on the nodes that there are."""
    from distrl.api import train
    from distrl.core.metrics import read_json_lines

    env_workers = num_nodes * WORKERS_PER_NODE[num_nodes]
    num_envs, ending = env_workers * NUM_ENVS, threading.Event()
    out, notes = folder / f"run-{num_nodes}", Path(os.environ[NOTES])
    for old in notes.iterdir():
        old.unlink()
    began, window = time.monotonic(), {}

    def look(status: dict[str, Any]) -> None:
        now = time.monotonic()
        if status.get("num_envs") == num_envs and status["updates"] and "full" not in window:
            window["full"] = now
        if "full" in window and "from" not in window and now > window["full"] + SETTLE_S:
            window.update({"from": now, "at": time.time(), "session_s": status["session_s"], "cpu": cpu_seconds()})
        if "from" in window and "to" not in window and now > window["from"] + seconds:
            window.update({"to": now, "until_s": status["session_s"], "cpu_after": cpu_seconds()})
            ending.set()

    train(config(out, env_workers), show=look, keep_ray=True, stop=ending)
    totals = [record for record in read_json_lines(out / "timing.jsonl") if record["kind"] == "totals"]
    inside = [record for record in totals if window["session_s"] <= record["wall_s"] <= window["until_s"]]
    first, last = inside[0], inside[-1]
    took_s = last["wall_s"] - first["wall_s"]
    span_s = window["to"] - window["from"]
    used = {role: window["cpu_after"][role] - window["cpu"][role] for role in window["cpu"]}
    statuses = [record for record in read_json_lines(out / "timing.jsonl") if record["kind"] == "status"]
    rates = [record for record in statuses if window["session_s"] <= record["session_s"] <= window["until_s"]]
    return {
        "nodes": num_nodes,
        "env_workers": env_workers,
        "environments": num_envs,
        "start_s": window["full"] - began,
        "busy": (last["step_s"] - first["step_s"]) / (last["lifetime_s"] - first["lifetime_s"]),
        "env_steps_per_s": (rates[-1]["env_steps"] - rates[0]["env_steps"]) / took_s,
        "updates_per_s": (rates[-1]["updates"] - rates[0]["updates"]) / took_s,
        **lags(notes, env_workers, window["at"], window["at"] + span_s),
        "cpu_share": {role: used[role] / span_s for role in sorted(used)},
    }


def cpu_seconds() -> Counter[str]:
    """Used so far by each role of this process's own Ray, of cores."""
    import psutil

    found: Counter[str] = Counter()
    for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
        with contextlib.suppress(psutil.Error):
            line = process.name() if process.name() in ROLES else " ".join(process.cmdline())
            role = next((role for start, role in ROLES.items() if line.startswith(start)), "other")
            times = process.cpu_times()
            found["driver" if process.pid == os.getpid() else role] += times.user + times.system
    return found


def lags(notes: Path, env_workers: int, begin_s: float, end_s: float) -> dict[str, float]:
    """Seconds from a publication to the last and to any env worker that takes it, or a newer one."""
    published: dict[int, float] = {}
    pulled: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for path in notes.iterdir():
        lines = [line.split() for line in path.read_text().splitlines()]
        found = [(int(version), float(at)) for version, at in lines]
        if path.name.startswith("published"):
            published |= dict(found)
        else:
            pulled[path.name] = found
    workers = sorted(pulled.values(), key=len)[-env_workers:]  # the evaluator takes weights too, but seldom
    each, last = [], []
    for version, at in published.items():
        if not begin_s <= at <= end_s - 2.0:
            continue
        taken = [min((when for mine, when in worker if mine >= version), default=None) for worker in workers]
        if None not in taken:
            mine = [when - at for when in taken if when is not None]
            each += mine
            last.append(max(mine))
    return {
        "publications": len(last),
        "lag_each_p50_s": quantile(each, 0.5),
        "lag_each_p99_s": quantile(each, 0.99),
        "lag_all_p50_s": quantile(last, 0.5),
        "lag_all_p99_s": quantile(last, 0.99),
    }


def slopes(sizes: list[dict[str, Any]]) -> dict[str, float]:
    """Of each role's share of a core over the number of env workers, between the smallest and the largest size."""
    first, last = sizes[0], sizes[-1]
    more = last["env_workers"] - first["env_workers"]
    return (
        {role: (last["cpu_share"][role] - share) / more for role, share in first["cpu_share"].items()} if more else {}
    )


def quantile(values: list[float], share: float) -> float:
    return sorted(values)[min(math.ceil(share * len(values)), len(values)) - 1] if values else math.nan


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 2, 4], choices=[1, 2, 4], help="numbers of nodes")
    parser.add_argument("--seconds", type=float, default=40.0)
    options = parser.parse_args()
    from distrl.cluster.launch import ENVIRONMENT

    os.environ.update(ENVIRONMENT)
    folder = Path(tempfile.mkdtemp(prefix="distrl-scale-"))
    notes = folder / "notes"
    notes.mkdir()
    os.environ[NOTES] = str(notes)
    import ray
    from ray.cluster_utils import Cluster

    store = {"object_store_memory": 80 << 20, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **store})
    try:
        hook = {"worker_process_setup_hook": note_weights}
        ray.init(address=cluster.address, namespace="distrl", log_to_driver=False, runtime_env=hook)
        sizes = []
        for num_nodes in sorted(options.sizes):
            while len(cluster.worker_nodes) < num_nodes:
                cluster.add_node(num_cpus=64, **store)
            sizes.append(measure(cluster, num_nodes, options.seconds, folder))
        facts = {"benchmark": "scale", "cores": os.cpu_count(), "seconds": options.seconds}
        print(json.dumps({**facts, "sizes": sizes, "core_per_env_worker": slopes(sizes)}))
    finally:
        ray.shutdown()
        cluster.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
