"""Messages of the Open Inference Protocol made here, not by the code under test."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from stages import wire
from stages.tensors import Array, TensorSpec
from tests.support.fakes import INPUTS, OUTPUTS, answers, tiles

Change = Callable[[dict[str, Any]], object]
Message = tuple[bytes, str | None]  # a body, and its header length as the HTTP header says it


def message(head: object, *buffers: bytes) -> Message:
    header = json.dumps(head).encode()
    return b"".join([header, *buffers]), str(len(header)) if buffers else None


def tensor(spec: TensorSpec, array: Array, binary: bool) -> dict[str, Any]:
    head = {"name": spec.name, "datatype": wire.OIP_NAME[spec.dtype], "shape": list(array.shape)}
    if binary:
        return {**head, "parameters": {"binary_data_size": array.nbytes}}
    return {**head, "data": array.tolist()}


def unchanged(head: dict[str, Any]) -> None:
    pass


TILE, INDEX, EXTENT = range(3)


def put(which: int, **fields: object) -> Change:
    """Changes fields of one input."""
    return lambda head: head["inputs"][which].update(fields)


def binary_size(which: int, size: object) -> Change:
    return put(which, parameters={"binary_data_size": size})


def as_json(which: int, data: object, shape: Sequence[int] | None = None) -> Change:
    """Sends one input as JSON."""

    def change(head: dict[str, Any]) -> None:
        entry = head["inputs"][which]
        entry.pop("parameters", None)
        entry["data"] = data
        entry["shape"] = list(shape or entry["shape"])

    return change


def leave_out(which: int, field: str) -> Change:
    return lambda head: head["inputs"][which].pop(field)


def request(change: Change = unchanged, extra: bytes = b"", cut: int = 0, **fields: object) -> Message:
    """A request for two tiles, `tile` and `index` binary, `extent` JSON, with something changed."""
    inputs = tiles(3, 7)
    entries = [tensor(spec, inputs[spec.name], spec.name != "extent") for spec in INPUTS]
    head: dict[str, Any] = {"inputs": entries, "outputs": [{"name": "embedding_q8"}], **fields}
    sent = list(zip(entries, inputs.values(), strict=True))
    change(head)
    buffers = [array.tobytes() for entry, array in sent if "data" not in entry and entry is not sent[2][0]]
    body, length = message(head, *buffers, extra)
    return body[: len(body) - cut], length


def json_request(*windows: int) -> Message:
    """A request for these windows, all of it JSON."""
    inputs = tiles(*windows)
    entries = [tensor(spec, inputs[spec.name], binary=False) for spec in INPUTS]
    return message({"inputs": entries, "outputs": [{"name": "embedding_q8"}]})


def response(change: Change = unchanged, extra: bytes = b"", cut: int = 0) -> Message:
    """A response for two tiles, all binary, with something changed."""
    outputs = answers(tiles(3, 7))
    head: dict[str, Any] = {"outputs": [tensor(spec, outputs[spec.name], binary=True) for spec in OUTPUTS]}
    change(head)
    body, length = message(head, *(array.tobytes() for array in outputs.values()), extra)
    return body[: len(body) - cut], length
