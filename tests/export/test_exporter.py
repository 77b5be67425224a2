"""What an export writes, checks and refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner

from pedsam import main
from stages.bundle import Bundle
from stages.engine import make_engine
from tests.bundles import export_log

STAGES = ("window", "global", "decoder", "whole")
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


def test_int8_is_made_by_quantizelinear_not_by_a_cast(mini_bundle: Bundle) -> None:
    model = onnx.load(mini_bundle.verified_file("window"))
    makers = {output: node.op_type for node in model.graph.node for output in node.output}
    assert makers["embedding_q8"] == "QuantizeLinear"


def test_static_shapes_everywhere_but_in_the_named_axes(mini_bundle: Bundle) -> None:
    for name in STAGES:
        model = onnx.load(mini_bundle.verified_file(name), load_external_data=False)
        stage = mini_bundle.stage(name)
        for spec, value in zip(
            (*stage.inputs, *stage.outputs), (*model.graph.input, *model.graph.output), strict=True
        ):
            dims = [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
            assert (value.name, dims) == (spec.name, list(spec.shape))


def test_parity_is_recorded(mini_bundle: Bundle) -> None:
    assert mini_bundle.parity["chain_pytorch"] < 1e-4
    assert mini_bundle.parity["whole"] < 1e-4
    assert mini_bundle.parity["chain"] < 2e-2
    for name in ("global", "decoder"):
        assert all(value < 1e-4 for value in mini_bundle.stage(name).parity.values())


def test_the_probe_is_answered_and_padding_is_what_the_window_stage_makes_of_nothing(
    mini_bundle: Bundle,
) -> None:
    from export.exporter import blank_window

    probe, padding = mini_bundle.probe(), mini_bundle.padding_embeddings()
    engine = make_engine(mini_bundle, "window")
    engine.open()
    answer = engine.infer(probe.inputs)["embedding"]
    blanks = [engine.infer(blank_window(mini_bundle.geometry, i))["embedding"][0] for i in (0, 12, 24)]
    engine.close()
    assert np.abs(answer.astype(np.float32) - probe.embedding).max() < 1e-3 * np.abs(probe.embedding).max()
    assert np.allclose(padding[[0, 12, 24]], blanks, atol=1e-2)
    assert not np.allclose(padding[0], padding[12], atol=1e-1)  # they depend on the position


def test_batches_of_any_size_up_to_25_agree(mini_bundle: Bundle) -> None:
    g = mini_bundle.geometry
    feeds = {
        "tile": np.random.default_rng(0).integers(0, 256, (g.windows, *g.tile_shape), np.uint8),
        "index": np.arange(g.windows, dtype=np.int32)[:, None],
        "extent": g.extents(300, 384),
    }
    engine = make_engine(mini_bundle, "window")
    engine.open()
    together = engine.infer(feeds)
    for start, stop in ((0, 1), (3, 5), (16, 25)):
        part = engine.infer({name: array[start:stop] for name, array in feeds.items()})
        close = np.isclose(
            part["embedding"].astype(np.float32),
            together["embedding"][start:stop].astype(np.float32),
            rtol=2e-3,
            atol=2e-3,
        )
        assert close.all()
    engine.close()


def test_a_wrong_graph_is_not_kept(tmp_path: Path) -> None:
    """A stage that computes something else than its module fails the export and leaves nothing behind."""
    import torch
    from torch import Tensor, nn

    from export.exporter import add_stage
    from export.stages import StagePlan
    from stages.errors import ParityError
    from stages.geometry import GEOMETRIES
    from stages.tensors import TensorSpec

    class Different(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * (1.0 if torch.onnx.is_in_onnx_export() else 1.001)

    plan = StagePlan(
        "window",
        (TensorSpec("x", "float32", ("n", 4)),),
        (TensorSpec("y", "float32", ("n", 4)),),
        Different,
        lambda generator: (torch.ones(2, 4),),
    )
    empty = Bundle(tmp_path, GEOMETRIES["mini"], (), (), "untrained", "", "float32", 0, {}, {}, {})
    with pytest.raises(ParityError, match=r"output y differs by 9\.99e-04, more than 1e-04"):
        add_stage(empty, plan, lambda line: None)


def test_the_command_says_what_it_checked(mini_bundle: Bundle) -> None:
    """The fixture's bundle comes from `pedsam export` itself."""
    assert mini_bundle.weights == "untrained"
    printed = export_log(mini_bundle.path).read_text()
    for words in ("window   onnxruntime against PyTorch", "chain    against", "masks are meaningless"):
        assert words in printed


