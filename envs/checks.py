"""What an environment returned goes in; plain validated values come out, or an EnvironmentFault with one sentence.

Both pools and ``describe`` use these functions at every step, so they are cheap: a few microseconds for a small
observation.

Rules for an observation, per array of its space: the shape must be the space's. Its dtype must convert to the space's
without changing what it means: floats and integers into floats, integers and bools into integers where every value
fits, never floats into integers. All floats must be finite. Discrete, MultiDiscrete and MultiBinary values must lie in
their space; the bounds of a Box are not enforced (many environments exceed theirs by rounding, and nothing downstream
breaks).
"""

from __future__ import annotations

import errno
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from distrl.core.errors import EnvironmentFault
from distrl.core.spaces import Leaf, leaves
from distrl.core.types import ARRAY, Observation

MAX_INFO_STRING = 200  # characters; longer strings of ``info`` are no plain scalars
MAX_INFO_ENTRIES = 200


def write_observation(value: Any, targets: list[tuple[Leaf, np.ndarray]], where: str) -> None:
    """Validate an observation and write it into preallocated arrays.

    Args:
        value: what the environment returned. targets: each leaf with its array (leaf.spec's shape and dtype).
        where: "reset" or "step", for the message.

    Raises:
        EnvironmentFault: kind ``divergence`` (not finite) or ``protocol``; the targets then hold rubbish.
    """
    for leaf, target in targets:
        part = _reach(value, leaf, where)
        try:
            array = np.asarray(part)
        except ValueError as error:
            raise _wrong(where, leaf, f"{leaf.spec.dtype} {leaf.spec.shape}", f"ragged sequence ({error})") from error
        if array.shape != target.shape:
            raise _wrong(where, leaf, f"shape {target.shape}", f"shape {array.shape}")
        kind, wanted = array.dtype.kind, target.dtype.kind
        if kind not in "fiub" or (kind == "f" and wanted != "f"):
            raise _wrong(where, leaf, f"dtype {target.dtype}", f"dtype {array.dtype}")
        if wanted in "iub":
            _check_integers(array, target.dtype, leaf, where)
        with np.errstate(over="ignore"):  # a float64 beyond float32 becomes inf and is refused just below
            target[...] = array
        if wanted == "f" and not np.isfinite(target).all():
            bad = np.flatnonzero(~np.isfinite(target.reshape(-1)))
            entry = f"{array.reshape(-1)[bad[0]]} at flat index {bad[0]}"
            came = f"{entry} ({bad.size} of {target.size} not finite)"
            raise _wrong(where, leaf, "finite numbers", came, "divergence")


def _reach(value: Any, leaf: Leaf, where: str) -> Any:
    for key in leaf.keys:
        try:
            value = value[key]
        except (KeyError, IndexError, TypeError) as error:
            had = f"keys {list(value)}" if isinstance(value, Mapping) else f"a {type(value).__name__}"
            raise _wrong(where, leaf, f"an entry {key!r}", had) from error
    return value


def _check_integers(array: np.ndarray, dtype: np.dtype, leaf: Leaf, where: str) -> None:
    if array.size == 0:
        return
    if leaf.low is not None:
        if np.any(array < leaf.low) or np.any(array > leaf.high):
            raise _wrong(where, leaf, f"a value of {leaf.space}", f"{array.tolist()}")
    elif array.dtype != dtype and not np.can_cast(array.dtype, dtype):
        limits = (0, 1) if dtype.kind == "b" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
        low, high = int(array.min()), int(array.max())
        if low < limits[0] or high > limits[1]:
            raise _wrong(where, leaf, f"values that fit {dtype}", f"{low} … {high}")


def _wrong(where: str, leaf: Leaf, required: str, came: str, kind: str = "protocol") -> EnvironmentFault:
    name = "observation" if leaf.path == ARRAY else f"observation {leaf.path!r}"
    return EnvironmentFault(f"{where} must return an {name} with {required}; it returned {came}.", kind)


def unpack_reset(result: Any) -> Any:
    """The observation of what ``reset`` returned."""
    if not (isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], Mapping)):
        raise EnvironmentFault(
            f"reset must return (observation, info dict); it returned {_shape_of(result)}.", "protocol"
        )
    return result[0]


