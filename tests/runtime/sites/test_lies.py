"""Real sites, one of them behind a proxy that lies: it is found, and no wrong mask is left unmarked."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime.frames.sources import Frame, Source
from runtime.objects.prompts import Prompt, Prompts
from runtime.run_options import RunOptions
from runtime.session import run_session
from runtime.sites import spot_checks
from stages.bundle import Bundle, shipped_bundle
from stages.console import make_console
from tests.support.edge import sites_file
from tests.support.liar import lying
from tests.support.pictures import photo
from tests.support.processes import serving

pytestmark = pytest.mark.anyio

PROMPTS = Prompts((Prompt("cup", (150, 10, 450, 90)),))
FRAMES = 45
HONEST_TILES = 14  # of the liar, its eight synthetic ones among them


class Strip(Source):
    """Frames of five windows, each other in every window."""

    def __init__(self, frames: int = FRAMES) -> None:
        self.count: int = frames

    def sizes(self) -> frozenset[tuple[int, int]]:
        return frozenset({(100, 640)})

    def __iter__(self) -> Iterator[Frame]:
        for number in range(self.count):
            picture = np.roll(photo("16:9")[120:220], 5 * number, axis=1)
            yield Frame(number, f"{number:03}", float(number), picture)


@pytest.fixture(autouse=True)
def _begins_after_the_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    """However busy the machine is."""
    monkeypatch.setattr(spot_checks, "BEGIN_S", 60.0)


@pytest.fixture(scope="module")
def urls() -> Iterator[list[str]]:
    """Three honest sites."""
    with ExitStack() as stack:
        yield [stack.enter_context(serving(None)).url for _ in range(3)]


async def run(out: Path, sites: Path | None, frames: int = FRAMES, **more: Any) -> tuple[dict[str, Any], str]:
    """The summary, and what the terminal showed."""
    options = RunOptions(
        out=out, threads=1, sites=sites, track=False, spot_checks=1000.0, spot_check_share=1.0, **more
    )
    terminal = io.StringIO()
    console = make_console(file=terminal, width=1000)
    summary = await run_session(Bundle.load(shipped_bundle()), Strip(frames), PROMPTS, options, console)
    return summary, terminal.getvalue()


def lines_of(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "masks.jsonl").read_text().splitlines()]


def masks(lines: list[dict[str, Any]]) -> dict[int, Any]:
    """The mask of each frame."""
    return {line["frame"]: line["segmentation"] for line in lines if "frame" in line}


def named(doubts: list[dict[str, Any]]) -> set[int]:
    """The frames of ranges."""
    return {
        frame
        for doubt in doubts
        for first, last in doubt["doubtful_frames"]
        for frame in range(first, last + 1)
    }


@pytest.fixture(scope="module")
def right(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Any]:
    """The masks of the edge alone."""
    out = tmp_path_factory.mktemp("alone")
    asyncio.run(run(out, None))
    return masks(lines_of(out))


# A check waits for four frames at most, and each of three sites is checked in turn; noise takes two checks.
@pytest.mark.parametrize(("kind", "frames"), [("zeros", 30), ("other", 30), ("noise", 45)])
async def test_a_site_that_begins_to_lie_is_found_and_the_frames_it_had_a_part_in_are_marked(
    tmp_path: Path, urls: list[str], right: dict[int, Any], kind: str, frames: int
) -> None:
    with lying(shipped_bundle(), urls[1], kind, HONEST_TILES) as url:
        sites = sites_file(tmp_path / "sites.toml", ("a", urls[0]), ("b", url), ("c", urls[2]))
        summary, said = await run(tmp_path / "out", sites, frames)
    states = {name: site["state"] for name, site in summary["sites"].items()}
    assert states == {"a": "ready", "b": "excluded", "c": "ready"}
    assert all(site["spot_checks"] for site in summary["sites"].values())
    assert "site b: answered a window with an embedding that differs from the edge's own by" in said

    lines = lines_of(tmp_path / "out")
    found, doubts = masks(lines), [line for line in lines if "frame" not in line]
    assert summary["frames_lost"] == 0
    assert [doubt["site"] for doubt in doubts] == ["b"]
    doubtful = named(summary["doubtful"])
    assert doubtful
    assert doubtful >= named(doubts)
    assert summary["frames_doubtful"] == len(doubtful)
    assert any(" may be wrong: site b: " in warning for warning in summary["warnings"])
    wrong = {frame for frame, mask in found.items() if mask != right[frame]}
    assert wrong <= doubtful
    assert wrong or kind == "noise"
    assert max(doubtful) < frames - 5
    # each mask is told to be in doubt by its own line, or by one that comes later
    written_before = named(doubts)
    for number, line in enumerate(lines):
        if "frame" in line and line["frame"] in doubtful:
            assert line["doubtful"] or (
                line["frame"] in written_before and any("frame" not in later for later in lines[number:])
            )
        elif "frame" in line:
            assert not line["doubtful"]


async def test_a_site_that_lies_from_the_first_tile_is_found_by_its_probes(
    tmp_path: Path, urls: list[str], right: dict[int, Any]
) -> None:
    """It answers the bundle's own probe well, which it may know."""
    with lying(shipped_bundle(), urls[1], "constant", 0) as url:
        sites = sites_file(tmp_path / "sites.toml", ("a", urls[0]), ("b", url), ("c", urls[2]))
        summary, said = await run(tmp_path / "out", sites, 5)
    assert summary["sites"]["b"]["state"] == "excluded"
    assert "site b: answers a synthetic tile with an embedding that differs from the edge's own by" in said
    found = masks(lines_of(tmp_path / "out"))
    assert {frame for frame, mask in found.items() if mask != right[frame]} <= named(summary["doubtful"])


async def test_honest_sites_stay_in_use(tmp_path: Path, urls: list[str], right: dict[int, Any]) -> None:
    sites = sites_file(tmp_path / "sites.toml", *zip("abc", urls, strict=True))
    for wire_format in ("fp16", "int8"):
        summary, _ = await run(tmp_path / wire_format, sites, 16, wire=wire_format)
        assert {site["state"] for site in summary["sites"].values()} == {"ready"}
        assert all(site["spot_checks"] for site in summary["sites"].values())
        assert (summary["doubtful"], summary["frames_doubtful"], summary["warnings"]) == ([], 0, [])
    assert masks(lines_of(tmp_path / "int8")) == {frame: right[frame] for frame in range(16)}
    assert not any(line["doubtful"] for line in lines_of(tmp_path / "fp16"))
