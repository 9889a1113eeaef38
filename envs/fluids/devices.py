"""A wish for a device in, the device that shall advance a fluid out; Warp is imported only when a GPU is asked for."""

import ctypes
import importlib.util

import numpy as np

from distrl.core.errors import ConfigError
from distrl.envs.fluids.fluid import Fluid

# Below it a lattice step on a GPU may take as long as starting its kernels and, with filaments, a round trip: 30 to 200
# µs, in which one core updates up to 100,000 cells. An estimate on the safe side: no GPU was there to measure it,
# ``python -m benchmarks.gpu`` does.
WORTHWHILE_CELLS = 200_000


def resolve(device: str, fluid: Fluid) -> str:
    """The device that advances ``fluid``: "cpu", or the name of a Warp device.

    What may be asked for: "cpu", one core, compiled by numba. "cuda", "cuda:1" …, that GPU, through Warp. "auto", the
    first GPU if there is one, Warp is installed and the fluid has at least ``WORTHWHILE_CELLS``, else the CPU.
    "warp:cpu", the GPU's kernels on one core: slow, and how they are tested.

    Raises:
        ConfigError: the device is not there, or cannot take the fluid.
    """
    if device == "cpu":
        return device
    if device == "auto":
        large = fluid.nx * fluid.ny >= WORTHWHILE_CELLS and fluid.dtype is np.float32
        return "cuda:0" if large and _installed() and _cuda_devices() else "cpu"
    kind, _, index = device.partition(":")
    if device != "warp:cpu" and (kind != "cuda" or not (index.isdecimal() or device == "cuda")):
        raise ConfigError(f'a scene needs device to be "cpu", "auto", "cuda", or "cuda:0" and so on; got {device!r}.')
    if not _installed():
        raise ConfigError(
            f"device={device!r} needs NVIDIA Warp, which is not installed: pip install 'distrl[gpu]', or use \"cpu\"."
        )
    if fluid.dtype is not np.float32:
        raise ConfigError(f'device={device!r} needs a fluid in float32, got {np.dtype(fluid.dtype)}: use "cpu".')
    if device == "warp:cpu":
        return device
    number = int(index or 0)
    if number >= _cuda_devices():
        raise ConfigError(
            f"device={device!r} needs a CUDA device of that number, but this process sees {_cuda_devices()}: use "
            '"cpu", or look at the driver and at CUDA_VISIBLE_DEVICES.'
        )
    return f"cuda:{number}"


def _installed() -> bool:
    return importlib.util.find_spec("warp") is not None


def _cuda_devices() -> int:
    """How many GPUs this process may use."""
    try:
        ctypes.CDLL("libcuda.so.1")  # without a driver Warp would say so on every start
    except OSError:
        return 0
    import warp

    return warp.get_cuda_device_count()
