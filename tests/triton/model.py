"""The window stage inside Triton: what its Python backend runs, in an environment of its own.

With a `model` parameter that names an ONNX file it is a site; without, it answers zeros of the right shapes,
which is enough to see what Triton says to a request.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import triton_python_backend_utils as triton


class TritonPythonModel:
    """The class Triton looks for, by this name."""

    def initialize(self, args: Mapping[str, str]) -> None:
        config = json.loads(args["model_config"])
        self._inputs = [each["name"] for each in config["input"]]
        self._shapes = {each["name"]: list(map(int, each["dims"])) for each in config["output"]}
        self._dtypes = {
            each["name"]: triton.triton_string_to_numpy(each["data_type"]) for each in config["output"]
        }
        self._session: Any = None
        if "model" in config["parameters"]:
            import onnxruntime

            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = 1
            path = config["parameters"]["model"]["string_value"]
            self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        names = [name for name in self._shapes if name in request.requested_output_names()]
        feeds = {name: triton.get_input_tensor_by_name(request, name).as_numpy() for name in self._inputs}
        arrays = self._session.run(names, feeds) if self._session else self._zeros(names, feeds)
        return triton.InferenceResponse(list(map(triton.Tensor, names, arrays)))

    def _zeros(self, names: Sequence[str], feeds: Mapping[str, Any]) -> list[Any]:
        batch = len(feeds[self._inputs[0]])
        return [np.zeros([batch, *self._shapes[name]], self._dtypes[name]) for name in names]
