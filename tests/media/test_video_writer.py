"""Videos that are written: their times, their sizes, and what is left when writing ends too soon."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import av
import cv2
import numpy as np
import numpy.typing as npt
import pytest

from media import video_writer
from media.video_writer import H264, MAX_VIDEO_SIDE_PX, MPEG4, VideoWriter, largest_side_px
from stages.errors import InputError
from tests.support.browser import chromium
from tests.support.disks import limited_to

RNG = np.random.default_rng(0)
NOISE = [RNG.integers(0, 256, (90, 120, 3), np.uint8) for _ in range(10)]


@pytest.mark.parametrize("missing", ["open", "add_stream"])
def test_a_video_that_cannot_be_begun_leaves_no_file_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    def fail(*args: object, **options: object) -> None:
        raise av.error.FFmpegError(22, "no such thing")

    if missing == "open":
        monkeypatch.setattr(av, "open", fail)
    else:
        monkeypatch.setattr(video_writer, "_stream", fail)
    with pytest.raises(InputError):
        write(tmp_path / "a.mp4", [0.0])
    links = [Path(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd")]
    assert str(tmp_path / "a.mp4") not in [str(link.readlink()) for link in links if link.is_symlink()]


def write(path: Path, times_s: Sequence[float], fps: float | None = None) -> None:
    writer = VideoWriter(path, fps)
    for number, time_s in enumerate(times_s):
        writer.write(NOISE[number % 10], time_s)
    writer.close()


def shown_s(path: Path) -> list[float]:
    """When each frame is shown, and at last when the video ends."""
    with av.open(str(path)) as video:
        stream = video.streams.video[0]
        assert stream.time_base is not None
        times = [
            float(frame.pts * stream.time_base) for frame in video.decode(stream) if frame.pts is not None
        ]
        return [*times, float((stream.duration or 0) * stream.time_base)]


def opencv_seconds(path: Path) -> float:
    """How long OpenCV's users believe that it plays."""
    capture = cv2.VideoCapture(str(path))
    return float(capture.get(cv2.CAP_PROP_FRAME_COUNT) / capture.get(cv2.CAP_PROP_FPS))


@pytest.mark.parametrize(
    "times_s",
    [
        pytest.param([n / 29.97 for n in range(40)], id="29.97 a second"),
        pytest.param([n / 1000 for n in range(40)], id="1000 a second"),
        pytest.param([100.0 * n for n in range(4)], id="one in 100 s"),
        pytest.param([0, 0.1, 0.15, 3, 3.1, 30, 30.5], id="no fixed rate"),
        pytest.param([1e6, 1e6 + 0.5, 1e6 + 1], id="days after the start"),
    ],
)
def test_frames_are_shown_at_their_own_times(tmp_path: Path, times_s: list[float]) -> None:
    write(tmp_path / "a.mp4", times_s)
    expected = [time_s - times_s[0] for time_s in times_s]
    end = expected[-1] * len(times_s) / (len(times_s) - 1)  # the last one lasts as long as others do
    assert shown_s(tmp_path / "a.mp4") == pytest.approx([*expected, end], abs=2e-3)
    assert opencv_seconds(tmp_path / "a.mp4") == pytest.approx(end, rel=0.01)


@pytest.mark.parametrize(
    ("times_s", "expected"),
    [
        ([0, 1, 1, 2], [0, 1, 1, 2]),  # equal
        ([0, 1, 0.5, 1.5], [0, 1, 1.25, 2.25]),  # backwards: the file goes on
        ([0, math.nan, math.inf, 5], [0, 0.25, 0.5, 5]),
        ([math.nan, 1, 2], [0, 1, 2]),
        ([0, 1, 1e9, 1e9 + 1], [0, 1, 21601, 21602]),  # six hours are the most that MP4 holds
    ],
)
def test_times_that_make_no_sense_become_some_that_do(
    tmp_path: Path, times_s: list[float], expected: list[float]
) -> None:
    write(tmp_path / "a.mp4", times_s, fps=4.0)
    assert shown_s(tmp_path / "a.mp4")[:-1] == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize(
    ("fps", "lasts_s"), [(4.0, 0.25), (None, 0.1), (math.nan, 0.1), (0.0, 0.1), (0.01, 100), (1e9, 0)]
)
def test_a_single_frame_lasts_as_the_rate_says(tmp_path: Path, fps: float | None, lasts_s: float) -> None:
    write(tmp_path / "a.mp4", [7.0], fps)
    assert shown_s(tmp_path / "a.mp4") == pytest.approx([0, lasts_s], abs=1e-4)


