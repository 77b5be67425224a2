"""The contract every engine keeps, and the onnxruntime engine on a real bundle."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stages.bundle import MANIFEST, Bundle
from stages.engines.backends import make_engine
from stages.engines.engine import Engine
from stages.errors import EngineError
from stages.tensors import Array
from tests.support.bundles import ROOT
from tests.support.fakes import FakeEngine, answers, tiles, tiny_bundle
from tests.support.noise import noise_windows

# Batches are computed by other kernels than single tiles; fp16 outputs of size one differ by a step or two.
BATCH_TOLERANCE = 4e-3


def what(engine: FakeEngine) -> list[str]:
    return [call.what for call in engine.calls]


# Lifecycle


def test_an_engine_is_opened_used_and_closed() -> None:
    engine = FakeEngine()
    engine.open()
    assert engine.infer(tiles(1, 2))["embedding"].tolist() == answers(tiles(1, 2))["embedding"].tolist()
    engine.close()
    engine.close()
    assert what(engine) == ["open", "infer", "close"]


def test_using_an_engine_before_it_is_open_says_so() -> None:
    with pytest.raises(EngineError, match="engine window is not opened yet; open it first"):
        FakeEngine().infer(tiles(1))


def test_using_a_closed_engine_says_so() -> None:
    engine = FakeEngine()
    engine.open()
    engine.close()
    with pytest.raises(EngineError, match="engine window is closed; open it first"):
        engine.infer(tiles(1))
    with pytest.raises(EngineError, match="engine window is closed; make a new one"):
        engine.open()


def test_opening_twice_says_so() -> None:
    engine = FakeEngine()
    engine.open()
    with pytest.raises(EngineError, match="engine window is open; make a new one"):
        engine.open()
    assert what(engine) == ["open"]


def test_an_engine_that_was_never_open_has_nothing_to_close() -> None:
    engine = FakeEngine(failures={"open": EngineError("no device")})
    with pytest.raises(EngineError, match="no device"):
        engine.open()
    engine.close()
    assert what(engine) == ["open"]


def test_an_engine_whose_closing_fails_is_closed_all_the_same() -> None:
    engine = FakeEngine(failures={"close": EngineError("the device is gone")})
    engine.open()
    with pytest.raises(EngineError, match="the device is gone"):
        engine.close()
    engine.close()
    assert what(engine) == ["open", "close"]


# What goes in and comes out


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"tile": np.zeros((1, 4, 4, 3), np.float32)}, "tile is float32, expected uint8"),
        ({"tile": np.zeros((1, 3, 4, 4), np.uint8)}, "tile has shape [1, 3, 4, 4], expected [n, 4, 4, 3]"),
        ({"index": np.array([[25]], np.int32)}, "index has values from 25 to 25, expected 0 to 24"),
        ({"extent": np.full((2, 2), 4, np.int32)}, "extent has 2 along axis n, other tensors have 1"),
        ({"more": np.zeros(1)}, "got tensors ['extent', 'index', 'more', 'tile'], expected"),
    ],
)
def test_wrong_inputs_never_reach_the_backend(change: dict[str, Array], words: str) -> None:
    engine = FakeEngine()
    engine.open()
    with pytest.raises(EngineError, match=re.escape(words)):
        engine.infer({**tiles(3), **change})
    assert what(engine) == ["open"]


def test_outputs_come_by_name_and_unknown_ones_are_named() -> None:
    engine = FakeEngine()
    engine.open()
    assert list(engine.infer(tiles(3), ["scale", "embedding"])) == ["scale", "embedding"]
    assert list(engine.infer(tiles(3))) == ["embedding", "embedding_q8", "scale"]
    with pytest.raises(EngineError, match=r"stage window has no output \['mask'\], only \['embedding', "):
        engine.infer(tiles(3), ["scale", "mask"])


def test_an_unknown_backend_is_refused_with_the_known_ones() -> None:
    with pytest.raises(
        EngineError, match="backend 'tpu' is unknown; choose one of auto, tensorrt, onnxruntime"
    ):
        make_engine(tiny_bundle(), "window", "tpu")


# onnxruntime


@pytest.fixture(scope="module")
def window(mini_bundle: Bundle) -> Iterator[Engine]:
    engine = make_engine(mini_bundle, "window", threads=1)
    engine.open()
    yield engine
    engine.close()


def mini_tiles(bundle: Bundle, count: int) -> dict[str, Any]:
    side = bundle.geometry.tile_px
    three = noise_windows(bundle, {0: (side, side), 13: (side, 41), 24: (7, 30)})
    return {name: array[:count] for name, array in three.items()}


def test_the_backend_names_itself(window: Engine) -> None:
    assert re.fullmatch(r"onnxruntime [\d.]+ on CPU", window.backend)
    assert window.preferred_batch >= 1


def test_one_tile_alone_equals_its_row_in_a_batch(mini_bundle: Bundle, window: Engine) -> None:
    inputs = mini_tiles(mini_bundle, 3)
    batch = window.infer(inputs, ["embedding"])["embedding"].astype(np.float32)
    assert batch.shape == (3, *mini_bundle.embedding_shape)
    for row in range(3):
        alone = window.infer({name: array[row : row + 1] for name, array in inputs.items()}, ["embedding"])
        difference = np.abs(alone["embedding"][0].astype(np.float32) - batch[row]).max()
        assert difference <= BATCH_TOLERANCE * np.abs(batch[row]).max()
    assert np.abs(batch[0] - batch[1]).max() > 0.1  # rows do differ from each other


def test_outputs_are_what_the_bundle_says(mini_bundle: Bundle, window: Engine) -> None:
    results = window.infer(mini_tiles(mini_bundle, 2))
    for spec in mini_bundle.stage("window").outputs:
        assert spec.problem(results[spec.name].shape, results[spec.name].dtype.name) is None
    restored = results["embedding_q8"].astype(np.float32) * results["scale"].astype(np.float32)
    step = results["scale"].astype(np.float32)
    assert (np.abs(restored - results["embedding"].astype(np.float32)) <= 0.51 * step + 1e-3).all()


def test_what_onnxruntime_refuses_is_an_engine_error(mini_bundle: Bundle, window: Engine) -> None:
    inputs = mini_tiles(mini_bundle, 2)
    for name in inputs:
        with pytest.raises(EngineError):
            window.infer({**inputs, name: inputs[name][:1]})
    assert window.infer(inputs)  # and goes on


def test_a_site_needs_the_window_folder_and_the_manifest_only(mini_bundle: Bundle, tmp_path: Path) -> None:
    shutil.copytree(mini_bundle.path / "window", tmp_path / "window")
    shutil.copy(mini_bundle.path / MANIFEST, tmp_path)
    engine = make_engine(Bundle.load(tmp_path), "window", threads=1)
    engine.open()
    probe = mini_bundle.probe()
    answer = engine.infer(probe.inputs, ["embedding"])["embedding"].astype(np.float32)
    engine.close()
    assert np.abs(answer - probe.embedding).max() <= 1e-3 * np.abs(probe.embedding).max()


def test_onnxruntime_tells_its_maker_nothing(tmp_path: Path) -> None:
    """With its telemetry on, it leaves an identity and a queue of reports in the home of its user."""
    code = (
        "from stages.bundle import Bundle, shipped_bundle; from stages.engines.backends import make_engine\n"
        "engine = make_engine(Bundle.load(shipped_bundle()), 'decoder', 'onnxruntime-cpu', threads=1)\n"
        "engine.open(); print(engine.backend); engine.close()"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "ORT_"))}
    environment |= {"HOME": str(tmp_path)}
    line = [sys.executable, "-c", code]
    done = subprocess.run(line, env=environment, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("onnxruntime 1.")
    assert list(tmp_path.iterdir()) == []


_TWO_CALLS = """
import sys
from stages.bundle import Bundle
from stages.engines.backends import make_engine
from tests.support.memory import peak_bytes
bundle = Bundle.load(sys.argv[1])
engine = make_engine(bundle, "global", "onnxruntime-cpu", 1)
engine.open()
for _ in range(2):
    engine.infer({"embedding": bundle.padding_embeddings()})
    print(peak_bytes())
"""


def test_a_second_call_takes_no_memory_anew(mini_bundle: Bundle) -> None:
    """Of mini's global stage it would be 23 MB."""
    line = [sys.executable, "-c", _TWO_CALLS, str(mini_bundle.path)]
    first, second = subprocess.run(line, capture_output=True, text=True, check=True, cwd=ROOT).stdout.split()
    assert int(second) - int(first) < 8e6
