"""Which GPU is here, asked of a driver whose answers are made up."""

# ruff: noqa: N802  (the calls have the names that CUDA gives them)

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from stages.engines.devices import Device, available_bytes, free_bytes, visible_device
from stages.errors import EngineError


class Driver:
    """libcuda.so.1 of a machine with one GPU. `answers` are error codes by call."""

    def __init__(
        self,
        name: str = "Orin",
        integrated: int = 1,
        count: int = 1,
        answers: Mapping[str, int] | None = None,
    ) -> None:
        self._name, self._count = name, count
        self._attributes = {18: integrated, 75: 8, 76: 7}
        self._answers = answers or {}
        self.contexts: list[str] = []

    def __getattr__(self, call: str) -> Any:
        answer = self.__dict__["_answers"].get(call, 0)
        return lambda *arguments: answer or getattr(self, f"_{call}")(*arguments) or 0

    def _cuInit(self, flags: int) -> None:
        assert flags == 0

    def _cuDeviceGetCount(self, count: Any) -> None:
        count._obj.value = self._count

    def _cuDeviceGet(self, handle: Any, ordinal: int) -> None:
        handle._obj.value = ordinal

    def _cuDeviceGetName(self, name: Any, size: int, handle: ctypes.c_int) -> None:
        name.value = self._name.encode()

    def _cuDeviceTotalMem_v2(self, total: Any, handle: ctypes.c_int) -> None:
        total._obj.value = 8 << 30

    def _cuDeviceGetAttribute(self, value: Any, number: int, handle: ctypes.c_int) -> None:
        value._obj.value = self._attributes[number]

    def _cuDevicePrimaryCtxRetain(self, context: Any, handle: ctypes.c_int) -> None:
        self.contexts.append("retain")

    def _cuCtxPushCurrent_v2(self, context: ctypes.c_void_p) -> None:
        self.contexts.append("push")

    def _cuMemGetInfo_v2(self, free: Any, total: Any) -> None:
        free._obj.value = 5 << 30

    def _cuCtxPopCurrent_v2(self, context: Any) -> None:
        self.contexts.append("pop")

    def _cuDevicePrimaryCtxRelease_v2(self, handle: ctypes.c_int) -> None:
        self.contexts.append("release")


def test_a_gpu_is_described() -> None:
    device = visible_device(Driver())
    assert device == Device("Orin", (8, 7), 8 << 30, integrated=True)
    assert (device.sm, device.folder, str(device)) == ("sm_87", "orin-sm_87", "Orin (sm_87)")


def test_a_name_with_spaces_makes_a_plain_folder() -> None:
    device = visible_device(Driver("NVIDIA GeForce RTX 4090", integrated=0))
    assert device is not None
    assert device.folder == "nvidia-geforce-rtx-4090-sm_87"
    assert not device.integrated


@pytest.mark.parametrize(
    "driver", [Driver(answers={"cuInit": 100}), Driver(answers={"cuInit": 34}), Driver(count=0)]
)
def test_a_driver_without_a_gpu_is_no_gpu(driver: Driver) -> None:
    assert visible_device(driver) is None


@pytest.mark.parametrize("call", ["cuInit", "cuDeviceGetCount", "cuDeviceGetName", "cuDeviceGetAttribute"])
def test_a_driver_that_does_not_work_is_an_error_not_a_machine_without_gpu(call: str) -> None:
    with pytest.raises(EngineError, match=f"answers {call} with error 999; see whether nvidia-smi works"):
        visible_device(Driver(answers={call: 999}))


def test_free_memory_of_a_card_is_asked_in_its_primary_context() -> None:
    driver = Driver(integrated=0)
    device = visible_device(driver)
    assert device is not None
    assert free_bytes(device, driver) == 5 << 30
    assert driver.contexts == ["retain", "push", "pop", "release"]


def test_a_context_that_fails_is_given_back() -> None:
    driver = Driver(integrated=0, answers={"cuMemGetInfo_v2": 2})
    with pytest.raises(EngineError, match="answers cuMemGetInfo with error 2"):
        free_bytes(Device("Card", (8, 6), 1, integrated=False), driver)
    assert driver.contexts == ["retain", "push", "pop", "release"]


def test_free_memory_of_a_board_is_the_systems() -> None:
    assert 0 < free_bytes(Device("Orin", (8, 7), 8 << 30, integrated=True)) < 1 << 50


def test_available_memory_is_read_in_bytes(tmp_path: Path) -> None:
    meminfo = tmp_path / "proc/meminfo"
    meminfo.parent.mkdir()
    meminfo.write_text("MemTotal: 7990000 kB\nMemFree: 1 kB\nMemAvailable:    5120 kB\n")
    assert available_bytes(tmp_path) == 5120 * 1024
    meminfo.write_text("MemTotal: 7990000 kB\n")
    with pytest.raises(EngineError, match="has no line MemAvailable"):
        available_bytes(tmp_path)
