"""A function of tensors flows in, one that a GPU is told once and then does as a whole flows out: as a CUDA graph."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterator
from typing import Any, Protocol

import torch
from torch import Tensor

_WARM_UPS = 3  # calls of a shape as they are, in which the libraries take what memory they need, before it is recorded
_MOST_GRAPHS = 16  # of one function: each keeps the memory of its results


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
        if key not in self._recorded:
            new = GRAPHS[self._device.type](self._device)
            full = len(self._recorded) == _MOST_GRAPHS
            if full or self._calls[key] < _WARM_UPS:
                self._calls[key] += not full
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
        self._device = device

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
        with torch.cuda.device(self._device):
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
                return work()

    def replay(self) -> None:
        """See ``Graph``."""
        self._graph.replay()


GRAPHS: dict[str, Callable[[torch.device], Graph]] = {"cuda": CudaGraph}  # by type of device; elsewhere work is done
