"""An audit from options to report: every code, every setting, every picture."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from anyio import to_thread
from rich.console import Console
from rich.progress import Progress

from evaluation.audit import faces, words
from evaluation.audit.attacks import ATTACKS, BEST, Attack
from evaluation.audit.embeddings import measure_embeddings
from evaluation.audit.faces import FaceAudit, find_recogniser
from evaluation.audit.mae import VITMAE, MaskedAutoencoder, load_autoencoder
from evaluation.audit.measures import Figures, Result, measure_objects, measure_pixels
from evaluation.audit.mosaic import Pasting
from evaluation.audit.options import AuditOptions, Setting, settings_of
from evaluation.audit.pictures import Data, on_canvas, read_data
from evaluation.audit.play import PlayedBundle, Received, Session, open_session
from evaluation.audit.report import REPORT, make_report, write_report
from evaluation.audit.sheet import SHEET, Example, write_sheet
from evaluation.audit.views import View, views, whole_view
from evaluation.audit.words import WordAudit, find_reader
from runtime.frames.canvas import Canvas, make_canvas
from runtime.results.run_folder import RunFolder, run_folder
from stages.bundle import Bundle
from stages.tensors import Pixels
from stages.tile_code import TileCode
from training.samples import Sample
from training.tally import Tally

MARKER = ".pedsam-audit"
EXAMPLES = 2  # pictures of the sheet, for each setting and code
INVERTED = 60  # pictures at most, of which embeddings are inverted
UNDIVIDED = "undivided"


async def audit(options: AuditOptions, console: Console) -> dict[str, Any]:
    """Play, attack, measure; write audit.json and sheet.png under `options.out` and return the report.

    Raises InputError, before anything is played, for whatever is wrong with the options or the data.
    """
    settings = settings_of(options)
    bundles = [PlayedBundle.of(options.geometry, code, options.components) for code in options.tiles]
    names = (REPORT, SHEET)
    with run_folder(options.out, names, MARKER, names) as folder:
        tally = Tally()
        data = await to_thread.run_sync(read_data, options, tally)
        for sentence in tally.sentences():
            console.print(sentence)
        sizes = {sample.shape() for sample in data.samples}
        options.keeping(data.is_video).boxes.check_inside(sizes)
        model = await to_thread.run_sync(load_autoencoder, options.mae) if options.mae else None
        auditing = Auditing(options, data, model)
        for sentence in auditing.left_out:
            console.print(sentence)
        steps = len(data.samples) * (len(bundles) * (len(settings) + 1) + 1)
        with _progress(console, steps) as auditing.progress:
            await auditing.learn()
            for bundle in bundles:
                await auditing.undivided(bundle.tiles)
                for setting in settings:
                    await auditing.run(setting, bundle)
            inverted = await to_thread.run_sync(auditing.inverted)
        report = make_report(
            options,
            data,
            auditing.results,
            tally,
            mosaic=auditing.mosaics,
            embeddings=inverted,
            not_measured=auditing.left_out,
            vitmae=model.about() if model else None,
        )
        await to_thread.run_sync(_write, folder, options, report, auditing)
    return report


class Auditing:
    """One audit under way: `results` so far, and `examples` for its sheet. `progress` is told of each picture
    that is done with; `left_out` are sentences about what is not measured, for want of a package."""

    def __init__(self, options: AuditOptions, data: Data, model: MaskedAutoencoder | None) -> None:
        self.results: list[Result] = []
        self.examples: list[Example] = []
        self.progress: Callable[[], None] = lambda: None
        self.left_out: list[str] = []
        self.mosaics: list[dict[str, Any]] = []
        self.models: Mapping[str, Attack] = {VITMAE: model} if model else {}
        self._options = options
        self._data = data
        recogniser, reader = (find_recogniser(), find_reader()) if options.recognise else (None, None)
        self._faces = FaceAudit(recogniser) if options.recognise else None
        self._words = WordAudit(reader, options.seed) if reader else None
        if options.recognise:
            missing = ((recogniser, faces.MISSING), (reader, words.MISSING))
            self.left_out = [sentence for found, sentence in missing if found is None]

    async def learn(self) -> None:
        """Find the faces and words that there are."""
        for number in range(len(self._data.samples)):
            await to_thread.run_sync(self._learn, number)
            self.progress()

    def _learn(self, number: int) -> None:
        picture = self._data.samples[number].image()
        if self._faces:
            self._faces.learn(number, picture)
        if self._words:
            self._words.prepare(number, picture)

    async def undivided(self, code: TileCode) -> None:
        """What one has who gets the whole picture in this code."""
        result = Result(UNDIVIDED, 1, 1, code.name, positions=1.0)
        for number in range(len(self._data.samples)):
            await to_thread.run_sync(self._look_at_all, number, code, result)
            self.progress()
        self.results.append(result)

    def _look_at_all(self, number: int, code: TileCode, result: Result) -> None:
        sample, canvas = self._shown(number)
        self._measure(result.figures, number, sample, canvas, [whole_view(code, canvas)])
        if self._words:
            signed = [whole_view(code, self._signed(number))]
            self._words.measure(result.figures, number, signed, canvas.geometry)

    async def run(self, setting: Setting, bundle: PlayedBundle) -> None:
        """Every picture under one setting and code. Pictures of one shape share a session."""
        options = self._options
        sizes = sorted({1, min(options.coalition, setting.operators)})
        results = {size: Result(setting.name, setting.operators, size, bundle.tiles.name) for size in sizes}
        for shape, numbers in self._data.by_shape(options).items():
            async with open_session(
                bundle,
                setting.sites,
                shape,
                failures=options.failures,
                seed=1_000_003 * options.seed + numbers[0],  # another one for each shape
                keep=options.keeping(self._data.is_video),
            ) as session:
                for number in numbers:
                    await self._show(session, number, bundle.tiles, results)
                    self.progress()
                if self._data.is_video:
                    self.mosaics += await self._pasted(session, setting, bundle.tiles, numbers)
                for result in results.values():
                    _note_sending(result, session)
        self.results += results.values()

    async def _pasted(
        self, session: Session, setting: Setting, code: TileCode, numbers: Sequence[int]
    ) -> list[dict[str, Any]]:
        """The frames once more, one after another: what each operator pastes together of them."""
        _, first = await to_thread.run_sync(self._shown, numbers[0])
        pasting = Pasting(first, code, session.operators)
        for number in numbers:
            _, canvas = await to_thread.run_sync(self._shown, number)
            await to_thread.run_sync(pasting.add, canvas, await session.show(canvas))
        about = {"setting": setting.name, "operators": setting.operators, "code": code.name}
        return [{**about, **row} for row in pasting.rows]

    async def _show(self, session: Session, number: int, code: TileCode, results: dict[int, Result]) -> None:
        sample, canvas = await to_thread.run_sync(self._shown, number)
        received = await session.show(canvas)
        await to_thread.run_sync(self._attack, number, sample, canvas, code, received, results)
        if self._words:
            signed = await to_thread.run_sync(self._signed, number)
            received = await session.show(signed)
            await to_thread.run_sync(self._read, number, signed, code, received, results)

    def _read(
        self, number: int, signed: Canvas, code: TileCode, received: Received, results: dict[int, Result]
    ) -> None:
        for size, result in results.items():
            held = [view for _, view in views(signed.geometry, code, signed, received, size)]
            if self._words:
                self._words.measure(result.figures, number, held, signed.geometry)

    def _attack(
        self,
        number: int,
        sample: Sample,
        canvas: Canvas,
        code: TileCode,
        received: Received,
        results: dict[int, Result],
    ) -> None:
        for size, result in results.items():
            held = [view for _, view in views(canvas.geometry, code, canvas, received, size)]
            self._measure(result.figures, number, sample, canvas, held)
            if number < EXAMPLES and size == 1:
                most = max(held, key=lambda view: view.share)
                self.examples.append(Example(sample.name, _picture(canvas), most, result.setting, code.name))

    def _measure(
        self, figures: Figures, number: int, sample: Sample, canvas: Canvas, held: Sequence[View]
    ) -> None:
        measure_pixels(figures, number, _picture(canvas), held, {**ATTACKS, **self.models})
        measure_objects(figures, number, [on_canvas(mask, canvas) for mask in sample.each_mask()], held)
        if self._faces:
            self._faces.measure(figures, number, held, canvas.geometry)

    def _shown(self, number: int) -> tuple[Sample, Canvas]:
        sample = self._data.samples[number]
        return sample, make_canvas(sample.image(), self._options.geometry)

    def inverted(self) -> dict[str, Any]:
        """Windows rebuilt from the embeddings that come back; nothing without a bundle that has weights, nor
        of a video, whose other frames are no other pictures. It blocks: use a thread."""
        if self._options.bundle is None or self._data.is_video or len(self._data.samples) < 2:
            return {}
        bundle = Bundle.load(self._options.bundle)
        if not bundle.has("window"):
            return {}
        canvases = [self._shown(number)[1] for number in range(min(len(self._data.samples), INVERTED))]
        return measure_embeddings(bundle, canvases, self._options.seed)

    def _signed(self, number: int) -> Canvas:
        """A picture with words put onto it."""
        if self._words is None:
            raise RuntimeError("words are put onto pictures and nobody reads them")
        picture = self._words.prepare(number, self._data.samples[number].image())
        return make_canvas(picture, self._options.geometry)


def _picture(canvas: Canvas) -> Pixels:
    return canvas.pixels[: canvas.rows, : canvas.cols]


def _note_sending(result: Result, session: Session) -> None:
    """Add what one session did."""
    counts, record = session.statistics, session.record
    for name, value in (
        ("frames", counts.canvases),
        ("windows", counts.windows_sent),
        ("requests", record.requests),
        ("failed", session.fates.failed),
        ("late", session.fates.late),
        ("sent_again", counts.redispatched),
        ("hedged", counts.hedged),
        ("computed_at_the_edge", counts.local_windows),
        ("kept", counts.kept_windows),
    ):
        result.sent[name] = result.sent.get(name, 0) + value
    result.positions = max(result.positions, session.positions_share(result.coalition))


@contextlib.contextmanager
def _progress(console: Console, total: int) -> Iterator[Callable[[], None]]:
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("pictures", total=total)
        yield lambda: progress.advance(task)


def _write(folder: RunFolder, options: AuditOptions, report: dict[str, Any], auditing: Auditing) -> None:
    new = (REPORT, SHEET) if options.sheet else (REPORT,)
    folder.begin(new)
    for name in new:
        folder.note(options.out / name)
    if options.sheet:
        write_sheet(options.out / SHEET, auditing.examples, {BEST: ATTACKS[BEST], **auditing.models})
    write_report(options.out / REPORT, report)
