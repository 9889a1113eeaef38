"""An observation space flows in, the layout of a network's flat inputs flows out, and observations become rows of it.

Floats and integers enter as they are, a category as ones and zeros (Discrete, MultiDiscrete). The entry
``action_mask`` of a Dict (PettingZoo's name for it) is no input but says which actions are allowed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np

from distrl.core.errors import ConfigError
from distrl.core.spaces import Leaf, leaves
from distrl.core.types import Observation

MASK = "action_mask"  # path of the allowed actions, [N, number of logits], true or one where allowed

#: Path → None for numbers, or [lowest, highest] of each category. Plain data, in the order of the inputs.
Layout = Mapping[str, Any]


def input_layout(space: gymnasium.Space, has_mask: bool) -> dict[str, Any]:
    """The layout of an observation space, sorted by path.

    Args:
        has_mask: whether an entry ``action_mask`` is one: the actions are discrete.

    Raises:
        ConfigError: an image, which a network of plain layers makes nothing of, or nothing to observe.
    """
    found = sorted(leaves(space), key=lambda leaf: leaf.path)
    used = [leaf for leaf in found if not (has_mask and leaf.path == MASK)]
    if not used:
        raise ConfigError(f"a policy needs something to observe; the observation space is {space}")
    for leaf in used:
        if is_image(leaf):
            raise ConfigError(
                f"MLP networks need flat observations; {leaf.path!r} is an image, {leaf.space}: flatten or encode it "
                "in a wrapper"
            )
    return {leaf.path: _categories(leaf) for leaf in used}


def input_size(space: gymnasium.Space, layout: Layout) -> int:
    """Numbers in one row of inputs."""
    shapes = {leaf.path: leaf.spec.shape for leaf in leaves(space)}
    return sum(
        int(np.prod(shapes[path])) if categories is None else sum(high - low + 1 for low, high in categories)
        for path, categories in layout.items()
    )


def flat_inputs(observation: Observation, layout: Layout) -> np.ndarray:
    """path → [N, …] to float32 [N, D]."""
    parts = []
    for path, categories in layout.items():
        array = observation[path]
        values = array.reshape(len(array), math.prod(array.shape[1:]))
        if categories is None:
            parts.append(values)
        else:
            parts += [values[:, [i]] == np.arange(low, high + 1) for i, (low, high) in enumerate(categories)]
    joined = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)
    return joined.astype(np.float32, copy=False)


def is_image(leaf: Leaf) -> bool:
    """Whether a leaf is a uint8 Box of three axes."""
    return isinstance(leaf.space, gymnasium.spaces.Box) and leaf.spec.dtype == "uint8" and len(leaf.spec.shape) == 3


def _categories(leaf: Leaf) -> list[list[int]] | None:
    if not isinstance(leaf.space, (gymnasium.spaces.Discrete, gymnasium.spaces.MultiDiscrete)):
        return None
    lows, highs = (np.broadcast_to(bound, leaf.spec.shape).reshape(-1).tolist() for bound in (leaf.low, leaf.high))
    return [[low, high] for low, high in zip(lows, highs, strict=True)]
