"""The page in a real browser: what a person sees and does."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from dataclasses import replace
from urllib.parse import urlsplit

import numpy as np
import numpy.typing as npt
import pytest
from playwright.async_api import Browser, expect

from runtime.objects.tracking import TrackState
from stages.tile_code import TileCode
from tests.support.browser import PHONE, FakeTab, chromium, opened, tab
from tests.support.live import BOARD, SITES, FakeLive
from tests.support.tunnels import tunnel
from tests.support.watchers import running_preview

pytestmark = [pytest.mark.anyio, pytest.mark.browser]


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
async def browser(anyio_backend: str) -> AsyncIterator[Browser]:
    """One for all tests here; each opens windows of its own."""
    async with chromium() as started:
        yield started


@pytest.fixture
async def live_tab(browser: Browser) -> AsyncIterator[FakeTab]:
    async with tab(browser) as made:
        yield made


async def test_frames_move_and_figures_are_shown(live_tab: FakeTab) -> None:
    await live_tab.until_number(await live_tab.number() + 3)
    await expect(live_tab.page.locator("#fps")).to_have_text("17.2")
    await expect(live_tab.page.locator("#latency")).to_have_text("132 ms")
    await expect(live_tab.page.locator("#limit")).to_contain_text("the global stage")
    await expect(live_tab.page.locator("#connection")).to_have_text("live")
    assert "token" not in live_tab.page.url


async def test_a_click_makes_a_mask_appear_under_it_on_the_frame_it_was_made_on(live_tab: FakeTab) -> None:
    await live_tab.click(0.3, 0.4)
    await live_tab.until_masked(0.3, 0.4)
    await live_tab.until_masked(0.7, 0.4, masked=False)
    (request,) = live_tab.live.requests
    assert request.name is None
    ((x, y, label),) = request.points
    assert (round(x, -1), round(y, -1), label) == (190, 140, 1)
    assert 0 <= request.number <= live_tab.live.number
    await expect(live_tab.page.locator(".chip.selected .name")).to_have_text("object 1")


async def test_shift_click_adds_a_background_point_to_the_selected_object(live_tab: FakeTab) -> None:
    await live_tab.page.keyboard.down("Shift")
    await live_tab.click(0.5, 0.5)
    await expect(live_tab.page.locator("#notice")).to_contain_text("select one first")
    await live_tab.page.keyboard.up("Shift")
    await live_tab.click(0.3, 0.4)
    await expect(live_tab.page.locator(".chip.selected .name")).to_have_text("object 1")
    await live_tab.page.keyboard.down("Shift")
    await live_tab.click(0.6, 0.6)
    _, second = await live_tab.live.asked.after(1)
    assert (second.name, second.points[0][2]) == ("object 1", 0)


async def test_a_drag_makes_a_box(live_tab: FakeTab) -> None:
    await live_tab.drag(0.6, 0.3, 0.9, 0.8)
    await live_tab.until_masked(0.75, 0.55)
    (request,) = live_tab.live.requests
    assert request.box_xyxy is not None
    assert request.points == ()
    assert [round(value, -1) for value in request.box_xyxy] == [380, 110, 580, 290]
    await live_tab.page.keyboard.press("n")
    await live_tab.drag(0.4, 0.9, 0.1, 0.5)  # from the right bottom to the left top
    await live_tab.until_masked(0.25, 0.7)
    assert len(live_tab.live.objects) == 2


async def test_objects_are_renamed_and_removed(live_tab: FakeTab) -> None:
    page = live_tab.page
    await live_tab.click(0.3, 0.4)
    await page.locator(".chip .rename").click()
    await page.locator(".chip input").fill("<b>cup</b>")
    await page.keyboard.press("Enter")
    await expect(page.locator(".chip.selected .name")).to_have_text("<b>cup</b>")
    assert list(live_tab.live.objects) == ["<b>cup</b>"]
    assert await page.locator(".chip b").count() == 0  # names are text
    await page.keyboard.press("n")
    await live_tab.click(0.7, 0.6)
    await live_tab.until_masked(0.7, 0.6)
    await page.locator(".chip.selected .remove").click()
    await live_tab.until_masked(0.7, 0.6, masked=False)
    await page.keyboard.press("1")
    await page.keyboard.press("Delete")
    await live_tab.until_masked(0.3, 0.4, masked=False)
    assert live_tab.live.objects == {}
    await expect(page.locator(".chip")).to_have_count(1)  # for a new object


async def test_a_name_that_is_taken_is_told(live_tab: FakeTab) -> None:
    page = live_tab.page
    for number, x in enumerate((0.2, 0.8), 1):
        await page.keyboard.press("Escape")
        await live_tab.click(x, 0.5)
        await expect(page.locator(".chip.selected .name")).to_have_text(f"object {number}")
    await page.keyboard.press("F2")
    await page.locator(".chip input").fill("object 1")
    await page.keyboard.press("Enter")
    await expect(page.locator("#notice")).to_have_text("object object 2 cannot be named object 1")
    await expect(page.locator(".chip.selected .name")).to_have_text("object 2")


async def test_pause_stops_what_goes_to_sites_and_says_so(live_tab: FakeTab) -> None:
    await live_tab.click(0.3, 0.4)
    await live_tab.until_masked(0.3, 0.4)
    await live_tab.page.locator("#pause").click()
    await expect(live_tab.page.locator("#paused")).to_have_text("sending paused: no site gets anything")
    sent = live_tab.live.sent
    assert live_tab.live.paused
    await live_tab.until_number(live_tab.live.number + 3)  # the picture goes on
    assert live_tab.live.sent == sent > 0
    await expect(live_tab.page.locator(".chip .name")).to_have_text("object 1")  # kept for when it goes on
    await live_tab.page.keyboard.press("p")
    await expect(live_tab.page.locator("#paused")).to_be_hidden()
    await live_tab.until_masked(0.3, 0.4)


async def test_freeze_stops_the_picture_and_prompts_count_for_its_frame(live_tab: FakeTab) -> None:
    await live_tab.page.keyboard.press(" ")
    await expect(live_tab.page.locator("#frozen")).to_be_visible()
    number = await live_tab.number()
    _, later = await live_tab.live.frames.after(live_tab.live.frames.version + 5)
    await live_tab.click(0.3, 0.4)
    await expect(live_tab.page.locator(".chip.selected small")).to_have_text("asked for")
    assert await live_tab.number() == number == live_tab.live.requests[0].number < later.number
    await live_tab.page.locator("#freeze").click()
    await live_tab.until_number(later.number)
    await live_tab.until_masked(0.3, 0.4)


HIDE = """(hidden) => {
    Object.defineProperty(document, "hidden", { configurable: true, get: () => hidden });
    document.dispatchEvent(new Event("visibilitychange"));
}"""


@pytest.mark.parametrize("how", ["frozen", "hidden"])
async def test_a_page_that_nobody_sees_move_asks_for_no_frames(live_tab: FakeTab, how: str) -> None:
    async def turn(away: bool) -> None:
        if how == "hidden":
            await live_tab.page.evaluate(HIDE, away)
        else:
            await live_tab.page.locator("#freeze").click()

    await turn(True)
    asked = asked_for_frames(live_tab)
    await live_tab.live.frames.after(live_tab.live.frames.version + 10)
    await live_tab.page.locator("#pause").click()  # what it still says, comes
    await expect(live_tab.page.locator("#paused")).to_be_visible()
    assert asked_for_frames(live_tab) - asked <= 2  # one that was being decoded, and the one that is frozen
    newest = live_tab.live.number
    await turn(False)
    await live_tab.until_number(newest)


def asked_for_frames(tab: FakeTab) -> int:
    return sum(message["type"] == "shown" for message in tab.said)


async def test_a_lost_object_and_a_lost_site_are_shown(live_tab: FakeTab) -> None:
    page = live_tab.page
    await live_tab.click(0.3, 0.4)
    await live_tab.until_masked(0.3, 0.4)
    live_tab.live.objects["object 1"].state = TrackState.LOST
    await expect(page.locator(".chip.lost small")).to_have_text("lost")
    await live_tab.until_masked(0.3, 0.4, masked=False)
    await expect(page.locator(".lane[data-site=b][data-state=ready]")).to_be_visible()
    live_tab.live.lose("b", "connection refused")
    lane = page.locator(".lane[data-site=b][data-state=down]")
    await expect(lane.locator(".badge")).to_have_text("down")
    await expect(lane.locator(".value")).to_have_text("connection refused")
    await expect(page.locator("#message")).to_have_text("site b is down: connection refused")
    live_tab.live.lose("b", "answered 500", state="failing", failures=3)
    lane = page.locator(".lane[data-site=b][data-state=failing]")
    await expect(lane.locator(".badge")).to_have_text("failing (3)")
    await expect(lane.locator(".value")).to_have_text("answered 500")


async def test_frames_in_doubt_are_told_and_marked(live_tab: FakeTab) -> None:
    count, mark = live_tab.page.locator("#doubts"), live_tab.page.locator("#doubtful")
    await expect(live_tab.page.locator("#fps")).to_have_text("17.2")
    await expect(count).to_be_hidden()
    await expect(mark).to_be_hidden()
    live_tab.live.doubtful = 37
    live_tab.live.advance()
    await expect(count).to_have_text("a site lied: 37 frames are in doubt")
    await expect(mark).to_be_visible()
    live_tab.live.doubtful = 0
    live_tab.live.advance()
    await expect(count).to_be_hidden()
    await expect(mark).to_be_hidden()


async def test_the_board_is_a_line_and_its_warnings_are_loud(live_tab: FakeTab) -> None:
    line, warning = live_tab.page.locator("#board"), live_tab.page.locator("#board-warning")
    await expect(live_tab.page.locator("#fps")).to_have_text("17.2")
    await expect(line).to_be_hidden()  # no Jetson
    live_tab.live.board = BOARD
    await expect(line).to_have_text("GPU 62 % · 3.6 of 7.4 GB · 54 °C · 12.5 W")
    await expect(line).to_have_attribute("title", "cpu 53.9 °C, gpu 53.3 °C")
    await expect(warning).to_be_hidden()
    said = ("throttled: over-current", "memory is short: 90 MB are available")
    live_tab.live.board = replace(BOARD, gpu_percent=None, temperatures_c={}, warnings=said)
    await expect(line).to_have_text("3.6 of 7.4 GB · 12.5 W")
    await expect(warning).to_have_text("throttled: over-current; memory is short: 90 MB are available")
    live_tab.live.board = None
    await expect(warning).to_be_hidden()
    await expect(line).to_be_hidden()


async def test_the_exposure_map_shows_who_has_seen_what_and_what_is_never_sent(live_tab: FakeTab) -> None:
    page = live_tab.page
    await expect(page.locator("#grid > [data-state=padding]")).to_have_count(10)
    await expect(page.locator("#grid > [data-state=unseen]")).to_have_count(15)
    await live_tab.click(0.3, 0.4)
    await expect(page.locator("#grid > [data-state=seen]")).to_have_count(15)
    await expect(page.locator("#legend li").first).to_contain_text("5 of 6 allowed")
    colours = await page.locator("#grid > [data-state=seen]").evaluate_all(
        "(cells) => cells.map((cell) => getComputedStyle(cell).backgroundImage + cell.textContent)"
    )
    assert len(set(colours)) == 3
    await expect(page.locator("#grid > [data-window='24']")).to_have_attribute(
        "title", "window 24: padding, never sent"
    )


async def test_the_exposure_map_shows_what_is_kept(live_tab: FakeTab) -> None:
    page = live_tab.page
    live_tab.live.kept = {6, 7}
    await expect(page.locator("#grid > [data-state=kept]")).to_have_count(2)
    await expect(page.locator("#grid > [data-state=padding]")).to_have_count(10)
    await live_tab.click(0.3, 0.4)
    await expect(page.locator("#grid > [data-state=seen]")).to_have_count(13)
    await expect(page.locator("#grid > [data-window='6']")).to_have_attribute(
        "title", "window 6: kept here, never sent; seen by nobody"
    )
    await expect(page.locator("#legend li", has_text="kept here")).to_contain_text("2, never sent")
    await expect(page.locator("#grid")).to_have_attribute(
        "aria-label", re.compile("2 of 25 are kept here and never sent; 10 of 25 are padding")
    )


async def look_at(tab: FakeTab, operator: str) -> npt.NDArray[np.uint8]:
    """Choose an operator; its picture, RGB [height, width, 3], once it shows all that was sent to it."""
    page, newest = tab.page, tab.live.held.by(operator)
    await page.locator(f"#operators [data-operator={operator}]").click()
    await expect(page.locator("#held-picture")).to_have_attribute("data-number", str(newest.version))
    return (await tab.pixels("held-picture"))[..., :3]


async def paused_with_an_object(tab: FakeTab) -> None:
    """Tiles have left, and no more will."""
    await tab.click(0.3, 0.4)
    await tab.until_masked(0.3, 0.4)
    await tab.page.locator("#pause").click()
    await expect(tab.page.locator("#paused")).to_be_visible()


@pytest.mark.parametrize("code", ["rgb", "dct:10/3"])
async def test_what_an_operator_holds_is_the_tiles_that_left(browser: Browser, code: str) -> None:
    """To the pixel, and black elsewhere: no kept window is in any operator's picture."""
    live, tiles = FakeLive(code=TileCode.parse(code)), TileCode.parse(code)
    live.kept, live.kept_now = {6}, {7, 12}
    seen = set[int]()
    async with tab(browser, live) as made:
        await paused_with_an_object(made)
        for _, operator in SITES:
            found = await look_at(made, operator)
            expected = np.zeros((216, 384, 3), np.float32)
            for (owner, window), coded in live.left.items():
                if owner == operator:
                    row, col = (80 * place for place in divmod(window, 5))
                    place = expected[row : row + 80, col : col + 80]
                    decoded = tiles.decode(coded, live.geometry)[0]
                    place[:] = decoded[: place.shape[0], : place.shape[1]]
                    seen.add(window)
            assert np.array_equal(found, np.rint(expected)), operator
            count = sum(owner == operator for owner, _ in live.left)
            await expect(made.page.locator("#held-age")).to_contain_text(f"{count} windows, sent")
            pressed = made.page.locator("#operators [aria-pressed=true] .name")
            await expect(pressed).to_have_text([operator])
        label = re.compile("What gamma holds: [0-9]+ % of the picture, 4 windows; black elsewhere")
        await expect(made.page.locator("#held-picture")).to_have_attribute("aria-label", label)
        await made.page.locator("#operators [data-operator=gamma]").click()
        await expect(made.page.locator("#held")).to_be_hidden()
    assert seen == set(range(15)) - {6, 7, 12}


