"""`pedsam run`."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import click

from runtime.check.local import LocalOptions, check_ports, local_problems
from runtime.edge_toml import config_option
from runtime.frames.cameras import CameraOptions, source_for
from runtime.frames.player import Player
from runtime.frames.sources import Source
from runtime.live.heartbeat import HeartbeatOptions
from runtime.live.messages import Messages
from runtime.objects.prompts import NOTHING_TO_SEGMENT, Prompts, read_prompts
from runtime.objects.state_file import StateFile, opened_state, state_path
from runtime.options import TABLES, idle_in_run, inputs_of, values_of, values_with
from runtime.pipeline import PipelineOptions
from runtime.results.summary import check_done, print_summary
from runtime.run_options import RunOptions, check_run
from runtime.session import Watcher, run_session
from runtime.watchers import metrics_watcher, mjpeg_watcher, mqtt_watcher, preview_watcher
from stages.allocator import give_memory_back
from stages.bundle import Bundle, shipped_bundle
from stages.console import make_console
from stages.errors import InputError

GONE_THROUGH_ONCE = (
    "results are written, so the source is gone through once from its start; without --out it waits for "
    "viewers, who play it and step through it"
)
ELSEWHERE = click.Option(
    ["--elsewhere"], is_flag=True, hidden=True, help="With --dry-run: the run is for another machine."
)


class SectionedCommand(click.Command):
    """Lists its options under the tables that hold them in edge.toml."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        section_of = {option.name: table for table, options in TABLES.items() for option in options}
        records: dict[str, list[tuple[str, str]]] = {name: [] for name in ("general", *TABLES)}
        for param in self.get_params(ctx):
            if record := param.get_help_record(ctx):
                records[section_of.get(param.name, "general")].append(record)
        for name, lines in records.items():
            with formatter.section(name.capitalize()):
                formatter.write_dl(lines)


@click.command(
    "run",
    cls=SectionedCommand,
    params=[
        config_option("with any of the options below; those given here as well win."),
        *(option for table in TABLES.values() for option in table),
        ELSEWHERE,
    ],
)
def command(bundle: Path | None, source: str, **options: Any) -> None:
    """Segment a camera, a video or pictures: windows through the sites, everything else here."""
    give_memory_back()
    console = make_console()
    messages = Messages(console)
    camera = values_of(CameraOptions, options, "camera_") | {"picture_fps": options.pop("fps")}
    camera |= values_of(CameraOptions, options)
    loaded = Bundle.load(bundle or shipped_bundle())
    opened = source_for(source, CameraOptions(**camera), partial(messages.tell, about="source"))
    idle = list(idle_in_run(click.get_current_context(), opened))
    local = LocalOptions(**values_of(LocalOptions, dict(options)))
    check_ports(local)
    required = options["preview"] is None or options["verify"]
    heartbeat, dry_run = options.pop("heartbeat"), options.pop("dry_run")
    here, state_file = not options.pop("elsewhere"), options.pop("state")
    path = state_path(state_file, options["prompts"]) if opened.live and here else None
    opened, remark = _for_viewers(opened, options)
    inputs = tuple(inputs_of(click.get_current_context()))
    with _objects(path, options, required, messages.tell, lock=not dry_run) as (state, prompts):
        watchers = _watchers(loaded, options, messages)
        pipeline = PipelineOptions(**values_of(PipelineOptions, options))
        chosen = RunOptions(
            pipeline=pipeline,
            state=state,
            inputs=inputs,
            heartbeat=HeartbeatOptions(heartbeat) if heartbeat else None,
            **options,
        )
        if dry_run:
            check_run(loaded, opened, chosen, here)
            if here and (
                problems := asyncio.run(local_problems(replace(local, prompts=None, state=path, out=None)))
            ):
                raise InputError(problems[0])
        for doubt in (*idle, *prompts.doubts()):
            messages.warn(doubt)
        if dry_run:
            console.print("nothing is wrong with these options and files")
            return
        if remark:
            messages.tell(remark)
        summary = asyncio.run(run_session(loaded, opened, prompts, chosen, console, watchers, messages))
        print_summary(console, summary)
        check_done(summary, complete=not isinstance(opened, Player))


def _for_viewers(source: Source, options: dict[str, Any]) -> tuple[Source, str | None]:
    """A file that a page shows as viewers go through it, unless its results are written, which is said;
    anything else as it is. Takes `once` out of the options."""
    if options.pop("once") or options["preview"] is None or source.live:
        return source, None
    asked = options["out"] is not None and options["record"] is None
    if asked or options["record"] or options["verify"]:
        return source, GONE_THROUGH_ONCE
    return Player(source), None


@contextlib.contextmanager
def _objects(
    path: Path | None, options: dict[str, Any], required: bool, say: Callable[[str], None], lock: bool
) -> Iterator[tuple[StateFile | None, Prompts]]:
    """Where a live run keeps its objects, at `path`, and those to begin with; takes their options out."""
    file, boxes, points = options.pop("prompts"), options.pop("boxes"), options.pop("points")
    if path is None:
        yield None, read_prompts(boxes, points, file, required)
        return
    given = read_prompts(boxes, points, file, required=required and not path.exists())
    asked = bool(given.entries) or (file is not None and file.exists())
    with opened_state(path, given if asked else None, say, lock=lock) as (state, prompts):
        if required and not prompts.entries:
            raise InputError(NOTHING_TO_SEGMENT)
        yield state, prompts


def _watchers(bundle: Bundle, options: dict[str, Any], messages: Messages) -> list[Watcher]:
    """Those that are asked for; takes their options out."""
    port, stream, broker = (options.pop(name) for name in ("preview", "mjpeg", "mqtt"))
    preview, metrics, mjpeg, mqtt = (
        values_with(f"{name}_", options) for name in ("preview", "metrics", "mjpeg", "mqtt")
    )
    watchers = []
    if port is not None:
        watchers.append(preview_watcher(bundle, port=port, **preview))
    if metrics["port"] is not None:
        watchers.append(metrics_watcher(**metrics))
    if stream is not None:
        watchers.append(mjpeg_watcher(bundle, port=stream, **mjpeg))
    if broker is not None:
        watchers.append(mqtt_watcher(bundle, broker, partial(messages.tell, about="broker"), **mqtt))
    return watchers