_TINY_EXPORT = """
import sys
from pathlib import Path
import torch
from export.compact import round_weights
from export.onnx_files import write_onnx
from export.sam import build_sam, randomise
from export.stages import stage_plans
from stages.bundle import hash_files
from stages.geometry import Geometry
geometry = Geometry("tiny", 80, 16, 2, 24, 3, 2, (1,))
sam = build_sam(geometry)
randomise(sam)
for compact in (False, True):
    plan = stage_plans(round_weights(sam) if compact else sam, geometry, "float16")[0]
    examples = plan.examples(torch.Generator())
    out = Path(sys.argv[1], str(compact))
    with torch.no_grad():
        write_onnx(plan.build(), examples, plan.inputs, plan.outputs, out / "m.onnx", compact)
    print(hash_files(out, ("m.onnx", "m.onnx.data")))
"""


def test_the_same_weights_give_the_same_bytes_wherever_and_whenever(tmp_path: Path) -> None:
    """Or two exports of one checkpoint would refuse each other's sites."""
    printed = []
    for name in ("here", "elsewhere"):
        (tmp_path / name).mkdir()
        command = [sys.executable, "-c", _TINY_EXPORT, str(tmp_path / name)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path.cwd())
        printed.append(done.stdout)
    assert printed[0] == printed[1]
    normal, compact = printed[0].splitlines()
    assert "m.onnx.data" in normal
    assert normal != compact


REFUSALS = {
    "no weights": (["--model", "vit_h"], "sam_vit_h_4b8939.pth (2.56 GB) and give --checkpoint"),
    "mini without": (["--model", "mini"], "mini has no official weights"),
    "both": (["--model", "mini", "--random-weights", "--checkpoint", "x"], "either --checkpoint or"),
    "unknown model": (["--model", "vit_x", "--random-weights"], "'vit_x' is not one of"),
    "missing file": (["--model", "vit_b", "--checkpoint", "nowhere.pth"], "nowhere.pth does not exist"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_the_command_refuses(case: str, tmp_path: Path) -> None:
    arguments, words = REFUSALS[case]
    result = CliRunner().invoke(main, ["export", *arguments, "--out", str(tmp_path / "bundle")])
    assert result.exit_code != 0
    assert words in result.output
    assert "Traceback" not in result.output
    assert not (tmp_path / "bundle").exists()


def test_a_directory_that_is_no_bundle_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    arguments = ["export", "--model", "mini", "--random-weights", "--out", str(tmp_path)]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code != 0
    assert "is no bundle" in result.output
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


_GLOBAL_RUN = """
import json, sys
from pathlib import Path
import numpy as np
from stages.bundle import Bundle
from stages.engine import make_engine
engine = make_engine(Bundle.load(sys.argv[1]), "global")
engine.open()
spec = engine.stage.inputs[0]
embedding = np.random.default_rng(0).standard_normal(spec.shape).astype(spec.dtype)
result = engine.infer({"embedding": embedding})["image_embedding"]
status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
peak = int(status["VmHWM"].split()[0]) * 1024  # not ru_maxrss, which a process inherits from its parent
print(json.dumps({"peak_bytes": peak, "finite": bool(np.isfinite(result).all())}))
"""


@pytest.mark.timeout(900)
def test_the_global_stage_of_vit_b_needs_less_than_1_gb(exported: Callable[[str, str], Bundle]) -> None:
    bundle = exported("vit_b", "float32")
    done = subprocess.run(
        [sys.executable, "-c", _GLOBAL_RUN, str(bundle.path)], capture_output=True, text=True, check=True
    )
    measured = json.loads(done.stdout)
    assert measured["finite"]
    assert measured["peak_bytes"] < 1.0e9
