"""Inputs and outputs of every stage are those that its plan names."""

from __future__ import annotations

import onnx

from export.precision import STAGES
from stages.bundle import Bundle


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
