"""`pedsam run`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.console import Console

from runtime.cameras import CameraOptions, source_for
from runtime.edge_toml import TABLES, read_edge
from runtime.follow import RECENT_FRAMES
from runtime.loop import LoopOptions
from runtime.preview import PreviewOptions
from runtime.prompts import read_prompts
from runtime.session import RunOptions, Watcher, run_session
from runtime.summary import print_summary
from runtime.watch import metrics_watcher, preview_watcher
from stages.bundle import Bundle, shipped_bundle
from stages.engine import BACKENDS


class Numbers(click.ParamType):  # type: ignore[type-arg]  # not generic before click 8.4
    """Comma-separated numbers, as many as `form` names: "x0,y0,x1,y1"."""

    name = "numbers"

    def __init__(self, form: str) -> None:
        self._form = form

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        return self._form

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[float, ...]:
        try:
            numbers = tuple(float(part) for part in str(value).split(","))
        except ValueError:
            numbers = ()
        if len(numbers) != len(self._form.split(",")):
            self.fail(f"{value!r} is not {self._form} in pixels of the frame", param, ctx)
        return numbers


class Size(click.ParamType):  # type: ignore[type-arg]  # not generic before click 8.4
    """Width and height in pixels: "1280x720"."""

    name = "WxH"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        width, _, height = str(value).partition("x")
        if not (width.isdecimal() and height.isdecimal() and int(width) and int(height)):
            self.fail(f"{value!r} is not a width and height like 1280x720", param, ctx)
        return int(width), int(height)


def _read_config(ctx: click.Context, param: click.Parameter, path: Path | None) -> None:
    """Values of the file become the defaults of this call."""
    if path is not None:
        ctx.default_map = read_edge(path, {str(each.name): each for each in ctx.command.params})


F = TypeVar("F", bound=Callable[..., Any])


def _options(*options: Callable[[F], F]) -> Callable[[F], F]:
    """Several options as one decorator; they are listed in this order."""

    def add(function: F) -> F:
        for option in reversed(options):
            function = option(function)
        return function

    return add


_FILE = click.Path(path_type=Path)

source_options = _options(
    click.option(
        "--source",
        required=True,
        help="A camera (0, /dev/video0, csi://0), a stream (rtsp://...), a video, a picture or a folder.",
    ),
    click.option("--camera-size", type=Size(), metavar="WxH", help="What to ask a camera for."),
    click.option("--camera-fps", type=click.FloatRange(1), help="What to ask a camera for."),
    click.option(
        "--rotate",
        type=int,
        default=0,
        help="Turn a camera's picture clockwise: 90, 180, 270.",
    ),
    click.option(
        "--realtime", is_flag=True, help="Play a video file at its own speed, as if it were a camera."
    ),
)
prompt_options = _options(
    click.option(
        "--box",
        "boxes",
        type=Numbers("x0,y0,x1,y1"),
        multiple=True,
        help="Segment what this box holds; repeatable.",
    ),
    click.option(
        "--point",
        "points",
        type=Numbers("x,y"),
        multiple=True,
        help="Segment what lies at this point; repeatable.",
    ),
    click.option(
        "--prompts",
        type=_FILE,
        help="JSON file of objects with boxes and points; a live run keeps its objects there.",
    ),
    click.option(
        "--track/--no-track",
        default=None,
        help="Follow objects, or ask for the same place on every frame  [default: follow them in films]",
    ),
)
loop_options = _options(
    click.option("--backend", type=click.Choice(BACKENDS), default="auto", show_default=True),
    click.option("--threads", type=click.IntRange(1), help="CPU threads of an engine  [default: one a core]"),
    click.option(
        "--wire", type=click.Choice(["fp16", "int8", "fp32"]), help="What sites answer with  [default: fp16]"
    ),
    click.option(
        "--in-flight",
        type=click.IntRange(1, RECENT_FRAMES),
        default=LoopOptions.in_flight,
        show_default=True,
        help="Frames whose windows travel at once; of a live source at most so many, as needed.",
    ),
    click.option(
        "--keyframe-every",
        type=click.IntRange(1),
        default=1,
        show_default=True,
        help="Run the model on every Nth frame and carry masks between by optical flow.",
    ),
    click.option("--max-fps", type=click.FloatRange(0, min_open=True), help="Take no more frames a second."),
    click.option(
        "--max-mbit",
        type=click.FloatRange(0, min_open=True),
        help="Send no more megabits a second, to all sites together.",
    ),
    click.option(
        "--allow-undistilled",
        is_flag=True,
        help="Run weights whose masks are not meaningful; marks every overlay.",
    ),
    click.option("--verify", is_flag=True, help="Compare every mask with the unsplit model's afterwards."),
)
privacy_options = _options(
    click.option("--sites", type=_FILE, help="sites.toml; without it every window runs here."),
    click.option("--accept-exposure", is_flag=True, help="Let one operator alone see every window."),
    click.option("--new-session", is_flag=True, help="Forget what operators have seen so far."),
    click.option("--insecure", is_flag=True, help="Allow plain http to sites that are not on loopback."),
    click.option(
        "--reuse-threshold",
        type=click.FloatRange(0, 255),
        default=0.0,
        show_default=True,
        help="Do not send a window again that changed by no more grey levels on average, for still cameras. "
        "A tile that comes tells its site that something moved in that window.",
    ),
)
preview_options = (
    click.option(
        "--preview",
        type=click.IntRange(0, 65535),
        metavar="PORT",
        help="Serve a page: watch, click to prompt.",
    ),
    click.option("--preview-host", default="127.0.0.1", show_default=True),
    click.option(
        "--preview-keys", type=_FILE, help="Folder of `pedsam keys --preview`; needed off loopback."
    ),
    click.option(
        "--preview-width",
        type=click.IntRange(16),
        default=PreviewOptions.longest_px,
        show_default=True,
        help="Longest side, in pixels, of the pictures that the page gets.",
    ),
)
sink_options = _options(
    click.option("--out", type=_FILE, help="Directory for masks, overlays and summary.json."),
    click.option(
        "--record/--no-record",
        default=None,
        help="Write masks and overlays  [default: of files, not of live sources]",
    ),
    click.option(
        "--record-mb",
        type=click.FloatRange(10),
        default=1000.0,
        show_default=True,
        help="Space of a live source's recording; the oldest parts go.",
    ),
    click.option("--trace", type=_FILE, help="Write a timeline for ui.perfetto.dev, and a picture of it."),
    click.option(
        "--metrics-port", type=click.IntRange(0, 65535), help="Serve Prometheus metrics of this edge."
    ),
    click.option("--metrics-host", default="127.0.0.1", show_default=True),
    *preview_options,
)


class SectionedCommand(click.Command):
    """Lists its options under the tables that hold them in edge.toml."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        section_of = {key: table for table, keys in TABLES.items() for key in keys}
        section_of |= {"boxes": "loop", "points": "loop", "verify": "loop", "new_session": "privacy"}
        records: dict[str, list[tuple[str, str]]] = {name: [] for name in ("general", *TABLES)}
        for param in self.get_params(ctx):
            if record := param.get_help_record(ctx):
                records[section_of.get(str(param.name), "general")].append(record)
        for name, lines in records.items():
            with formatter.section(name.capitalize()):
                formatter.write_dl(lines)


