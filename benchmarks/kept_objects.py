"""How much of an object is sent in spite of `pedsam run --keep-objects`, and what share of windows it keeps.

    python -m benchmarks.kept_objects --data FOLDER --out benchmarks/results/kept_objects.json

FOLDER holds one folder a clip, of NNNNN.jpg with 8-bit masks NNNNN.png of one object for every frame. The
object is asked for by the box around its first mask; the edge, three sites in this process and all between
them are those of a run. Which windows of a frame are kept is foretold, so the margin around the newest masks
decides: `runtime.objects.kept_objects.MARGIN`, which is set to each of MARGINS in turn.

Counted are pixels of the object in windows that were not kept, by its true masks and by those that the run
itself found. The windows of a file's frames leave while those before them are decoded: up to IN_FLIGHT frames
are ahead of the newest masks. A live source has fewer under way, as in the last setting, with one.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import click
import numpy as np
import numpy.typing as npt

from benchmarks.machine import describe
from benchmarks.tracking import box_around, read
from runtime.edge import EdgeOptions, open_edge
from runtime.frames.sources import Frame, Source
from runtime.objects import kept_objects
from runtime.objects.follower import Follower
from runtime.objects.masks import Mask
from runtime.objects.prompts import Prompt, Prompts
from runtime.objects.registry import ObjectRegistry
from runtime.objects.tracking import Track
from runtime.pipeline import Pipeline, PipelineOptions
from runtime.results.result import FrameResult
from runtime.results.sinks import Sink
from server.serve import ServeOptions, running_site
from stages.bundle import Bundle, shipped_bundle
from stages.geometry import Geometry
from stages.tensors import Pixels

MARGINS = (0.0, 1 / 8, 1 / 4, 1 / 2)  # of a window's side
IN_FLIGHT = PipelineOptions.in_flight
Clip = Sequence[tuple[Pixels, Mask]]  # frames [H, W, 3] and their true masks [H, W]


class Film(Source):
    """The frames of a clip."""

    kind = "video"
    is_sequence = True

    def __init__(self, clip: Clip) -> None:
        self.count = len(clip)
        self._clip = clip

    def sizes(self) -> frozenset[tuple[int, int]]:
        return frozenset((pixels.shape[0], pixels.shape[1]) for pixels, _ in self._clip)

    def __iter__(self) -> Iterator[Frame]:
        for number, (pixels, _) in enumerate(self._clip):
            yield Frame(number, f"{number:05}", float(number), pixels)


def by_window(mask: Mask, geometry: Geometry) -> npt.NDArray[np.int64]:
    """How many pixels of a mask of the frame [H, W] lie in each window of its canvas, [windows]."""
    height, width = mask.shape
    rows, cols = geometry.resized(height, width)
    y, x = np.nonzero(mask)
    row = ((y + 0.5) * rows / height).astype(int) // geometry.tile_px
    col = ((x + 0.5) * cols / width).astype(int) // geometry.tile_px
    return np.bincount(row * geometry.grid + col, minlength=geometry.windows)


@dataclass
class Sent:
    """Pixels of masks, in all frames and in windows that were not kept; `frames` in which any were sent."""

    pixels: int = 0
    sent: int = 0
    frames: int = 0

    def add(self, pixels: npt.NDArray[np.int64], kept: Iterable[int]) -> None:
        """`pixels` of a frame by window."""
        sent = int(pixels.sum() - pixels[list(kept)].sum())
        self.pixels += int(pixels.sum())
        self.sent += sent
        self.frames += sent > 0

    @property
    def share(self) -> float | None:
        """Of the pixels, how many were sent; None of none."""
        return self.sent / self.pixels if self.pixels else None


class Counting(Sink):
    """Counts over the results of a clip."""

    def __init__(self, clip: Clip, geometry: Geometry) -> None:
        self.true, self.own = Sent(), Sent()
        self.frames = self.without_mask = 0
        self.kept_shares: list[float] = []
        self._clip = clip
        self._geometry = geometry

    def write(self, result: FrameResult) -> None:
        truth = self._clip[result.number][1]
        windows = self._geometry.windows_with_picture(*truth.shape)
        masks = [found.mask for found in result.objects if found.mask is not None]
        self.frames += 1
        self.without_mask += not masks
        self.kept_shares.append(len(result.kept & set(windows)) / len(windows))
        self.true.add(by_window(truth, self._geometry), result.kept)
        self.own.add(by_window(np.any([np.zeros_like(truth), *masks], axis=0), self._geometry), result.kept)

    def close(self) -> None:
        """Nothing is open."""

    def row(self) -> dict[str, Any]:
        return {
            "frames": self.frames,
            "frames_without_mask": self.without_mask,
            "true_pixels_sent": self.true.share,
            "frames_with_true_pixels_sent": self.true.frames,
            "own_pixels_sent": self.own.share,
            "frames_with_own_pixels_sent": self.own.frames,
            "windows_kept": float(np.mean(self.kept_shares)),
        }


@asynccontextmanager
async def three_operators(bundle: Bundle) -> AsyncIterator[Path]:
    """A sites.toml of three sites in this process."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        entries = []
        for name in "abc":
            site = await stack.enter_async_context(running_site(bundle, ServeOptions(port=0, threads=1)))
            entries.append(f'[[site]]\nname = "{name}"\noperator = "o{name}"\nurl = "{site.url}"\n')
        sites = folder / "sites.toml"
        sites.write_text("\n".join(entries), encoding="utf-8")
        yield sites


