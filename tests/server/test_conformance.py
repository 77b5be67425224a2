"""A site beside a real Triton 2.51: one table of requests, what Triton answers and what we answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator

import pytest

from tests.server.conformance.rows import Row
from tests.server.conformance.table import ROWS, captured
from tests.support.clients import Client, connected
from tests.support.raw_http import exchange

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("unblocked_loop")]


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    async with connected() as client:
        yield client


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
async def test_a_site_answers_what_its_row_says(row: Row, client: Client) -> None:
    reply = await exchange(client.site.url, row.request)
    assert reply is not None
    assert reply.fact.startswith(row.ours)
    if reply.status >= 400:
        assert reply.headers["content-type"].startswith("application/json")
        assert len(reply.fact) < 300
        assert reply.fact.isprintable()
    assert (await client.infer(3)).holds(3)  # whatever came, the next request is served


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_row_says_what_triton_was_seen_to_answer(row: Row) -> None:
    assert captured()[row.name]["fact"].startswith(row.triton)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_row_gives_a_reason_where_the_servers_differ(row: Row) -> None:
    differs = row.triton.split()[0] != row.ours.split()[0]
    assert not differs or row.why


def test_every_row_has_its_own_name_and_was_captured() -> None:
    assert Counter(list(captured())) == Counter(row.name for row in ROWS)


def test_no_answer_of_ours_blames_the_site_for_a_request() -> None:
    assert [row.name for row in ROWS if row.ours.startswith("5")] == []
