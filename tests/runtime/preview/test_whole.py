"""The page on the real loop, with real sites and the model that ships: what a person does and sees."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pytest
from playwright.async_api import Browser, Page, expect

from runtime.demo.demo import DemoScene, Pan, photo
from runtime.frames.live_source import LiveSource
from runtime.live.interface import Live
from runtime.objects.prompts import Prompts
from runtime.preview import PreviewOptions, preview
from runtime.results.result import FrameResult
from runtime.results.sinks import PALETTE
from stages.bundle import Bundle, shipped_bundle
from tests.support.browser import Tab, chromium, opened
from tests.support.live_runs import PATIENCE_S, CountedSites, background_run, counted_sites, run_options

pytestmark = [pytest.mark.anyio, pytest.mark.browser]

# The demo's view of the astronaut, but drifting by a few pixels only: what lies at a place stays there.
SCENE = DemoScene("astronaut", (454, 255), (448, 252), (45, 10, 370, 288), (240, 110))
FACE = (0.42, 0.35)  # shares of the picture
SHUTTLE = (0.79, 0.0, 0.995, 0.99)
ON_SHUTTLE = (0.93, 0.7)
GRID_OF_16_9 = {"padding": 10, "windows": 15}


@dataclass
class WholeRun:
    """A run on the drifting picture: its sites, its preview and, once it has ended, its summary."""

    sites: CountedSites
    live: Live
    address: str
    summary: dict[str, Any]

    async def shown(self, frames: int) -> FrameResult:
        """The newest frame after so many more."""
        version = self.live.frames.version
        for _ in range(frames):
            version, frame = await self.live.frames.after(version)
        return frame

    async def until(self, condition: Any) -> FrameResult:
        """The first frame from now on for which this holds."""
        with anyio.fail_after(PATIENCE_S):
            while not condition(frame := await self.shown(1)):
                pass
        return frame

    async def assert_nothing_sent(self) -> None:
        """No site gets a tile while frames go on, once those under way have come."""
        await self.until(lambda frame: not frame.objects)
        before = await self._settled()
        await self.shown(5)
        assert self.sites.tiles() == before

    async def _settled(self) -> int:
        """The sites' count once nothing is under way and it is the same on two frames one after the other."""
        count = -1

        def settled(frame: FrameResult) -> bool:
            nonlocal count
            before, count = count, self.sites.tiles()
            return count == before and not any(site.in_flight for site in self.live.status().sites)

        await self.until(settled)
        return count


@pytest.fixture(scope="module")
async def browser(anyio_backend: str) -> AsyncIterator[Browser]:
    async with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@asynccontextmanager
async def whole_run(folder: Path) -> AsyncIterator[WholeRun]:
    bundle = Bundle.load(shipped_bundle())
    picture = photo(SCENE.photo)
    source = LiveSource("a drifting picture", lambda: Pan(picture, SCENE))
    made: list[tuple[Live, str]] = []

    @asynccontextmanager
    async def watcher(live: Live) -> AsyncIterator[str]:
        async with preview(live, PreviewOptions(port=0)) as address:
            made.append((live, address))
            yield address

    async with (
        counted_sites(bundle, folder) as sites,
        background_run(bundle, source, Prompts(()), run_options(sites.file), watcher) as summary,
    ):
        yield WholeRun(sites, *made[0], summary)


async def test_pointing_pausing_removing_and_losing_a_site(browser: Browser, tmp_path: Path) -> None:
    async with whole_run(tmp_path) as run, opened(browser, run.address) as tab:
        await nothing_leaves_unasked(run, tab)
        await a_click_and_a_drag_make_masks(run, tab)
        async with opened(browser, run.address) as other:
            await a_second_viewer_sees_the_same(tab, other)
        await pausing_stops_all_sending(run, tab)
        await a_lost_site_is_shown_and_masks_go_on(run, tab)
        await removed_objects_are_gone(run, tab)
        assert tab.errors == []
    assert run.summary["frames_lost"] == 0
    assert all(len(site["windows_seen"]) <= 5 for site in run.summary["sites"].values())


async def nothing_leaves_unasked(run: WholeRun, tab: Tab) -> None:
    probes = run.sites.tiles()
    await tab.until_number(await tab.number() + 5)
    assert run.sites.tiles() == probes
    await expect(tab.page.locator("#grid > [data-state=unseen]")).to_have_count(GRID_OF_16_9["windows"])
    await expect(tab.page.locator("#grid > [data-state=padding]")).to_have_count(GRID_OF_16_9["padding"])


