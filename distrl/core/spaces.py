"""Gymnasium spaces in, the arrays that they are made of out: one "/"-path, shape and dtype each; and random actions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces

from distrl.core.errors import ConfigError, EnvironmentFault
from distrl.core.types import ARRAY, ArraySpec, Observation

#: Entry of a Dict observation (PettingZoo's name for it) that says which actions are allowed: one number for each
#: choice, those of several components one after the other.
MASK = "action_mask"


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


def nested(space: Any, arrays: Mapping[str, Any], keys: tuple[Any, ...] = ()) -> Any:
    """Arrays by "/"-path → in the form of an observation space: what ``leaves`` takes apart."""
    if isinstance(space, spaces.Dict):
        return {key: nested(part, arrays, (*keys, key)) for key, part in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(nested(part, arrays, (*keys, position)) for position, part in enumerate(space.spaces))
    return arrays["/".join(map(str, keys)) or ARRAY]


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
            "Box, Discrete, MultiDiscrete, MultiBinary, Dict and Tuple can be hosted: give it that form in a wrapper."
        )
    return Leaf(path, keys, space, ArraySpec(tuple(space.shape or ()), np.dtype(dtype).name), low, high)


def observation_leaves(space: Any) -> dict[str, ArraySpec]:
    """path → shape and dtype of an observation space's arrays. Raises ConfigError as ``leaves`` does."""
    return {leaf.path: leaf.spec for leaf in leaves(space)}


def empty_observation(found: list[Leaf], num_rows: int) -> Observation:
    """path → uninitialised array [num_rows, …] for each leaf."""
    return {leaf.path: np.empty((num_rows, *leaf.spec.shape), leaf.spec.dtype) for leaf in found}


def random_action(space: Any, observation: Any) -> Any:
    """Uniform over the action space, or over what the observation's entry ``action_mask`` allows of it.

    Raises:
        EnvironmentFault: it allows nothing.
    """
    mask = observation.get(MASK) if isinstance(observation, Mapping) else None
    leaf = _leaf(ARRAY, (), space)
    if mask is None or leaf.low is None:
        return space.sample()
    low, high = (np.broadcast_to(bound, leaf.spec.shape).reshape(-1) for bound in (leaf.low, leaf.high))
    choices = high - low + 1
    if np.size(mask) != choices.sum():  # no mask of these actions: an algorithm that takes it for one refuses it
        return space.sample()
    allowed = [np.flatnonzero(part) for part in np.split(np.ravel(mask), np.cumsum(choices)[:-1])]
    if not all(map(len, allowed)):
        raise EnvironmentFault(f"the observation's {MASK!r} allows no action at all", kind="protocol")
    chosen = [start + space.np_random.choice(part) for start, part in zip(low, allowed, strict=True)]
    return np.array(chosen, leaf.spec.dtype).reshape(leaf.spec.shape)[()]
