"""A batch's arrays flow in, tensors on the device flow out, after one copy that nothing waits for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeGuard

import numpy as np
import torch
from torch import Tensor

from distrl.learners.inputs import IMAGE, Layout, flat_inputs


def to_device(parts: Sequence[np.ndarray | Tensor], device: torch.device) -> list[Tensor]:
    """Arrays as float32 tensors of their shapes, by one copy that nothing waits for: on a GPU it is taken from pinned
    memory, and the next batch is sampled meanwhile. Bytes stay bytes, in copies of their own. Tensors are there
    already."""
    arrays = [part for part in parts if _becomes_float(part)]
    sizes = [array.size for array in arrays]
    packed = torch.empty(sum(sizes), pin_memory=device.type == "cuda")
    np.concatenate([array.reshape(-1) for array in arrays], out=packed.numpy(), casting="same_kind")
    arrived = iter(packed.to(device, non_blocking=True).split(sizes))
    return [next(arrived).view(part.shape) if _becomes_float(part) else _by_itself(part, device) for part in parts]


def _becomes_float(part: np.ndarray | Tensor) -> TypeGuard[np.ndarray]:
    return isinstance(part, np.ndarray) and part.dtype != np.uint8


def _by_itself(part: np.ndarray | Tensor, device: torch.device) -> Tensor:
    if isinstance(part, Tensor):
        return part if part.dtype == torch.uint8 else part.float()
    host = torch.from_numpy(np.require(part, requirements=["C", "W"]))  # torch warns of what cannot be written to
    return (host.pin_memory() if device.type == "cuda" else host).to(device, non_blocking=True)


def joined(observation: dict[str, Any], layout: Layout) -> Any:
    """``flat_inputs`` of arrays, and the same of tensors, where they are."""
    if not any(isinstance(part, Tensor) for part in observation.values()):
        return flat_inputs(observation, layout)
    parts = []
    for path, kind in layout.items():
        if kind == IMAGE:
            continue
        values = observation[path].reshape(len(observation[path]), -1)
        if kind is None:
            parts.append(values.float())
            continue
        for i, (low, high) in enumerate(kind):
            categories = torch.arange(low, high + 1, device=values.device)
            parts.append((values[:, [i]].long() == categories).float())
    return parts[0] if len(parts) == 1 else torch.cat(parts, 1)
