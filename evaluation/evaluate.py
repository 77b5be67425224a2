"""An evaluation from options to report: every instance of every picture, prompted in every way asked for."""

from __future__ import annotations

import contextlib
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from anyio import to_thread
from rich.console import Console
from rich.progress import Progress

from evaluation.masks import floor_ious, prompt_for
from evaluation.model import Model, Subject
from evaluation.options import EvaluateOptions
from evaluation.report import INSTANCES, REPORT, make_report, write_report
from evaluation.results import Instance, Measured
from evaluation.scenes import Scene, choose_samples, read_scene, survey
from evaluation.sheet import SHEET, write_sheet
from runtime.encoder import FrameLost
from runtime.frames.canvas import Canvas, make_canvas
from runtime.live.messages import Messages, telling
from runtime.objects.decode import ObjectMask
from runtime.objects.masks import Mask, encode_mask, iou
from runtime.objects.prompts import Prompt
from runtime.results.run_folder import RunFolder, run_folder
from stages.errors import PedsamError
from stages.geometry import Geometry
from stages.tensors import Array
from training.samples import Sample
from training.tally import Tally

MARKER = ".pedsam-evaluate"
OBJECTS = 16  # a decoder call; bounds its memory


async def evaluate(subject: Subject, options: EvaluateOptions, console: Console) -> dict[str, Any]:
    """Measure, write report.json, instances.csv and sheet.png under `options.out`, and return the report.

    What of the data cannot be used is left out, told, and counted in the report. Raises a PedsamError for
    whatever else is wrong, and when a picture cannot be computed: which those are depends on the sites, and a
    number on fewer pictures would be another number.
    """
    names = (REPORT, INSTANCES, SHEET)
    with run_folder(options.out, names, MARKER, names) as folder:
        return await _evaluate(subject, options, console, folder)


async def _evaluate(
    subject: Subject, options: EvaluateOptions, console: Console, folder: RunFolder
) -> dict[str, Any]:
    tally = Tally()
    samples = await to_thread.run_sync(choose_samples, options, tally)
    with _progress(console, len(samples), "reading") as progress:
        found = await survey(samples, options.data, tally, progress)
    messages = Messages(console)
    for sentence in tally.sentences():
        messages.warn(sentence)
    async with telling(messages), subject.open(found.sizes, messages.tell) as model:
        with _progress(console, found.instances, "instances") as progress:
            measured = await measure(model, subject.geometry, found.samples, options, progress)
    report = make_report(subject, options, model, measured, tally)
    new = (REPORT, INSTANCES, SHEET) if options.sheet else (REPORT, INSTANCES)
    await to_thread.run_sync(folder.begin, new)
    for name in new:
        folder.note(options.out / name)
    await to_thread.run_sync(write_report, options.out, report, measured.instances)
    if options.sheet:
        await to_thread.run_sync(write_sheet, options.out, report, found.samples, measured.instances)
    return report


async def measure(
    model: Model,
    geometry: Geometry,
    samples: Sequence[Sample],
    options: EvaluateOptions,
    progress: Callable[[int], None] = lambda instances: None,
) -> Measured:
    """Every instance of the samples, each prompted by every kind of `options.prompts`."""
    measured = Measured()
    for number, sample in enumerate(samples):
        scene = await to_thread.run_sync(read_scene, sample, options.blur)
        canvas = await to_thread.run_sync(make_canvas, scene.picture, geometry)
        started = time.perf_counter()
        try:
            embedding = await model.encode(canvas)
        except FrameLost as exc:
            raise PedsamError(f"picture {scene.name} cannot be computed: {exc}") from exc
        measured.encode_s.append(time.perf_counter() - started)
        decoding = _Decoding(model, scene, canvas, embedding, options.sheet)
        for kind in options.prompts:
            await decoding.run(kind)
        measured.decode_s.append(decoding.seconds)
        measured.instances += await to_thread.run_sync(decoding.instances, number)
        progress(len(measured.instances))
    return measured


@dataclass
class _Decoding:
    """All instances of one picture on their way: number -> kind -> what came of it.

    `seconds` were spent in the decoder.
    """

    model: Model
    scene: Scene
    canvas: Canvas
    embedding: Array
    keep_masks: bool
    seconds: float = 0.0
    ious: defaultdict[int, dict[str, float]] = field(default_factory=lambda: defaultdict(dict))
    masks: defaultdict[int, dict[str, Any]] = field(default_factory=lambda: defaultdict(dict))

    async def run(self, kind: str) -> None:
        """Prompt every instance by one kind, OBJECTS a call; masks of one call are in memory at a time."""
        numbers = list(self.scene.instances)
        for first in range(0, len(numbers), OBJECTS):
            some = numbers[first : first + OBJECTS]
            prompts = await to_thread.run_sync(self._prompts, kind, some)
            started = time.perf_counter()
            found = await self.model.decode(self.embedding, self.canvas, prompts)
            self.seconds += time.perf_counter() - started
            await to_thread.run_sync(self._compare, kind, some, found)

    def instances(self, picture: int) -> list[Instance]:
        """What was measured, one an instance; `picture` is the number of this one."""
        found = []
        for number in self.scene.instances:
            mask = self.scene.mask(number)
            ious, masks = self.ious[number], self.masks[number]
            area = float(mask.mean())
            found.append(Instance(picture, self.scene.name, number, area, ious, floor_ious(mask), masks))
        return found

    def _prompts(self, kind: str, numbers: Sequence[int]) -> list[Prompt]:
        return [prompt_for(kind, str(number), self.scene.mask(number)) for number in numbers]

    def _compare(self, kind: str, numbers: Sequence[int], found: Sequence[ObjectMask]) -> None:
        for number, each in zip(numbers, found, strict=True):
            mask: Mask = self.canvas.to_frame_mask(each.logits)
            self.ious[number][kind] = iou(mask, self.scene.mask(number))
            if self.keep_masks:
                self.masks[number][kind] = encode_mask(mask)


@contextlib.contextmanager
def _progress(console: Console, total: int, what: str) -> Iterator[Callable[[int], None]]:
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task(what, total=total)
        yield lambda done: progress.update(task, completed=done)
