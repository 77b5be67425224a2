"""A live run that is killed leaves a recording that plays."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path

import av
import av.error

from tests.runtime.test_service import long_film
from tests.support.processes import MODULE

PATIENCE_S = 120


def test_the_recording_of_a_run_that_was_killed_plays(tmp_path: Path) -> None:
    film, out = long_film(tmp_path / "film.mp4"), tmp_path / "out"
    line = [
        *MODULE,
        "run",
        "--source",
        film,
        "--realtime",
        "--box",
        "40,40,200,140",
        "--record",
        "--out",
        out,
    ]
    video = out / "record/part_00000001/overlay.mp4"
    with subprocess.Popen(list(map(str, line)), stdout=subprocess.DEVNULL) as process:
        until_s = time.monotonic() + PATIENCE_S
        while frames_in(video) < 15 and time.monotonic() < until_s:
            time.sleep(0.2)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert frames_in(video) >= 15
    with av.open(str(video)) as opened:
        assert opened.streams.video[0].codec_context.name == "h264"
    assert (video.parent / "masks.jsonl").read_text().count('"frame"') >= 15


def frames_in(video: Path) -> int:
    """How many frames of a file can be decoded, which is being written."""
    try:
        with av.open(str(video)) as opened:
            return sum(1 for _ in opened.decode(video=0))
    except (FileNotFoundError, av.error.FFmpegError):
        return 0
