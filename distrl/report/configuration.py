"""Configurations of runs in; what differs from the defaults and between runs out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from distrl.core.config import RunConfig
from distrl.core.errors import DistrlError

#: Keys that two runs of one experiment may differ in.
_OWN = ("run.seed", "run.out", "run.spool_dir")


def flat(tables: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """``{"run": {"seed": 3}}`` as ``{"run.seed": 3}``; an empty table is left out."""
    found: dict[str, Any] = {}
    for key, value in tables.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found


def changed(tables: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Key → (value, default) of what a run does otherwise than the defaults; None where a key has none.

    Args:
        tables: of a config.toml. Where this version of distrl does not know its algorithm or a key, these count as
            changed.
    """
    defaults = flat(RunConfig(env={"id": ""}).model_dump())
    del defaults["env.id"]  # has none
    defaults["replay.samples_per_insert"] = defaults["replay.samples_per_insert"] or "unlimited"
    name = tables.get("algorithm", {}).get("name", defaults["algorithm.name"])
    defaults |= {f"algorithm.{key}": value for key, value in _options(name, tables).items()}
    return {
        key: (value, defaults.get(key))
        for key, value in flat(tables).items()
        if key not in defaults or value != _plain(defaults[key])
    }


def _options(name: str, tables: Mapping[str, Any]) -> dict[str, Any]:
    from distrl.learners.registry import algorithm_config

    try:
        model = algorithm_config(name)
    except DistrlError:
        return {}
    return {
        key: _plain(field.get_default(call_default_factory=True, validated_data={}))
        for key, field in model.model_fields.items()
        if not field.is_required()
    }


def _plain(value: Any) -> Any:
    """As TOML gives it back."""
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def differing(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """The keys that not all of these flat configurations have the same value of, seeds and folders aside."""
    keys = dict.fromkeys(key for options in runs for key in options)
    return [key for key in keys if key not in _OWN and any(options.get(key) != runs[0].get(key) for options in runs)]


def groups(runs: Sequence[Mapping[str, Any]]) -> list[list[int]]:
    """Positions of the runs that differ in nothing but seed and folder, together; in the order of the first of each."""
    keys = differing(runs)
    found: dict[str, list[int]] = {}
    for index, options in enumerate(runs):
        found.setdefault(repr([options.get(key) for key in keys]), []).append(index)
    return list(found.values())
