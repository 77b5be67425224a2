"""The Open Inference Protocol on the wire: round trips, golden bytes, and every kind of malformed message."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages import wire
from stages.errors import WireError
from stages.tensors import Array, TensorSpec
from tests.support.fakes import INPUTS, OUTPUTS, answers, tiles
from tests.support.messages import EXTENT, TILE, Message, message, request, response, tensor

MAX_BATCH = 25
NAMES = [spec.name for spec in OUTPUTS]
FP32 = (TensorSpec("embedding", "float32", ("n", 2)),)

BATCHES = st.lists(st.integers(0, 24), min_size=1, max_size=MAX_BATCH)
IDS = st.none() | st.text(max_size=256)


def decode(body: bytes, header_length: str | None) -> wire.InferRequest:
    return wire.decode_request(body, header_length, INPUTS, OUTPUTS, MAX_BATCH)


def assert_equal(actual: Mapping[str, Array], expected: Mapping[str, Array]) -> None:
    assert list(actual) == list(expected)
    for name, array in expected.items():
        assert actual[name].dtype == array.dtype
        assert actual[name].tobytes() == array.tobytes()
        assert actual[name].shape == array.shape


# Round trips


@given(BATCHES, st.lists(st.sampled_from(NAMES), min_size=1, unique=True))
def test_requests_survive(windows: list[int], outputs: list[str]) -> None:
    inputs = tiles(*windows)
    sent = wire.encode_request(inputs, outputs)
    got = decode(sent.body, sent.headers[wire.HEADER_LENGTH])
    assert_equal(got.inputs, inputs)
    assert got.outputs == {name: True for name in NAMES if name in outputs}
    assert list(got.outputs) == [name for name in NAMES if name in outputs]
    assert got.batch == len(windows)
    assert got.id is None


@given(BATCHES, st.tuples(*[st.booleans()] * 3), st.permutations(INPUTS), IDS)
def test_requests_of_other_clients_survive(
    windows: list[int], binary: tuple[bool, ...], order: Sequence[TensorSpec], request_id: str | None
) -> None:
    inputs = tiles(*windows)
    head = {
        "inputs": [
            tensor(spec, inputs[spec.name], is_binary) for spec, is_binary in zip(order, binary, strict=True)
        ],
        "parameters": {"binary_data_output": True},
        **({} if request_id is None else {"id": request_id}),
    }
    buffers = [inputs[s.name].tobytes() for s, is_binary in zip(order, binary, strict=True) if is_binary]
    got = decode(*message(head, *buffers))
    assert_equal(got.inputs, inputs)
    assert got.outputs == dict.fromkeys(NAMES, True)
    assert got.id == request_id


@given(BATCHES, st.sets(st.sampled_from(NAMES), min_size=1), st.booleans(), IDS)
def test_responses_survive(
    windows: list[int], names: set[str], q8_binary: bool, request_id: str | None
) -> None:
    everything = answers(tiles(*windows))
    outputs = {name: everything[name] for name in NAMES if name in names}
    binary = {name: q8_binary or name != "embedding_q8" for name in outputs}
    sent = wire.encode_response(outputs, binary, request_id)
    specs = [spec for spec in OUTPUTS if spec.name in names]
    header_length = sent.headers.get(wire.HEADER_LENGTH)
    assert_equal(wire.decode_response(sent.body, header_length, specs, len(windows)), outputs)
    head = json.loads(sent.body[: sent.header_length])
    assert (head["model_name"], head["model_version"]) == ("window", "1")
    assert head.get("id") == request_id


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=2, max_size=2))
def test_fp32_numbers_survive_json(values: list[float]) -> None:
    outputs = {"embedding": np.array([values], np.float32)}
    sent = wire.encode_response(outputs, {"embedding": False})
    assert sent.header_length is None
    assert_equal(wire.decode_response(sent.body, None, FP32, 1), outputs)


def test_arrays_of_any_memory_layout_are_sent_row_by_row() -> None:
    array = np.arange(6, dtype=np.int32).reshape(2, 3).T
    sent = wire.encode_response({"a": array}, {"a": True})
    assert sent.body[sent.header_length :] == np.array([0, 3, 1, 4, 2, 5], "<i4").tobytes()


def test_decoded_arrays_are_views_of_the_body() -> None:
    sent = wire.encode_request(tiles(1), NAMES)
    array = decode(sent.body, str(sent.header_length)).inputs["tile"]
    assert not array.flags.owndata
    assert not array.flags.writeable


# Headers that come again


def test_a_header_that_comes_again_stands_before_other_numbers() -> None:
    first, second = (wire.encode_request(tiles(window), NAMES) for window in (1, 2))
    length = first.header_length
    assert length is not None
    assert first.body[:length] == second.body[:length]
    for sent, window in ((first, 1), (second, 2), (first, 1)):
        assert_equal(decode(sent.body, str(length)).inputs, tiles(window))


def test_what_a_caller_does_with_a_request_is_not_remembered() -> None:
    sent = wire.encode_request(tiles(1), NAMES)
    asked = decode(sent.body, str(sent.header_length)).outputs
    assert isinstance(asked, dict)
    asked.clear()
    assert decode(sent.body, str(sent.header_length)).outputs == dict.fromkeys(NAMES, True)


def test_a_header_that_was_good_once_makes_no_number_good() -> None:
    good = wire.encode_request(tiles(24), NAMES)
    decode(good.body, str(good.header_length))
    bad = good.body.replace((24).to_bytes(4, "little"), (25).to_bytes(4, "little"))
    assert bad != good.body
    assert len(bad) == len(good.body)
    with pytest.raises(WireError, match="index has values from 25"):
        decode(bad, str(good.header_length))


def test_a_header_that_was_good_once_makes_no_body_long_enough() -> None:
    good = wire.encode_request(tiles(1), NAMES)
    decode(good.body, str(good.header_length))
    with pytest.raises(WireError, match="the body ends 1 bytes before"):
        decode(good.body[:-1], str(good.header_length))


def test_large_headers_are_not_kept() -> None:
    kept = wire._remembered_request.cache_info().currsize
    body, length = message({**json.loads(request()[0][: int(request()[1] or 0)]), "pad": "x" * 2000}, b"")
    with pytest.raises(WireError):  # its numbers are missing
        decode(body, length)
    assert wire._remembered_request.cache_info().currsize == kept


# Golden bytes

GOLDEN_INPUTS: dict[str, Array] = {
    "tile": np.array([[7, 255]], np.uint8),
    "index": np.array([[24]], np.int32),
}
GOLDEN_REQUEST = (
    b'{"inputs":[{"name":"tile","datatype":"UINT8","shape":[1,2],"parameters":{"binary_data_size":2}},'
    b'{"name":"index","datatype":"INT32","shape":[1,1],"parameters":{"binary_data_size":4}}],'
    b'"outputs":[{"name":"embedding","parameters":{"binary_data":true}}]}'
    b"\x07\xff\x18\x00\x00\x00"
)
GOLDEN_OUTPUTS: dict[str, Array] = {
    "embedding": np.array([[1.0, -2.5]], np.float16),
    "embedding_q8": np.array([[-127, 3]], np.int8),
}
GOLDEN_RESPONSE = (
    b'{"model_name":"window","model_version":"1","id":"7","outputs":['
    b'{"name":"embedding","datatype":"FP16","shape":[1,2],"parameters":{"binary_data_size":4}},'
    b'{"name":"embedding_q8","datatype":"INT8","shape":[1,2],"data":[-127,3]}]}'
    b"\x00\x3c\x00\xc1"
)


def test_a_request_is_these_bytes() -> None:
    sent = wire.encode_request(GOLDEN_INPUTS, ["embedding"])
    assert sent.body == GOLDEN_REQUEST
    assert sent.headers == {
        "Content-Type": "application/octet-stream",
        "Inference-Header-Content-Length": str(len(GOLDEN_REQUEST) - 6),
    }


def test_a_response_is_these_bytes() -> None:
    sent = wire.encode_response(GOLDEN_OUTPUTS, {"embedding": True, "embedding_q8": False}, "7")
    assert sent.body == GOLDEN_RESPONSE
    assert sent.header_length == len(GOLDEN_RESPONSE) - 4


def test_golden_bytes_are_read() -> None:
    specs = (TensorSpec("tile", "uint8", ("n", 2)), TensorSpec("index", "int32", ("n", 1)))
    got = wire.decode_request(GOLDEN_REQUEST, str(len(GOLDEN_REQUEST) - 6), specs, OUTPUTS, MAX_BATCH)
    assert_equal(got.inputs, GOLDEN_INPUTS)
    results = (TensorSpec("embedding", "float16", ("n", 2)), TensorSpec("embedding_q8", "int8", ("n", 2)))
    assert_equal(
        wire.decode_response(GOLDEN_RESPONSE, str(len(GOLDEN_RESPONSE) - 4), results, 1), GOLDEN_OUTPUTS
    )


# Which outputs


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        ({"parameters": {"binary_data_output": True}}, dict.fromkeys(NAMES, True)),
        ({"parameters": {"binary_data_output": True}, "outputs": []}, dict.fromkeys(NAMES, True)),
        ({"outputs": [{"name": "embedding_q8"}]}, {"embedding_q8": False}),
        (
            {"outputs": [{"name": "embedding_q8", "parameters": {"binary_data": False}}]},
            {"embedding_q8": False},
        ),
        ({"outputs": [{"name": "scale", "parameters": {"binary_data": True}}]}, {"scale": True}),
        (
            {"parameters": {"binary_data_output": True}, "outputs": [{"name": "scale"}]},
            {"scale": True},
        ),
        (
            {
                "parameters": {"binary_data_output": True},
                "outputs": [
                    {"name": "embedding_q8", "parameters": {"binary_data": False}},
                    {"name": "embedding"},
                ],
            },
            {"embedding": True, "embedding_q8": False},
        ),
    ],
)
def test_outputs_asked_for(head: dict[str, Any], expected: dict[str, bool]) -> None:
    inputs = tiles(3)
    head = {"inputs": [tensor(spec, inputs[spec.name], binary=False) for spec in INPUTS], **head}
    wanted = decode(*message(head)).outputs
    assert wanted == expected
    assert list(wanted) == list(expected)


@pytest.mark.parametrize(("value", "expected"), [("x", "x"), ("", ""), (5, "5"), ("\ud800", "\ud800")])
def test_ids_come_back(value: object, expected: str) -> None:
    got = decode(*request(id=value)).id
    assert got == expected
    sent = wire.encode_response({}, {}, got)
    assert json.loads(sent.body)["id"] == expected


def with_changed_head(change: Callable[[dict[str, Any]], object]) -> Message:
    """`request()` with its JSON changed and its tensors' bytes as they are."""
    body, length = request()
    head = json.loads(body[: int(length or 0)])
    change(head)
    return message(head, body[int(length or 0) :])


