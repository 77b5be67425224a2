"""What tests on a GPU need; without it each is skipped and says what is missing."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import onnxruntime
import pytest

from export.engines.build import Target, target_for
from stages.bundle import Bundle
from stages.engines.devices import Device, visible_device
from stages.engines.onnxruntime_engine import CUDA
from tests.support.engines import linked


@pytest.fixture
def device() -> Device:
    found = visible_device()
    if found is None:
        pytest.skip("needs an NVIDIA GPU and its driver; other tests hide it, so run make test-gpu")
    return found


@pytest.fixture
def target(device: Device) -> Target:
    """Builds for this machine's GPU, with the TensorRT that is installed."""
    if not any(map(importlib.util.find_spec, ("tensorrt", "tensorrt_rtx"))):
        pytest.skip("needs the Python module tensorrt or tensorrt_rtx")
    if not importlib.util.find_spec("pycuda"):
        pytest.skip("needs pycuda")
    return target_for(device, None, None)


@pytest.fixture
def cuda(device: Device) -> Device:
    if CUDA not in onnxruntime.get_available_providers():
        pytest.skip("needs onnxruntime-gpu in place of onnxruntime")
    return device


@pytest.fixture
def bundle(mini_bundle: Bundle, tmp_path: Path) -> Bundle:
    return linked(mini_bundle, tmp_path / "bundle")
