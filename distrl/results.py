"""A finished run directory in; the final evaluation against the baseline, curves and a film of what was learned out."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from distrl.baseline import find_table
from distrl.controllers import (
    RandomActions,
    baseline_module,
    baseline_on_selection_seeds,
    doing_nothing,
    evaluate_controller,
    run_controllers,
)
from distrl.core.config import RunConfig
from distrl.core.metrics import JsonLines
from distrl.core.run_directory import RunDirectory


def evaluate(run: RunDirectory, config: RunConfig, episodes: int, first_seed: int | None = None) -> list[Any]:
    """Deterministic episodes of a run's best policy on the test seeds; one ``EpisodeResult`` per seed."""
    from distrl.cluster import components
    from distrl.loading import load_policies

    num_envs = min(episodes, os.cpu_count() or 1)
    seed = components.TEST_SEEDS if first_seed is None else first_seed
    runner = components.evaluation_runner(config, seed, episodes, num_envs, run.scratch(), inline=False)
    try:
        return runner.run(components.evaluation_act(config, runner.spec, load_policies(run.path), num_envs))
    finally:
        runner.close()


def final_evaluation(run: RunDirectory, config: RunConfig) -> dict[str, Any]:
    """The summary's last entries: the policy and what it is compared with, each on the same test seeds."""
    try:
        return _compare(run, config)
    finally:
        shutil.rmtree(run.scratch(), ignore_errors=True)


def _compare(run: RunDirectory, config: RunConfig) -> dict[str, Any]:
    from distrl.actors.evaluator import mean_return
    from distrl.cluster import components

    episodes = config.evaluation.final_episodes
    results = evaluate(run, config, episodes)
    summary: dict[str, Any] = {
        "final_return_mean": mean_return(results),
        "final_returns": [result.episode_return for result in results],
        "baseline_return": None,
    }
    rows = [{"who": "policy", **_row(results)}]
    baseline = baseline_module(config)
    if baseline is not None:
        best = find_table(config)
        if best is not None:
            found = evaluate_controller(config, best["params"], episodes, run.scratch())
            summary |= {
                "baseline_return": mean_return(found),
                "baseline_selection_return": baseline_on_selection_seeds(config, best["params"], run.scratch()),
                "baseline_params": best["params"],
            }
            rows.append({"who": f"best of {best['num_candidates']} {baseline.NAME}s", **_row(found)})
    others = {
        "doing nothing": ("nothing_return", doing_nothing(config)),
        "random actions": ("random_return", RandomActions),
    }
    makers = [make for _, make in others.values()]
    played = run_controllers(config, makers, components.TEST_SEEDS, episodes, run.scratch())
    for (who, (key, _)), found in zip(others.items(), played, strict=True):
        if found:
            summary[key] = mean_return(found)
            rows.append({"who": who, **_row(found)})
    return summary | {"comparison": rows}


def _row(results: list[Any]) -> dict[str, Any]:
    returns = np.array([result.episode_return for result in results])
    finite = returns[np.isfinite(returns)]
    row = {
        "return_mean": float(finite.mean()) if len(finite) else None,
        "return_std": float(finite.std()) if len(finite) else None,
        "episodes": len(results),
        "diverged": sum(bool(result.info.get("diverged") or result.info.get("failed")) for result in results),
    }
    numbers = [name for name in results[0].info if name.startswith("episode_")] if results else []
    return row | {name: float(np.mean([result.info.get(name, np.nan) for result in results])) for name in numbers}


def draw(run: RunDirectory, config: RunConfig) -> list[Path]:
    """``learning_curve.png``, ``staleness.png``, ``league.png`` of a league that has played and, where the
    environment renders, ``media/film.mp4``; returns what was written."""
    from distrl import league_plots
    from distrl.cluster import checks
    from distrl.plots import film, learning_curve, staleness

    summary = json.loads((run.path / "summary.json").read_text())
    written = [learning_curve(run.path, summary)]
    if "staleness_counts" in summary:  # RLlib does not say
        written.append(staleness(run.path, summary))
    if (league := checks.league_model(config)) is not None:
        table = league_plots.league(run.path, league.window)
        written += [] if table is None else [table]
    try:
        movie = film(run, config, run.path / "media" / "film.mp4")
    except Exception as error:  # noqa: BLE001 - pictures need displays, drivers, codecs; the run is complete without
        movie = None
        said = f"no film: rendering {config.env.id} raised {type(error).__name__}: {' '.join(str(error).split())[:200]}"
        print(said, file=sys.stderr)
        events = JsonLines(run.path / "events.jsonl")
        events.write({"kind": "note", "time_s": time.time(), "text": said})
        events.close()
    return [*written, *([movie] if movie else [])]
