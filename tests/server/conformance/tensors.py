"""Datatypes, shapes and sizes of a request's tensors."""

from __future__ import annotations

from typing import Any

from tests.server.conformance.rows import HEADER, LENGTH, SENDER, SERVED, says
from tests.support.messages import (
    EXTENT,
    INDEX,
    TILE,
    as_json,
    binary_size,
    json_request,
    leave_out,
    put,
    request,
)


def nothing(head: dict[str, Any]) -> None:
    """No tile in any tensor."""
    for which, sides in ((TILE, [0, 4, 4, 3]), (INDEX, [0, 1]), (EXTENT, [0, 2])):
        as_json(which, [], sides)(head)


TENSORS = [
    says(
        "another datatype",
        request(put(TILE, datatype="INT8")),
        "400 inference input 'tile' data-type is 'INT8', but model",
        "400 tile is int8, expected uint8",
    ),
    says(
        "a wider datatype",
        request(put(INDEX, datatype="INT64")),
        "400 inference input 'index' data-type is 'INT64', but model",
        "400 index is int64, expected int32",
    ),
    says(
        "an unknown datatype",
        request(put(TILE, datatype="UINT7")),
        "400 inference input 'tile' data-type is '<invalid>', but model",
        "400 tile has datatype 'UINT7', expected UINT8",
    ),
    says(
        "strings",
        request(put(TILE, datatype="BYTES")),
        "400 inference input 'tile' data-type is 'BYTES', but model",
        "400 tile has datatype 'BYTES', expected UINT8",
    ),
    says(
        "a datatype in lower case",
        request(put(TILE, datatype="uint8")),
        "400 inference input 'tile' data-type is '<invalid>', but model",
        "400 tile has datatype 'uint8', expected UINT8",
    ),
    says(
        "no datatype",
        request(leave_out(TILE, "datatype")),
        "500 Unable to parse 'datatype': attempt to access non-existing",
        "400 tile has datatype None, expected UINT8",
        SENDER,
    ),
    says(
        "a list as datatype",
        request(put(TILE, datatype=["UINT8"])),
        "500 Unable to parse 'datatype': attempt to access JSON",
        "400 tile has datatype ['UINT8'], expected UINT8",
        SENDER,
    ),
    says(
        "no shape",
        request(leave_out(TILE, "shape")),
        "500 Unable to parse 'shape': attempt to access non-existing",
        "400 tile has no shape of whole numbers",
        SENDER,
    ),
    says(
        "a shape of text",
        request(put(TILE, shape=["2", 4, 4, 3])),
        "500 Unable to parse 'shape': attempt to access JSON",
        "400 tile has no shape of whole numbers",
        SENDER,
    ),
    says(
        "a shape of fractions",
        request(put(TILE, shape=[2.0, 4, 4, 3])),
        "500 Unable to parse 'shape': attempt to access JSON",
        "400 tile has no shape of whole numbers",
        SENDER,
    ),
    says(
        "a shape of booleans",
        request(put(INDEX, shape=[2, True])),
        "500 Unable to parse 'shape': attempt to access JSON",
        "400 index has no shape of whole numbers",
        SENDER,
    ),
    says(
        "an empty shape",
        request(put(INDEX, shape=[])),
        "400 input 'index' has no shape but model requires batch",
        "400 index has shape [], expected [n, 1]",
    ),
    says(
        "a flat shape",
        request(put(TILE, shape=[96])),
        "400 input 'tile' batch size does not match other inputs for",
        "400 tile has shape [96], expected [n, 4, 4, 3]",
    ),
    says(
        "a shape of 100 sides",
        request(put(TILE, shape=[2] + [1] * 99)),
        "400 unexpected shape for input 'tile' for model 'window'.",
        "400 tile has a shape of 100 sides, expected 4",
    ),
    says(
        "a wrong side",
        request(put(TILE, shape=[2, 4, 3, 4])),
        "400 unexpected shape for input 'tile' for model 'window'.",
        "400 tile has shape [2, 4, 3, 4], expected [n, 4, 4, 3]",
    ),
    says(
        "batch 0",
        request(put(TILE, shape=[0, 4, 4, 3])),
        "400 input 'tile' batch size does not match other inputs for",
        "400 tile has shape [0, 4, 4, 3], expected [n, 4, 4, 3]",
    ),
    says(
        "batch 0 of nothing",
        request(nothing),
        "400 input byte size mismatch for input 'extent' for model",
        "400 tile has shape [0, 4, 4, 3], expected [n, 4, 4, 3]",
    ),
    says(
        "a negative batch",
        request(put(TILE, shape=[-1, 4, 4, 3])),
        "500 Unable to parse 'shape': attempt to access JSON",
        "400 tile has shape [-1, 4, 4, 3], expected [n, 4, 4, 3]",
        SENDER,
    ),
    says("batch 25", json_request(*range(25)), SERVED, SERVED),
    says(
        "batch 26",
        json_request(*range(25), 0),
        "400 inference request batch-size must be <= 25 for 'window'",
        "400 tile has batch 26, expected at most 25",
    ),
    says(
        "a batch of 10^18",
        request(put(TILE, shape=[10**18, 4, 4, 3])),
        "400 input 'tile' batch size does not match other inputs for",
        "400 tile has batch 1000000000000000000, expected at most 25",
    ),
    says(
        "a batch of 4000 digits",
        request(put(TILE, shape=[10**3999, 4, 4, 3])),
        "500 failed to parse the request JSON buffer: Number too big to",
        "400 tile has batch",
        SENDER,
    ),
    says(
        "a side of 4000 digits",
        request(put(TILE, shape=[1, 10**3999, 4, 3])),
        "500 failed to parse the request JSON buffer: Number too big to",
        "400 tile has shape [1,",
        SENDER,
    ),
    says(
        "unequal batches",
        request(as_json(EXTENT, [4, 4], [1, 2])),
        "400 input 'index' batch size does not match other inputs for",
        "400 extent has 1 along axis n, other tensors have 2",
    ),
    says(
        "one byte too many",
        request(extra=b"x"),
        "400 unexpected additional input data for model 'window'",
        "400 1 bytes follow the last tensor",
    ),
    says(
        "one byte short",
        request(cut=1),
        "400 unexpected size for input 'index', expecting 1 additional",
        "400 the body ends 1 bytes before the end of index",
    ),
    says(
        "no binary part",
        (HEADER, LENGTH),
        "400 unexpected size for input 'tile', expecting 96 additional",
        "400 the body ends 96 bytes before the end of tile",
    ),
    says(
        "half an element",
        request(binary_size(INDEX, 7)),
        "400 unexpected additional input data for model 'window'",
        "400 index has binary_data_size 7, its shape needs 8",
    ),
    says(
        "a size too small",
        request(binary_size(TILE, 95)),
        "400 unexpected additional input data for model 'window'",
        "400 tile has binary_data_size 95, its shape needs 96",
    ),
    says(
        "a size too large",
        request(binary_size(TILE, 97)),
        "400 unexpected size for input 'index', expecting 1 additional",
        "400 tile has binary_data_size 97, its shape needs 96",
    ),
    says(
        "sizes that are wrong and make up for each other",
        request(lambda head: (binary_size(TILE, 95)(head), binary_size(INDEX, 9)(head))),
        "400 input byte size mismatch for input 'index' for model",
        "400 tile has binary_data_size 95, its shape needs 96",
    ),
    says(
        "a size 0",
        request(binary_size(TILE, 0)),
        "400 unexpected additional input data for model 'window'",
        "400 tile has binary_data_size 0, its shape needs 96",
    ),
    says(
        "a negative size",
        request(binary_size(TILE, -96)),
        "500 Unable to parse 'binary_data_size': attempt to access JSON",
        "400 binary_data_size must be a whole number of bytes",
        SENDER,
    ),
    says(
        "a fraction as size",
        request(binary_size(TILE, 96.0)),
        "500 Unable to parse 'binary_data_size': attempt to access JSON",
        "400 binary_data_size must be a whole number of bytes",
        SENDER,
    ),
    says(
        "a boolean as size",
        request(binary_size(TILE, True)),
        "500 Unable to parse 'binary_data_size': attempt to access JSON",
        "400 binary_data_size must be a whole number of bytes",
        SENDER,
    ),
    says(
        "text as size",
        request(binary_size(TILE, "96")),
        "500 Unable to parse 'binary_data_size': attempt to access JSON",
        "400 binary_data_size must be a whole number of bytes",
        SENDER,
    ),
    says(
        "a size null",
        request(binary_size(TILE, None)),
        "500 Unable to parse 'binary_data_size': attempt to access JSON",
        "400 tile has neither data nor binary_data_size",
        SENDER,
    ),
    says(
        "a size of 2^70",
        request(binary_size(TILE, 2**70)),
        "500 Unable to parse 'binary_data_size': attempt to access JSON",
        "400 binary_data_size must be a whole number of bytes",
        SENDER,
    ),
    says(
        "4000 digits as size",
        request(binary_size(TILE, 10**3999)),
        "500 failed to parse the request JSON buffer: Number too big to",
        "400 binary_data_size must be a whole number of bytes",
        SENDER,
    ),
    says(
        "data and a size",
        request(put(EXTENT, parameters={"binary_data_size": 16})),
        "400 Input must set only one of the following fields: 'data',",
        "400 a tensor has both data and binary_data_size; send one of",
    ),
    says(
        "neither data nor a size",
        request(leave_out(EXTENT, "data")),
        "400 Input must set only one of the following fields: 'data',",
        "400 extent has neither data nor binary_data_size",
    ),
]