async def a_click_and_a_drag_make_masks(run: WholeRun, tab: Tab) -> None:
    probes = run.sites.tiles()
    await tab.click(*FACE)
    await tab.until_masked(*FACE)
    assert run.sites.tiles() > probes
    assert await names(tab.page) == ["1"]
    await tab.page.keyboard.press("n")
    await tab.drag(*SHUTTLE)
    await tab.until_masked(*ON_SHUTTLE)
    await expect(tab.page.locator(".chip.selected .name")).to_have_text("2")
    await tab.until_coloured(*FACE, PALETTE[0])
    await tab.until_coloured(*ON_SHUTTLE, PALETTE[1])
    assert await dots(tab.page) == [f"rgb{PALETTE[0]}", f"rgb{PALETTE[1]}"]
    await expect(tab.page.locator("#grid > [data-state=seen]")).to_have_count(GRID_OF_16_9["windows"])


async def a_second_viewer_sees_the_same(tab: Tab, other: Tab) -> None:
    await other.until_masked(*FACE)
    await other.until_masked(*ON_SHUTTLE)
    assert await names(other.page) == await names(tab.page)
    assert await dots(other.page) == await dots(tab.page)
    await expect(tab.page.locator("#viewers")).to_have_text("2")
    assert other.errors == []


async def pausing_stops_all_sending(run: WholeRun, tab: Tab) -> None:
    await tab.page.locator("#pause").click()
    await expect(tab.page.locator("#paused")).to_be_visible()
    await run.assert_nothing_sent()
    await tab.until_number(await tab.number() + 3)  # the picture goes on
    await tab.until_masked(*FACE, masked=False)
    await what_an_operator_holds_is_shown(run, tab)
    before = run.sites.tiles()
    await tab.page.locator("#pause").click()
    await tab.until_masked(*FACE)
    await run.until(
        lambda frame: run.sites.tiles() > before
    )  # windows that have not changed are not sent again


async def what_an_operator_holds_is_shown(run: WholeRun, tab: Tab) -> None:
    """While nothing is sent: to the pixel, and not much more than its third of the picture."""
    newest, button = run.live.held.by("operator-b"), tab.page.locator("#operators [data-operator=operator-b]")
    await button.click()
    await expect(tab.page.locator("#held-picture")).to_have_attribute("data-number", str(newest.version))
    expected = run.live.held.picture(newest.value or {}, 360, 640)
    assert expected is not None
    assert np.array_equal((await tab.pixels("held-picture"))[..., :3], expected)
    assert 0.2 < (expected > 0).any(2).mean() < 0.45
    await button.click()
    await tab.page.locator("#stage").scroll_into_view_if_needed()


async def a_lost_site_is_shown_and_masks_go_on(run: WholeRun, tab: Tab) -> None:
    before = await run.until(lambda frame: len(masks(frame)) == 2)
    run.sites.stop("b")
    lane = tab.page.locator(".lane[data-site=b][data-state=down]")
    await expect(lane.locator(".badge")).to_have_text("down")
    await expect(tab.page.locator("#message")).to_contain_text("site b")
    after = await run.until(lambda frame: frame.number > before.number + 5 and len(masks(frame)) == 2)
    for name, mask in masks(before).items():
        found = masks(after)[name]
        assert (mask & found).sum() / (mask | found).sum() > 0.8
    await tab.until_number(after.number)
    await tab.until_masked(*FACE)
    assert run.live.status().windows_run_at_edge > 0
    await expect(tab.page.locator(".lane[data-stage=windows] .value")).to_contain_text("here")


async def removed_objects_are_gone(run: WholeRun, tab: Tab) -> None:
    for name, place in (("1", FACE), ("2", ON_SHUTTLE)):
        await tab.page.locator(f".chip[data-name='{name}'] .remove").click()
        await tab.until_masked(*place, masked=False)
    assert await names(tab.page) == []
    await run.assert_nothing_sent()


async def names(page: Page) -> list[str]:
    return await page.locator(".chip .name").all_text_contents()


async def dots(page: Page) -> list[str]:
    colours: list[str] = await page.locator(".chip .dot").evaluate_all(
        "(dots) => dots.map((dot) => getComputedStyle(dot).backgroundColor)"
    )
    return colours


def masks(frame: FrameResult) -> dict[str, Any]:
    return {each.name: each.mask for each in frame.objects if each.mask is not None}
