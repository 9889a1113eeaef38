"""The shape of an image flows in, the shapes of what convolutions make of it flow out; and how this process keeps the
memory that they need (no torch)."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

from distrl.core.errors import ConfigError

#: Name → convolutions (channels, kernel, stride), and the width of the linear layer behind them. ``small``: Mnih et al.
#: 2013, arXiv 1312.5602, section 4.1; IMPALA's shallow model. ``large``: Mnih et al. 2015, doi 10.1038/nature14236.
LAYERS: dict[str, tuple[Sequence[tuple[int, int, int]], int]] = {
    "small": (((16, 8, 4), (32, 4, 2)), 256),
    "large": (((32, 8, 4), (64, 4, 2), (64, 3, 1)), 512),
}

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _NEVER = -1, -3, 2**30  # of glibc's malloc.h; bytes


def channels_last(shape: Sequence[int]) -> bool:
    """Whether the last axis of an image is its channels: it has fewer entries than the first."""
    return shape[-1] < shape[0]


def output_shapes(shape: Sequence[int], name: str) -> list[tuple[int, int, int]]:
    """Behind each convolution, (channels, height, width).

    Raises:
        ConfigError: the image is too small for them.
    """
    height, width = shape[:2] if channels_last(shape) else shape[1:]
    shapes = []
    for channels, kernel, stride in LAYERS[name][0]:
        height, width = ((size - kernel) // stride + 1 for size in (height, width))
        if min(height, width) < 1:
            raise ConfigError(
                f"algorithm.convolutions = {name!r} needs larger images than {list(shape)}: scale them up in a "
                "wrapper, or flatten them (gymnasium.wrappers.FlattenObservation) for a network without convolutions"
            )
        shapes.append((channels, height, width))
    return shapes


def keep_memory() -> None:
    """Let this process keep what memory it has had, instead of giving each large block back and taking it again.

    A minibatch of images is megabytes, whose pages the system must clear each time: that takes longer than the
    convolutions. Where the C library is not glibc, nothing happens.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _NEVER)
        mallopt(_M_TRIM_THRESHOLD, _NEVER)