async def test_what_an_operator_holds_goes_on_and_only_while_it_is_seen(live_tab: FakeTab) -> None:
    page, live = live_tab.page, live_tab.live
    await live_tab.click(0.3, 0.4)
    await live_tab.until_masked(0.3, 0.4)
    assert live.held.pictures == 0
    await page.locator("#operators [data-operator=beta]").click()
    await page.wait_for_function(HELD_FROM, arg=1)
    number = int(await page.locator("#held-picture").get_attribute("data-number") or 0)
    await page.wait_for_function(HELD_FROM, arg=number + 1)
    for away in ("hidden", "scrolled", "closed"):
        if away == "hidden":
            await page.evaluate(HIDE, True)
        elif away == "scrolled":
            await page.evaluate("document.body.style.paddingTop = '9000px'; scrollTo(0, 0)")
        else:
            await page.locator("#operators [data-operator=beta]").click()
        await live_tab.until_said({"type": "look", "operator": None})
        made, shown = live.held.pictures, live.number
        await live.frames.after(live.frames.version + 20)  # 0.6 s of frames
        assert live.held.pictures - made <= 1, away  # one that was being made
        assert live.number > shown
        live_tab.said.clear()
        if away == "hidden":
            await page.evaluate(HIDE, False)
        elif away == "scrolled":
            await page.evaluate("document.body.style.paddingTop = ''")
            await page.locator("#held").scroll_into_view_if_needed()
        if away != "closed":
            number = int(await page.locator("#held-picture").get_attribute("data-number") or 0)
            await page.wait_for_function(HELD_FROM, arg=number + 1)


