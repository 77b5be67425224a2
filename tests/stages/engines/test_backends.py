"""Which backend runs a stage, and what is said when the one for this machine's GPU cannot."""

from __future__ import annotations

from pathlib import Path

import pytest

from stages.bundle import Bundle
from stages.engines.backends import choose_backend, make_engine
from stages.engines.devices import Device
from stages.engines.onnxruntime_engine import OnnxRuntimeEngine, missing_library
from stages.errors import EngineError
from tests.support.engines import DISCRETE


@pytest.mark.parametrize(
    ("backend", "device", "built", "chosen"),
    [
        ("auto", None, False, "onnxruntime"),
        ("auto", DISCRETE, True, "tensorrt"),
        ("auto", DISCRETE, False, "onnxruntime"),
        ("tensorrt", DISCRETE, False, "tensorrt"),  # which then says that nothing is built
        ("onnxruntime", DISCRETE, True, "onnxruntime"),
        ("onnxruntime", None, False, "onnxruntime"),
        ("onnxruntime-cuda", DISCRETE, True, "onnxruntime"),
        ("onnxruntime-cpu", None, False, "onnxruntime"),
    ],
)
def test_what_is_chosen(backend: str, device: Device | None, built: bool, chosen: str) -> None:
    assert choose_backend(backend, device, built) == chosen


@pytest.mark.parametrize("backend", ["tensorrt", "onnxruntime-cuda"])
def test_a_pin_to_the_gpu_without_one_is_an_error(mini_bundle: Bundle, backend: str) -> None:
    with pytest.raises(
        EngineError, match=f"--backend {backend} needs an NVIDIA GPU and none is visible here"
    ):
        make_engine(mini_bundle, "window", backend)


def test_a_gpu_without_a_cuda_provider_is_an_error_not_the_cpu(mini_bundle: Bundle) -> None:
    """The onnxruntime of the tests has no CUDA provider, as where the wrong package is installed."""
    engine = OnnxRuntimeEngine(mini_bundle, "window", device=DISCRETE)
    with pytest.raises(
        EngineError, match=r"Test Card \(sm_86\) is visible, but .*no CUDA provider: pip uninst"
    ):
        engine.open()


def test_the_library_that_the_cuda_provider_lacks_is_named(tmp_path: Path) -> None:
    assert "libonnxruntime_providers_cuda.so: cannot open shared object file" in missing_library(tmp_path)
    (tmp_path / "capi").mkdir()
    (tmp_path / "capi/libonnxruntime_providers_cuda.so").write_bytes(b"no library")
    assert "does not load" in missing_library(tmp_path)
    assert "file too short" in missing_library(tmp_path)


def test_an_engine_says_which_device_it_is_for(mini_bundle: Bundle) -> None:
    assert OnnxRuntimeEngine(mini_bundle, "window", device=DISCRETE).backend.endswith("on Test Card (sm_86)")
    assert OnnxRuntimeEngine(mini_bundle, "window").backend.endswith("on CPU")
