"""Gymnasium spaces flow in; the flat input layout and the action bounds of networks flow out (no torch)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import gymnasium
import numpy as np

from distrl.core.errors import ConfigError
from distrl.core.types import ARRAY, ArraySpec, Observation


def observation_leaves(space: gymnasium.Space) -> dict[str, ArraySpec]:
    """Path → spec of every leaf, sorted by path: the order in which networks see them.

    Raises:
        ConfigError: a leaf that is not a Box of floats.
    """
    leaves: dict[str, ArraySpec] = {}

    def walk(part: gymnasium.Space, path: str) -> None:
        children: Iterable[tuple[Any, gymnasium.Space]] = ()
        if isinstance(part, gymnasium.spaces.Dict):
            children = part.spaces.items()
        elif isinstance(part, gymnasium.spaces.Tuple):
            children = enumerate(part.spaces)
        elif not isinstance(part, gymnasium.spaces.Box) or not np.issubdtype(part.dtype, np.floating):
            raise ConfigError(
                f"MLP networks need observations that are Boxes of floats; {path or 'the observation'} is {part}: "
                "flatten or scale it in a wrapper"
            )
        else:
            leaves[path or ARRAY] = ArraySpec(part.shape, str(part.dtype))
        for name, child in children:
            walk(child, f"{path}/{name}" if path else str(name))

    walk(space, "")
    return dict(sorted(leaves.items()))


def flat_size(leaves: Mapping[str, ArraySpec]) -> int:
    """Numbers in one flattened observation."""
    return sum(int(np.prod(spec.shape)) for spec in leaves.values())


def flatten(observation: Observation, paths: Iterable[str]) -> np.ndarray:
    """path → [N, …] in the order of ``paths`` → float32 [N, D]."""
    parts = [observation[path].reshape(len(observation[path]), -1) for path in paths]
    joined = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)
    return joined.astype(np.float32, copy=False)


def bounded_box(space: gymnasium.Space, algorithm: str) -> gymnasium.spaces.Box:
    """The action space, if it is a Box of floats with finite, distinct bounds.

    Raises:
        ConfigError: it is not.
    """
    if not isinstance(space, gymnasium.spaces.Box) or not np.issubdtype(space.dtype, np.floating):
        raise ConfigError(
            f"{algorithm} needs a continuous action space (a Box of floats); got {space}: choose another algorithm"
        )
    if not np.all(np.isfinite(space.low) & np.isfinite(space.high) & (space.low < space.high)):
        raise ConfigError(
            f"{algorithm} needs action bounds that are finite with low < high; got {space}: "
            "wrap the environment in gymnasium.wrappers.RescaleAction"
        )
    return space
