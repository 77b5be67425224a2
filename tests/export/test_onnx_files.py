"""The graphs an export writes: operators, nothing of the machine, the same bytes each time."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from export.precision import STAGES
from stages.bundle import Bundle

# Operators that keep decoders from building in TensorRT, and control flow.
UNWANTED = {"OneHot", "Resize", "If", "Loop", "Scan", "NonZero", "ScatterND", "Einsum"}


@pytest.fixture(scope="module", params=STAGES)
def graph(request: pytest.FixtureRequest, mini_bundle: Bundle) -> onnx.ModelProto:
    return onnx.load(mini_bundle.verified_file(request.param))


def test_graphs_hold_no_unwanted_operator(graph: onnx.ModelProto) -> None:
    assert not {node.op_type for node in graph.graph.node} & UNWANTED
    assert all(node.domain in ("", "ai.onnx") for node in graph.graph.node)
    assert not graph.functions


def test_graphs_tell_nothing_of_the_machine_that_made_them(mini_bundle: Bundle) -> None:
    for name in STAGES:
        data = mini_bundle.verified_file(name).read_bytes()
        for word in (b"site-packages", b"/home", b"/root", b".py", b"pkg.torch"):
            assert word not in data, (name, word)


_WINDOW_EXPORTS = """
import sys
from collections.abc import Callable
from pathlib import Path
import torch
from export.compact import round_weights
from export.onnx_files import write_onnx
from export.precision import stage_precisions
from export.stages import stage_plans
from stages.bundle import hash_files
from tests.support.bundles import TINY, random_weights
sam = random_weights(TINY).sam
for kind in ("compact", "fp16"):
    if kind == "compact":
        plan = stage_plans(round_weights(sam), TINY, "float32")[0]
    else:
        plan = stage_plans(sam, TINY, "float16", stage_precisions([kind]))[0]
    out = Path(sys.argv[1], kind)
    path = out / "window/model.onnx"
    examples = plan.examples(torch.Generator())
    with torch.no_grad():
        write_onnx(plan.build(), examples, plan.inputs, plan.outputs, path, kind == "compact")
    print(hash_files(out, ("window/model.onnx", "window/model.onnx.data")))
"""


def test_the_same_weights_give_the_same_bytes_wherever_and_whenever(
    tiny: Callable[[str], Bundle], tmp_path: Path
) -> None:
    """Or two exports of one checkpoint would refuse each other's sites. The fixture's are from elsewhere."""
    line = [sys.executable, "-c", _WINDOW_EXPORTS, str(tmp_path)]
    done = subprocess.run(line, capture_output=True, text=True, check=True, cwd=Path.cwd())
    kept = [dict(tiny(kind).stage("window").files) for kind in ("compact", "fp16")]
    assert done.stdout.splitlines() == [str(files) for files in kept]
    assert kept[0] != kept[1]
