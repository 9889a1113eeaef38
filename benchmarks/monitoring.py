"""What TensorBoard and W&B cost beside a run that writes twice a second:  python -m benchmarks.monitoring

The run's files are written by hand, W&B's server is a port at which nobody answers. One JSON line: for each set of
sinks, how long it takes to begin and to end, and memory and CPU of all its processes.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from distrl.core.config import RunConfig
from distrl.core.metrics import JsonLines
from distrl.core.run_directory import RunDirectory
from distrl.monitor.session import monitored

_SETTLE_S, _MEASURE_S, _PERIOD_S = 10.0, 20.0, 0.5
_STATUS = {"kind": "status", "busy": 0.9, "env_steps_per_s": 50.0, "recent_return": 5.0, "core_hours": 0.25}


def main() -> None:
    """Measure and print."""
    os.environ |= {"WANDB_API_KEY": "0" * 40, "WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_ERROR_REPORTING": "false"}
    measured = {"+".join(sinks): _measure(sinks) for sinks in (["tensorboard"], ["tensorboard", "wandb"])}
    sys.stdout.write(json.dumps({"benchmark": "monitoring", "cores": os.cpu_count(), **measured}) + "\n")


def _measure(sinks: list[str]) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        monitor = {"sinks": sinks, "drain_s": 0.0}
        config = RunConfig.validated({"env": {"id": "Pendulum-v1"}, "monitor": monitor})
        run = RunDirectory.create(Path(folder) / "run", config)
        files = {name: JsonLines(run.path / f"{name}.jsonl") for name in ("metrics", "timing")}
        began = time.perf_counter()
        with monitored(run, config):
            begin_s = time.perf_counter() - began
            _write(files, 0, _SETTLE_S)
            cpu_s = _totals()["cpu_s"]
            _write(files, 1000, _MEASURE_S)
            totals = _totals()
            ending = time.perf_counter()
        end_s = time.perf_counter() - ending
    return {
        "begin_s": round(begin_s, 3),
        "end_s": round(end_s, 3),
        "memory_mb": round(totals["memory_mb"], 1),
        "cores": round((totals["cpu_s"] - cpu_s) / _MEASURE_S, 4),
    }


def _write(files: dict[str, JsonLines], first: int, seconds: float) -> None:
    """As a run does, with 20 episodes each time."""
    for number in range(first, first + int(seconds / _PERIOD_S)):
        numbers: dict[str, Any] = {"env_steps": 100 * number, "wall_s": number * _PERIOD_S, "updates": number}
        files["timing"].write(_STATUS | numbers)
        for _ in range(20):
            files["metrics"].write({"kind": "episode", "return": 1.0, "length": 5, "fidelity": "default", **numbers})
        time.sleep(_PERIOD_S)


def _totals() -> dict[str, float]:
    """Of all processes that this one has started."""
    processes = psutil.Process().children(recursive=True)
    return {
        "cpu_s": sum(sum(process.cpu_times()[:2]) for process in processes),
        "memory_mb": sum(process.memory_full_info().pss for process in processes) / 1e6,
    }


if __name__ == "__main__":
    main()
