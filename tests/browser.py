"""The preview's page in a real Chromium, headless."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import anyio
from playwright.async_api import Browser, Page, async_playwright, expect

from tests.live import FakeLive
from tests.watchers import Shown, shown

NAMES = ("chromium", "chromium-browser", "google-chrome")
WAIT_MS = 60_000  # generous: what is waited for comes, or the test fails


@asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    path = next(filter(None, map(shutil.which, NAMES)), None)
    assert path, f"none of {', '.join(NAMES)} is installed; on Debian: apt-get install chromium"
    expect.set_options(timeout=WAIT_MS)
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        await browser.close()


@dataclass(frozen=True)
class Tab:
    """The page, opened on a loop that runs; `errors` is what its console complained of."""

    page: Page
    run: Shown
    errors: list[str]

    @property
    def live(self) -> FakeLive:
        return self.run.live

    async def number(self) -> int:
        """Of the frame that is shown."""
        return int(await self.page.locator("#stage").get_attribute("data-number") or -1)

    async def place(self, x: float, y: float) -> tuple[float, float]:
        """Where a share of the picture, from its left top, lies in the window."""
        box = await self.page.locator("#stage").bounding_box()
        assert box is not None
        return box["x"] + x * box["width"], box["y"] + y * box["height"]

    async def click(self, x: float, y: float) -> None:
        await self.page.mouse.click(*await self.place(x, y))

    async def drag(self, x0: float, y0: float, x1: float, y1: float) -> None:
        await self.page.mouse.move(*await self.place(x0, y0))
        await self.page.mouse.down()
        await self.page.mouse.move(*await self.place(x1, y1), steps=4)
        await self.page.mouse.up()

    async def until_masked(self, x: float, y: float, masked: bool = True) -> None:
        """Waits until a mask is, or is not, drawn at a share of the picture."""
        await self.page.wait_for_function(MASKED_AT, arg=[x, y, masked], timeout=WAIT_MS)

    async def until_number(self, number: int) -> None:
        """Waits until a frame at least as new is shown."""
        await self.page.wait_for_function(NUMBER_FROM, arg=number, timeout=WAIT_MS)


MASKED_AT = """([x, y, masked]) => {
    const canvas = document.getElementById("masks");
    const at = [Math.round(x * canvas.width), Math.round(y * canvas.height)];
    return canvas.getContext("2d").getImageData(...at, 1, 1).data[3] > 0 === masked;
}"""
NUMBER_FROM = "(number) => Number(document.getElementById('stage').dataset.number) >= number"


@asynccontextmanager
async def opened(browser: Browser, run: Shown, address: str = "", **options: Any) -> AsyncIterator[Tab]:
    """A tab of its own, as another person would have one."""
    context = await browser.new_context(**options)
    page = await context.new_page()
    page.set_default_timeout(WAIT_MS)
    errors: list[str] = []
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    await page.goto(address or run.address)
    yield Tab(page, run, errors)
    await context.close()


@asynccontextmanager
async def tab(browser: Browser, live: FakeLive | None = None, **options: Any) -> AsyncIterator[Tab]:
    """The page open on a loop whose frames move."""
    async with shown(live) as run, anyio.create_task_group() as tasks:
        tasks.start_soon(run.live.run)
        async with opened(browser, run, **options) as made:
            await made.until_number(0)
            yield made
            assert made.errors == []
        tasks.cancel_scope.cancel()