@pytest.mark.parametrize(
    ("size", "stored"), [((1, 1), (2, 2)), ((37, 53), (38, 54)), ((36, 54), (36, 54)), ((2, 999), (2, 1000))]
)
def test_every_size_can_be_written_and_odd_ones_lose_nothing(
    tmp_path: Path, size: tuple[int, int], stored: tuple[int, int]
) -> None:
    picture = np.full((*size, 3), (200, 100, 50), np.uint8)
    writer = VideoWriter(tmp_path / "a.mp4")
    writer.write(picture, 0.0)
    writer.close()
    ok, shown = cv2.VideoCapture(str(tmp_path / "a.mp4")).read()
    assert ok
    assert shown.shape == (*stored, 3)
    assert np.abs(shown[..., ::-1].astype(int) - (200, 100, 50)).max() < 8


def test_a_picture_larger_than_the_encoder_takes_is_refused(tmp_path: Path) -> None:
    writer = VideoWriter(tmp_path / "a.mp4")
    with pytest.raises(InputError, match=r"at most 16384 pixels a side, and the picture is 16386 x 2; make"):
        writer.write(np.zeros((2, MAX_VIDEO_SIDE_PX + 2, 3), np.uint8), 0.0)
    writer.close()


def test_a_size_that_changes_is_fitted_into_the_first(tmp_path: Path) -> None:
    writer = VideoWriter(tmp_path / "a.mp4")
    for number, size in enumerate([(60, 80), (120, 80), (30, 40)]):
        writer.write(np.full((*size, 3), 255, np.uint8), float(number))
    writer.close()
    capture = cv2.VideoCapture(str(tmp_path / "a.mp4"))
    _, tall, small = (capture.read()[1] for _ in range(3))
    assert tall[:, :35].min() > 240
    assert tall[:, 45:].max() < 15
    assert small.min() > 240


def test_a_name_that_is_not_utf_8(tmp_path: Path) -> None:
    path = tmp_path / "a%d_\udce9:b.mp4"
    write(path, [0, 0.5])
    assert path.stat().st_size > 1000


@pytest.mark.parametrize(("less_bytes", "frames"), [(1000, 40), (200_000, 20), (10**9, 0)])
def test_a_disk_that_is_full_is_one_sentence_and_what_was_whole_stays(
    tmp_path: Path, less_bytes: int, frames: int
) -> None:
    """So many bytes less than the whole file needs; the first has no room for the index alone."""
    times_s = [number / 10 for number in range(60)]
    write(tmp_path / "whole.mp4", times_s, 10.0)
    limit = max(0, (tmp_path / "whole.mp4").stat().st_size - less_bytes)
    path = tmp_path / "a.mp4"
    full = pytest.raises(InputError, match=r"cannot write .*a\.mp4; check .* \(File too large\)")
    with limited_to(limit), full:
        try:
            writer = VideoWriter(path, 10.0)
            for number, time_s in enumerate(times_s):
                writer.write(NOISE[number % 10], time_s)
        except InputError:
            assert number < frames + 25  # soon, not at the end
            writer.close()  # tells nothing a second time
            raise
        assert frames == 40
        writer.close()
    assert path.stat().st_size <= limit
    if frames:
        assert len(shown_s(path)) - 1 == frames


