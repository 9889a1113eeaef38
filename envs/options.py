"""An environment's option in, the same option checked out; or a ConfigError that says what was required and why."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from distrl.core.errors import ConfigError


def require(condition: bool, message: str) -> None:
    """A ConfigError with ``message`` unless the condition holds."""
    if not condition:
        raise ConfigError(message)


def number(owner: str, name: str, value: Any, low: float, high: float, why: str) -> float:
    """``value`` as a float in [low, high]; ``owner`` is the environment and ``why`` the reason for the range."""
    real = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
    require(
        real and math.isfinite(value) and low <= value <= high,
        f"{owner} needs {name} between {low:g} and {high:g}, got {value!r}: {why}.",
    )
    return float(value)


def count(owner: str, name: str, value: Any, low: int = 1) -> int:
    """``value`` as an int of at least ``low``."""
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    require(whole and value >= low, f"{owner} needs {name} to be a whole number >= {low}, got {value!r}.")
    return int(value)


def flag(owner: str, name: str, value: Any) -> bool:
    """``value`` as a bool."""
    require(isinstance(value, bool | np.bool_), f"{owner} needs {name} to be true or false, got {value!r}.")
    return bool(value)


def one_of(owner: str, name: str, value: Any, choices: Sequence[str]) -> str:
    """``value`` if it is one of ``choices``."""
    require(
        isinstance(value, str) and value in choices,
        f"{owner} needs {name} to be one of {', '.join(choices)}, got {value!r}: choose one of these.",
    )
    return value
