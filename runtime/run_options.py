"""What a run is told, and what can be known to be wrong with it before it begins."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from runtime.edge import (
    EdgeOptions,
    check_computed_here,
    check_detectors,
    check_exposure,
    check_ledger,
    ledger_path,
)
from runtime.encoder_choice import check_form
from runtime.frames.sources import Source
from runtime.live.board_reader import BoardOptions
from runtime.live.heartbeat import HeartbeatOptions
from runtime.objects.registry import MakeTrack
from runtime.objects.state_file import StateFile
from runtime.objects.tracking import FixedPrompt, Track
from runtime.pipeline import PipelineOptions
from runtime.results.run_folder import MASKS, PICTURES, RECORD, SUMMARY, VIDEO, check_run_folder, results_in
from runtime.run_files import files_read, files_written
from runtime.sites.client import choose_wire
from runtime.sites.config import SiteConfig, read_sites
from stages.bundle import Bundle
from stages.distinct import NamedFile, check_distinct
from stages.errors import InputError


@dataclass(frozen=True, kw_only=True)
class RunOptions(EdgeOptions):
    """Options of `pedsam run`; see its help. `track` None follows objects where the source is a video;
    `record` None writes results of files, not of live sources. In `state` a live run keeps its objects;
    `heartbeat` is the file that is touched while it moves. `inputs` are files that it reads beside the
    source, the bundle and those of its sites."""

    out: Path | None = None
    allow_undistilled: bool = False
    verify: bool = False
    track: bool | None = None
    pipeline: PipelineOptions = field(default_factory=PipelineOptions)
    record: bool | None = None
    record_mb: float = 1000.0
    price_per_gb: float | None = None
    state: StateFile | None = None
    trace: Path | None = None
    board: BoardOptions = field(default_factory=BoardOptions)
    heartbeat: HeartbeatOptions | None = None
    inputs: tuple[NamedFile, ...] = ()

    def records(self, source: Source) -> bool:
        """Whether results of this source are written."""
        return not source.live if self.record is None else self.record

    def doubts(self, source: Source, watched: bool) -> Iterator[str]:
        """What is probably not meant so; `watched` by the page or by metrics."""
        if source.live and not self.records(source) and not watched:
            yield (
                "the masks of a live source are neither written nor shown: give --record with --out DIR, or "
                "--preview PORT"
            )

        if self.keep_for_session and not (self.keep or self.keep_objects or self.keep_boxes):
            yield "--for-session does nothing without --keep, --keep-objects or --keep-box"

    def writes(self, source: Source) -> list[str]:
        """Names and patterns of the files that are written under `out`."""
        names = [SUMMARY]
        if self.records(source) and not source.live:
            names += [MASKS, f"{PICTURES}/*.jpg", *([VIDEO] if source.is_sequence else ())]
        return names

    def follows(self, source: Source) -> bool:
        """Whether objects are followed from one of its frames to the next."""
        return source.is_sequence if self.track is None else self.track

    def make_track(self, source: Source) -> MakeTrack:
        """How its objects are followed."""
        return Track if self.follows(source) else FixedPrompt


def check_run(bundle: Bundle, source: Source, options: RunOptions, here: bool = True) -> None:
    """Raise a PedsamError for what can be known to be wrong without opening a source, a site or an engine.

    The ledger and `out` are looked at for a run that is to come on this machine, `here`, alone: to look at
    them locks them for a moment.
    """
    _check_options(bundle, source, options)
    choose_wire(bundle, options.wire)
    sites = read_sites(options.sites, options.insecure) if options.sites else ()
    check_exposure(sites, options.accept_exposure)
    check_computed_here(bundle, options)
    check_form(bundle, options.encoder)
    _check_files(bundle, source, sites, options)
    if here:
        check_detectors(options)
        check_ledger(sites, range(bundle.geometry.windows), options)
        if options.out is not None:
            check_run_folder(options.out, options.writes(source))


def _check_files(bundle: Bundle, source: Source, sites: Sequence[SiteConfig], options: RunOptions) -> None:
    """Raise InputError where the run would write over what it reads, or twice into one file."""
    written = list(
        files_written(
            trace=options.trace,
            heartbeat=options.heartbeat.path if options.heartbeat else None,
            state=options.state.path if options.state else None,
            ledger=ledger_path(options.sites, options.ledger),
        )
    )
    folders = []
    if options.out is not None:
        written += (NamedFile("--out", file) for file in results_in(options.out, options.writes(source)))
        if options.records(source):
            folders = [NamedFile("--out", options.out / (RECORD if source.live else PICTURES))]
    read = [NamedFile("the source", file) for file in source.files]
    read += [*options.inputs, *files_read(bundle, options.sites, sites)]
    check_distinct(written, read, folders)


def _check_options(bundle: Bundle, source: Source, options: RunOptions) -> None:
    check_weights(bundle, options.allow_undistilled)
    _ = options.kept  # raises
    if options.keep_objects and options.sites and not options.follows(source):
        raise InputError(
            "--keep-objects needs objects that are followed from frame to frame; of single pictures every "
            "window would stay: give a film or --track, or leave --sites out"
        )
    if options.records(source):
        required_out(options)
    if options.verify:
        if source.live or not options.records(source):
            raise InputError(
                "--verify reads the source and its masks again: give files and --out, not a camera"
            )
        bundle.verified_file("whole")


def check_weights(bundle: Bundle, allow_undistilled: bool) -> None:
    """Raise InputError for weights that do not segment, unless they are allowed."""
    if bundle.weights != "distilled" and not allow_undistilled:
        raise InputError(
            f"{bundle.path} has {bundle.weights} weights, whose masks are not meaningful; use a distilled "
            "bundle, or --allow-undistilled to try the rest (every overlay is then marked)"
        )


def required_out(options: RunOptions) -> Path:
    """`out`; InputError where it is missing."""
    if options.out is None:
        raise InputError("where to write results is missing: give --out DIR, or --no-record to write none")
    return options.out