def test_dev_full(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").symlink_to("/dev/full")
    with pytest.raises(InputError, match=r"cannot write .*a\.mp4; .*No space left on device"):
        write(tmp_path / "a.mp4", [0, 3, 6, 9])


KILLED = """
import os, signal, sys
from pathlib import Path
import numpy as np
from media import video_writer
from media.video_writer import VideoWriter
if sys.argv[2] == "mpeg4":
    video_writer.ENCODERS = (video_writer.MPEG4,)
writer = VideoWriter(Path(sys.argv[1]), 10.0)
for number in range(105):
    writer.write(np.random.default_rng(number).integers(0, 256, (90, 120, 3), np.uint8), number / 10)
os.kill(os.getpid(), signal.SIGKILL)
"""


def killed(path: Path, encoder: str = "h264") -> Path:
    """What a process leaves there that was killed after 10.5 s of a video."""
    line = [sys.executable, "-c", KILLED, str(path), encoder]
    done = subprocess.run(line, check=False, cwd=Path(__file__).parents[2])
    assert done.returncode == -signal.SIGKILL
    return path


@pytest.mark.parametrize("encoder", ["h264", "mpeg4"])
def test_what_a_killed_process_has_written_plays_up_to_its_last_seconds(tmp_path: Path, encoder: str) -> None:
    path = killed(tmp_path / "a.mp4", encoder)
    capture, frames = cv2.VideoCapture(str(path)), 0
    while capture.read()[0]:
        frames += 1
    assert frames >= 80  # of 10.5 seconds, 8
    assert opencv_seconds(path) == pytest.approx(frames / 10, rel=0.01)


def test_a_finished_video_is_an_ordinary_mp4(tmp_path: Path) -> None:
    """The frames are counted in its index, which players need to show how long it is and to seek."""
    write(tmp_path / "a.mp4", [n / 10 for n in range(50)])
    with av.open(str(tmp_path / "a.mp4")) as video:
        stream = video.streams.video[0]
        assert stream.frames == 50
        keys = [packet.pts for packet in video.demux(stream) if packet.is_keyframe]
    assert len(keys) == 3  # every two seconds


def drawn() -> npt.NDArray[np.uint8]:
    picture = np.full((90, 120, 3), (30, 60, 90), np.uint8)
    picture[20:50, 30:80] = (240, 160, 20)
    return picture


def test_colours_are_what_they_were(tmp_path: Path) -> None:
    writer = VideoWriter(tmp_path / "a.mp4")
    writer.write(drawn(), 0.0)
    writer.close()
    with av.open(str(tmp_path / "a.mp4")) as video:
        frame = next(video.decode(video=0))
    assert np.abs(frame.to_ndarray(format="rgb24").astype(int) - drawn())[25:45, 35:75].max() < 8
    assert (frame.colorspace, frame.color_range) == (6, 1)


def test_a_gap_that_mp4_cannot_hold_is_told(tmp_path: Path) -> None:
    told: list[str] = []
    writer = VideoWriter(tmp_path / "a.mp4", 10.0, told.append)
    for time_s in (0.0, 6 * 3600.0, 6 * 3600.0 + 1, 15 * 3600.0, math.nan):
        writer.write(np.zeros((16, 16, 3), np.uint8), time_s)
    writer.close()
    assert told == [f"{tmp_path / 'a.mp4'} shows gaps of more than 6 hours between frames as 6 hours"]


@pytest.fixture
def without_h264(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with a PyAV that was built without x264."""
    missing = replace(H264, name="libx264_that_is_not_here")
    monkeypatch.setattr(video_writer, "ENCODERS", (missing, MPEG4))


@pytest.mark.usefixtures("without_h264")
def test_without_an_encoder_of_h264_it_is_mpeg4_and_says_so_once(tmp_path: Path) -> None:
    times_s, told = [0, 0.1, 0.15, 3, 3.1, 30, 30.0001], list[str]()
    writer = VideoWriter(tmp_path / "a.mp4", 10.0, told.append)
    for time_s in times_s:
        writer.write(drawn(), time_s)
    writer.close()
    assert told == [
        f"{tmp_path / 'a.mp4'} is MPEG-4 part 2, which VLC and ffmpeg play and browsers do not: this PyAV "
        "has no libx264 for H.264; install its own wheel: pip install av"
    ]
    with av.open(str(tmp_path / "a.mp4")) as video:
        assert video.streams.video[0].codec_context.name == "mpeg4"
    assert shown_s(tmp_path / "a.mp4")[:-1] == pytest.approx(times_s, abs=2e-3)
    shown = cv2.VideoCapture(str(tmp_path / "a.mp4")).read()[1][..., ::-1]
    assert np.abs(shown.astype(int) - drawn())[25:45, 35:75].max() < 12
    assert largest_side_px() == 8191


@pytest.mark.usefixtures("without_h264")
def test_the_largest_picture_that_mpeg4_takes(tmp_path: Path) -> None:
    for side, fits in ((8190, True), (8192, False)):
        writer = VideoWriter(tmp_path / f"{side}.mp4")
        with (
            contextlib.nullcontext()
            if fits
            else pytest.raises(InputError, match="at most 8191 pixels a side")
        ):
            writer.write(np.zeros((16, side, 3), np.uint8), 0.0)
        writer.close()


def test_a_pyav_that_writes_no_videos_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(video_writer, "ENCODERS", (replace(H264, name="no"), replace(MPEG4, name="none")))
    with pytest.raises(
        InputError, match="has neither no nor none, one of which writes videos; install its own"
    ):
        VideoWriter(tmp_path / "a.mp4")


PLAYED = """() => new Promise((done, fail) => {
    const video = document.querySelector("video");
    video.muted = true;
    video.onended = () => done([video.videoWidth, video.videoHeight, video.currentTime]);
    video.onerror = () => fail(video.error.message);
    video.playbackRate = 8;
    video.play().catch(fail);
})"""


@pytest.mark.browser
@pytest.mark.anyio
async def test_a_browser_plays_a_whole_video_and_one_that_was_cut(tmp_path: Path) -> None:
    write(tmp_path / "whole.mp4", [number / 10 for number in range(50)])
    async with chromium() as browser:
        page = await browser.new_page()
        for path, least_s in ((tmp_path / "whole.mp4", 4.9), (killed(tmp_path / "cut.mp4"), 7.9)):
            await page.goto(path.as_uri())
            width, height, played_s = await page.evaluate(PLAYED)
            assert (width, height) == (120, 90)
            assert played_s >= least_s
        await page.close()
