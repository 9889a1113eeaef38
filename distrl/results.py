"""A finished run directory in; the final evaluation against the baseline, curves and a film of what was learned out."""

from __future__ import annotations

import importlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from distrl.core.config import RunConfig
from distrl.core.run_directory import RunDirectory


def evaluate(run: RunDirectory, config: RunConfig, episodes: int, first_seed: int | None = None) -> list[Any]:
    """Deterministic episodes of a run's best policy on the test seeds; one ``EpisodeResult`` per seed."""
    from distrl.actors.evaluator import act_with
    from distrl.api import load_policy
    from distrl.cluster import components

    num_envs = min(episodes, os.cpu_count() or 1)
    seed = components.TEST_SEEDS if first_seed is None else first_seed
    runner = components.evaluation_runner(config, seed, episodes, num_envs, run.scratch(), inline=False)
    try:
        return runner.run(act_with(load_policy(run.path).policy, num_envs))
    finally:
        runner.close()


def final_evaluation(run: RunDirectory, config: RunConfig) -> dict[str, Any]:
    """The summary's last entries: the policy, the best baseline and doing nothing, each on the same test seeds."""
    try:
        return _compare(run, config)
    finally:
        shutil.rmtree(run.scratch(), ignore_errors=True)


def _compare(run: RunDirectory, config: RunConfig) -> dict[str, Any]:
    from distrl.actors.evaluator import mean_return

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
        best = shipped_baseline(config)
        if best is not None:
            found = evaluate_controller(config, best["params"], episodes, run.scratch())
            summary |= {
                "baseline_return": mean_return(found),
                "baseline_selection_return": baseline_on_selection_seeds(config, best["params"], run.scratch()),
                "baseline_params": best["params"],
            }
            rows.append({"who": f"best of {best['num_candidates']} {baseline.NAME}s", **_row(found)})
        nothing = evaluate_controller(config, baseline.NOTHING, episodes, run.scratch())
        summary["nothing_return"] = mean_return(nothing)
        rows.append({"who": "doing nothing", **_row(nothing)})
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


def baseline_module(config: RunConfig) -> Any:
    """The module of open-loop controllers that the environment's class names, or None."""
    from distrl.envs.resolve import baseline_of

    name = baseline_of(config.env.id)
    return importlib.import_module(name) if name else None


def evaluate_controller(config: RunConfig, params: dict[str, Any], episodes: int, scratch: Path) -> list[Any]:
    """Episodes of one baseline controller on the test seeds."""
    from distrl.cluster import components

    return next(evaluate_controllers(config, [params], components.TEST_SEEDS, episodes, scratch))


def baseline_on_selection_seeds(config: RunConfig, params: dict[str, Any], scratch: Path) -> float:
    """A controller's mean return where the learning curve's evaluations were made: what to draw beside them."""
    from distrl.actors.evaluator import mean_return
    from distrl.cluster import components

    seeds, episodes = components.SELECTION_SEEDS, config.evaluation.episodes
    return mean_return(next(evaluate_controllers(config, [params], seeds, episodes, scratch)))


def evaluate_controllers(
    config: RunConfig, candidates: list[dict[str, Any]], first_seed: int, episodes: int, scratch: Path
) -> Iterator[list[Any]]:
    """Episodes of one baseline controller after another, all on the same seeds, as many at once as there are cores."""
    from distrl.cluster import components
    from distrl.core.types import ARRAY

    module = baseline_module(config)
    kwargs = {**config.env.kwargs, **({"fidelity": config.env.fidelity} if config.env.fidelity else {})}
    num_envs = min(os.cpu_count() or 1, episodes)
    runner = components.evaluation_runner(config, first_seed, episodes, num_envs, scratch, inline=False)
    try:
        for params in candidates:
            controllers = [module.baseline_policy(params, kwargs) for _ in range(num_envs)]

            def act(requests: Any, controllers: list[Any] = controllers) -> np.ndarray:
                for row in requests.rows[requests.is_first]:
                    controllers[row].reset()
                return np.stack(
                    [controllers[row].act(requests.observation[ARRAY][k]) for k, row in enumerate(requests.rows)]
                )

            yield runner.run(act)
    finally:
        runner.close()


def shipped_baseline(config: RunConfig) -> dict[str, Any] | None:
    """The best entry of the table that ``distrl baseline`` stored for this environment's settings; None without one."""
    from distrl.baseline import find_table

    return find_table(config)


def draw(run: RunDirectory, config: RunConfig) -> list[Path]:
    """``learning_curve.png`` and, where the environment renders, ``media/film.mp4``; returns what was written."""
    from distrl.plots import film, learning_curve

    written = [learning_curve(run.path, json.loads((run.path / "summary.json").read_text()))]
    movie = film(run, config, run.path / "media" / "film.mp4")
    return [*written, *([movie] if movie else [])]
