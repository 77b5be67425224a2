"""The preview's page in a real Chromium, headless."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import anyio
import numpy as np
import numpy.typing as npt
from playwright.async_api import Browser, ConsoleMessage, Page, async_playwright, expect

from tests.support.live import FakeLive
from tests.support.watchers import RunningPreview, running_preview

NAMES = ("chromium", "chromium-browser", "google-chrome")
DESKTOP: dict[str, Any] = {"viewport": {"width": 1280, "height": 800}}
PHONE: dict[str, Any] = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True}
LANDSCAPE: dict[str, Any] = {**PHONE, "viewport": {"width": 740, "height": 360}}
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


@dataclass  # not frozen: playwright hangs its handlers on it
class Tab:
    """The page; `errors` is what its console complained of, `said` what it sent over its WebSockets."""

    page: Page
    errors: list[str] = field(default_factory=list)
    said: list[dict[str, Any]] = field(default_factory=list)
    _news: anyio.Event = field(default_factory=anyio.Event)

    def __post_init__(self) -> None:
        self.page.on("console", self._hear)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("websocket", lambda socket: socket.on("framesent", self._note))

    def _hear(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.errors.append(message.text)

    def _note(self, payload: str | bytes) -> None:
        self.said.append(json.loads(payload))
        self._news.set()
        self._news = anyio.Event()

    async def number(self) -> int:
        """Of the frame that is shown."""
        return int(await self.page.locator("#stage").get_attribute("data-number") or -1)

    async def until_said(self, message: dict[str, Any]) -> None:
        """Waits until it has sent this message."""
        with anyio.fail_after(WAIT_MS / 1000):
            while message not in self.said:
                await self._news.wait()

    async def place(self, x: float, y: float) -> tuple[float, float]:
        """Where a share of the picture, from its left top, lies in the window."""
        box = await self.page.locator("#stage").bounding_box()
        assert box is not None
        return box["x"] + x * box["width"], box["y"] + y * box["height"]

    async def click(self, x: float, y: float) -> None:
        await self.page.mouse.click(*await self.place(x, y))

    async def point(self, x: float, y: float) -> None:
        """A click or, where there is a touch screen, a tap."""
        if await self.page.evaluate("navigator.maxTouchPoints"):
            await self.page.touchscreen.tap(*await self.place(x, y))
        else:
            await self.click(x, y)

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

    async def pixels(self, canvas: str) -> npt.NDArray[np.uint8]:
        """What a canvas holds, RGBA [height, width, 4]."""
        width, height, values = await self.page.evaluate(PIXELS_OF, canvas)
        return np.frombuffer(base64.b64decode(values), np.uint8).reshape(height, width, 4)

    async def until_coloured(self, x: float, y: float, rgb: tuple[int, int, int]) -> None:
        """Waits until a mask of this colour is drawn at a share of the picture."""
        await self.page.wait_for_function(COLOURED_AT, arg=[x, y, list(rgb)], timeout=WAIT_MS)


@dataclass
class FakeTab(Tab):
    """The page on a loop that pretends."""

    run: RunningPreview = field(kw_only=True)

    @property
    def live(self) -> FakeLive:
        return self.run.live


# Blending over nothing rounds a colour a little.
COLOURED_AT = """([x, y, rgb]) => {
    const canvas = document.getElementById("masks");
    const at = [Math.round(x * canvas.width), Math.round(y * canvas.height)];
    const found = canvas.getContext("2d").getImageData(...at, 1, 1).data;
    return found[3] > 0 && rgb.every((value, i) => Math.abs(value - found[i]) < 8);
}"""
MASKED_AT = """([x, y, masked]) => {
    const canvas = document.getElementById("masks");
    const at = [Math.round(x * canvas.width), Math.round(y * canvas.height)];
    return canvas.getContext("2d").getImageData(...at, 1, 1).data[3] > 0 === masked;
}"""
PIXELS_OF = """(id) => {
    const canvas = document.getElementById(id);
    const { width, height } = canvas;
    const { data } = canvas.getContext("2d").getImageData(0, 0, width, height);
    const [step, letters] = [8192, (bytes) => String.fromCharCode(...bytes)];
    let text = "";
    for (let at = 0; at < data.length; at += step) text += letters(data.subarray(at, at + step));
    return [width, height, btoa(text)];
}"""
NUMBER_FROM = "(number) => Number(document.getElementById('stage').dataset.number) >= number"


@asynccontextmanager
async def window(browser: Browser, **options: Any) -> AsyncIterator[Page]:
    """A window of its own, as another person would have one."""
    context = await browser.new_context(**options)
    page = await context.new_page()
    page.set_default_timeout(WAIT_MS)
    yield page
    await context.close()


@asynccontextmanager
async def opened(browser: Browser, address: str, **options: Any) -> AsyncIterator[Tab]:
    """The page in a window of its own."""
    async with window(browser, **options) as page:
        made = Tab(page)
        await page.goto(address)
        yield made


@asynccontextmanager
async def tab(browser: Browser, live: FakeLive | None = None, **options: Any) -> AsyncIterator[FakeTab]:
    """The page open on a loop whose frames move."""
    async with (
        running_preview(live) as run,
        anyio.create_task_group() as tasks,
        window(browser, **options) as page,
    ):
        tasks.start_soon(run.live.run)
        made = FakeTab(page, run=run)
        await page.goto(run.address)
        await made.until_number(0)
        yield made
        assert made.errors == []
        tasks.cancel_scope.cancel()
