"""How soon the page has what a point, a choice or an undo changes on a frame that stands still.

    python -m benchmarks.stills --out benchmarks/results/stills_mini.json

A photograph of 1920 x 1080 pixels in a run without sites. Timed from asking until the picture with the new
masks is coded as JPEG for the page; of a try until the mask that a click would take is known. One object is
changed while so many are on the frame.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from PIL import Image

from benchmarks.machine import describe, where
from benchmarks.sentences import check_out, sentences
from runtime.demo.demo import photo
from runtime.frames.player import Player
from runtime.frames.sources import open_source
from runtime.live.interface import Live
from runtime.objects.prompts import PromptRequest, Prompts
from runtime.preview import PreviewOptions
from runtime.preview.pictures import FrameEncoder
from runtime.run_options import RunOptions
from runtime.session import run_session
from stages.bundle import Bundle, shipped_bundle
from stages.console import make_console

SIZE = (1920, 1080)
ROUNDS = 30
OBJECTS = (1, 8)
STEPS = {
    "try": "what a click would take",
    "point": "a point, of a new object",
    "choose": "another of its three masks",
    "more": "a second point",
    "undo": "undo of that",
}


async def measured(live: Live, objects: int) -> dict[str, Any]:
    """Milliseconds of each step while so many objects are on the frame, of which one is changed."""
    options = PreviewOptions()
    encoder = FrameEncoder(live.frames, live.geometry, options.longest_px, options.quality)
    taken: dict[str, list[float]] = {step: [] for step in STEPS}
    version = (await encoder.after(0)).version

    @contextmanager
    def timed(step: str) -> Iterator[None]:
        started_s = time.perf_counter()
        yield
        taken[step].append(time.perf_counter() - started_s)

    async def shown() -> None:
        nonlocal version
        version = (await encoder.after(version)).version

    for number in range(objects - 1):
        await live.prompt(_point(number))
        await shown()
    for turn in range(ROUNDS + 1):
        with timed("try"):
            await live.would_find(_point(turn))
        with timed("point"):
            name = await live.prompt(_point(turn))
            await shown()
        with timed("choose"):
            await live.choose(name, 1 + turn % 3)
            await shown()
        with timed("more"):
            await live.prompt(_point(turn + 5, name))
            await shown()
        with timed("undo"):
            live.undo()
            await shown()
        live.remove(name)
        await shown()
    return {step: _in_ms(seconds[1:]) for step, seconds in taken.items()}  # the first warms up


def _point(number: int, name: str | None = None) -> PromptRequest:
    x, y = 300 + 173 * number % 1300, 200 + 97 * number % 700
    return PromptRequest(0, name, ((float(x), float(y), 1),))


def _in_ms(seconds: Sequence[float]) -> dict[str, float]:
    p95 = sorted(seconds)[round(0.95 * (len(seconds) - 1))]
    return {"p50": round(1e3 * statistics.median(seconds), 1), "p95": round(1e3 * p95, 1)}


async def run(bundle: Bundle, picture: Path) -> dict[str, Any]:
    rows: dict[str, Any] = {}
    for objects in OBJECTS:
        player = Player(open_source(picture))

        @asynccontextmanager
        async def watcher(live: Live, player: Player = player, objects: int = objects) -> AsyncIterator[str]:
            async def measure() -> None:
                rows[str(objects)] = await measured(live, objects)
                player.stop()

            player.watched(True)
            task = asyncio.create_task(measure())
            yield "measuring"
            await task

        console = make_console(file=io.StringIO(), width=80)
        await run_session(bundle, player, Prompts(()), RunOptions(), console, [watcher])
    return rows


def markdown(result: Mapping[str, Any]) -> str:
    """Milliseconds of each step, by the number of objects on the frame."""
    counts = list(result["objects"])
    head = ["until it is shown, ms (p95)", *(f"{count} object{'s' * (count != '1')}" for count in counts)]
    lines = [f"| {' | '.join(head)} |", "|" + " --- |" * len(head)]
    for step, words in STEPS.items():
        cells = (_cell(result["objects"][count][step]) for count in counts)
        lines.append(f"| {words} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", f"{result['model']}; {where(result['machine'])}."])


def _cell(ms: Mapping[str, float]) -> str:
    return f"{ms['p50']:.0f} ({ms['p95']:.0f})"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundle", type=Path, help="default: the model that comes with pedsam")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    check_out(given.out)
    bundle = Bundle.load(given.bundle or shipped_bundle())
    with tempfile.TemporaryDirectory() as folder:
        picture = Path(folder) / "coffee.png"
        Image.fromarray(photo("coffee")[20:357]).resize(SIZE, Image.Resampling.BICUBIC).save(picture)
        rows = asyncio.run(run(bundle, picture))
    result = {"machine": describe(), "model": bundle.description, "objects": rows}
    given.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(markdown(result))


if __name__ == "__main__":
    with sentences():
        main()
