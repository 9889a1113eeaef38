"""The configuration's models in, docs/configuration.md out:  python docs/make_configuration.py"""

from __future__ import annotations

import typing
from collections.abc import Iterator
from pathlib import Path
from types import NoneType, UnionType
from typing import Any

import annotated_types
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from distrl.core.config import RunConfig
from distrl.learners.league.config import LeagueConfig
from distrl.learners.registry import ALGORITHMS, algorithm_config

PAGE = Path(__file__).with_name("configuration.md")

_INTRODUCTION = """\
# Configuration

A run is decided by one configuration: a preset or a TOML file, with overrides.

    distrl train sac --set env.id=HalfCheetah-v5 --set actors.envs_per_worker=16
    distrl train my_run.toml --seed 3

The same in Python, from a file or without one:

    distrl.RunConfig.load("my_run.toml", ["run.seed=3"])
    distrl.RunConfig(env={"id": "HalfCheetah-v5"}, algorithm={"hidden": [64, 64]})

Presets are the files in `tune_configs/presets/`. The value of `--set KEY.PATH=VALUE` is TOML; a bare word is a string.
A key that does not exist is refused, and the nearest one named. The run directory keeps the whole configuration in
`config.toml`, which `distrl train` takes like any other file.

This page is generated from the models in `distrl/core/config.py`, `learners/*_config.py` and `learners/league/config.py`,
which refuse what is out of bounds: `python docs/make_configuration.py`.
"""

_BOUNDS = {
    annotated_types.Ge: ("≥", "ge"),
    annotated_types.Gt: (">", "gt"),
    annotated_types.Le: ("≤", "le"),
    annotated_types.Lt: ("<", "lt"),
}


def page() -> str:
    """The whole page."""
    parts = [_INTRODUCTION]
    for name, field in RunConfig.model_fields.items():
        model = _section(field.annotation)
        assert model is not None, f"{name} is not a section"
        model = LeagueConfig if name == "league" else model  # whose keys the section leaves open
        prefix = f"{name}.NAME" if typing.get_origin(field.annotation) is dict else name
        parts.append(_chapter(f"[{prefix}]", prefix, model))
    for name in ALGORITHMS:
        model = algorithm_config(name)
        parts.append(_chapter(f'[algorithm] with name = "{name}"', "algorithm", model))
    return "\n".join(parts)


def _chapter(title: str, prefix: str, model: type[BaseModel]) -> str:
    about = (model.__doc__ or "").strip().split("\n\n")[0]
    rows = ["| key | type | default | bounds | what it decides |", "|---|---|---|---|---|", *_rows(prefix, model)]
    return "\n".join([f"## `{title}`", "", about, "", *rows, ""])


def _rows(prefix: str, model: type[BaseModel]) -> Iterator[str]:
    for name, field in model.model_fields.items():
        path, section = f"{prefix}.{name}", _section(field.annotation)
        about = field.description or ""
        if section is None:
            cells = (f"`{path}`", _type(field.annotation), _default(field), _bounds(field), about)
        else:
            kind = "list of tables" if _entries(field.annotation) else "table"
            cells = (f"`[{path}]`", kind, _default(field), "", about)
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
        if section is not None:
            yield from _rows(path, section)


def _section(annotation: Any) -> type[BaseModel] | None:
    """The model behind a field that is a table of its own."""
    for part in (*_alternatives(annotation), *_entries(annotation)):
        if isinstance(part, type) and issubclass(part, BaseModel):
            return part
    return None


def _alternatives(annotation: Any) -> tuple[Any, ...]:
    if typing.get_origin(annotation) in (typing.Union, UnionType):
        return typing.get_args(annotation)
    return (annotation,)


def _entries(annotation: Any) -> tuple[Any, ...]:
    """What a list holds, or a table of tables of any names."""
    return typing.get_args(annotation) if typing.get_origin(annotation) in (list, dict) else ()


def _type(annotation: Any) -> str:
    """In the words of TOML; what may be left out says so by its default."""
    return " or ".join(_word(part) for part in _alternatives(annotation) if part is not NoneType)


def _word(annotation: Any) -> str:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _word(arguments[0])
    if origin is typing.Literal:
        return " or ".join(f'`"{value}"`' for value in arguments)
    if origin in (list, tuple):
        inner = _word(arguments[0])
        return f"list of lists{inner.removeprefix('list')}" if inner.startswith("list") else f"list of {inner}s"
    if origin is dict:
        return "table"
    return {bool: "boolean", int: "integer", float: "number", str: "string"}[annotation]


def _default(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True)
    if value is PydanticUndefined:
        return "required"
    if value is None:
        return "unset"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, str):
        return f'`"{value}"`'
    if isinstance(value, tuple | list):
        return f"`{list(value)}`"
    return f"`{_number(value)}`" if isinstance(value, int) else f"`{value}`"


def _bounds(field: FieldInfo) -> str:
    found = list(field.metadata)
    for part in _alternatives(field.annotation):
        found += getattr(part, "__metadata__", ())
    constraints = [item for entry in found for item in getattr(entry, "metadata", [entry])]
    bounds, lengths = [], []
    for item in constraints:
        for kind, (sign, name) in _BOUNDS.items():
            if isinstance(item, kind):
                bounds.append(f"{sign} {_number(getattr(item, name))}")
        if isinstance(item, annotated_types.MinLen):
            lengths.append(str(item.min_length))
        elif isinstance(item, annotated_types.MaxLen):
            lengths.append(str(item.max_length))
        elif pattern := getattr(item, "pattern", None):
            bounds.append(f"`{pattern}`")
    entries = typing.get_args(field.annotation)
    if lengths and entries and typing.get_origin(entries[0]) is typing.Annotated:
        bounds.append(f"{' to '.join(lengths)} entries, each {_bounds(FieldInfo.from_annotation(entries[0]))}")
    return ", ".join(bounds)


def _number(value: float) -> str:
    """Large ones stay readable."""
    if isinstance(value, int) and value >= 1 << 16 and value & (value - 1) == 0:
        return f"2^{value.bit_length() - 1}"
    return f"{value:_}" if isinstance(value, int) and value >= 10_000 else f"{value:g}"


if __name__ == "__main__":
    PAGE.write_text(page())
    print(f"wrote {PAGE}")
