"""What malformed messages get: one sentence, a WireError and no memory."""

from __future__ import annotations

import contextlib
import re
import tracemalloc
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages import wire
from stages.errors import WireError
from stages.tensors import TensorSpec
from tests.fakes import INPUTS, OUTPUTS, answers, tiles
from tests.messages import Change, Message, message, request, response, tensor

MAX_BATCH = 25
FP32 = (TensorSpec("embedding", "float32", ("n", 2)),)


def decode(body: bytes, header_length: str | None) -> wire.InferRequest:
    return wire.decode_request(body, header_length, INPUTS, OUTPUTS, MAX_BATCH)


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


def drop(which: int) -> Change:
    return lambda head: head["inputs"].pop(which)


@dataclass(frozen=True)
class Row:
    what: str
    message: Message
    words: str


BODY, LENGTH = request()
PIXELS = np.zeros((2, 4, 4, 3), int).tolist()
MALFORMED = [
    Row("one byte too many", request(extra=b"x"), "1 bytes follow the last tensor"),
    Row("one byte short", request(cut=1), "the body ends 1 bytes before the end of index"),
    Row("no binary part", (BODY[: int(LENGTH or 0)], LENGTH), "ends 96 bytes before the end of tile"),
    Row("a missing tensor", request(put(EXTENT, name="extent2")), "unexpected input 'extent2'"),
    Row("two tensors", request(drop(EXTENT)), "got tensors ['index', 'tile'], expected ['extent', 'index'"),
    Row("a tensor twice", request(put(INDEX, name="tile", datatype="UINT8")), "tensor tile appears twice"),
    Row("no name", request(put(TILE, name=None)), "a tensor has no name"),
    Row("a name that is a number", request(put(TILE, name=5)), "a tensor has no name"),
    Row("a surrogate in a name", request(put(TILE, name="\ud800")), "unexpected input '\\ud800'"),
    Row("a long name", request(put(TILE, name="x" * 9999)), "unexpected input 'xxxxx"),
    Row("no inputs", request(lambda h: h.pop("inputs")), "inputs must be a list of 1 to 16 tensors"),
    Row("an empty list", request(inputs=[]), "inputs must be a list of 1 to 16 tensors"),
    Row("inputs as object", request(inputs={}), "inputs must be a list of 1 to 16 tensors"),
    Row("17 inputs", request(inputs=[{}] * 17), "inputs must be a list of 1 to 16 tensors"),
    Row("inputs of strings", request(inputs=["tile"]), "inputs must hold objects"),
    Row("another datatype", request(put(TILE, datatype="INT8")), "tile is int8, expected uint8"),
    Row("an unknown datatype", request(put(TILE, datatype="BYTES")), "datatype 'BYTES', expected UINT8"),
    Row("a list as datatype", request(put(TILE, datatype=["UINT8"])), "datatype ['UINT8'], expected UINT8"),
    Row("a numpy datatype", request(put(TILE, datatype="uint8")), "datatype 'uint8', expected UINT8"),
    Row("no shape", request(put(TILE, shape=None)), "tile has no shape of whole numbers"),
    Row("a shape of text", request(put(TILE, shape=["2", 4, 4, 3])), "tile has no shape of whole numbers"),
    Row("a shape of floats", request(put(TILE, shape=[2.0, 4, 4, 3])), "tile has no shape of whole numbers"),
    Row("a shape of booleans", request(put(INDEX, shape=[2, True])), "index has no shape of whole numbers"),
    Row("a flat shape", request(put(TILE, shape=[96])), "tile has shape [96], expected [n, 4, 4, 3]"),
    Row("a wrong side", request(put(TILE, shape=[2, 4, 3, 4])), "tile has shape [2, 4, 3, 4], expected"),
    Row("batch 0", request(put(TILE, shape=[0, 4, 4, 3])), "tile has shape [0, 4, 4, 3], expected"),
    Row("a negative batch", request(put(TILE, shape=[-1, 4, 4, 3])), "tile has shape [-1, 4, 4, 3]"),
    Row("batch 26", request(put(TILE, shape=[26, 4, 4, 3])), "tile has batch 26, expected at most 25"),
    Row("a huge batch", request(put(TILE, shape=[10**4000, 4, 4, 3])), "expected at most 25"),
    Row("a huge side", request(put(TILE, shape=[1, 10**4000, 4, 3])), "expected [n, 4, 4, 3]"),
    Row("unequal batches", request(as_json(EXTENT, [4, 4], [1, 2])), "extent has 1 along axis n, other"),
    Row("a size too small", request(binary_size(TILE, 95)), "binary_data_size 95, its shape needs 96"),
    Row("a size too large", request(binary_size(TILE, 97)), "binary_data_size 97, its shape needs 96"),
    Row("a negative size", request(binary_size(TILE, -96)), "binary_data_size must be a whole number"),
    Row("a float as size", request(binary_size(TILE, 96.0)), "binary_data_size must be a whole number"),
    Row("a boolean as size", request(binary_size(TILE, True)), "binary_data_size must be a whole number"),
    Row("text as size", request(binary_size(TILE, "96")), "binary_data_size must be a whole number"),
    Row("a huge size", request(binary_size(TILE, 2**70)), "its shape needs 96"),
    Row("4000 digits as size", request(binary_size(TILE, 10**4000)), "its shape needs 96"),
    Row("parameters as list", request(put(TILE, parameters=[])), "parameters must be an object"),
    Row("header length 0", (BODY, "0"), "must be a positive number"),
    Row("a negative header length", (BODY, "-5"), "must be a positive number"),
    Row("an empty header length", (BODY, ""), "must be a positive number"),
    Row("a signed header length", (BODY, "+5"), "must be a positive number"),
    Row("a header length in words", (BODY, "ten"), "must be a positive number"),
    Row("Arabic digits", (BODY, "\u0661\u0662"), "must be a positive number"),
    Row("a superscript", (BODY, "1\u00b2"), "must be a positive number"),
    Row("5000 digits", (BODY, "9" * 5000), "must be a positive number"),
    Row("a header past the end", (BODY, str(len(BODY) + 1)), f"this body has {len(BODY)} bytes"),
    Row("a header cut short", (BODY, "10"), "the JSON header cannot be parsed"),
    Row("a header too long", (BODY, str(len(BODY))), "the JSON header cannot be parsed"),
    Row("no header length", (BODY, None), "the JSON header cannot be parsed"),
    Row("an empty body", (b"", None), "the JSON header cannot be parsed"),
    Row("not UTF-8", (b'{"inputs": "\xff\xfe"}', None), "the JSON header cannot be parsed"),
    Row("a list", message([]), "the JSON header is no object"),
    Row("a number", message(5), "the JSON header is no object"),
    Row("null", message(None), "the JSON header is no object"),
    Row("deep lists", (b'{"inputs":' + b"[" * 10**5, None), "the JSON header cannot be parsed"),
    Row("deep objects", (b'{"a":' * 10**5, None), "the JSON header cannot be parsed"),
    Row("NaN", request(as_json(EXTENT, [float("nan")] * 4)), "the JSON header cannot be parsed"),
    Row("Infinity", request(as_json(EXTENT, [float("inf")] * 4)), "the JSON header cannot be parsed"),
    Row("minus Infinity", request(id=-float("inf")), "the JSON header cannot be parsed"),
    Row("5000 digits in data", (b'{"a": ' + b"9" * 5000 + b"}", None), "the JSON header cannot be parsed"),
    Row("a number past int32", request(as_json(EXTENT, [2**31, 4, 4, 4])), "goes beyond INT32"),
    Row("a huge number", request(as_json(EXTENT, [10**4000, 4, 4, 4])), "goes beyond INT32"),
    Row("a pixel of 256", request(as_json(TILE, [256] * 96)), "the data of tile goes beyond UINT8"),
    Row("a pixel of -1", request(as_json(TILE, [-1] * 96)), "the data of tile goes beyond UINT8"),
    Row("floats as pixels", request(as_json(TILE, [1.0] * 96)), "the data of tile does not hold UINT8"),
    Row("booleans as pixels", request(as_json(TILE, [True] * 96)), "the data of tile does not hold UINT8"),
    Row("text in data", request(as_json(TILE, [1] * 95 + ["1"])), "the data of tile does not hold UINT8"),
    Row("null in data", request(as_json(TILE, [1] * 95 + [None])), "the data of tile does not hold UINT8"),
    Row("a list late in data", request(as_json(TILE, [1] * 95 + [[1]])), "does not hold UINT8"),
    Row("ragged data", request(as_json(EXTENT, [[4], [4, 4, 4]])), "extent is not nested as its shape says"),
    Row("data nested otherwise", request(as_json(EXTENT, [[4, 4, 4, 4]])), "not nested as its shape says"),
    Row("data too deep", request(as_json(EXTENT, [[[4], 4], [4, 4]])), "does not hold INT32 values"),
    Row("half-nested data", request(as_json(EXTENT, [[4, 4], 4])), "not nested as its shape says"),
    Row("three frames of data", request(as_json(TILE, [*PIXELS, PIXELS[0]])), "not nested as its shape says"),
    Row("too many values", request(as_json(EXTENT, [4] * 5)), "extent has 5 values, its shape needs 4"),
    Row("too few values", request(as_json(EXTENT, [4] * 3)), "extent has 3 values, its shape needs 4"),
    Row("no values", request(as_json(EXTENT, [])), "extent has 0 values, its shape needs 4"),
    Row("data that is a number", request(as_json(EXTENT, 4)), "has neither data nor binary_data_size"),
    Row("no data", request(lambda h: h["inputs"][EXTENT].pop("data")), "neither data nor binary_data_size"),
    Row("index 25", request(as_json(INDEX, [3, 25])), "index has values from 3 to 25, expected 0 to 24"),
    Row("index -1", request(as_json(INDEX, [-1, 3])), "index has values from -1 to 3, expected 0 to 24"),
    Row("an extent of 5", request(as_json(EXTENT, [4, 4, 4, 5])), "extent has values from 4 to 5, expected"),
    Row("FP16 asked as JSON", request(outputs=[{"name": "scale"}]), "scale is FP16, which has"),
    Row("all as JSON", request(lambda h: h.pop("outputs")), "embedding is FP16, which has no JSON form"),
    Row(
        "an unknown output",
        request(outputs=[{"name": "\ud800"}]),
        "unexpected output '\\ud800'",
    ),
    Row("an output without name", request(outputs=[{}]), "a tensor has no name"),
    Row("outputs as text", request(outputs="scale"), "outputs must be a list"),
    Row("17 outputs", request(outputs=[{"name": "scale"}] * 17), "outputs must be a list"),
    Row("a list as id", request(id=[]), "id must be a short string"),
    Row("a float as id", request(id=0.5), "id must be a short string"),
    Row("a boolean as id", request(id=True), "id must be a short string"),
    Row("a long id", request(id="x" * 257), "id must be a short string"),
    Row("a long number as id", request(id=10**300), "id must be a short string"),
]


