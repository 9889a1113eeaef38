"""What a user wrote in, nested plain data out, or one sentence on what is wrong: presets, TOML files and overrides."""

from __future__ import annotations

import difflib
import tomllib
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from distrl.core.errors import ConfigError


def explain(error: ValidationError, model: type[BaseModel], prefix: str = "") -> str:
    """One clear sentence per mistake: the key, what was required, what came, and the nearest known key."""
    sentences = []
    for mistake in error.errors():
        path = ".".join([prefix, *map(str, mistake["loc"])] if prefix else map(str, mistake["loc"]))
        if mistake["type"] == "extra_forbidden":
            known = known_keys(model, prefix)
            near = difflib.get_close_matches(path, known, n=1, cutoff=0.0)
            sentences.append(f"unknown key {path}" + (f"; did you mean {near[0]}?" if near else ""))
        elif mistake["type"] == "missing":
            sentences.append(f"{path} is required and was not given")
        elif mistake["type"] == "value_error":
            sentences.append(str(mistake["ctx"]["error"]))
        else:
            sentences.append(f"{path} = {mistake['input']!r}: {mistake['msg'][0].lower()}{mistake['msg'][1:]}")
    return "; ".join(sentences)


def known_keys(model: type[BaseModel], prefix: str = "") -> list[str]:
    """Every dotted key of a model and its sections."""
    keys = []
    for name, field in model.model_fields.items():
        path = f"{prefix}.{name}" if prefix else name
        section = next(
            (
                kind
                for kind in _alternatives(field.annotation)
                if isinstance(kind, type) and issubclass(kind, BaseModel)
            ),
            None,
        )
        keys += known_keys(section, path) if section else [path]
    return keys


def _alternatives(annotation: Any) -> tuple[Any, ...]:
    return getattr(annotation, "__args__", None) or (annotation,)


def presets_directory(folder: str = "presets") -> Path:
    """Where the shipped presets lie, or the sweeps."""
    import distrl.tune_configs

    return Path(distrl.tune_configs.__path__[0]) / folder


def read_toml(source: str | Path, folder: str = "presets") -> dict[str, Any]:
    """A preset (or what else is shipped in a folder), or a TOML file, as nested plain data.

    Raises:
        ConfigError: it does not exist or is not TOML.
    """
    path = Path(source)
    if path.suffix != ".toml":
        shipped, what = presets_directory(folder), folder.removesuffix("s")
        names = sorted(file.stem for file in shipped.glob("*.toml"))
        if str(source) not in names:
            near = difflib.get_close_matches(str(source), names, n=1, cutoff=0.0)
            raise ConfigError(
                f"there is no {what} {str(source)!r}; did you mean {near[0]!r}? The {folder} are {', '.join(names)}; "
                "a file of your own ends in .toml"
            )
        path = shipped / f"{source}.toml"
    try:
        return tomllib.loads(path.read_text())
    except OSError as error:
        raise ConfigError(f"the config {path} cannot be read: {error.strerror}") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"the config {path} is not valid TOML: {error}") from None


def apply_override(data: dict[str, Any], override: str) -> None:
    """Set ``key.path=value`` in nested plain data.

    Raises:
        ConfigError: not of that form, or a key on the way is not a table.
    """
    path, equals, text = override.partition("=")
    if not equals or not path.strip():
        raise ConfigError(f"an override has the form key.path=value, but {override!r} came")
    try:
        value = tomllib.loads(f"value = {text.strip()}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()
    *parents, last = path.strip().split(".")
    table = data
    for parent in parents:
        table = table.setdefault(parent, {})
        if not isinstance(table, dict):
            raise ConfigError(f"{path.strip()} cannot be set: {parent} is a value, not a table")
    table[last] = value
