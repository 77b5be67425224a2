"""Frames of files in any order: the same as from start to end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.frames.reels import reel_of
from runtime.frames.sources import Frame, TurnedSource, open_source
from stages.errors import InputError
from tests.runtime.frames.test_sources import picture
from tests.support.clips import clip, cut

FRAMES = 30
# A keyframe now and then and frames that are decoded in another order than shown, in containers with an
# index, without one, and with times that can be joined or are missing.
KINDS: dict[str, dict[str, Any]] = {
    "a.mp4": {"codec": "libx264", "g": 12, "bf": 2},
    "b.mkv": {"codec": "libx264", "g": 7, "bf": 2},
    "c.avi": {"codec": "mpeg4", "g": 5},
    "d.ts": {"codec": "libx264", "g": 12},
    "e.mjpeg": {"codec": "mjpeg", "pixels": "yuvj420p"},
    "f.gif": {"codec": "gif", "pixels": "rgb8"},
    "g.mp4": {"codec": "libx264", "times_ms": [40 * n + 300 * (n // 10) for n in range(FRAMES)]},
}


@pytest.fixture(scope="module", params=KINDS)
def film(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    name: str = request.param
    return clip(tmp_path_factory.mktemp("films") / name, FRAMES, **KINDS[name])


def in_order(path: Path) -> list[Frame]:
    return list(open_source(path))


def same(one: Frame | None, other: Frame) -> bool:
    return (
        one is not None
        and abs(one.time_s - other.time_s) < 1e-3
        and one.pixels.shape == other.pixels.shape
        and np.array_equal(one.pixels, other.pixels)
    )


def test_a_film_from_start_to_end_is_the_same(film: Path) -> None:
    frames, reel = in_order(film), reel_of(open_source(film))
    assert len(frames) == FRAMES
    assert same(reel.at(0.0), frames[0])
    for frame in frames[1:]:
        assert same(reel.following(), frame)
    assert reel.following() is None
    assert same(reel.preceding(), frames[-2])
    reel.close()


def test_any_place_of_a_film_is_the_frame_that_is_shown_then(film: Path) -> None:
    frames, reel = in_order(film), reel_of(open_source(film))
    for number in (17, 3, 29, 0, 12, 11):
        frame = frames[number]
        assert same(reel.at(frame.time_s), frame), number
        assert same(reel.at(frame.time_s + 0.01), frame), number  # still shown
    assert same(reel.following(), frames[12])
    assert same(reel.at(99.0), frames[-1])
    assert same(reel.at(-1.0), frames[0])
    assert same(reel.preceding(), frames[0])
    reel.close()


def test_a_film_is_stepped_back_frame_by_frame(film: Path) -> None:
    frames, reel = in_order(film), reel_of(open_source(film))
    reel.at(frames[15].time_s)
    for number in (14, 13, 12, 11, 10, 9, 8):
        assert same(reel.preceding(), frames[number]), number
    reel.close()


@settings(max_examples=20, deadline=None)
@given(moves=st.lists(st.sampled_from(["on", "back", "to"]) | st.integers(0, FRAMES - 1), max_size=12))
def test_whatever_way_one_goes_the_frames_are_the_same(moves: list[Any], film: Path) -> None:
    frames, reel, now = in_order(film), reel_of(open_source(film)), 0
    reel.at(0.0)
    for move in moves:
        if isinstance(move, int):
            now, found = move, reel.at(frames[move].time_s)
        elif move == "on" and now + 1 < FRAMES:
            now, found = now + 1, reel.following() or frames[0]
        else:
            now, found = max(0, now - 1), reel.preceding()
        assert same(found, frames[now])
    reel.close()


def test_pictures_are_gone_through_by_their_order(tmp_path: Path) -> None:
    for name, width in (("a", 5), ("b", 6), ("c", 7)):
        picture(tmp_path / f"{name}.png", (width, 4))
    reel = reel_of(open_source(tmp_path, fps=2.0))
    assert (reel.step_s, reel.end_s) == (0.5, 1.0)
    assert _name(reel.at(0.6)) == "b"
    assert _name(reel.following()) == "c"
    assert reel.following() is None
    assert _name(reel.preceding()) == "b"
    assert (_name(reel.at(-3)), _name(reel.preceding()), _name(reel.at(50))) == ("a", "a", "c")


def test_a_picture_that_cannot_be_read_says_why_and_the_others_are_there(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"\x89PNG")
    reel = reel_of(open_source(tmp_path))
    broken = reel.at(1.0)
    assert broken.error
    assert "b.png" in broken.error
    assert reel.preceding().error is None


def test_frames_are_turned_as_the_source_turns_them(tmp_path: Path) -> None:
    film = clip(tmp_path / "a.mp4", 6, codec="libx264")
    turned = TurnedSource(open_source(film), 90)
    frames, reel = list(turned), reel_of(turned)
    assert same(reel.at(frames[3].time_s), frames[3])
    assert same(reel.following(), frames[4])
    assert same(reel.preceding(), frames[3])
    reel.close()


def test_a_film_that_is_cut_off_ends_where_its_frames_end(tmp_path: Path) -> None:
    film = cut(clip(tmp_path / "a.mkv", FRAMES, codec="libx264", g=6), 0.6)
    frames, reel = in_order(film), reel_of(open_source(film))
    assert 5 < len(frames) < FRAMES
    assert same(reel.at(100.0), frames[-1])
    assert reel.following() is None
    assert same(reel.at(frames[2].time_s), frames[2])
    reel.close()


def test_a_film_that_vanishes_and_has_to_be_read_again_is_told(tmp_path: Path) -> None:
    film = clip(tmp_path / "a.ts", 6, **KINDS["d.ts"])
    reel = reel_of(open_source(film))
    reel.at(0.0)
    film.unlink()
    with pytest.raises(InputError, match="cannot be read"):
        reel.at(0.0)


def _name(frame: Frame | None) -> str:
    assert frame is not None
    return frame.name
