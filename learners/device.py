"""A batch's arrays flow in and lie on the device after one copy; what is computed there becomes one CUDA graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from distrl.learners.inputs import IMAGE, Layout, flat_inputs

_WARM_UPS = 3  # calls before a graph is recorded, in which the libraries take what memory they need


def to_device(parts: Sequence[np.ndarray | Tensor], device: torch.device) -> list[Tensor]:
    """Arrays as float32 tensors of their shapes, by one copy that nothing waits for: on a GPU it is taken from pinned
    memory, and the next batch is sampled meanwhile. Tensors are there already."""
    arrays = [part for part in parts if isinstance(part, np.ndarray)]
    sizes = [array.size for array in arrays]
    packed = torch.empty(sum(sizes), pin_memory=device.type == "cuda")
    np.concatenate([array.reshape(-1) for array in arrays], out=packed.numpy(), casting="same_kind")
    arrived = iter(packed.to(device, non_blocking=True).split(sizes))
    return [part.float() if isinstance(part, Tensor) else next(arrived).view(part.shape) for part in parts]


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


class Captured:
    """A function of tensors, which on a GPU is recorded once for each shape of them and then launched as a whole.

    Its hundreds of small kernels would otherwise wait for Python. Results are valid until the next call.

    Args:
        function: from tensors to (nested tuples and dicts of) tensors; it changes nothing, draws nothing, and reads
            what else it needs from memory that stays where it is.
    """

    def __init__(self, function: Callable[..., Any], device: torch.device):
        self._function, self._device = function, device
        self._recorded: dict[tuple[torch.Size, ...], tuple[torch.cuda.CUDAGraph, list[Tensor], Any]] = {}

    def __call__(self, *inputs: Tensor) -> Any:
        """What the function gives."""
        if self._device.type != "cuda":
            return self._function(*inputs)
        shapes = tuple(part.shape for part in inputs)
        if shapes not in self._recorded:
            self._recorded[shapes] = self._record([part.clone() for part in inputs])
        graph, own, results = self._recorded[shapes]
        for kept, part in zip(own, inputs, strict=True):
            kept.copy_(part)
        graph.replay()
        return results

    def _record(self, inputs: list[Tensor]) -> tuple[torch.cuda.CUDAGraph, list[Tensor], Any]:
        with torch.cuda.device(self._device):
            aside, current = torch.cuda.Stream(), torch.cuda.current_stream()
            aside.wait_stream(current)
            with torch.cuda.stream(aside):
                for _ in range(_WARM_UPS):
                    self._function(*inputs)
            current.wait_stream(aside)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # other threads go on with theirs
                results = self._function(*inputs)
        return graph, inputs, results
