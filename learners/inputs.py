"""An observation space flows in, the layout of a network's inputs flows out, and observations become rows of them.

Floats and integers enter as they are, a category as ones and zeros (Discrete, MultiDiscrete); images, which are uint8
Boxes of three axes, stay what they are. The entry ``action_mask`` of a Dict is no input but says which actions are
allowed: [N, number of logits], true or one where they are. The entry ``state`` is the last of the inputs: a central
critic sees all of them, its actor all but that one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np

from distrl.core.errors import ConfigError
from distrl.core.spaces import MASK, Leaf, leaves
from distrl.core.types import Observation

IMAGE = "image"
STATE = "state"  # entry of a Dict observation with a global state

#: Path → None for numbers, [lowest, highest] of each category, or IMAGE. Plain data, in the order of the inputs.
Layout = Mapping[str, Any]


def input_layout(space: gymnasium.Space, has_mask: bool) -> dict[str, Any]:
    """The layout of an observation space, sorted by path but for a ``state``, which is last.

    Args:
        has_mask: whether an entry ``action_mask`` is one: the actions are discrete.

    Raises:
        ConfigError: nothing to observe.
    """
    found = sorted(leaves(space), key=lambda leaf: (leaf.path == STATE, leaf.path))
    layout = {leaf.path: _kind(leaf) for leaf in found if not (has_mask and leaf.path == MASK)}
    if not layout:
        raise ConfigError(f"a policy needs something to observe; the observation space is {space}")
    return layout


def input_size(space: gymnasium.Space, layout: Layout) -> int:
    """D: numbers in one row of flat inputs."""
    shapes = {leaf.path: leaf.spec.shape for leaf in leaves(space)}
    return sum(
        math.prod(shapes[path]) if kind is None else sum(high - low + 1 for low, high in kind)
        for path, kind in layout.items()
        if kind != IMAGE
    )


def flat_inputs(observation: Observation, layout: Layout) -> np.ndarray:
    """All but images, path → [N, …] to float32 [N, D]."""
    parts = []
    for path, kind in layout.items():
        if kind == IMAGE:
            continue
        array = observation[path]
        values = array.reshape(len(array), math.prod(array.shape[1:]))
        if kind is None:
            parts.append(values)
        else:
            parts += [values[:, [i]] == np.arange(low, high + 1) for i, (low, high) in enumerate(kind)]
    joined = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)
    return joined.astype(np.float32, copy=False)


def image_paths(layout: Layout) -> list[str]:
    """Of the entries that are images."""
    return [path for path, kind in layout.items() if kind == IMAGE]


def _kind(leaf: Leaf) -> Any:
    if isinstance(leaf.space, gymnasium.spaces.Box):
        return IMAGE if leaf.spec.dtype == "uint8" and len(leaf.spec.shape) == 3 else None
    if isinstance(leaf.space, gymnasium.spaces.MultiBinary):
        return None
    lows, highs = (np.broadcast_to(bound, leaf.spec.shape).reshape(-1).tolist() for bound in (leaf.low, leaf.high))
    return [[low, high] for low, high in zip(lows, highs, strict=True)]
