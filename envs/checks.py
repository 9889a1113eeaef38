"""What an environment returned goes in; plain validated values come out, or an EnvironmentFault with one sentence.

Both pools and ``describe`` use these functions at every step, so they are cheap: a few microseconds for a small
observation.

Rules for an observation, per array of its space: the shape must be the space's. Its dtype must convert to the space's
without changing what it means: floats and integers into floats, integers and bools into integers where every value
    fits,
never floats into integers. All floats must be finite. Discrete, MultiDiscrete and MultiBinary values must lie in their
space; the bounds of a Box are not enforced (many environments exceed theirs by rounding, and nothing downstream
breaks).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces

from distrl.core.errors import ConfigError, EnvironmentFault
from distrl.core.types import ARRAY, ArraySpec, Observation

MAX_INFO_STRING = 200  # characters; longer strings of ``info`` are no plain scalars
MAX_INFO_ENTRIES = 200


@dataclass(frozen=True)
class Leaf:
    """One array of an observation space.

    Attributes:
        path: "/"-path, or ARRAY. keys: how to reach the value: dict keys and tuple positions.
        space: its Box, Discrete, MultiDiscrete or MultiBinary. spec: shape and dtype.
        low, high: inclusive integer bounds [shape] or scalars, None for a Box.
    """

    path: str
    keys: tuple[Any, ...]
    space: Any
    spec: ArraySpec
    low: Any
    high: Any


def leaves(space: Any) -> list[Leaf]:
    """The arrays of an observation space: Dict keys in the space's order, Tuple positions as "0", "1", …

    Raises:
        ConfigError: a space that has no fixed arrays (Text, Graph, Sequence, OneOf), or a Dict key with "/" in it.
    """
    found = [_leaf("/".join(str(k) for k in keys) or ARRAY, keys, leaf) for keys, leaf in _walk(space, ())]
    if len({leaf.path for leaf in found}) != len(found):
        raise ConfigError(f"observation space: two entries have one path: {[leaf.path for leaf in found]}.")
    return found


def action_leaf(space: Any) -> ArraySpec:
    """Shape and dtype of one action; Discrete is int64 [].

    Raises:
        ConfigError: a Dict, Tuple or other space that is not a single array.
    """
    if not isinstance(space, (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)):
        raise ConfigError(
            "action space must be Box, Discrete, MultiDiscrete or MultiBinary; "
            f"it is {type(space).__name__}: flatten it in the environment."
        )
    return _leaf(ARRAY, (), space).spec


def _walk(space: Any, keys: tuple[Any, ...]) -> Iterator[tuple[tuple[Any, ...], Any]]:
    if isinstance(space, spaces.Dict):
        for key, sub in space.spaces.items():
            if "/" in str(key):
                raise ConfigError(f"observation space: the key {key!r} must not contain '/'.")
            yield from _walk(sub, (*keys, key))
    elif isinstance(space, spaces.Tuple):
        for position, sub in enumerate(space.spaces):
            yield from _walk(sub, (*keys, position))
    else:
        yield keys, space


def _leaf(path: str, keys: tuple[Any, ...], space: Any) -> Leaf:
    low: Any = None
    high: Any = None
    dtype: Any = getattr(space, "dtype", None)
    if isinstance(space, spaces.Box):
        if dtype.kind not in "fiub":
            raise ConfigError(f"space {path!r}: dtype must be float, int or bool; it is {dtype}.")
    elif isinstance(space, spaces.Discrete):
        low, high = int(space.start), int(space.start) + int(space.n) - 1
    elif isinstance(space, spaces.MultiDiscrete):
        low = np.broadcast_to(getattr(space, "start", 0), space.nvec.shape)
        high = np.add(low, space.nvec) - 1
    elif isinstance(space, spaces.MultiBinary):
        low, high = 0, 1
    else:
        raise ConfigError(
            f"observation space: {path!r} is a {type(space).__name__}; "
            "Box, Discrete, MultiDiscrete, MultiBinary, Dict and Tuple can be hosted."
        )
    return Leaf(path, keys, space, ArraySpec(tuple(space.shape or ()), np.dtype(dtype).name), low, high)


def write_observation(value: Any, targets: list[tuple[Leaf, np.ndarray]], where: str) -> None:
    """Validate an observation and write it into preallocated arrays.

    Args:
        value: what the environment returned. targets: each leaf with its array (leaf.spec's shape and dtype).
        where: "reset" or "step", for the message.

    Raises:
        EnvironmentFault: kind ``protocol``; the targets then hold rubbish.
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
            raise _wrong(where, leaf, "finite numbers", f"{entry} ({bad.size} of {target.size} not finite)")


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


def _wrong(where: str, leaf: Leaf, required: str, came: str) -> EnvironmentFault:
    name = "observation" if leaf.path == ARRAY else f"observation {leaf.path!r}"
    return EnvironmentFault(f"{where} must return an {name} with {required}; it returned {came}.", "protocol")


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
        raise EnvironmentFault(f"step must return a finite reward; it returned {reward}.", "protocol")
    if abs(reward) > 3.4e38:
        raise EnvironmentFault(f"step must return a reward that fits float32; it returned {reward}.", "protocol")
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


def observation_leaves(space: Any) -> dict[str, ArraySpec]:
    """path → shape and dtype of an observation space's arrays. Raises ConfigError as ``leaves`` does."""
    return {leaf.path: leaf.spec for leaf in leaves(space)}


def flatten_observation(space: Any, observation: Any) -> Observation:
    """path → array of one observation, validated; new arrays without a row axis (for a single use, not for a loop)."""
    targets = [(leaf, np.empty(leaf.spec.shape, leaf.spec.dtype)) for leaf in leaves(space)]
    write_observation(observation, targets, "the environment")
    return {leaf.path: target for leaf, target in targets}


def empty_observation(found: list[Leaf], num_rows: int) -> Observation:
    """path → uninitialised array [num_rows, …] for each leaf."""
    return {leaf.path: np.empty((num_rows, *leaf.spec.shape), leaf.spec.dtype) for leaf in found}


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
