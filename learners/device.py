"""A batch's arrays flow in and lie on the device after one copy; what is computed there becomes one CUDA graph."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any, Protocol, TypeGuard

import numpy as np
import torch
from torch import Tensor

from distrl.learners.inputs import IMAGE, Layout, flat_inputs

_WARM_UPS = 3  # calls of a shape as they are, in which the libraries take what memory they need, before it is recorded
_MOST_GRAPHS = 16  # of one function: each keeps the memory of its results


def to_device(parts: Sequence[np.ndarray | Tensor], device: torch.device) -> list[Tensor]:
    """Arrays as float32 tensors of their shapes, by one copy that nothing waits for: on a GPU it is taken from pinned
    memory, and the next batch is sampled meanwhile. Bytes stay bytes, in copies of their own. Tensors are there
    already."""
    arrays = [part for part in parts if _becomes_float(part)]
    sizes = [array.size for array in arrays]
    packed = torch.empty(sum(sizes), pin_memory=device.type == "cuda")
    np.concatenate([array.reshape(-1) for array in arrays], out=packed.numpy(), casting="same_kind")
    arrived = iter(packed.to(device, non_blocking=True).split(sizes))
    return [next(arrived).view(part.shape) if _becomes_float(part) else _as_it_is(part, device) for part in parts]


def _becomes_float(part: np.ndarray | Tensor) -> TypeGuard[np.ndarray]:
    return isinstance(part, np.ndarray) and part.dtype != np.uint8


def _as_it_is(part: np.ndarray | Tensor, device: torch.device) -> Tensor:
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


class Captured:
    """A function of tensors, which on a GPU is recorded once for each shape of them and then launched as a whole.

    Its hundreds of small kernels would otherwise wait for Python. Results are valid until the next call.

    Args:
        function: from nested tuples of tensors and None, and flags by name, to nested tuples and dicts of tensors. It
            draws nothing and asks for no value; what else it reads or writes is in memory that stays where it is.
    """

    def __init__(self, function: Callable[..., Any], device: torch.device):
        self._function, self._device = function, device
        self._calls: Counter[Hashable] = Counter()
        self._recorded: dict[Hashable, tuple[Graph, Any, Any]] = {}

    def __call__(self, *inputs: Nested, **flags: Hashable) -> Any:
        """What the function gives."""
        if self._device.type not in GRAPHS:
            return self._function(*inputs, **flags)
        key = _shapes(inputs), tuple(flags.items())
        self._calls[key] += 1
        if key not in self._recorded:
            new = GRAPHS[self._device.type](self._device)
            if self._calls[key] <= _WARM_UPS or len(self._recorded) == _MOST_GRAPHS:
                return new.run(lambda: self._function(*inputs, **flags))
            own = _cloned(inputs)
            self._recorded[key] = new, own, new.record(lambda: self._function(*own, **flags))
        graph, own, results = self._recorded[key]
        for kept, part in zip(_tensors(own), _tensors(inputs), strict=True):
            kept.copy_(part)
        graph.replay()
        return results


Nested = Tensor | None | tuple["Nested", ...]


def _shapes(value: Nested) -> Hashable:
    if value is None:
        return None
    return (value.shape, value.dtype) if isinstance(value, Tensor) else tuple(map(_shapes, value))


def _tensors(value: Nested) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif value is not None:
        for part in value:
            yield from _tensors(part)


def _cloned(value: Any) -> Any:
    if value is None or isinstance(value, Tensor):
        return value if value is None else value.clone()
    parts = map(_cloned, value)
    return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)  # a NamedTuple's attributes are used


class Graph(Protocol):
    """What a device has been told to do, to be done again at once."""

    def run(self, work: Callable[[], Any]) -> Any:
        """Do it as it is."""

    def record(self, work: Callable[[], Any]) -> Any:
        """Keep what ``work`` would do, and do nothing; what will have its results."""

    def replay(self) -> None:
        """Do what has been kept."""


class CudaGraph:
    """See ``Graph``."""

    def __init__(self, device: torch.device):
        self._device, self._graph = device, torch.cuda.CUDAGraph()

    def run(self, work: Callable[[], Any]) -> Any:
        """Aside, as torch asks for of what comes before a recording."""
        with torch.cuda.device(self._device):
            aside, current = torch.cuda.Stream(), torch.cuda.current_stream()
            aside.wait_stream(current)
            with torch.cuda.stream(aside):
                results = work()
            current.wait_stream(aside)
        return results

    def record(self, work: Callable[[], Any]) -> Any:
        """See ``Graph``; other threads go on with their own work meanwhile."""
        with torch.cuda.device(self._device), torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
            return work()

    def replay(self) -> None:
        """See ``Graph``."""
        self._graph.replay()


GRAPHS: dict[str, Callable[[torch.device], Graph]] = {"cuda": CudaGraph}  # by type of device; elsewhere work is done