def test_the_request_the_table_starts_from_is_well_formed() -> None:
    got = decode(*request())
    assert got.inputs["index"].ravel().tolist() == [3, 7]
    assert decode(*request(as_json(TILE, PIXELS))).inputs["tile"].max() == 0


@pytest.mark.parametrize("row", MALFORMED, ids=lambda row: row.what)
def test_malformed_requests_get_one_sentence(row: Row) -> None:
    with pytest.raises(WireError, match=re.escape(row.words)) as caught:
        decode(*row.message)
    assert caught.value.status == 400
    assert len(str(caught.value)) < 300
    assert str(caught.value).isprintable()


def test_one_long_string_among_numbers_costs_no_memory() -> None:
    inputs = tiles(*range(25))
    entries = [tensor(spec, inputs[spec.name], binary=False) for spec in INPUTS]
    entries[TILE]["data"] = [0] * 1199 + ["x" * 100_000]  # as an array of equal strings: 480 MB
    body, _ = message({"inputs": entries})
    tracemalloc.start()
    try:
        with pytest.raises(WireError, match="does not hold UINT8 values"):
            decode(body, None)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 20 * len(body)


def test_what_a_header_claims_costs_no_memory() -> None:
    body, length = request(put(TILE, shape=[25, 4, 4, 3], parameters={"binary_data_size": 2**40}))
    tracemalloc.start()
    try:
        with pytest.raises(WireError, match="its shape needs 1200"):
            decode(body, length)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 100_000


