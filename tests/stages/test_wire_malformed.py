"""Malformed responses as the edge reads them, and the few malformed requests that HTTP cannot carry.

What a site answers to every other malformed request stands in tests/server/conformance.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import pytest

from stages import wire
from stages.errors import WireError
from stages.tensors import TensorSpec
from tests.support.fakes import INPUTS, OUTPUTS, answers, tiles
from tests.support.messages import Change, Message, message, request, response

FP32 = (TensorSpec("embedding", "float32", ("n", 2)),)


@dataclass(frozen=True)
class Row:
    what: str
    message: Message
    words: str


@pytest.mark.parametrize("digits", ["\u0661\u0662", "1\u00b2", "\uff11", " 5", "1_0"])
def test_a_header_length_has_ascii_digits_only(digits: str) -> None:
    with pytest.raises(WireError, match="must be a positive number"):
        wire.decode_request(request()[0], digits, INPUTS, OUTPUTS, 25)


def put_output(which: int, **fields: object) -> Change:
    return lambda head: head["outputs"][which].update(fields)


def one_more(name: str, size: int) -> Change:
    """An output that was not asked for, of which no byte is there."""
    return lambda head: head["outputs"].append({"name": name, "parameters": {"binary_data_size": size}})


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
        response(one_more("more", 1)),
        "the body ends 1 bytes before the end of 'more'",
    ),
    Row(
        "an unknown output with a name that steers terminals",
        response(one_more("\x1b[2J", 1)),
        "before the end of '\\x1b[2J'",
    ),
    Row(
        "an unknown output of a size of 400 digits",
        response(put_output(0, name="more", parameters={"binary_data_size": 10**400})),
        "binary_data_size must be a whole number",
    ),
]


@pytest.mark.parametrize("row", MALFORMED_RESPONSES, ids=lambda row: row.what)
def test_malformed_responses_get_one_sentence(row: Row) -> None:
    with pytest.raises(WireError, match=re.escape(row.words)) as caught:
        wire.decode_response(*row.message, OUTPUTS, 2)
    assert len(str(caught.value)) < 300
    assert str(caught.value).isprintable()


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