@click.command("run", cls=SectionedCommand)
@click.option(
    "--config",
    type=_FILE,
    is_eager=True,
    expose_value=False,
    callback=_read_config,
    help="edge.toml with any of the options below; those given here as well win.",
)
@click.option(
    "--bundle",
    "bundle",
    type=_FILE,
    help="Bundle with the edge's stages  [default: the mini model that comes with pedsam]",
)
@source_options
@prompt_options
@loop_options
@privacy_options
@sink_options
def command(bundle: Path | None, source: str, **options: Any) -> None:
    """Segment a camera, a video or pictures: windows through the sites, everything else here."""
    console = Console()
    say = partial(console.print, markup=False, highlight=False)
    asked_of_camera = _taken(options, "camera_", "size", "fps") | _taken(options, "", "rotate", "realtime")
    loaded = Bundle.load(bundle or shipped_bundle())
    opened = source_for(source, CameraOptions(**asked_of_camera), say)
    required = options["preview"] is None
    watchers = _watchers(
        loaded,
        **_taken(options, "", "preview", "preview_host", "preview_keys", "preview_width"),
        **_taken(options, "", "metrics_host", "metrics_port"),
    )
    asked = _taken(options, "", "boxes", "points", "prompts")
    prompts = read_prompts(asked["boxes"], asked["points"], asked["prompts"], required)
    loop = LoopOptions(**_taken(options, "", "in_flight", "keyframe_every", "max_fps", "max_mbit"))
    chosen = RunOptions(loop=loop, remember=asked["prompts"] if opened.live else None, **options)
    print_summary(console, asyncio.run(run_session(loaded, opened, prompts, chosen, console, watchers)))


def _taken(options: dict[str, Any], prefix: str, *names: str) -> dict[str, Any]:
    """Some of the options, out of the others, without the prefix of their names."""
    return {name: options.pop(prefix + name) for name in names}


def _watchers(
    bundle: Bundle,
    preview: int | None,
    preview_host: str,
    preview_keys: Path | None,
    preview_width: int,
    metrics_host: str,
    metrics_port: int | None,
) -> list[Watcher]:
    watchers = []
    if preview is not None:
        watchers.append(preview_watcher(bundle, preview_host, preview, preview_keys, preview_width))
    if metrics_port is not None:
        watchers.append(metrics_watcher(metrics_host, metrics_port))
    return watchers
