"""Sixteen environments with heavy-tailed step times: how busy they are, and what the learner keeps of its speed. One
JSON line.

    python benchmarks/slow_envs.py [--seconds 180] [--no-peer]

SlowPendulum is Pendulum-v1 whose step also sleeps a lognormal time (median 50 ms, σ 1). distrl trains SAC (batch 256)
on it with as many updates as the CPU gives; then the same learner runs alone on the same replay; then
Stable-Baselines3's SAC on the same environments (``make peers`` installs it), at its best setting there: one update per
vector step of SubprocVecEnv(16).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
NUM_ENVS, MEDIAN_S, SIGMA = 16, 0.05, 1.0
TARGET = -300.0  # mean return of the last 20 episodes


def config(out: Path, seconds: float) -> Any:
    from distrl.core.config import RunConfig

    return RunConfig.load(
        "sac",
        [
            f"run.out={out}",
            "run.steps=10000000",
            f"run.wall_limit_s={seconds}",
            "env.id=Pendulum-v1",
            f"env.delay={{kind='lognormal', median_s={MEDIAN_S}, sigma={SIGMA}}}",
            f"actors.envs_per_worker={NUM_ENVS}",
            "actors.fragment_steps=20",
            "actors.fragment_max_age_s=1.0",
            "replay.samples_per_insert=unlimited",
            "replay.min_size=1000",
            "learner.finish_updates=false",
            "learner.publish_period=20",
            "algorithm.batch_size=256",
            "algorithm.n_step=3",
            "algorithm.actor_learning_rate=1e-3",
            "algorithm.critic_learning_rate=1e-3",
            "algorithm.temperature_learning_rate=1e-3",
            "evaluation.period=5000",
            "evaluation.final_episodes=4",
        ],
    )


def measure_distrl(out: Path, seconds: float) -> dict[str, Any]:
    import psutil

    from distrl.api import train
    from distrl.core.experience_log import read_log
    from distrl.core.metrics import read_json_lines

    memory: dict[str, float] = {}
    environment_pss: list[float] = []
    clock: dict[str, Any] = {"start": time.monotonic(), "reached": None, "rates": []}

    def pss_mb(process: psutil.Process) -> float:
        try:
            return process.memory_full_info().pss / 2**20
        except psutil.Error:
            return 0.0

    def look(status: dict[str, Any]) -> None:
        if "env_steps" not in status:
            return
        now = time.monotonic() - clock["start"]
        clock["rates"].append((now, status["env_steps"], status["updates"]))
        if clock["reached"] is None and status["recent_return"] is not None and status["recent_return"] > TARGET:
            clock["reached"] = now
        if not memory and now > 0.5 * seconds:
            processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
            environment_pss.extend(pss_mb(child) for child in processes if child.name() == "distrl-child")
            memory["all_mb"] = sum(pss_mb(process) for process in processes)

    result = train(config(out, seconds), show=look)
    summary = result.summary
    trained = [sample for sample in clock["rates"] if sample[2] > 0]
    (t0, s0, u0), (t1, s1, u1) = trained[0], trained[-1]
    first_step = min(float(fragment.columns["end_s"].min()) for _, fragment in read_log(out / "log"))
    episodes = [record for record in read_json_lines(out / "metrics.jsonl") if record["kind"] == "episode"]
    return {
        "env_busy_fraction": summary["env_busy_fraction"],
        "env_steps_per_s": (s1 - s0) / (t1 - t0),
        "updates_per_s": (u1 - u0) / (t1 - t0),
        "first_env_step_s": first_step - psutil.Process().create_time(),  # from the start of this process
        "time_to_minus_300_s": clock["reached"],
        "last_20_return": statistics.fmean(record["return"] for record in episodes[-20:]),
        "final_return_mean": summary["final_return_mean"],
        "pss_all_mb": memory.get("all_mb"),
        "pss_environment_process_mb": max(environment_pss) if environment_pss else None,
        "staleness_p95": summary["staleness_p95"],
        "env_steps": summary["env_steps"],
    }


def measure_learner_alone(out: Path, seconds: float) -> float:
    """Updates per second of the same learner on the same replay, in a process of its own without environments."""
    from distrl.cluster.components import build_learner
    from distrl.core.run_directory import RunDirectory
    from distrl.envs.describe import describe

    run = RunDirectory.open(out)
    settings = run.config()
    learner = build_learner(settings, describe(settings.env.recipe()), out, lambda *news, **policy: None)
    for _ in range(20):
        learner.update()
    start, before = time.monotonic(), learner.num_updates
    while time.monotonic() - start < seconds:
        learner.update()
    return (learner.num_updates - before) / (time.monotonic() - start)


def measure_sb3(seconds: float) -> dict[str, Any]:
    python = ROOT / ".venv-peers" / "bin" / "python"
    if not python.exists():
        return {"error": "not installed: make peers"}
    command = [
        python,
        ROOT / "benchmarks" / "peers" / "sb3_slow.py",
        str(seconds),
        str(NUM_ENVS),
        str(MEDIAN_S),
        str(SIGMA),
    ]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    if done.returncode:
        return {"error": done.stderr.strip().splitlines()[-1]}
    return json.loads(done.stdout.strip().splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=180.0)
    parser.add_argument("--peer-seconds", type=float, default=60.0)
    parser.add_argument("--no-peer", action="store_true")
    parser.add_argument("--learner-alone", metavar="RUN", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.learner_alone:
        print(measure_learner_alone(Path(options.learner_alone), 15.0))
        return
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    folder = Path(tempfile.mkdtemp(prefix="distrl-slow-"))
    try:
        out = folder / "run"
        found = measure_distrl(out, options.seconds)
        alone = subprocess.run(
            [sys.executable, __file__, "--learner-alone", out], capture_output=True, text=True, check=True
        )
        found["updates_per_s_alone"] = float(alone.stdout.strip().splitlines()[-1])
        found["updates_ratio"] = found["updates_per_s"] / found["updates_per_s_alone"]
        peer = {} if options.no_peer else measure_sb3(options.peer_seconds)
        if "env_steps_per_s" in peer:
            found["env_steps_ratio_to_sb3"] = found["env_steps_per_s"] / peer["env_steps_per_s"]
        print(
            json.dumps(
                {"benchmark": "slow_envs", "cores": os.cpu_count(), "seconds": options.seconds, **found, "sb3": peer}
            )
        )
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