@pytest.mark.parametrize(
    "change",
    [
        lambda head: head.update(id=None),
        lambda head: head.update(outputs=None, parameters={"binary_data_output": True}),
        lambda head: head.update(parameters=None),
        lambda head: head.update(parameters={"binary_data_output": None, "sequence_id": None}),
        lambda head: head["outputs"][0].update(parameters=None),
        lambda head: head["outputs"][0].update(
            parameters={"binary_data": None, "classification": None, "shared_memory_region": None}
        ),
        lambda head: head["inputs"][EXTENT].update(parameters=None),
        lambda head: head["inputs"][EXTENT].update(parameters={"binary_data_size": None}),
        lambda head: head["inputs"][TILE].update(data=None),
        lambda head: head["inputs"][TILE]["parameters"].update(shared_memory_region=None),
    ],
)
def test_null_is_as_if_left_out(change: Callable[[dict[str, Any]], object]) -> None:
    """pydantic's clients and KServe's SDK write null for what they were not given."""
    plain, head = decode(*request()), {"outputs": True}
    changed = with_changed_head(lambda found: (change(found), head.update(found)))
    got = decode(*changed)
    assert_equal(got.inputs, plain.inputs)
    assert got.outputs == (plain.outputs if head["outputs"] else dict.fromkeys(NAMES, True))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda head: head.update(inputs=None), "inputs must be a list of 1 to 16 tensors"),
        (lambda head: head["inputs"][TILE].update(name=None), "a tensor has no name"),
        (lambda head: head["inputs"][TILE].update(shape=None), "tile has no shape"),
        (lambda head: head["inputs"][TILE].update(datatype=None), "tile has datatype None"),
        (lambda head: head["inputs"][EXTENT].update(data=None), "extent has neither data nor binary"),
        (lambda head: head["inputs"].append(None), "inputs must hold objects"),
    ],
)
def test_null_for_what_a_message_needs_is_refused(
    change: Callable[[dict[str, Any]], object], words: str
) -> None:
    with pytest.raises(WireError, match=words):
        decode(*with_changed_head(change))