HELD_FROM = "(number) => Number(document.getElementById('held-picture').dataset.number) >= number"


async def test_where_no_pixels_leave_it_says_so(browser: Browser) -> None:
    async with tab(browser, FakeLive(code=None)) as made:
        await paused_with_an_object(made)
        await made.page.locator("#operators [data-operator=beta]").click()
        await expect(made.page.locator("#held-text")).to_contain_text(
            "hidden states leave the edge, not pixels"
        )
        await expect(made.page.locator("#held-picture")).to_be_hidden()
        await expect(made.page.locator("#held-age")).to_contain_text("5 windows")


async def test_keys_alone_choose_an_operator_and_its_share_is_told(live_tab: FakeTab) -> None:
    page = live_tab.page
    await live_tab.click(0.3, 0.4)
    await live_tab.until_masked(0.3, 0.4)
    button = page.locator("#operators [data-operator=alpha]")
    await button.focus()
    await page.keyboard.press("Space")  # freezes nothing: a button is in focus
    await expect(page.locator("#held")).to_be_visible()
    await expect(page.locator("#frozen")).to_be_hidden()
    await expect(button).to_contain_text("may see 33 %")
    told = re.compile("of the picture's area: seen 3[0-9] %, may see 33 %, at most 40 % if others fail")
    await expect(button).to_have_attribute("title", told)
    other, before = page.locator("#operators [data-operator=beta]"), re.compile("seen 3[0-9] %")
    await expect(other).to_have_attribute("title", before)
    live_tab.live.sites[1].seen |= {0, 3}
    await expect(other).not_to_have_attribute("title", before)  # buttons were drawn anew
    await expect(button).to_have_attribute("aria-pressed", "true")
    await expect(button).to_be_focused()
    await expect(page.locator("#legend li").first).to_contain_text(re.compile("5 of 6 allowed, 3[0-9] %"))


