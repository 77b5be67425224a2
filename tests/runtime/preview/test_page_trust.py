"""The page on masks that are to be checked, and on what is saved from it, on a desktop and on a phone."""

from __future__ import annotations

import io
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from playwright.async_api import Browser, expect
from pycocotools.coco import COCO

from runtime.objects.prompts import read_prompts
from runtime.objects.trust import Check, Trust
from runtime.results.result import FrameResult
from tests.support.browser import DESKTOP, LANDSCAPE, PHONE, FakeTab, chromium, tab

pytestmark = [pytest.mark.anyio, pytest.mark.browser]
SIZES = pytest.mark.parametrize("size", [DESKTOP, PHONE, LANDSCAPE], ids=["desktop", "phone", "landscape"])


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
async def browser(anyio_backend: str) -> AsyncIterator[Browser]:
    async with chromium() as started:
        yield started


@asynccontextmanager
async def with_a_cup(browser: Browser, size: dict[str, Any]) -> AsyncIterator[FakeTab]:
    """The page with one object, selected."""
    async with tab(browser, **size) as made:
        await made.point(0.3, 0.4)
        await made.until_masked(0.3, 0.4)
        made.live.rename("object 1", "cup")
        await expect(made.page.locator(".chip .name")).to_have_text(["cup"])
        await made.page.keyboard.press("1")
        await expect(made.page.locator(".chip.selected .name")).to_have_text("cup")
        yield made


@SIZES
async def test_a_mask_to_be_checked_is_told_in_words_and_one_click_clears_it(
    browser: Browser, size: dict[str, Any]
) -> None:
    async with with_a_cup(browser, size) as made:
        page, cup = made.page, made.live.objects["cup"]
        chip = page.locator(".chip[data-name=cup]")
        await expect(chip.locator(".sure")).to_have_text("90 %")
        await expect(chip.locator(".confirm")).to_have_count(0)
        cup.trust = Trust(0.41, Check.GREW)
        await expect(chip.locator(".reason")).to_have_text("check: suddenly larger")
        await expect(chip.locator(".sure")).to_have_text("41 %")
        await expect(page.locator("#checks")).to_have_text("check cup: suddenly larger")
        await expect(chip.locator(".confirm")).to_be_in_viewport()
        number = await made.number()
        await chip.locator(".confirm").click()
        await expect(chip.locator(".reason")).to_have_count(0)
        ((name, confirmed),) = made.live.confirmed
        assert name == "cup"
        assert confirmed >= number
        await expect(page.locator("#checks")).to_have_text("")


WORDS = {
    Check.GREW: "suddenly larger",
    Check.SHRANK: "suddenly smaller",
    Check.JUMPED: "jumped",
    Check.UNSURE: "unsure",
}


async def test_every_reason_has_words_and_the_key_r_confirms(browser: Browser) -> None:
    async with with_a_cup(browser, DESKTOP) as made:
        reason = made.page.locator(".chip .reason")
        for check in Check:
            made.live.objects["cup"].trust = Trust(0.3, check)
            await expect(reason).to_have_text(f"check: {WORDS[check]}")
            await made.page.keyboard.press("r")
            await expect(reason).to_have_count(0)
        assert [name for name, _ in made.live.confirmed] == ["cup"] * len(Check)


async def test_a_mask_to_be_checked_is_drawn_in_another_way(browser: Browser) -> None:
    async with with_a_cup(browser, DESKTOP) as made:
        plain = (await made.pixels("masks"))[..., 3]
        made.live.objects["cup"].trust = Trust(0.3, Check.JUMPED)
        await expect(made.page.locator(".chip .reason")).to_have_text("check: jumped")
        marked = (await made.pixels("masks"))[..., 3]
        place = round(0.4 * len(plain)), round(0.3 * plain.shape[1])
        assert 0 < marked[place] < plain[place]


async def test_outlines_have_a_dark_and_a_light_line_beside_the_colour(browser: Browser) -> None:
    """So that one of them can be seen whatever the picture is there."""
    async with with_a_cup(browser, DESKTOP) as made:
        row = (await made.pixels("masks"))[round(0.4 * 360)]
        drawn = [tuple(pixel[:3]) for pixel in row if pixel[3] == 255]
        assert {(13, 15, 18), (255, 255, 255), (230, 159, 0)} <= set(drawn)


async def saved(made: FakeTab, file: str, folder: Path) -> Path:
    """What the browser keeps after a click on this kind of file, in the dialog."""
    async with made.page.expect_download() as download:
        await made.page.locator(f"[data-file='{file}']").click()
    found = await download.value
    path = folder / found.suggested_filename
    await found.save_as(path)
    await expect(made.page.locator("#saved")).to_have_text(f"saved {path.name}")
    return path


def pixels_of(path: Path) -> npt.NDArray[np.uint8]:
    return np.asarray(Image.open(path))


async def frame_shown(made: FakeTab) -> FrameResult:
    """What the page shows, and keeps while the dialog is open."""
    return made.live.made[await made.number()]


@SIZES
async def test_files_of_the_frame_that_is_shown(
    browser: Browser, size: dict[str, Any], tmp_path: Path
) -> None:
    async with with_a_cup(browser, size) as made:
        await made.page.locator("#save").click()
        await expect(made.page.locator("#save-object")).to_have_value("cup")
        shown = await frame_shown(made)
        (cup,) = shown.objects
        assert cup.mask is not None
        assert np.array_equal(pixels_of(await saved(made, "frame.png", tmp_path)), shown.frame.pixels)
        overlay = pixels_of(await saved(made, "overlay.png", tmp_path))
        assert overlay.shape == shown.frame.pixels.shape
        assert not np.array_equal(overlay, shown.frame.pixels)
        cutout = pixels_of(await saved(made, "cutout.png", tmp_path))
        assert (cutout[..., 3] > 0).sum() == cup.mask.sum()
        path = await saved(made, "coco.json", tmp_path)
        with redirect_stdout(io.StringIO()):
            coco = COCO(str(path))
        assert np.array_equal(coco.annToMask(coco.anns[1]), cup.mask)
        (prompt,) = read_prompts((), (), await saved(made, "prompts.json", tmp_path)).entries
        assert (prompt.name, prompt.points) == ("cup", made.live.requests[0].points)
        assert (await saved(made, "overlay.jpg", tmp_path)).name == f"{shown.number}_cup_masks.jpg"
        assert await made.number() == shown.number  # it was kept meanwhile
        await made.page.locator("#save-dialog button[type=submit]").click()
        await made.until_number(shown.number + 1)


async def test_all_objects_and_what_cannot_be_saved(browser: Browser, tmp_path: Path) -> None:
    async with tab(browser) as made:
        page = made.page
        await page.keyboard.press("s")
        await page.locator("[data-file='cutout.png']").click()
        await expect(page.locator("#saved")).to_contain_text("so there is nothing to cut out")
        await page.keyboard.press("Escape")
        await expect(page.locator("#save-dialog")).to_be_hidden()
        for x in (0.2, 0.8):
            await page.keyboard.press("n")
            await made.click(x, 0.5)
            await made.until_masked(x, 0.5)
        await page.keyboard.press("n")
        await page.keyboard.press("s")
        await expect(page.locator("#save-object option")).to_have_text(
            ["all objects", "object 1", "object 2"]
        )
        await expect(page.locator("#save-object")).to_have_value("")
        data = json.loads((await saved(made, "coco.json", tmp_path)).read_text(encoding="utf-8"))
        assert [each["name"] for each in data["categories"]] == ["object 1", "object 2"]