# Responses as the edge reads them


def put_output(which: int, **fields: object) -> Change:
    return lambda head: head["outputs"][which].update(fields)


MALFORMED_RESPONSES = [
    Row("one byte too many", response(extra=b"x"), "1 bytes follow the last tensor"),
    Row("one byte short", response(cut=1), "the body ends 1 bytes before the end of scale"),
    Row(
        "a missing output", response(put_output(1, name="q8")), "got tensors ['embedding', 'scale'], expected"
    ),
    Row("an output twice", response(put_output(2, name="embedding")), "tensor embedding appears twice"),
    Row("another datatype", response(put_output(0, datatype="INT8")), "embedding is int8, expected float16"),
    Row("another shape", response(put_output(2, shape=[2, 2, 2])), "scale has shape [2, 2, 2], expected"),
    Row("batch 3", response(put_output(0, shape=[3, 2, 2, 3])), "embedding has batch 3, expected at most 2"),
    Row("FP16 as JSON", response(put_output(0, parameters={}, data=[1] * 24)), "which has no JSON form"),
    Row("no outputs", message({"outputs": []}), "outputs must be a list of 1 to 16 tensors"),
    Row("an error body", message({"error": "no"}), "outputs must be a list of 1 to 16 tensors"),
    Row(
        "an unknown output of negative size",
        response(put_output(0, name="more", parameters={"binary_data_size": -5})),
        "binary_data_size must be a whole number",
    ),
    Row(
        "an unknown output past the end",
        response(put_output(2, name="more", parameters={"binary_data_size": 17})),
        "the body ends 1 bytes before the end of more",
    ),
]