async def test_kept_windows_and_boxes_are_drawn_over_the_frame_that_kept_them(live_tab: FakeTab) -> None:
    page, live = live_tab.page, live_tab.live
    live.keep_boxes, live.kept_now = ((320.0, 20.0, 600.0, 340.0),), {10}
    tag = page.locator("#kept")
    await page.wait_for_function(DRAWN_AT, arg=[0.5, 0.5, True])  # the left side of the box
    await expect(tag).to_be_hidden()  # nothing leaves, so nothing is kept
    await live_tab.click(0.8, 0.4)
    await expect(tag).to_have_text("1 window kept here")
    await page.wait_for_function(DRAWN_AT, arg=[0.1, 0.9, True])
    await expect(page.locator("#grid > [data-window='10']")).to_have_attribute(
        "title", "window 10: kept here in this frame; seen by nobody"
    )
    await expect(page.locator("#legend li", has_text="kept now")).to_contain_text("1, not sent")
    live.objects["object 1"].state = TrackState.CARRIED
    live.kept_now = set()  # nothing of a carried frame leaves
    await live_tab.until_number(live.number + 2)
    await expect(tag).to_have_text("1 window kept here")
    live.objects["object 1"].state = TrackState.TRACKED
    await expect(tag).to_be_hidden()
    await page.wait_for_function(DRAWN_AT, arg=[0.1, 0.9, False])


