"""Bodies put together from what comes of them."""

from __future__ import annotations

import tracemalloc

import pytest

from stages.body_parts import SMALL_BYTES, BodyParts


def whole(*parts: bytes) -> bytes:
    body = BodyParts()
    for part in parts:
        body.add(part)
    assert body.size == sum(map(len, parts))
    return body.whole()


@pytest.mark.parametrize(
    "sizes", [[], [1], [SMALL_BYTES], [1, 2, SMALL_BYTES, 3, SMALL_BYTES + 1, SMALL_BYTES, 0, 5, 6]]
)
def test_parts_are_joined_in_their_order(sizes: list[int]) -> None:
    parts = [bytes([number % 256]) * size for number, size in enumerate(sizes)]
    assert whole(*parts) == b"".join(parts)


def test_one_large_part_is_the_body() -> None:
    part = bytes(SMALL_BYTES)
    assert whole(part) is part


def test_single_bytes_take_no_more_than_twice_the_body() -> None:
    body, size = BodyParts(), 1 << 20
    tracemalloc.start()
    try:
        for _ in range(size):
            body.add(b"x")
        held = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert held < 2 * size
