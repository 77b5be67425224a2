"""The GPU of this machine, asked of the NVIDIA driver itself: no CUDA toolkit and no package is needed.

CUDA_VISIBLE_DEVICES holds as in every CUDA program; the first visible GPU is the one that is used.
"""

from __future__ import annotations

import contextlib
import ctypes
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.errors import EngineError
from stages.machine import ROOT, meminfo

# CUresult: what cuInit answers where there is no GPU to use (a stub of a toolkit, or no device).
_NO_GPU = (34, 100)
# CUdevice_attribute
_INTEGRATED, _MAJOR, _MINOR = 18, 75, 76


@dataclass(frozen=True)
class Device:
    """One GPU. `integrated` GPUs (Jetson) share the system's memory, `total_bytes` included."""

    name: str
    compute_capability: tuple[int, int]
    total_bytes: int
    integrated: bool

    @property
    def sm(self) -> str:
        """The compute capability as compilers name it: "sm_87"."""
        return f"sm_{self.compute_capability[0]}{self.compute_capability[1]}"

    @property
    def folder(self) -> str:
        """Name of the folder that holds this device's engines: "orin-sm_87"."""
        return f"{re.sub('[^a-z0-9]+', '-', self.name.lower()).strip('-')}-{self.sm}"

    def __str__(self) -> str:
        return f"{self.name} ({self.sm})"


def visible_device(driver: Any = None) -> Device | None:
    """The first GPU this process may use, or None. `driver` is libcuda, by default this machine's.

    Raises EngineError when there is a driver that does not work: a GPU that cannot be used is not "no GPU".
    """
    driver = driver or _libcuda()
    if driver is None or (answer := driver.cuInit(0)) in _NO_GPU:
        return None
    _check(answer, "cuInit")
    count = ctypes.c_int()
    _check(driver.cuDeviceGetCount(ctypes.byref(count)), "cuDeviceGetCount")
    return _describe(driver, _first(driver)) if count.value else None


def free_bytes(device: Device, driver: Any = None) -> int:
    """Memory of the device that is free now; on an integrated GPU what the system could free."""
    if device.integrated:
        return available_bytes()
    driver = driver or _libcuda()
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    with _primary_context(driver):
        _check(driver.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total)), "cuMemGetInfo")
    return free.value


def available_bytes(root: Path = ROOT) -> int:
    """MemAvailable: what programs of this machine could still take without swapping."""
    memory = meminfo(root)
    if "MemAvailable" not in memory:
        raise EngineError(f"{root}proc/meminfo has no line MemAvailable; expected Linux 3.14 or later")
    return memory["MemAvailable"]


def _libcuda() -> Any:
    try:
        return ctypes.CDLL("libcuda.so.1")
    except OSError:  # no NVIDIA driver on this machine
        return None


def _first(driver: Any) -> ctypes.c_int:
    handle = ctypes.c_int()
    _check(driver.cuDeviceGet(ctypes.byref(handle), 0), "cuDeviceGet")
    return handle


def _describe(driver: Any, handle: ctypes.c_int) -> Device:
    name, total = ctypes.create_string_buffer(256), ctypes.c_size_t()
    _check(driver.cuDeviceGetName(name, len(name), handle), "cuDeviceGetName")
    _check(driver.cuDeviceTotalMem_v2(ctypes.byref(total), handle), "cuDeviceTotalMem")

    def attribute(number: int) -> int:
        value = ctypes.c_int()
        _check(driver.cuDeviceGetAttribute(ctypes.byref(value), number, handle), "cuDeviceGetAttribute")
        return value.value

    capability = (attribute(_MAJOR), attribute(_MINOR))
    return Device(name.value.decode(), capability, total.value, bool(attribute(_INTEGRATED)))


@contextlib.contextmanager
def _primary_context(driver: Any) -> Iterator[None]:
    """The context that CUDA's runtime, onnxruntime and TensorRT share, current on this thread."""
    context, handle = ctypes.c_void_p(), _first(driver)
    _check(driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), handle), "cuDevicePrimaryCtxRetain")
    try:
        _check(driver.cuCtxPushCurrent_v2(context), "cuCtxPushCurrent")
        try:
            yield
        finally:
            driver.cuCtxPopCurrent_v2(ctypes.byref(ctypes.c_void_p()))
    finally:
        driver.cuDevicePrimaryCtxRelease_v2(handle)


def _check(answer: int, call: str) -> None:
    if answer:
        raise EngineError(
            f"the NVIDIA driver of this machine answers {call} with error {answer}; see whether nvidia-smi "
            "works, restart or reinstall the driver, or run on the CPU with --backend onnxruntime-cpu"
        )
