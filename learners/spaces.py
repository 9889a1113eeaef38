"""Gymnasium spaces flow in; the flat input layout and the action bounds of networks flow out (no torch)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import gymnasium
import numpy as np

from distrl.core.errors import ConfigError
from distrl.core.spaces import leaves
from distrl.core.types import ArraySpec, Observation


def observation_leaves(space: gymnasium.Space) -> dict[str, ArraySpec]:
    """Path → spec of every leaf, sorted by path: the order in which networks see them.

    Raises:
        ConfigError: a leaf that is not a Box of floats.
    """
    found = leaves(space)
    for leaf in found:
        if not isinstance(leaf.space, gymnasium.spaces.Box) or not np.issubdtype(leaf.space.dtype, np.floating):
            raise ConfigError(
                f"MLP networks need observations that are Boxes of floats; {leaf.path!r} is {leaf.space}: "
                "flatten or scale it in a wrapper"
            )
    return {leaf.path: leaf.spec for leaf in sorted(found, key=lambda leaf: leaf.path)}


def flat_size(specs: Mapping[str, ArraySpec]) -> int:
    """Numbers in one flattened observation."""
    return sum(int(np.prod(spec.shape)) for spec in specs.values())


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
