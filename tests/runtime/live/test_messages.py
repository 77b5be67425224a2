"""What a person is told while a run goes on: at once, then seldom, the same everywhere."""

from __future__ import annotations

import io
from dataclasses import dataclass, field

import anyio
import pytest

from runtime.live.messages import (
    KEPT,
    KEPT_WARNINGS,
    LASTS_S,
    MOST_REASONS,
    SHOWN_WARNINGS,
    Messages,
    telling,
)
from stages.console import make_console


@dataclass
class Told:
    """Messages on a narrow log, and a clock that a test moves."""

    now: float = 1000.0
    out: io.StringIO = field(default_factory=io.StringIO)

    def __post_init__(self) -> None:
        self.messages = Messages(make_console(file=self.out, width=40), 60, lambda: self.now)

    @property
    def lines(self) -> list[str]:
        return self.out.getvalue().splitlines()


def test_the_first_is_told_at_once_and_a_flood_once_in_a_while() -> None:
    told = Told()
    for _ in range(1000):
        told.messages.tell("camera 0 gives no picture any more")
        told.messages.tell("camera 0 is back")
    assert told.lines == ["camera 0 gives no picture any more", "camera 0 is back"]
    told.messages.report()
    assert len(told.lines) == 2
    told.now += 60
    told.messages.report()
    assert told.lines[2:] == [
        "camera 0 gives no picture any more (999 times since)",
        "camera 0 is back (999 times since)",
    ]
    assert told.messages.lines == told.lines
    assert told.messages.newest == "camera 0 is back"


@pytest.mark.parametrize(
    ("first", "second", "alike"),
    [
        ("site a: gave no answer within 10.0 s", "site a: gave no answer within 10.4 s", True),
        ("site a: answered 500: no", "site a: answered 503: no", True),
        ("site a: cannot be reached at 10.0.0.1:80", "site a: cannot be reached at 10.0.0.2:81", True),
        ("heartbeat f stops: nothing for 30 s", "heartbeat f stops: nothing for 32 s", True),
        ("site 1: is back", "site 2: is back", False),
        ("site a1: is back", "site a2: is back", False),
        ("/dev/video0 is back", "/dev/video1 is back", False),
        ("in/img_1.jpg cannot be read", "in/img_2.jpg cannot be read", False),
        ("in/1.jpg cannot be read", "in/2.jpg cannot be read", False),
    ],
)
def test_another_number_in_a_sentence_is_no_other_reason_but_another_name_is(
    first: str, second: str, alike: bool
) -> None:
    told = Told()
    told.messages.tell(first)
    told.messages.tell(second)
    assert told.messages.newest == second
    told.messages.report_all()
    assert told.lines == [first, second]  # one alone that was held back has no number
    told.messages.tell(first)
    assert len(told.lines) == 2
    told = Told()
    for text in (first, second, second):
        told.messages.tell(text)
    assert len(told.lines) == (1 if alike else 2)


FAILS, BACK = "site a: gave no answer within 10.0 s", "site a: is back"


def test_the_last_line_about_a_thing_that_comes_and_goes_is_true() -> None:
    told = Told()
    start = told.now
    for at_s, text in ((0, FAILS), (5, BACK), (10, FAILS), (20, BACK), (25, "the board is hot"), (30, FAILS)):
        told.now = start + at_s
        told.messages.tell(text, about="site a" if text != "the board is hot" else None)
    for at_s in (59, 60, 65, 200):
        told.now = start + at_s
        told.messages.report()
    told.messages.report_all()
    assert told.lines == [FAILS, BACK, "the board is hot", f"{FAILS} (the last of 3 messages since)"]


LOST, AWAY = "broker b: it ended the connection", "broker b: it cannot be reached"
CONNECTED = "broker b: connected"


def told_every_second(*, texts: dict[int, str], seconds: int) -> list[tuple[int, str]]:
    """The lines of a broker that tells `texts` at these seconds, each with its second."""
    told, lines = Told(), list[tuple[int, str]]()
    for second in range(seconds):
        if second in texts:
            told.messages.tell(texts[second], about="broker")
        told.messages.report()
        lines += [(second, line) for line in told.lines[len(lines) :]]
        told.now += 1
    return lines


def test_that_a_thing_is_back_is_told_soon_although_it_was_told_a_moment_ago() -> None:
    """As of a broker that is started again within the minute."""
    texts = {0: CONNECTED, 12: LOST, 13: AWAY, 15: AWAY, 19: AWAY, 27: CONNECTED}
    back = f"{CONNECTED} (the last of 3 messages since)"
    assert told_every_second(texts=texts, seconds=59) == [
        (0, CONNECTED),
        (12, LOST),
        (13, AWAY),
        (27 + int(LASTS_S), back),
    ]


