"""An environment's open-loop controllers in, the table of a grid search over them out: shipped, found again by the
settings' hash.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from distrl.core.config import RunConfig
from distrl.core.errors import ConfigError
from distrl.core.metrics import write_json

TABLES = "baselines"  # folder beside distrl.envs' modules


def settings_hash(config: RunConfig) -> str:
    """Names everything about the environment that decides what a controller reaches."""
    recipe = config.env.recipe()
    decisive = {
        "id": recipe.id,
        "kwargs": dict(recipe.kwargs),
        "fidelity": recipe.fidelity,
        "max_episode_steps": recipe.max_episode_steps,
    }
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:12]


def table_path(config: RunConfig) -> Path:
    """Where the table of these settings is shipped."""
    import distrl.envs

    name = config.env.id.split("/")[-1].split(":")[-1]
    return Path(distrl.envs.__path__[0]) / TABLES / f"{name}-{settings_hash(config)}.json"


def find_table(config: RunConfig) -> dict[str, Any] | None:
    """The best entry of the shipped table, with ``num_candidates``; None where these settings have none."""
    path = table_path(config)
    if not path.exists():
        return None
    document = json.loads(path.read_text())
    return document["table"][0] | {"num_candidates": len(document["table"])}


def search(config: RunConfig, episodes: int, show: Callable[[int, int, dict[str, Any]], None]) -> dict[str, Any]:
    """Try every candidate on the same seeds (those that select a policy, never the test seeds), best first.

    Raises:
        ConfigError: the environment has no baseline.
    """
    from distrl import controllers
    from distrl.cluster import components

    module = controllers.baseline_module(config)
    if module is None:
        raise ConfigError(
            f"{config.env.id} names no baseline controllers: an environment class does so with an attribute baseline "
            "= 'package.module'"
        )
    kwargs = {**config.env.kwargs, **({"fidelity": config.env.fidelity} if config.env.fidelity else {})}
    candidates = module.baseline_candidates(kwargs)
    table = []
    with tempfile.TemporaryDirectory(prefix="distrl-baseline-") as scratch:
        runs = controllers.evaluate_controllers(config, candidates, components.SELECTION_SEEDS, episodes, Path(scratch))
        for number, (params, found) in enumerate(zip(candidates, runs, strict=True)):
            returns = [result.episode_return for result in found]
            entry = {
                "params": params,
                "return_mean": float(np.mean(returns)),
                "returns": returns,
                "info": found[-1].info,
            }
            table.append(entry)
            show(number + 1, len(candidates), entry)
    table.sort(key=lambda entry: -entry["return_mean"] if np.isfinite(entry["return_mean"]) else np.inf)
    recipe = config.env.recipe()
    return {
        "env": {
            "id": recipe.id,
            "kwargs": dict(recipe.kwargs),
            "fidelity": recipe.fidelity,
            "max_episode_steps": recipe.max_episode_steps,
        },
        "settings_hash": settings_hash(config),
        "episodes": episodes,
        "table": table,
    }


def store(document: dict[str, Any], path: Path) -> None:
    """Write a table."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, document)
