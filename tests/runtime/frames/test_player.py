"""A file as viewers go through it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import Empty, Queue

import pytest

from runtime.frames.player import Player
from runtime.frames.sources import Frame, open_source
from stages.errors import InputError
from tests.runtime.frames.test_sources import picture
from tests.support.clips import clip

PATIENCE_S = 60
SOON_S = 0.15  # nothing has come by then


class Shown:
    """What a player gives, read on a thread as a run does."""

    def __init__(self, player: Player) -> None:
        self.player = player
        self._frames: Queue[Frame] = Queue()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        for frame in self.player:
            self._frames.put(frame)

    def next(self) -> Frame:
        return self._frames.get(timeout=PATIENCE_S)

    def nothing(self) -> bool:
        """Whether no frame comes for a moment."""
        try:
            self._frames.get(timeout=SOON_S)
        except Empty:
            return True
        return False

    def ended(self) -> bool:
        self._thread.join(PATIENCE_S)
        return not self._thread.is_alive()


@contextmanager
def played(path: Path, *, watched: bool = True, fps: float = 1.0) -> Iterator[Shown]:
    player = Player(open_source(path, fps))
    player.watched(watched)
    shown = Shown(player)
    yield shown
    player.stop()
    assert shown.ended()


@pytest.fixture
def film(tmp_path: Path) -> Path:
    return clip(tmp_path / "film.mp4", 6, codec="libx264", fps=20)


@pytest.fixture
def album(tmp_path: Path) -> Path:
    folder = tmp_path / "album"
    folder.mkdir()
    for name in "abc":
        picture(folder / f"{name}.png")
    return folder


def test_nothing_is_read_before_somebody_watches(film: Path) -> None:
    with played(film, watched=False) as shown:
        shown.player.play(True)
        assert shown.nothing()
        assert shown.player.standing
        shown.player.watched(True)
        assert shown.next().number == 0


def test_a_film_waits_on_its_first_frame_and_plays_when_it_is_told(film: Path) -> None:
    with played(film) as shown:
        assert (shown.next().time_s, shown.player.standing) == (0.0, True)
        assert shown.nothing()
        shown.player.play(True)
        assert not shown.player.standing
        assert [round(shown.next().time_s, 2) for _ in range(3)] == [0.05, 0.1, 0.15]


def test_it_plays_at_its_own_speed_and_leaves_no_frame_out(film: Path) -> None:
    with played(film) as shown:
        shown.next()
        shown.player.play(True)
        started_s = time.perf_counter()
        frames = [shown.next() for _ in range(5)]
        assert time.perf_counter() - started_s >= 4 * 0.05
        assert [round(frame.time_s / 0.05) for frame in frames] == [1, 2, 3, 4, 5]


def test_it_begins_anew_after_its_end_and_numbers_go_on(film: Path) -> None:
    with played(film) as shown:
        shown.next()
        shown.player.play(True)
        frames = [shown.next() for _ in range(8)]
        assert [frame.number for frame in frames] == list(range(1, 9))
        assert [round(frame.time_s / 0.05) for frame in frames] == [1, 2, 3, 4, 5, 0, 1, 2]
        assert [frame.jumped for frame in frames] == [False] * 5 + [True] + [False] * 2


def test_it_stands_still_when_it_is_paused_and_while_nobody_watches(film: Path) -> None:
    with played(film) as shown:
        shown.next()
        shown.player.play(True)
        shown.next()
        shown.player.watched(False)
        while not shown.nothing():
            pass
        assert shown.player.playback.playing  # it goes on when somebody comes
        shown.player.watched(True)
        shown.next()
        shown.player.play(False)
        while not shown.nothing():
            pass
        assert shown.player.standing


def test_any_place_and_single_steps(film: Path) -> None:
    with played(film) as shown:
        shown.next()
        shown.player.seek(0.2)
        found = shown.next()
        assert (round(found.time_s, 2), found.jumped, found.number) == (0.2, True, 1)
        shown.player.step(1)
        found = shown.next()
        assert (round(found.time_s, 2), found.jumped) == (0.25, False)
        shown.player.step(-1)
        found = shown.next()
        assert (round(found.time_s, 2), found.jumped) == (0.2, True)
        assert round(shown.player.playback.time_s, 2) == 0.2
        assert shown.player.standing


def test_a_step_ends_playing(film: Path) -> None:
    with played(film) as shown:
        shown.next()
        shown.player.play(True)
        shown.next()
        shown.player.step(1)
        while not shown.nothing():
            pass
        assert not shown.player.playback.playing


def test_steps_that_come_fast_are_all_made(film: Path) -> None:
    with played(film, watched=False) as shown:
        for _ in range(3):
            shown.player.step(1)
        shown.player.watched(True)
        assert [round(shown.next().time_s / 0.05) for _ in range(4)] == [0, 1, 2, 3]


def test_pictures_are_stepped_through_and_do_not_play(album: Path) -> None:
    with played(album) as shown:
        assert shown.next().name == "a"
        with pytest.raises(InputError, match="no film to play"):
            shown.player.play(True)
        for name in ("b", "c", "c"):
            shown.player.step(1)
            assert shown.next().name == name
        for name in ("b", "a", "a"):
            shown.player.step(-1)
            assert shown.next().name == name
        playback = shown.player.playback
        assert (playback.pictures, playback.end_s, playback.step_s) == (True, 2.0, 1.0)


def test_a_picture_stays(tmp_path: Path) -> None:
    with played(picture(tmp_path / "a.png")) as shown:
        assert shown.next().name == "a"
        assert shown.nothing()
        assert shown.player.playback.end_s == 0


def test_a_picture_that_cannot_be_read_is_a_lost_frame_and_the_next_one_follows(album: Path) -> None:
    (album / "b.png").write_bytes(b"\x89PNG")
    with played(album) as shown:
        shown.next()
        shown.player.step(1)
        assert shown.next().error
        shown.player.step(1)
        assert shown.next().name == "c"


def test_it_ends_while_it_waits(film: Path) -> None:
    with played(film) as shown:
        shown.next()
        shown.player.stop()
        assert shown.ended()


def test_it_is_what_its_source_is(film: Path, album: Path) -> None:
    player, pictures = Player(open_source(film)), Player(open_source(album))
    assert (player.kind, player.is_sequence, player.live, player.count) == ("video", True, True, None)
    assert (pictures.kind, pictures.is_sequence) == ("folder", False)
    assert player.sizes() == {(48, 64)}
