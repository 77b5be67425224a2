"""The fixture that fails blocking tests does notice blocking."""

from __future__ import annotations

import asyncio
import time

import pytest

from tests.support.loop_watch import blocking

pytestmark = pytest.mark.anyio


async def block_for(seconds: float) -> None:
    time.sleep(seconds)  # noqa: ASYNC251


async def test_blocking_is_noticed() -> None:
    with blocking(asyncio.get_running_loop(), limit_s=0.05) as complaints:
        await asyncio.create_task(block_for(0.06), name="the culprit")
        await asyncio.sleep(0)  # asyncio complains after the step
    assert any("the culprit" in line for line in complaints)


async def test_waiting_is_no_blocking() -> None:
    with blocking(asyncio.get_running_loop(), limit_s=0.2) as complaints:
        await asyncio.sleep(0.21)
    assert complaints == []
