"""Values of a request's tensors."""

from __future__ import annotations

from tests.server.conformance.rows import BOUNDS, HEADER, SENDER, SERVED, WRAPS, says, with_header
from tests.support.messages import EXTENT, INDEX, TILE, as_json, request

PIXELS = [[[[0] * 3] * 4] * 4] * 2

VALUES = [
    says("nested data", request(as_json(EXTENT, [[4, 4], [4, 4]])), SERVED, SERVED),
    says("flat data", request(as_json(EXTENT, [4] * 4)), SERVED, SERVED),
    says(
        "ragged data",
        request(as_json(EXTENT, [[4], [4, 4, 4]])),
        SERVED,
        "400 the data of extent is not nested as its shape says",
        WRAPS,
    ),
    says(
        "data nested otherwise",
        request(as_json(EXTENT, [[4, 4, 4, 4]])),
        SERVED,
        "400 the data of extent is not nested as its shape says",
        WRAPS,
    ),
    says(
        "data too deep",
        request(as_json(EXTENT, [[[4], 4], [4, 4]])),
        SERVED,
        "400 the data of extent does not hold INT32 values",
        WRAPS,
    ),
    says(
        "half-nested data",
        request(as_json(EXTENT, [[4, 4], 4])),
        "500 Unable to parse 'data': Shape does not match true shape of",
        "400 the data of extent is not nested as its shape says",
        SENDER,
    ),
    says(
        "flat, then nested",
        request(as_json(EXTENT, [4, 4, [4, 4]])),
        SERVED,
        "400 extent has 3 values, its shape needs 4",
        WRAPS,
    ),
    says(
        "too many frames",
        request(as_json(TILE, [*PIXELS, PIXELS[0]])),
        "500 Unable to parse 'data': Shape does not match true shape of",
        "400 the data of tile is not nested as its shape says",
        SENDER,
    ),
    says(
        "too many values",
        request(as_json(EXTENT, [4] * 5)),
        "500 Unable to parse 'data': Shape does not match true shape of",
        "400 extent has 5 values, its shape needs 4",
        SENDER,
    ),
    says(
        "too few values",
        request(as_json(EXTENT, [4] * 3)),
        "500 Unable to parse 'data': Shape does not match true shape of",
        "400 extent has 3 values, its shape needs 4",
        SENDER,
    ),
    says(
        "no values",
        request(as_json(EXTENT, [])),
        "500 Unable to parse 'data': Shape does not match true shape of",
        "400 extent has 0 values, its shape needs 4",
        SENDER,
    ),
    says(
        "data that is a number",
        request(as_json(EXTENT, 4)),
        "500 Unable to parse 'data': attempt to access JSON non-array as",
        "400 extent has neither data nor binary_data_size",
        SENDER,
    ),
    says(
        "past int32",
        request(as_json(EXTENT, [2**31, 4, 4, 4])),
        SERVED,
        "400 the data of extent goes beyond INT32",
        WRAPS,
    ),
    says(
        "4000 digits as a value",
        request(as_json(EXTENT, [10**3999, 4, 4, 4])),
        "500 failed to parse the request JSON buffer: Number too big to",
        "400 the data of extent goes beyond INT32",
        SENDER,
    ),
    says(
        "a pixel of 256",
        request(as_json(TILE, [256] + [0] * 95)),
        SERVED,
        "400 the data of tile goes beyond UINT8",
        WRAPS,
    ),
    says(
        "a pixel of -1",
        request(as_json(TILE, [-1] + [0] * 95)),
        "500 Unable to parse 'data': attempt to access JSON",
        "400 the data of tile goes beyond UINT8",
        SENDER,
    ),
    says(
        "a pixel of -0",
        with_header(HEADER.replace(b"[[4, 4], [4, 4]]", b"[[4, 4], [4, -0]]")),
        SERVED,
        SERVED,
    ),
    says(
        "fractions as pixels",
        request(as_json(TILE, [1.5] * 96)),
        "500 Unable to parse 'data': attempt to access JSON",
        "400 the data of tile does not hold UINT8 values",
        SENDER,
    ),
    says(
        "1.0 as pixels",
        request(as_json(TILE, [1.0] * 96)),
        "500 Unable to parse 'data': attempt to access JSON",
        "400 the data of tile does not hold UINT8 values",
        SENDER,
    ),
    says(
        "booleans as pixels",
        request(as_json(TILE, [True] * 96)),
        "500 Unable to parse 'data': attempt to access JSON",
        "400 the data of tile does not hold UINT8 values",
        SENDER,
    ),
    says(
        "text among pixels",
        request(as_json(TILE, [1] * 95 + ["1"])),
        "500 Unable to parse 'data': attempt to access JSON",
        "400 the data of tile does not hold UINT8 values",
        SENDER,
    ),
    says(
        "null among pixels",
        request(as_json(TILE, [1] * 95 + [None])),
        "500 Unable to parse 'data': attempt to access JSON",
        "400 the data of tile does not hold UINT8 values",
        SENDER,
    ),
    says(
        "index 25",
        request(as_json(INDEX, [3, 25])),
        SERVED,
        "400 index has values from 3 to 25, expected 0 to 24",
        BOUNDS,
    ),
    says(
        "index -1",
        request(as_json(INDEX, [-1, 3])),
        SERVED,
        "400 index has values from -1 to 3, expected 0 to 24",
        BOUNDS,
    ),
    says(
        "an extent of 5",
        request(as_json(EXTENT, [4, 4, 4, 5])),
        SERVED,
        "400 extent has values from 4 to 5, expected 0 to 4",
        BOUNDS,
    ),
]