async def measure(bundle: Bundle, clip: Clip, margin: float, in_flight: int) -> dict[str, Any]:
    """One clip, with this margin and so many frames under way."""
    prompts = Prompts((Prompt("object", box_around(clip[0][1])),))
    source, counting = Film(clip), Counting(clip, bundle.geometry)
    async with three_operators(bundle) as sites:
        options = EdgeOptions(sites=sites, threads=1, keep_objects=True, backend="onnxruntime-cpu")
        async with open_edge(bundle, source.sizes(), options, click.echo) as edge:
            follower = Follower(edge.engines, ObjectRegistry(prompts, Track))
            edge.keeper.of_objects = kept_objects.KeptObjects(follower).on
            pipeline = Pipeline(
                bundle.geometry,
                edge.encoder,
                follower,
                (counting,),
                PipelineOptions(in_flight=in_flight),
                on_lost=lambda frame, why: click.echo(f"frame {frame.name} is lost: {why}"),
            )
            with patch.object(kept_objects, "MARGIN", margin):
                await pipeline.run(source)
    return {"margin": margin, "in_flight": in_flight, **counting.row()}


def together(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The clips of one setting: means of their shares, and sums of frames."""
    shares = ("true_pixels_sent", "own_pixels_sent", "windows_kept")
    sums = ("frames", "frames_without_mask", "frames_with_true_pixels_sent", "frames_with_own_pixels_sent")
    return {
        **{key: rows[0][key] for key in ("margin", "in_flight")},
        **{key: sum(row[key] for row in rows) for key in sums},
        **{key: float(np.mean([row[key] for row in rows if row[key] is not None])) for key in shares},
    }


@click.command(help=__doc__)
@click.option("--bundle", type=click.Path(path_type=Path), help="[default: the mini model of this clone]")
@click.option("--data", type=click.Path(path_type=Path), required=True)
@click.option("--frames", type=click.IntRange(2), default=50, show_default=True, help="Of each clip.")
@click.option("--out", type=click.Path(path_type=Path), required=True)
def main(bundle: Path | None, data: Path, frames: int, out: Path) -> None:
    loaded = Bundle.load(bundle or shipped_bundle())
    folders = [folder for folder in sorted(data.iterdir()) if next(folder.glob("*.png"), None)]
    clips = {folder.name: list(read(folder))[:frames] for folder in folders}
    settings = [*((margin, IN_FLIGHT) for margin in MARGINS), (kept_objects.MARGIN, 1)]
    rows: list[dict[str, Any]] = []
    means: list[dict[str, Any]] = []
    for setting in settings:
        found = [(name, asyncio.run(measure(loaded, clip, *setting))) for name, clip in clips.items()]
        rows += ({"clip": name, **row} for name, row in found)
        means.append(together([row for _, row in found]))
        click.echo(json.dumps(means[-1]))
    result = {"machine": describe(), "model": loaded.description, "rows": rows, "together": means}
    out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
