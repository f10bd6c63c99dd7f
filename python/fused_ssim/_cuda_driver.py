"""What the NVIDIA driver says of this machine, whether or not torch was built for it."""

from __future__ import annotations

import ctypes
import sys
from typing import NamedTuple

_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76  # of CUdevice_attribute


class DriverGpu(NamedTuple):
    """A GPU that the driver shows."""

    name: str
    capability: tuple[int, int]


class CudaDriver(NamedTuple):
    """The driver's GPUs, and the newest CUDA that it serves."""

    cuda: tuple[int, int]
    gpus: tuple[DriverGpu, ...]


def cuda_driver() -> CudaDriver | None:
    """Asks the driver itself; None where there is none.

    Initialises the driver (`cuInit`) but makes no context.
    """
    name = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        library = ctypes.CDLL(name)
        version = ctypes.c_int()
        if library.cuDriverGetVersion(ctypes.byref(version)) != 0:
            return None
        return CudaDriver((version.value // 1000, version.value % 1000 // 10), _gpus(library))
    except (OSError, AttributeError):
        return None


def _gpus(library: ctypes.CDLL) -> tuple[DriverGpu, ...]:
    count = ctypes.c_int()
    # cuInit fails where no GPU is visible, as under CUDA_VISIBLE_DEVICES="".
    if library.cuInit(0) != 0 or library.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return ()
    gpus = []
    for index in range(count.value):
        device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
        name = ctypes.create_string_buffer(256)
        failed = (
            library.cuDeviceGet(ctypes.byref(device), index)
            or library.cuDeviceGetName(name, len(name), device)
            or library.cuDeviceGetAttribute(ctypes.byref(major), _CAPABILITY_MAJOR, device)
            or library.cuDeviceGetAttribute(ctypes.byref(minor), _CAPABILITY_MINOR, device)
        )
        if not failed:
            gpus.append(DriverGpu(name.value.decode(), (major.value, minor.value)))
    return tuple(gpus)
