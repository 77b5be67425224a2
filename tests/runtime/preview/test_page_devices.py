"""The page on desktops and phones, in light and dark, with sites and without, and after the run's end."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Browser, expect

from runtime.frames.player import Playback
from runtime.objects.tracking import TrackState
from runtime.objects.trust import Check, Trust
from runtime.preview import PreviewOptions, preview
from tests.support.browser import DESKTOP, LANDSCAPE, PHONE, FakeTab, chromium, opened, tab
from tests.support.live import BOARD, FakeLive
from tests.support.watchers import running_preview

pytestmark = [pytest.mark.anyio, pytest.mark.browser]
SIZES = {"desktop": DESKTOP, "phone": PHONE, "landscape": LANDSCAPE}
TOKEN = "x" * 32


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
async def browser(anyio_backend: str) -> AsyncIterator[Browser]:
    async with chromium() as started:
        yield started


async def with_everything(made: FakeTab) -> None:
    """Objects in every state, a site that is down, what is kept, a board, and an operator's picture."""
    page, live = made.page, made.live
    for x in (0.2, 0.5, 0.8):
        await page.keyboard.press("n")
        await made.point(x, 0.4)
        await made.until_masked(x, 0.4)
    live.objects["object 1"].trust = Trust(0.4, Check.GREW)
    live.objects["object 2"].state = TrackState.LOST
    live.kept, live.kept_now, live.doubtful = {6}, {7}, 37
    live.keep_boxes = ((320.0, 20.0, 600.0, 340.0),)
    live.lose("b", "connection refused")
    live.board = BOARD
    await page.locator("#operators [data-operator=alpha]").click()
    await expect(page.locator(".chip .reason")).to_be_visible()
    await expect(page.locator(".chip.lost")).to_be_visible()
    await expect(page.locator(".lane[data-site=b] .badge")).to_be_visible()
    await expect(page.locator("#held-share")).to_contain_text("%")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
async def test_axe_finds_nothing(browser: Browser, size: str, scheme: str) -> None:
    """Contrast of 4.5 and more, names of all controls, structure: the page full, and each dialog."""
    async with tab(browser, **SIZES[size], color_scheme=scheme) as made:
        await with_everything(made)
        await made.page.locator("#pause").click()
        await expect(made.page.locator("#paused")).to_be_visible()
        await made.page.locator("#freeze").click()
        await accessible(made)
        await made.page.locator("#help").click()
        await accessible(made)
        await made.page.keyboard.press("Escape")
        await made.page.locator("#save").click()
        await accessible(made)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
async def test_axe_finds_nothing_beside_a_film(browser: Browser, size: str, scheme: str) -> None:
    live = FakeLive()
    live.playback = Playback(False, 2.08, 3.2, 0.04, False)
    async with tab(browser, live, **SIZES[size], color_scheme=scheme) as made:
        await expect(made.page.locator("#player")).to_be_visible()
        await accessible(made)


async def accessible(made: FakeTab) -> None:
    results = await Axe().run(made.page)
    assert results.violations_count == 0, results.generate_report()


@pytest.mark.parametrize(("size", "word"), [("desktop", "click"), ("phone", "tap"), ("landscape", "tap")])
async def test_it_says_click_on_a_desktop_and_tap_on_a_phone(browser: Browser, size: str, word: str) -> None:
    async with tab(browser, **SIZES[size]) as made:
        await expect(made.page.locator("#hint")).to_have_text(f"{word} or drag to start an object")
        await made.point(0.3, 0.4)
        await expect(made.page.locator("#hint")).to_have_text(f"{word} to refine “object 1”")
        await made.page.locator("#help").click()
        first = made.page.locator("#help-dialog th").first
        assert (await first.inner_text()).strip() == word


@pytest.mark.parametrize("size", SIZES)
async def test_chips_and_tools_are_in_view_beside_the_picture(browser: Browser, size: str) -> None:
    async with tab(browser, **SIZES[size]) as made:
        page = made.page
        await made.point(0.3, 0.4)
        await made.until_masked(0.3, 0.4)
        made.live.objects["object 1"].trust = Trust(0.4, Check.SHRANK)
        await page.evaluate("scrollTo(0, 0)")
        for what in ("#freeze", "#save", ".chip .choose", ".chip .confirm", ".chip .remove"):
            await expect(page.locator(what).first).to_be_in_viewport(ratio=1)
        width = SIZES[size]["viewport"]["width"]
        assert await page.evaluate("document.documentElement.scrollWidth") == width
        stage = await page.locator("#stage").bounding_box()
        assert stage is not None
        assert stage["width"] / stage["height"] == pytest.approx(16 / 9, abs=0.02)
        assert stage["height"] > 190


async def test_lanes_legend_and_buttons_name_an_operator_alike(browser: Browser) -> None:
    async with tab(browser) as made:
        page = made.page
        await expect(page.locator("#legend li b")).to_have_text(["alpha", "beta", "gamma"])
        shown: list[list[str]] = []
        for place in ("#legend li:has(b)", "#strip .lane[data-site] .label", "#operators button"):
            found = page.locator(place)
            await expect(found).to_have_count(3)
            shown.append(await found.evaluate_all(SIGNS))
        assert shown[0] == shown[1] == shown[2]
        await expect(page.locator("#legend li small")).to_have_text(["site a", "site b", "site c"])
        await expect(page.locator("#strip .label small")).to_have_text(
            ["site a", "site b", "site c", "at the edge", "at the edge"]
        )


SIGNS = """(all) => all.map((one) => {
    const sign = one.querySelector(".swatch");
    const name = one.querySelector("b").textContent;
    return [sign.textContent, getComputedStyle(sign).backgroundColor, name].join(" ");
})"""


async def test_without_sites_there_is_nothing_to_pause(browser: Browser) -> None:
    live = FakeLive()
    live.sites = []
    async with tab(browser, live) as made:
        page = made.page
        await expect(page.locator("#legend")).to_contain_text("no sites")
        await expect(page.locator("#pause")).to_be_hidden()
        await page.keyboard.press("p")
        await made.click(0.3, 0.4)
        await made.until_masked(0.3, 0.4)
        assert not live.paused
        await page.locator("#help").click()
        await expect(page.locator("#help-dialog kbd:text-is('P')")).to_be_hidden()


async def test_after_the_end_it_says_so_and_tries_no_more_until_it_is_told(browser: Browser) -> None:
    async with contextlib.AsyncExitStack() as first:
        run = await first.enter_async_context(running_preview(token=TOKEN))
        async with opened(browser, run.address) as made:
            page = made.page
            await made.until_number(0)
            connections: list[Any] = []
            page.on("websocket", lambda socket: connections.append(socket))
            port = int(run.base.rpartition(":")[2])
            await first.aclose()
            await expect(page.locator("#connection")).to_have_text("the run has ended")
            await expect(page.locator("#veil")).to_have_text("the run has ended")
            await expect(page.locator("#save")).to_be_disabled()
            await page.set_viewport_size(PHONE["viewport"])
            for place in ("#connection", "#again", "#help"):
                await expect(page.locator(place)).to_be_in_viewport(ratio=1)
            assert await page.evaluate("document.documentElement.scrollWidth") == 360
            await page.wait_for_timeout(2000)  # longer than the first waits before it would try again
            assert connections == []
            live = FakeLive()
            live.advance()
            async with preview(live, PreviewOptions(port=port, token=TOKEN)):
                await page.locator("#again").click()
                await made.until_number(1)
                await expect(page.locator("#connection")).to_have_text("live")
                await expect(page.locator("#again")).to_be_hidden()
