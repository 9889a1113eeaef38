"""Work flows in, seconds flow out, taken side by side; and what the machine gives: products, memory, its name."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Mapping

import numpy as np
import torch

from distrl.learners.products import product


def interleaved(
    works: Mapping[str, Callable[[int], object]], seconds: float, device: str, calls: int = 10
) -> dict[str, float]:
    """Median seconds of a call of each, taken in turns of ``calls`` so that a busy neighbour slows all of them
    alike."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for work in works.values():
        for i in range(2 * calls):
            work(i)
    begun, until = 2 * calls, time.perf_counter() + seconds
    while time.perf_counter() < until:
        for name, work in works.items():
            _wait(device)
            started = time.perf_counter()
            for i in range(begun, begun + calls):
                work(i)
            _wait(device)
            times[name].append((time.perf_counter() - started) / calls)
        begun += calls
    return {name: float(np.median(values)) for name, values in times.items()}


def machine_works(num_rows: int, width: int, num_parameters: int, device: str) -> dict[str, Callable[[int], object]]:
    """To be measured beside an update: what it could not be faster than.

    ``product`` and ``torch_mm``: of [num_rows, width] and [width, width], by our means and by torch's. ``memory``: two
    vectors of as many elements as the parameters are read and one is written.
    """
    rows, square = torch.randn(num_rows, width, device=device), torch.randn(width, width, device=device)
    first, second, total = torch.ones((3, num_parameters), device=device)
    return {
        "product": lambda _: product(rows, square),
        "torch_mm": lambda _: torch.mm(rows, square),
        "memory": lambda _: torch.add(first, second, out=total),
    }


def floor(
    median_s: Mapping[str, float], num_rows: int, width: int, num_parameters: int, multiplications: int, num_bytes: int
) -> dict[str, float]:
    """Updates/s that arithmetic and bytes alone would allow, at the rates of ``machine_works``."""
    product_s, memory_s = median_s["product"], median_s["memory"]
    return {
        "product_bound_updates_per_s": _four_digits(num_rows * width**2 / (multiplications * product_s)),
        "torch_mm_bound_updates_per_s": _four_digits(num_rows * width**2 / (multiplications * median_s["torch_mm"])),
        "memory_bound_updates_per_s": _four_digits(12 * num_parameters / (num_bytes * memory_s)),
        "gflop_per_s_of_products": _four_digits(2e-9 * num_rows * width**2 / product_s),
        "gbyte_per_s_of_memory": _four_digits(12e-9 * num_parameters / memory_s),
    }


def machine(device: str, threads: int) -> dict[str, object]:
    """What the figures were taken on."""
    return {
        "device": torch.cuda.get_device_name() if device.startswith("cuda") else device,
        "threads": threads,
        "machine": f"{platform.machine()} {_processor()}",
        "torch": torch.__version__,
    }


def _four_digits(value: float) -> float:
    return float(f"{value:.4g}")


def _wait(device: str) -> None:
    if device != "cpu":
        torch.accelerator.synchronize()


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as lines:
            return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()