@pytest.mark.parametrize("row", MALFORMED_RESPONSES, ids=lambda row: row.what)
def test_malformed_responses_get_one_sentence(row: Row) -> None:
    with pytest.raises(WireError, match=re.escape(row.words)):
        wire.decode_response(*row.message, OUTPUTS, 2)


def test_a_response_for_fewer_tiles_is_refused() -> None:
    outputs = answers(tiles(3))
    sent = wire.encode_response(outputs, dict.fromkeys(outputs, True))
    with pytest.raises(WireError, match="does not hold 2 tiles"):
        wire.decode_response(sent.body, str(sent.header_length), OUTPUTS, 2)


@pytest.mark.parametrize("number", [1e39, -1e39, 10**400])
def test_numbers_past_fp32_are_refused(number: float) -> None:
    head = {"outputs": [{"name": "embedding", "datatype": "FP32", "shape": [1, 2], "data": [0, number]}]}
    with pytest.raises(WireError, match="goes beyond FP32"):
        wire.decode_response(*message(head), FP32, 1)


# Whatever comes, the only error is WireError


def decode_anything(body: bytes, header_length: str | None) -> None:
    for read in (
        lambda: decode(body, header_length),
        lambda: wire.decode_response(body, header_length, OUTPUTS, 2),
        lambda: wire.decode_response(body, header_length, FP32, 1),
    ):
        with contextlib.suppress(WireError):
            read()


@given(st.binary(max_size=200), st.none() | st.integers(-1, 201).map(str) | st.text(max_size=20))
def test_random_bytes(body: bytes, header_length: str | None) -> None:
    decode_anything(body, header_length)


@given(st.data())
def test_mutated_messages(data: st.DataObject) -> None:
    body, length = data.draw(st.sampled_from([request(), response()]))
    changed = bytearray(body)
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(changed)))
        stop = data.draw(st.integers(start, min(start + 4, len(changed))))
        changed[start:stop] = data.draw(st.binary(max_size=4))
    decode_anything(bytes(changed), length)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(
    st.sampled_from([("inputs",), ("outputs",), ("id",), ("parameters",)])
    | st.tuples(
        st.just("inputs"),
        st.integers(0, 2),
        st.sampled_from(["name", "datatype", "shape", "data", "parameters"]),
    ),
    JSON,
)
def test_any_json_in_any_field(path: tuple[Any, ...], value: object) -> None:
    def change(head: dict[str, Any]) -> None:
        entry: Any = head
        for key in path[:-1]:
            entry = entry[key]
        entry[path[-1]] = value

    decode_anything(*request(change))
