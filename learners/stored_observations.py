"""Observations flow into the slots of a ring and the rows of a side store; those of a sample batch flow out, from this
machine's memory as arrays, or as tensors from the learner's GPU, where nothing has to be copied for an update then.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from distrl.core.types import Observation

#: What torch has, but hardly computes with → what has as many bytes.
_STORED_AS = {np.dtype(f"u{size}"): np.dtype(f"i{size}") for size in (2, 4, 8)}
_MOST_OF_FREE = 0.5  # of a GPU's memory: the rest is for networks, what they compute, and other programs


class StoredObservations:
    """Of a replay. A *place* is a slot of the ring, or ``capacity + row`` of the side store, whose observations nobody
    acted on: those after an episode's end, and those whose action has not come yet.

    Args:
        specs: path → shape and dtype of one observation.
        device: where they are, and come as tensors; None: in this machine's memory, and as arrays.
    """

    def __init__(self, capacity: int, specs: Mapping[str, tuple[tuple[int, ...], np.dtype]], device: str | None):
        self._capacity, self._dtypes = capacity, {path: dtype for path, (_, dtype) in specs.items()}
        self._device, self._as_arrays = torch.device(device or "cpu"), device is None
        self._ring = {path: self._empty((capacity, *shape), dtype) for path, (shape, dtype) in specs.items()}
        self._side = {path: self._empty((0, *shape), dtype) for path, (shape, dtype) in specs.items()}

    @property
    def num_rows(self) -> int:
        """Of the side store."""
        return len(next(iter(self._side.values()))) if self._side else 0

    @property
    def nbytes(self) -> int:
        """Bytes of all, when full."""
        return sum(part.nbytes for part in (*self._ring.values(), *self._side.values()))

    def put(self, start: int, observation: Observation) -> None:
        """path → [N, …] into slots from ``start`` on, round the end."""
        for path, array in observation.items():
            head = min(len(array), self._capacity - start)
            self._write(self._ring[path][start : start + head], array[:head])
            self._write(self._ring[path][: len(array) - head], array[head:])

    def put_aside(self, rows: np.ndarray, observation: Observation) -> None:
        """path → [N, …] into rows of the side store, int64 [N]."""
        for path, array in observation.items():
            new = self._empty(array.shape, array.dtype)
            self._write(new, array)
            self._side[path].index_copy_(0, self._index(rows), new)

    def add_rows(self, count: int) -> None:
        """To the side store."""
        for path, part in self._side.items():
            new = self._empty((count, *part.shape[1:]), self._dtypes[path])
            self._side[path] = torch.cat([part, fill_impossible(new)])

    def forget(self, slots: slice) -> None:
        """Fill slots with what no environment sends."""
        for part in self._ring.values():
            fill_impossible(part[slots])

    def gather(self, slots: np.ndarray, following: np.ndarray) -> tuple[dict[str, Any], dict[str, Any]]:
        """Path → [S, …] in slots and at the places that follow them, int64 [S] each."""
        aside = np.flatnonzero(following >= self._capacity)
        parts = [slots, np.minimum(following, self._capacity - 1), aside, following[aside] - self._capacity]
        here, next_, aside_at, rows = self._index(np.concatenate(parts)).split([len(part) for part in parts])
        seen, after = {}, {}
        for path, ring in self._ring.items():
            seen[path] = self._given(path, ring.index_select(0, here))
            found = ring.index_select(0, next_)
            if len(aside):
                found.index_copy_(0, aside_at, self._side[path].index_select(0, rows))
            after[path] = self._given(path, found)
        return seen, after

    def _empty(self, shape: tuple[int, ...], dtype: np.dtype) -> Tensor:
        return torch.empty(shape, dtype=_torch_dtype(_STORED_AS.get(dtype, dtype)), device=self._device)

    def _given(self, path: str, part: Tensor) -> Any:
        if self._as_arrays:
            return part.numpy().view(self._dtypes[path])
        return part.view(_torch_dtype(self._dtypes[path]))

    def _index(self, numbers: np.ndarray) -> Tensor:
        """int64, on the device, by a copy that nothing waits for."""
        index = torch.from_numpy(numbers)
        if self._device.type == "cuda":
            index = index.pin_memory()
        return index.to(self._device, non_blocking=True)

    def _write(self, target: Tensor, array: np.ndarray) -> None:
        array = _stored(array)
        if self._device.type == "cpu":
            target.numpy()[...] = array
            return
        staged = torch.empty(target.shape, dtype=target.dtype, pin_memory=self._device.type == "cuda")
        staged.numpy()[...] = array
        target.copy_(staged, non_blocking=True)


def fits(num_bytes: float, device: str) -> bool:
    """Whether a replay of so many bytes belongs on this device: a GPU with at least twice as much memory that is
    free."""
    if torch.device(device).type != "cuda":
        return False
    free, _ = torch.cuda.mem_get_info(torch.device(device))
    return num_bytes <= _MOST_OF_FREE * free


def fill_impossible(part: Tensor | np.ndarray) -> Tensor:
    """Fill in place with what no environment sends: NaN, or the farthest integer (a bool has none)."""
    if isinstance(part, np.ndarray):
        part = torch.from_numpy(_stored(part))
    if part.dtype.is_floating_point:
        return part.fill_(torch.nan)
    if part.dtype is torch.bool:
        return part
    limits = torch.iinfo(part.dtype)
    return part.fill_(limits.max if part.dtype is torch.uint8 else limits.min)


def _stored(array: np.ndarray) -> np.ndarray:
    return array.view(_STORED_AS.get(array.dtype, array.dtype))


def _torch_dtype(dtype: np.dtype) -> torch.dtype:
    return torch.from_numpy(np.empty(0, dtype)).dtype