async def test_masks_and_what_is_kept_can_be_hidden(live_tab: FakeTab) -> None:
    page, live = live_tab.page, live_tab.live
    live.keep_boxes, live.kept_now = ((320.0, 20.0, 600.0, 340.0),), {10}
    await live_tab.click(0.8, 0.4)
    await live_tab.until_masked(0.8, 0.4)
    await expect(page.locator("#kept")).to_be_visible()
    for shown in (False, True):
        await (page.keyboard.press("m") if shown else page.locator("#overlay").click())
        await expect(page.locator("#overlay")).to_have_attribute("aria-pressed", str(shown).lower())
        await expect(page.locator("#masks")).to_be_visible(visible=shown)
        await expect(page.locator("#kept")).to_be_visible(visible=shown)
        for place in ((0.5, 0.5), (0.1, 0.9)):
            await page.wait_for_function(DRAWN_AT, arg=[*place, shown])


# Whether anything is drawn near a share of the picture, above the masks.
DRAWN_AT = """([x, y, drawn]) => {
    const canvas = document.getElementById("hud");
    const [left, top] = [Math.round(x * canvas.width) - 8, Math.round(y * canvas.height) - 8];
    const { data } = canvas.getContext("2d").getImageData(left, top, 16, 16);
    return data.some((value) => value > 0) === drawn;
}"""


