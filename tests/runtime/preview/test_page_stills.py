"""The page on a person's own photo and film, and on a frozen frame: the real loop and the shipped model."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, expect

from runtime.frames.player import Player
from runtime.frames.sources import open_source
from runtime.live.interface import Live
from runtime.objects.prompts import Prompt, Prompts
from runtime.preview import PreviewOptions, preview
from runtime.run_options import RunOptions
from stages.bundle import Bundle, shipped_bundle
from tests.runtime.frames.test_sources import picture
from tests.support.browser import PHONE, FakeTab, Tab, chromium, opened, tab
from tests.support.clips import clip
from tests.support.edge import write_photo
from tests.support.live_runs import NOTHING_ASKED, background_run, live_run, run_options

pytestmark = [pytest.mark.anyio, pytest.mark.browser]
CUP = (0.5, 0.5)  # shares of the photograph
TABLE = (0.08, 0.15)


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
async def browser(anyio_backend: str) -> AsyncIterator[Browser]:
    async with chromium() as started:
        yield started


@asynccontextmanager
async def page_on(
    browser: Browser, path: Path, prompts: Prompts = NOTHING_ASKED, **options: Any
) -> AsyncIterator[Tab]:
    """The page on a file that it goes through."""
    addresses: list[str] = []

    @asynccontextmanager
    async def watcher(live: Live) -> AsyncIterator[str]:
        async with preview(live, PreviewOptions(port=0)) as address:
            addresses.append(address)
            yield address

    chosen: RunOptions = run_options(None)
    player = Player(open_source(path))
    async with (
        background_run(Bundle.load(shipped_bundle()), player, prompts, chosen, watcher),
        opened(browser, addresses[0], **options) as made,
    ):
        await made.until_number(0)
        yield made
        assert made.errors == []


async def test_a_photo_stays_and_each_click_changes_its_mask(browser: Browser, tmp_path: Path) -> None:
    async with page_on(browser, write_photo(tmp_path / "cup.png")) as made:
        page = made.page
        await expect(page.locator("#player")).to_be_hidden()  # there is nowhere to go
        await expect(page.locator("#freeze")).to_be_hidden()
        await made.click(*CUP)
        await made.until_masked(*CUP)
        await expect(page.locator(".choice")).to_have_count(3)
        await expect(page.locator("#undo")).to_be_enabled()
        await page.keyboard.press("Control+z")
        await made.until_masked(*CUP, masked=False)
        await page.keyboard.press("Control+Shift+z")
        await made.until_masked(*CUP)
        await page.keyboard.press("Control+z")
        await page.keyboard.press("Control+y")
        await made.until_masked(*CUP)
        await expect(page.locator(".chip .name")).to_have_text("1")
        await page.locator(".chip .remove").click()
        await made.until_masked(*CUP, masked=False)
        await page.locator("#undo").click()
        await made.until_masked(*CUP)
        assert await made.number() == 0  # still the same look at the same picture


async def test_one_of_three_masks_is_chosen_by_its_button_and_by_key(
    browser: Browser, tmp_path: Path
) -> None:
    async with page_on(browser, write_photo(tmp_path / "cup.png")) as made:
        await made.click(*CUP)
        buttons = made.page.locator(".choice")
        await expect(buttons).to_have_count(3)
        shares = [float((await buttons.nth(place).inner_text()).rstrip(" %")) for place in range(3)]
        assert shares == sorted(shares)  # smallest first
        chosen = [await buttons.nth(place).get_attribute("aria-pressed") for place in range(3)]
        assert chosen.count("true") == 1
        other = chosen.index("false")
        await buttons.nth(other).click()
        await expect(buttons.nth(other)).to_have_attribute("aria-pressed", "true")
        await made.page.locator("#stage").focus()
        await made.page.keyboard.press("c")
        await expect(buttons.nth((other + 1) % 3)).to_have_attribute("aria-pressed", "true")
        await made.page.keyboard.press("Control+z")
        await expect(buttons.nth(other)).to_have_attribute("aria-pressed", "true")


async def test_the_masks_of_a_point_given_at_the_start_are_there_and_how_sure_it_is(
    browser: Browser, tmp_path: Path
) -> None:
    point = Prompts((Prompt("cup", None, ((320.0, 180.0, 1),)),))
    async with page_on(browser, write_photo(tmp_path / "cup.png"), point) as made:
        sure = made.page.locator(".chip .sure")
        await expect(sure).to_contain_text("%")
        for key in ("1", "n", "1"):
            await made.page.keyboard.press(key)
            await expect(sure).to_contain_text("%")  # also when the row is drawn anew
        await expect(made.page.locator(".choice")).to_have_count(3)
        await made.page.keyboard.press("F2")
        await made.page.keyboard.type("mug")
        await made.page.keyboard.press("Enter")
        await expect(made.page.locator(".chip.selected .name")).to_have_text("mug")
        await expect(made.page.locator(".chip.selected .choose")).to_be_focused()


async def test_a_picture_that_cannot_be_read_is_blank_and_says_why(browser: Browser, tmp_path: Path) -> None:
    write_photo(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes()[:2000])
    async with page_on(browser, tmp_path) as made:
        unread = made.page.locator("#unread")
        await made.click(*CUP)
        await made.until_masked(*CUP)
        await expect(unread).to_be_hidden()
        await made.page.locator("#on").click()
        await expect(unread).to_contain_text("b.png")
        await made.until_masked(*CUP, masked=False)
        asked = len(made.said)
        await made.click(*CUP)
        assert not any(message["type"] == "prompt" for message in made.said[asked:])
        await made.page.locator("#back").click()
        await expect(unread).to_be_hidden()
        await made.until_masked(*CUP)
        await made.page.keyboard.press("1")
        await expect(made.page.locator(".choice")).to_have_count(3)  # as before


async def test_a_resting_mouse_shows_what_a_click_would_take(browser: Browser, tmp_path: Path) -> None:
    async with page_on(browser, write_photo(tmp_path / "cup.png")) as made:
        stage = made.page.locator("#stage")
        await made.page.mouse.move(*await made.place(0.49, 0.5))
        await made.page.mouse.move(*await made.place(*CUP))
        await made.until_masked(*CUP)  # in white; nothing was asked for
        await expect(stage).not_to_have_attribute("data-tried", "")
        await expect(made.page.locator(".chip")).to_have_count(1)  # for a new object
        assert not any(message["type"] == "prompt" for message in made.said)
        await made.page.mouse.move(5, 5)
        await made.until_masked(*CUP, masked=False)


async def test_a_finger_tries_nothing(browser: Browser, tmp_path: Path) -> None:
    async with page_on(browser, write_photo(tmp_path / "cup.png"), **PHONE) as made:
        await made.page.touchscreen.tap(*await made.place(*CUP))
        await made.until_masked(*CUP)
        await expect(made.page.locator(".choice")).to_have_count(3)
        assert await made.page.evaluate("document.documentElement.scrollWidth") == 360
        assert not any(message["type"] == "try" for message in made.said)


async def test_pictures_are_stepped_through(browser: Browser, tmp_path: Path) -> None:
    for name, colour in (("a", (255, 0, 0)), ("b", (0, 255, 0)), ("c", (0, 0, 255))):
        picture(tmp_path / f"{name}.png", (64, 48), colour)
    async with page_on(browser, tmp_path) as made:
        page, time = made.page, made.page.locator("#time")
        await expect(time).to_have_text("1 of 3")
        await expect(page.locator("#play")).to_be_hidden()
        await page.locator("#on").click()
        await expect(time).to_have_text("2 of 3")
        await page.keyboard.press(".")
        await expect(time).to_have_text("3 of 3")
        await page.keyboard.press(",")
        await expect(time).to_have_text("2 of 3")
        await page.locator("#place").fill("0")
        await expect(time).to_have_text("1 of 3")
        await page.locator("#back").click()
        await expect(time).to_have_text("1 of 3")


async def test_a_film_waits_plays_pauses_and_goes_anywhere(browser: Browser, tmp_path: Path) -> None:
    film = clip(tmp_path / "film.mp4", 40, codec="libx264", fps=10, size=(48, 64))
    async with page_on(browser, film) as made:
        page, time, play = made.page, made.page.locator("#time"), made.page.locator("#play")
        await expect(time).to_have_text("0:00.0 / 0:03.9")
        await play.click()
        await expect(play).to_have_text("Pause")
        await made.until_number(2)
        await page.locator("#stage").focus()
        await page.keyboard.press(" ")
        await expect(play).to_have_text("Play")
        await page.locator("#place").fill("2.5")
        await expect(time).to_have_text("0:02.5 / 0:03.9")
        await page.keyboard.press(".")
        await expect(time).to_have_text("0:02.6 / 0:03.9")
        await page.keyboard.press(",")
        await page.keyboard.press(",")
        await expect(time).to_have_text("0:02.4 / 0:03.9")


@pytest.mark.parametrize("viewport", [PHONE, {"viewport": {"width": 740, "height": 360}}])
async def test_what_goes_through_a_film_has_room_on_a_phone(
    browser: Browser, tmp_path: Path, viewport: dict[str, Any]
) -> None:
    film = clip(tmp_path / "film.mp4", 10, codec="libx264", size=(144, 256))
    async with page_on(browser, film, **viewport) as made:
        width = viewport["viewport"]["width"]
        assert await made.page.evaluate("document.documentElement.scrollWidth") == width
        slider = await made.page.locator("#place").bounding_box()
        assert slider is not None
        assert slider["width"] >= 60


async def test_a_frozen_frame_of_a_camera_shows_what_each_click_changes(browser: Browser) -> None:
    addresses: list[str] = []
    async with live_run(Bundle.load(shipped_bundle()), None) as run:
        await run.frame()
        async with preview(run.live, PreviewOptions(port=0)) as address:
            addresses.append(address)
            async with opened(browser, address) as made:
                await made.until_number(0)
                await made.page.locator("#freeze").click()
                await expect(made.page.locator("#frozen")).to_be_visible()
                for _ in range(3):
                    await run.frame()
                frozen = await made.number()
                await made.click(*CUP)
                await made.until_masked(*CUP)
                assert await made.number() == frozen < run.shown - 1
                await expect(made.page.locator(".choice")).to_have_count(3)
                await made.page.keyboard.down("Shift")
                await made.click(*TABLE)
                await made.page.keyboard.up("Shift")
                await expect(made.page.locator(".choice")).to_have_count(0)
                await made.page.locator("#freeze").click()
                await run.frame()
                await made.until_number(run.shown - 1)
                await expect(made.page.locator(".chip .name")).to_have_text("1")
                assert made.errors == []


async def test_a_page_that_comes_back_while_frozen_goes_on(browser: Browser) -> None:
    """The preview holds a frame for a connection; a new one begins with the newest frame."""
    async with tab(browser) as made:
        await made.page.locator("#freeze").click()
        await expect(made.page.locator("#frozen")).to_be_visible()
        await made.page.evaluate("() => window.dispatchEvent(new Event('offline'))")
        await until_held(made, 1)
        await made.page.reload()
        await made.until_number(made.live.number)
        await expect(made.page.locator("#frozen")).to_be_hidden()
        await until_held(made, 0)


async def until_held(made: FakeTab, frames: int) -> None:
    version = made.live.frames.version
    while len(made.live.held_frames) != frames:
        version, _ = await made.live.frames.after(version)
