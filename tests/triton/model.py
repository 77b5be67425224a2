"""The window stage inside Triton: what its Python backend runs, in an environment of its own.

With a `model` parameter that names an ONNX file it is a site, on so many `threads`; with `answers`, an .npz
file, it answers what that holds of one tile to every tile. Without either it answers zeros of the right
shapes, which is enough to see what Triton says to a request.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import triton_python_backend_utils as triton

Arrays = Mapping[str, Any]


class TritonPythonModel:
    """The class Triton looks for, by this name."""

    def initialize(self, args: Mapping[str, str]) -> None:
        config = json.loads(args["model_config"])
        parameters = {name: each["string_value"] for name, each in config["parameters"].items()}
        self._inputs = [each["name"] for each in config["input"]]
        self._shapes = {each["name"]: list(map(int, each["dims"])) for each in config["output"]}
        self._dtypes = {
            each["name"]: triton.triton_string_to_numpy(each["data_type"]) for each in config["output"]
        }
        self._run: Callable[[Sequence[str], Arrays], Sequence[Any]] = self._zeros
        if "model" in parameters:
            import onnxruntime

            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = int(parameters.get("threads", 1))
            session = onnxruntime.InferenceSession(
                parameters["model"], options, providers=["CPUExecutionProvider"]
            )
            self._run = session.run
        elif "answers" in parameters:
            with np.load(parameters["answers"]) as arrays:
                self._held = {
                    name: np.repeat(array, config["max_batch_size"], 0) for name, array in arrays.items()
                }
            self._run = self._same

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """One answer a request. Those that Triton hands over together run together."""
        feeds = [self._feeds(request) for request in requests]
        sizes = [len(each[self._inputs[0]]) for each in feeds]
        asked = [set(request.requested_output_names()) for request in requests]
        names = [name for name in self._shapes if any(name in each for each in asked)]
        joined = feeds[0]
        if len(feeds) > 1:
            joined = {name: np.concatenate([each[name] for each in feeds]) for name in self._inputs}
        arrays = dict(zip(names, self._run(names, joined), strict=True))
        ends = np.cumsum(sizes)
        return [
            triton.InferenceResponse(
                [triton.Tensor(name, arrays[name][end - size : end]) for name in names if name in each]
            )
            for each, size, end in zip(asked, sizes, ends, strict=True)
        ]

    def _feeds(self, request: Any) -> dict[str, Any]:
        return {name: triton.get_input_tensor_by_name(request, name).as_numpy() for name in self._inputs}

    def _zeros(self, names: Sequence[str], feeds: Arrays) -> list[Any]:
        batch = len(feeds[self._inputs[0]])
        return [np.zeros([batch, *self._shapes[name]], self._dtypes[name]) for name in names]

    def _same(self, names: Sequence[str], feeds: Arrays) -> list[Any]:
        batch = len(feeds[self._inputs[0]])
        return [self._held[name][:batch] for name in names]
