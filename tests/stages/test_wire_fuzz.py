"""Whatever bytes come, decoders answer or raise WireError, in bounded memory."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.messages import SEEDS, check_bounded, mutated
from tests.support.messages import TILE, Message, binary_size, put, request

LARGE_BYTES = 60_000

ANY_LENGTH = st.none() | st.integers(-1, 201).map(str) | st.text(max_size=20)


@given(st.binary(max_size=200), ANY_LENGTH)
def test_random_bytes(body: bytes, header_length: str | None) -> None:
    check_bounded(body, header_length)


@given(st.sampled_from(SEEDS), st.randoms(use_true_random=False))
@settings(max_examples=600)
def test_messages_that_are_almost_well_formed(seed: Message, random: Random) -> None:
    check_bounded(*mutated(seed, random))


@given(st.sampled_from(SEEDS), st.randoms(use_true_random=False))
def test_messages_as_they_should_be_pass(seed: Message, random: Random) -> None:
    check_bounded(*seed)


# What takes the most memory for its bytes

UNITS: Sequence[bytes] = (
    b"0", b"999", b"1e1", b"-1.5", b'""', b'"ab"', b"[]", b"{}", b"[0]", b"[[[]]]", b"[0,0,0]",
    b"[" * 100 + b"]" * 100, b'{"":0}', b'[{"":[]}]', b'{"":' * 100 + b"0" + b"}" * 100, b"9" * 4000,
    b'{"name":"tile","shape":[]}', b'[[]],"ab","cd"', b"[],888",
)  # fmt: skip


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit[:12].decode())
@pytest.mark.parametrize(
    "around",
    [
        b'{"more":"\xf0\x9f\x98\x80","inputs":[%s],"outputs":[%s]}',  # a text of 4 bytes a character
        b'{"inputs":[{"name":"tile","datatype":"UINT8","shape":[25,4,4,3],"data":[%s]}],"error":[%s]}',
        b'{"inputs":[{"name":"tile","datatype":"UINT8","shape":[%s]}],"error":[%s]}',
        b'{"inputs":[{"name":"tile","datatype":[%s],"shape":[1]}],"outputs":[%s]}',
        b'{"outputs":[{"name":"embedding","datatype":"FP32","shape":[1,2],"data":[%s]}],"id":[%s]}',
    ],
    ids=["entries", "data", "shape", "datatype", "response"],
)
def test_what_takes_the_most_memory_for_its_bytes(around: bytes, unit: bytes) -> None:
    many = b",".join([unit] * (LARGE_BYTES // (len(unit) + 1)))
    check_bounded(around % (many, many), None)


def test_many_keys() -> None:
    keys = b",".join(b'"%x":0' % number for number in range(LARGE_BYTES // 8))
    check_bounded(b'{"inputs":[{%s}]}' % keys, None)


def test_one_long_string_among_numbers() -> None:
    data = b"0," * 1199 + b'"' + b"x" * 100_000 + b'"'  # as an array of equal strings: 480 MB
    tile = b'{"name":"tile","datatype":"UINT8","shape":[25,4,4,3],"data":[%s]}' % data
    check_bounded(b'{"inputs":[%s]}' % tile, None)


def test_what_a_header_claims() -> None:
    check_bounded(*request(put(TILE, shape=[25, 4, 4, 3], parameters={"binary_data_size": 2**40})))
    check_bounded(*request(binary_size(TILE, 2**62)))