def unpack_step(result: Any) -> tuple[Any, float, bool, bool, Mapping[str, Any]]:
    """(observation, reward, terminated, truncated, info) of a ``step``; only the observation is unchecked yet."""
    if not (isinstance(result, tuple) and len(result) == 5):
        raise EnvironmentFault(
            f"step must return (observation, reward, terminated, truncated, info); it returned {_shape_of(result)}.",
            "protocol",
        )
    observation, reward, terminated, truncated, info = result
    if type(reward) is not float:
        reward = _real(reward)
    if not math.isfinite(reward):
        raise EnvironmentFault(f"step must return a finite reward; it returned {reward}.", "divergence")
    if abs(reward) > 3.4e38:
        raise EnvironmentFault(f"step must return a reward that fits float32; it returned {reward}.", "divergence")
    for name, flag in (("terminated", terminated), ("truncated", truncated)):
        if not isinstance(flag, (bool, np.bool_)):
            raise EnvironmentFault(
                f"step must return a bool as {name}; it returned {flag!r} of type {type(flag).__name__}.", "protocol"
            )
    if not isinstance(info, Mapping):
        raise EnvironmentFault(f"step must return a dict as info; it returned {_shape_of(info)}.", "protocol")
    return observation, reward, bool(terminated), bool(truncated), info


def _real(reward: Any) -> float:
    array = np.asarray(reward) if isinstance(reward, (int, float, np.generic, np.ndarray)) else None
    if array is None or array.ndim != 0 or array.dtype.kind not in "fiub":
        raise EnvironmentFault(
            f"step must return a real number as reward; it returned {_shape_of(reward)}.", "protocol"
        )
    return float(array)


def _shape_of(value: Any) -> str:
    if isinstance(value, tuple):
        return f"a tuple of {len(value)} ({', '.join(type(v).__name__ for v in value)})"
    if isinstance(value, np.ndarray):
        return f"an array of shape {value.shape} and dtype {value.dtype}"
    return f"{value!r:.80} of type {type(value).__name__}"


def plain_scalars(info: Mapping[str, Any]) -> dict[str, Any]:
    """The bools, ints, floats and short strings of an ``info``, numpy scalars converted; all else is left out."""
    plain: dict[str, Any] = {}
    for key, value in info.items():
        if isinstance(value, (np.generic, np.ndarray)) and value.ndim == 0:
            value = value.item()
        if isinstance(value, (bool, int, float)) or (isinstance(value, str) and len(value) <= MAX_INFO_STRING):
            plain[str(key)] = value
            if len(plain) == MAX_INFO_ENTRIES:
                break
    return plain


def flatten_observation(space: Any, observation: Any) -> Observation:
    """path → array of one observation, validated; new arrays without a row axis (for a single use, not for a loop)."""
    targets = [(leaf, np.empty(leaf.spec.shape, leaf.spec.dtype)) for leaf in leaves(space)]
    write_observation(observation, targets, "the environment")
    return {leaf.path: target for leaf, target in targets}


def fault_kind(error: BaseException) -> str:
    """``memory``, ``disk``, ``divergence`` or ``error``: what an exception, or what it was raised from, tells of."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, MemoryError):
            return "memory"
        if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
            return "disk"
        if isinstance(cause, FloatingPointError):
            return "divergence"
        cause = cause.__cause__
    return "error"


def describe_exception(error: BaseException, skip: tuple[str, ...] = ()) -> str:
    """``ExceptionType: text (file:line)``, the line being the innermost one outside installed packages, if any.

    Args:
        skip: file names of the hosting code, which are never the cause.
    """
    frames = []
    traceback = error.__traceback__
    while traceback is not None:
        frames.append((traceback.tb_frame.f_code.co_filename, traceback.tb_lineno))
        traceback = traceback.tb_next
    frames = [f for f in frames if not f[0].endswith(skip)] if skip else frames
    own = [f for f in frames if "site-packages" not in f[0] and not f[0].startswith("<")] or frames
    place = f" ({own[-1][0]}:{own[-1][1]})" if own else ""
    text = str(error).strip()
    return f"{type(error).__name__}{': ' + text if text else ''}{place}"
