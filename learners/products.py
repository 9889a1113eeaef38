"""Matrices flow in, their products flow out, by the fastest library that torch brings for the device.

On a CPU that is oneDNN where torch has it: on an AMD EPYC it takes half of the time of the BLAS behind ``torch.mm``,
and a ReLU behind the product costs nothing. And how this process keeps the memory that they need.
"""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

_HAS_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _NEVER = -1, -3, 2**30  # of glibc's malloc.h; bytes


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None, relu: bool = False) -> Tensor:
    """x · weight + bias, and the larger of that and 0 if ``relu``; float32 [(E,) N, M].

    Args:
        x: [(E,) N, K], of any strides. weight: [(E,) K, M], of any strides. bias: [M], or [E, 1, M].
    """
    if _HAS_ONEDNN and x.device.type == "cpu" and weight.dim() == 2 and weight.shape[1] > 1:
        return torch.ops.mkldnn._linear_pointwise(x, weight.t(), bias, "relu" if relu else "none", [], "")
    if bias is None:
        out = torch.matmul(x, weight)
    else:
        out = torch.addmm(bias, x, weight) if weight.dim() == 2 else torch.baddbmm(bias, x, weight)
    return torch.relu_(out) if relu else out


def keep_memory() -> None:
    """Let this process keep what memory it has had, instead of giving each large block back and taking it again.

    What lies between the layers of networks is megabytes, whose pages the system must clear each time: that takes a
    third of SAC's update, and longer than the convolutions of images. Where the C library is not glibc, nothing
    happens.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _NEVER)
        mallopt(_M_TRIM_THRESHOLD, _NEVER)