# Responses and errors


@pytest.mark.parametrize("kept", range(3))
def test_outputs_nobody_asked_for_are_passed_over(kept: int) -> None:
    outputs = answers(tiles(3, 7))
    got = wire.decode_response(*response(), [OUTPUTS[kept]], 2)
    assert_equal(got, {NAMES[kept]: outputs[NAMES[kept]]})


def test_what_json_cannot_hold_is_not_sent_as_json() -> None:
    with pytest.raises(WireError, match="ask for it as binary data") as caught:
        wire.encode_response({"embedding": np.array([[1, np.nan]], np.float32)}, {"embedding": False})
    assert caught.value.status == 500


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b'{"error": "no such model"}', "no such model"),
        (b'{"error": "two\\nlines"}', "two lines"),
        (b'{"error": {"code": 5}}', '{"error": {"code": 5}}'),
        (b'{"error": ' + b"[" * 900 + b"]" * 900 + b"}", '{"error": ' + "[" * 290),
        (b'{"error": "' + b"x" * 5000 + b'"}', "x" * 300),
        (b'{"message": "no"}', '{"message": "no"}'),
        (b"plain text", "plain text"),
        (b'"text"', '"text"'),
        (b"[1]", "[1]"),
        (b"\xff\xfe", "\ufffd" * 2),
        (b"[" * 10**5, "[" * 300),
        (b'{"error": "\\ud800 \\u001b[2J"}', "? ?[2J"),
        (b"x" * 1000, "x" * 300),
        (b"", "no explanation"),
        (b'{"error": ""}', "no explanation"),
    ],
)
def test_the_sentence_in_an_error_body(body: bytes, text: str) -> None:
    assert wire.error_text(body) == text
