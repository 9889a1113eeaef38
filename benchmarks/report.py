"""Measures what a report of a long run costs and prints one JSON line.

    python -m benchmarks.report [--transitions 1000000] [--environments 64] [--fragment-steps 20]

``report_s``: wall seconds of ``distrl report`` of a run directory made up for it, imports included. ``page_mb``: of the
page, without a film. Steps take a lognormal time (median 0.4 s), an episode is five fragments and a reset.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from distrl.core.config import RunConfig
from distrl.core.experience_log import ExperienceLog
from distrl.core.metrics import JsonLines
from distrl.core.run_directory import RunDirectory
from distrl.core.types import COLUMNS, OBSERVATION, Fragment

_WAIT_S, _RESET_S, _OBSERVATIONS = 0.02, 3.0, 30


def write_run(path: Path, transitions: int, environments: int, fragment_steps: int) -> None:
    """A run directory with so many transitions, in fragments of one environment each."""
    run = RunDirectory.create(path, RunConfig.validated({"env": {"id": "Pendulum-v1"}}))
    log, metrics, timing = (
        ExperienceLog(path / "log"),
        JsonLines(path / "metrics.jsonl"),
        JsonLines(path / "timing.jsonl"),
    )
    rng, clock, played = np.random.default_rng(0), np.full(environments, run.facts["created_s"]), 0
    empty = {name: np.zeros((fragment_steps, 1), dtype) for name, (dtype, axes) in COLUMNS.items() if axes == "TB"}
    empty |= {"agent_index": np.zeros(1, np.int32), "final_index": np.zeros((0, 2), np.int32)}
    empty["action"] = np.zeros((fragment_steps, 1, 2), np.float32)
    empty[OBSERVATION + "array"] = np.zeros((fragment_steps + 1, 1, _OBSERVATIONS), np.float32)
    for number in range(transitions // fragment_steps):
        env, part = number % environments, number // environments % 5
        step_s = rng.lognormal(np.log(0.4), 1.0, fragment_steps)
        ends = clock[env] + np.cumsum(step_s + _WAIT_S)
        truncated = np.zeros((fragment_steps, 1), bool)
        truncated[-1] = part == 4
        columns = {
            "env_index": np.array([env], np.int32),
            "start_s": (ends - step_s)[:, None],
            "end_s": ends[:, None],
            "step": (part * fragment_steps + np.arange(fragment_steps, dtype=np.int32))[:, None],
            "episode_uid": np.full((fragment_steps, 1), number // environments // 5 * environments + env, np.uint64),
            "truncated": truncated,
        }
        log.append(Fragment(empty | columns))
        clock[env] = ends[-1] + _RESET_S * (part == 4)
        played += fragment_steps
        wall_s = float(clock.mean()) - run.facts["created_s"]
        if part == 4:
            value = {"return": float(rng.normal()), "length": 5 * fragment_steps, "fidelity": "default"}
            metrics.write({"kind": "episode", "env_steps": played, **value})
        if number % 100 == 0:
            core_s = {"core_s": 0.4 * played, "cpu_s": 0.01 * played, "learner_cpu_s": 0.1 * played}
            lives = {"step_s": 0.9 * wall_s, "reset_s": 0.0, "lifetime_s": wall_s}
            timing.write({"kind": "totals", "env_steps": played, "wall_s": wall_s, **core_s, **lives})
        if number % 500 == 0:
            metrics.write({"kind": "evaluation", "env_steps": played, "updates": played, "return_mean": float(number)})
    for file in (log, metrics, timing):
        file.close()


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--transitions", type=int, default=1_000_000)
    parser.add_argument("--environments", type=int, default=64)
    parser.add_argument("--fragment-steps", type=int, default=20)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run"
        write_run(path, options.transitions, options.environments, options.fragment_steps)
        begun = time.monotonic()
        subprocess.run([sys.executable, "-m", "distrl.cli", "report", str(path)], check=True, stdout=subprocess.DEVNULL)
        found = {"report_s": round(time.monotonic() - begun, 2)}
        found["page_mb"] = round((path / "report.html").stat().st_size / 1e6, 2)
    print(
        json.dumps(
            {"benchmark": "report", **vars(options), **found, "machine": platform.processor() or platform.machine()}
        )
    )


if __name__ == "__main__":
    main()