async def test_a_second_viewer_sees_what_the_first_does(browser: Browser, live_tab: FakeTab) -> None:
    async with opened(browser, live_tab.run.address) as other:
        await live_tab.click(0.3, 0.4)
        await other.until_masked(0.3, 0.4)
        await expect(other.page.locator("#viewers")).to_have_text("2")
        await other.page.locator("#pause").click()
        await expect(live_tab.page.locator("#paused")).to_be_visible()


async def test_a_viewer_that_shows_nothing_slows_no_other(browser: Browser, live_tab: FakeTab) -> None:
    slow = await live_tab.run.watch()
    while not slow.frames:
        await slow.read()
    await live_tab.until_number(await live_tab.number() + 5)
    await slow.say("pause", paused=False)
    await slow.text("done")
    assert len(slow.frames) == 1


async def test_a_wrong_token_shows_nothing(browser: Browser) -> None:
    async with running_preview() as run, opened(browser, f"{run.base}/#token=wrong") as page:
        await expect(page.page.locator("#connection")).to_contain_text("wrong token")
        assert await page.number() == -1
        await expect(page.page.locator("#fps")).to_have_text("\u2013")
    async with running_preview() as run, opened(browser, run.base) as page:
        await expect(page.page.locator("#connection")).to_contain_text("no token")


async def test_it_comes_back_after_the_line_broke(browser: Browser) -> None:
    async with (
        running_preview() as run,
        tunnel(urlsplit(run.base).port or 0) as line,
        opened(browser, f"http://127.0.0.1:{line.port}/#token={run.token}") as page,
    ):
        await page.until_number(0)
        line.cut()
        await expect(page.page.locator("#connection")).to_contain_text("trying again")
        run.live.advance()
        await page.until_number(1)
        await expect(page.page.locator("#connection")).to_have_text("live")


async def test_a_reload_keeps_the_token(live_tab: FakeTab) -> None:
    await live_tab.page.reload()
    await live_tab.until_number(0)


async def test_keys_alone_point_at_things(live_tab: FakeTab) -> None:
    page = live_tab.page
    await page.locator("#stage").focus()
    for key in ("ArrowRight", "ArrowRight", "ArrowDown", "Enter"):
        await page.keyboard.press(key)
    await live_tab.until_masked(0.54, 0.535)
    await page.keyboard.press("?")
    await expect(page.locator("#help-dialog")).to_be_visible()


async def test_a_phone_has_room_for_it_and_fingers_work(browser: Browser) -> None:
    async with tab(browser, **PHONE) as phone:
        assert await phone.page.evaluate("document.documentElement.scrollWidth") == 360
        await phone.page.touchscreen.tap(*await phone.place(0.3, 0.4))
        await phone.until_masked(0.3, 0.4)
        await expect(phone.page.locator(".chip.selected .name")).to_have_text("object 1")
        await phone.page.locator("#background").tap()
        await phone.page.touchscreen.tap(*await phone.place(0.6, 0.6))
        _, second = await phone.live.asked.after(1)
        assert second.points[0][2] == 0
        heights = await phone.page.evaluate(HEIGHTS)  # in one step: chips are made anew now and then
        assert len(heights) > 8
        assert min(heights) >= 34


HEIGHTS = """() => [...document.querySelectorAll("button")]
    .filter((one) => one.checkVisibility())
    .map((one) => one.getBoundingClientRect().height)"""
