"""Does a sweep's best configuration beat the one that it started from, at equal core-hours and on seeds it never had?

    python benchmarks/sweep.py --folder sweeps/ks --seeds 101 102 103

Runs ``distrl tune ks`` in that folder (or goes on with it), then trains its best configuration and the unchanged one
from each seed until the same ``run.core_hours``, and evaluates every policy on the test seeds. One JSON line.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

from learned import machine

from distrl.api import read_sweep, train, tune
from distrl.core.config import RunConfig, to_toml
from distrl.core.sweep import SweepConfig

OUT = Path(__file__).parent / "results" / "sweep.json"


def search(name: str, folder: Path) -> dict[str, Any]:
    """The sweep's outcome; what has been done in the folder is not done again."""
    done = folder / "outcome.json"
    if not done.exists():
        resume = (folder / "sweep.json").exists()
        sweep = read_sweep(folder) if resume else SweepConfig.load(name, [f'out="{folder.absolute()}"'])
        found = tune(sweep, resume=folder if resume else None, show=lambda trial, values, result: print(trial, result))
        assert found.best is not None
        best = found.rows[0]
        done.write_text(json.dumps({
            "best_values": best.values,
            "best_on_selection_seeds": best.result[sweep.metric],
            "trials": len(found.rows),
            "trials_ended_early": sum(row.status == "ended early" for row in found.rows),
            "core_hours": sum(json.loads((folder / "spent.json").read_text()).values()),
            "core_hours_each": sweep.run_config({}).run.core_hours,
        }))  # fmt: skip
    return json.loads(done.read_text())


def confirm(config: RunConfig, folder: Path, seed: int) -> dict[str, float]:
    """One run from a fresh seed: the best policy's mean return on the test seeds, and what it cost."""
    summary = folder / f"seed-{seed}" / "summary.json"
    if not (summary.exists() and "final_return_mean" in json.loads(summary.read_text())):
        run = config.run.model_copy(update={"seed": seed, "out": str(folder / f"seed-{seed}")})
        train(config.model_copy(update={"run": run}))
    found = json.loads(summary.read_text())
    return {"return": found["final_return_mean"], "core_hours": found["core_hours"], "env_steps": found["env_steps"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--sweep", default="ks")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[101, 102, 103])
    parser.add_argument("--out", type=Path, help=f"write the line there as well (committed: {OUT.name})")
    arguments = parser.parse_args()
    found = search(arguments.sweep, arguments.folder)
    sweep = read_sweep(arguments.folder)
    results: dict[str, Any] = {}
    for seed in arguments.seeds:  # side by side in time: the machine's mood meets both
        for name, values in (("default", {}), ("best", found["best_values"])):
            config = sweep.run_config(values)
            run = confirm(config, arguments.folder / "confirmed" / name, seed)
            results.setdefault(name, []).append(run)
            (arguments.folder / f"{name}.toml").write_text(to_toml(config))
    line = {
        "benchmark": "sweep",
        "sweep": arguments.sweep,
        **found,
        "seeds": arguments.seeds,
        **{f"{name}_returns": [run["return"] for run in runs] for name, runs in results.items()},
        **{f"{name}_median": statistics.median(run["return"] for run in runs) for name, runs in results.items()},
        **{f"{name}_core_hours": [run["core_hours"] for run in runs] for name, runs in results.items()},
        "machine": machine(),
    }
    print(json.dumps(line))
    if arguments.out:
        arguments.out.write_text(json.dumps(line, indent=1) + "\n")


if __name__ == "__main__":
    main()