def test_a_thing_that_comes_and_goes_is_told_once_a_minute() -> None:
    texts = {second: (CONNECTED, LOST)[second % 2] for second in range(60)}
    assert told_every_second(texts=texts, seconds=60) == [(0, CONNECTED), (1, LOST)]


def test_a_thing_that_stays_as_it_was_told_is_told_once_a_minute() -> None:
    texts = {0: CONNECTED} | dict.fromkeys(range(1, 60), AWAY)
    assert told_every_second(texts=texts, seconds=60) == [(0, CONNECTED), (1, AWAY)]


def test_what_is_told_at_once_overtakes_what_is_held_back() -> None:
    told = Told()
    told.messages.tell(BACK, about="site a")
    told.now += 50
    told.messages.tell(FAILS, about="site a")
    told.messages.tell(FAILS, about="site a")
    told.messages.tell("site b: is back", about="site b")
    told.messages.tell("site b: is back", about="site b")
    told.now += 15
    told.messages.tell(BACK, about="site a")
    told.messages.report_all()
    assert told.lines[:4] == [BACK, FAILS, "site b: is back", f"{BACK} (the last of 2 messages since)"]
    assert told.lines[4:] == ["site b: is back"]


def test_a_thing_that_says_ever_other_things_leaves_nothing_behind() -> None:
    told = Told()
    for number in range(5 * MOST_REASONS):
        for _ in range(2):
            told.messages.tell(f"site a: says {chr(200 + number)}", about="site a")
        told.now += 60
    assert told.lines[-1] == f"site a: says {chr(200 + number)} (the last of 2 messages since)"
    told.now += 60
    told.messages.tell("something else")
    assert told.lines[-1] == "something else"


def test_a_flood_of_different_sentences_is_bounded_too() -> None:
    told = Told()
    words = [f"site a: answered 500: {chr(200 + number)}" for number in range(10_000)]
    for text in words:
        told.messages.tell(text)
    assert told.lines == words[: MOST_REASONS + 1]
    told.now += 60
    told.messages.report()
    assert told.lines[-1] == f"{words[-1]} (the last of {9_999 - MOST_REASONS} other messages)"
    assert len(told.messages.lines) <= KEPT


def test_a_sentence_is_one_line_without_markup_and_control_codes() -> None:
    told = Told()
    told.messages.tell("site a: \x1b[31mred\nblue [/nonsense] [red] :key: " + 90 * "x")
    assert told.lines == ["site a: ?[31mred?blue [/nonsense] [red] :key: " + 90 * "x"]
    assert told.messages.newest == told.lines[0]


def test_a_warning_is_told_once_and_kept_apart() -> None:
    told = Told()
    for _ in range(3):
        told.messages.warn("half of the files are no pictures")
    assert told.lines == ["warning: half of the files are no pictures"]
    assert told.messages.warnings == ["half of the files are no pictures"]
    assert told.messages.lines == []
    assert told.messages.newest == "half of the files are no pictures"


def test_many_warnings_are_kept_and_some_are_shown() -> None:
    told = Told()
    for number in range(2 * KEPT_WARNINGS):
        told.messages.warn(f"in/{number}.jpg is left out")
    assert told.lines[SHOWN_WARNINGS:] == ["there are more warnings; summary.json has them all"]
    assert told.lines[:2] == ["warning: in/0.jpg is left out", "warning: in/1.jpg is left out"]
    assert len(told.messages.warnings) == KEPT_WARNINGS + 1
    assert told.messages.warnings[-1] == f"there were more warnings than these {KEPT_WARNINGS}"


@pytest.mark.anyio
async def test_what_was_held_back_and_new_warnings_are_told_while_a_block_runs() -> None:
    told = Told()
    warnings: list[str] = []
    async with telling(told.messages, lambda: warnings, every_s=0.001):
        told.messages.tell("it fails")
        told.messages.tell("it fails")
        told.now += 60
        warnings.append("the file ends early")
        with anyio.fail_after(10):
            while len(told.lines) < 3:  # noqa: ASYNC110
                await anyio.sleep(0.001)
        assert sorted(told.lines) == ["it fails", "it fails", "warning: the file ends early"]
        told.messages.tell("it fails")
        warnings.append("and so does its sound")
    assert sorted(told.lines[3:]) == ["it fails", "warning: and so does its sound"]


@pytest.mark.anyio
async def test_an_error_of_the_block_comes_out_as_it_is() -> None:
    with pytest.raises(ValueError, match="itself"):
        async with telling(Told().messages):
            raise ValueError("itself")


def test_a_warning_of_what_was_told_is_kept_and_not_shown_again() -> None:
    told = Told()
    told.messages.tell("the ledger cannot be written")
    told.messages.warn("the ledger cannot be written")
    assert told.lines == ["the ledger cannot be written"]
    assert told.messages.warnings == ["the ledger cannot be written"]
