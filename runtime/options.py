"""Every option of `pedsam run`, declared once; the edge's other commands and edge.toml take theirs from here.

Each option is a constant; its default is that of the dataclass field that holds its value. A new option of
`run` is declared here, put into its table in TABLES, and is a field of the dataclass that uses it
(EdgeOptions, RunOptions, PipelineOptions, CameraOptions). KINDS, LIVE_ALONE and NEEDS say where
one does nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any

import click

from runtime.detectors.kinds import check_kind
from runtime.edge import EdgeOptions
from runtime.encoder_choice import FORMS
from runtime.frames.cameras import CameraOptions
from runtime.frames.sources import Source
from runtime.live.metrics import MetricsOptions
from runtime.live.mjpeg import MjpegOptions
from runtime.mqtt import MqttOptions
from runtime.mqtt.names import check_topic
from runtime.mqtt.options import broker_parts
from runtime.objects.follower import RECENT_FRAMES
from runtime.pipeline import PipelineOptions
from runtime.preview import PreviewOptions
from runtime.run_options import RunOptions
from stages.address import Address
from stages.distinct import NamedFile
from stages.errors import InputError
from stages.options import (
    BACKEND,
    IDLE_THREADS,
    PATH,
    THREADS,
    Count,
    Number,
    bundle_option,
    idle_options,
    idle_reasons,
)
from stages.tls import CERTIFICATE, KEY, TOKEN

MAX_CAMERA_SIDE_PX = 1 << 15
CONFIG = "pedsam.config"  # in a context's meta: the file that --config names


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
            self.fail(f"expected {self._form} in pixels of the frame, not {value!r}", param, ctx)
        return numbers


class Kinds(click.ParamType):  # type: ignore[type-arg]  # not generic before click 8.4
    """Comma-separated kinds of what is kept, as a tuple without repeats."""

    name = "kinds"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        kinds = value if isinstance(value, tuple) else tuple(part.strip() for part in str(value).split(","))
        for kind in kinds:
            try:
                check_kind(kind)
            except InputError as exc:
                self.fail(str(exc), param, ctx)
        return tuple(dict.fromkeys(kinds))


class FrameSize(click.ParamType):  # type: ignore[type-arg]  # not generic before click 8.4
    """The size of a frame in pixels, typed as width x height ("1920x1080"), as (height, width)."""

    name = "WxH"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        if isinstance(value, tuple):  # a default, which is one already
            return value
        sides = str(value).split("x")
        pixels = [int(side) for side in sides if re.fullmatch("[0-9]{1,9}", side)]
        if not len(sides) == len(pixels) == 2 or not all(0 < side < MAX_CAMERA_SIDE_PX for side in pixels):
            bound = f"sides are below {MAX_CAMERA_SIDE_PX}"
            self.fail(f"expected a size in pixels like 1920x1080, not {value!r}; {bound}", param, ctx)
        width, height = pixels
        return height, width


class Turn(click.types.IntParamType):
    """Degrees clockwise by which a picture can be turned."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        degrees: int = super().convert(value, param, ctx)
        try:
            CameraOptions(rotate=degrees)
        except InputError as exc:
            self.fail(str(exc), param, ctx)
        return degrees


class ProxyAddress(click.ParamType):  # type: ignore[type-arg]  # not generic before click 8.4
    """The address of an HTTP proxy. It may hold a password, so no error repeats it."""

    name = "URL"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Address:
        address = value if isinstance(value, Address) else Address(str(value))
        if address.scheme != "http":
            self.fail("it is no address of a proxy, expected like http://proxy:3128", param, ctx)
        return address


class BrokerAddress(click.ParamType):  # type: ignore[type-arg]  # not generic before click 8.4
    """The address of an MQTT broker. It may hold a password, so no error repeats it."""

    name = "URL"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Address:
        address = value if isinstance(value, Address) else Address(str(value))
        try:
            broker_parts(address)
        except InputError as exc:
            self.fail(str(exc), param, ctx)
        return address


class Topic(click.ParamType):  # type: ignore[type-arg]  # not generic before click 8.4
    """The beginning of a run's MQTT topics."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            check_topic(str(value))
        except InputError as exc:
            self.fail(str(exc), param, ctx)
        return str(value)


def preview_option(text: str) -> click.Option:
    """`--preview`, with a port or without."""
    port = PreviewOptions.port
    return click.Option(
        ["--preview"],
        type=click.IntRange(0, 65535),
        is_flag=False,
        flag_value=port,
        metavar="[PORT]",
        help=f"{text} PORT is {port} where none is given, 0 any free one.",
    )


def sites_option(required: bool = False) -> click.Option:
    text = "sites.toml" if required else "sites.toml; without it every window runs here."
    return click.Option(["--sites"], type=PATH, required=required, help=text)


# What several commands have.

BUNDLE = bundle_option("Bundle with the edge's stages")
SITES = sites_option()
WIRE = click.Option(
    ["--wire"],
    type=click.Choice(["fp16", "int8", "fp32"]),
    help="What sites answer with  [default: int8 where the bundle codes what travels, else fp16]",
)
ACCEPT_EXPOSURE = click.Option(
    ["--accept-exposure"], is_flag=True, help="Let one operator alone see every window."
)
NEW_SESSION = click.Option(["--new-session"], is_flag=True, help="Forget what operators have seen so far.")
INSECURE = click.Option(
    ["--insecure"], is_flag=True, help="Allow plain http to sites that are not on loopback."
)

# What `run` alone has.

SOURCE = click.Option(
    ["--source"],
    required=True,
    help="A camera (0, /dev/video0, csi://0), a stream (rtsp://...), a video, a picture or a folder.",
)
CAMERA_SIZE = click.Option(
    ["--camera-size"], type=FrameSize(), metavar="WxH", help="What to ask a camera for."
)
CAMERA_FPS = click.Option(["--camera-fps"], type=Number(1), help="What to ask a camera for.")
CAMERA_PROXY = click.Option(
    ["--camera-proxy"],
    type=ProxyAddress(),
    metavar="URL",
    help="HTTP proxy for a stream; those of the environment are not used.",
)
FPS = click.Option(
    ["--fps"],
    type=Number(0, min_open=True),
    help="How many pictures of a folder are a second of `time_s`  [default: 1]",
)
ROTATE = click.Option(
    ["--rotate"],
    type=Turn(),
    default=CameraOptions.rotate,
    help="Turn the picture clockwise: 90, 180, 270.",
)
REALTIME = click.Option(
    ["--realtime"], is_flag=True, help="Play a video file at its own speed, as if it were a camera."
)
IN_FLIGHT = click.Option(
    ["--in-flight"],
    type=click.IntRange(1, RECENT_FRAMES),
    default=PipelineOptions.in_flight,
    show_default=True,
    help="Frames whose windows travel at once; of a live source at most so many, as needed.",
)
KEYFRAME_EVERY = click.Option(
    ["--keyframe-every"],
    type=Count(1),
    default=PipelineOptions.keyframe_every,
    show_default=True,
    help="Run the model on every Nth frame and carry masks between by optical flow.",
)
MAX_FPS = click.Option(["--max-fps"], type=Number(0, min_open=True), help="Take no more frames a second.")
MAX_MBIT = click.Option(
    ["--max-mbit"],
    type=Number(0, min_open=True),
    help="Send no more megabits a second, to all sites together.",
)
BOXES = click.Option(
    ["--box", "boxes"],
    type=Numbers("x0,y0,x1,y1"),
    multiple=True,
    help="Segment what this box holds; repeatable.",
)
POINTS = click.Option(
    ["--point", "points"],
    type=Numbers("x,y"),
    multiple=True,
    help="Segment what lies at this point; repeatable.",
)
TRACK = click.Option(
    ["--track/--no-track"],
    default=None,
    help="Follow objects, or ask for the same place on every frame  [default: follow them in films]",
)
PROMPTS = click.Option(
    ["--prompts"],
    type=PATH,
    help="JSON file of objects with boxes and points to begin with; it is only read.",
)
STATE = click.Option(
    ["--state"],
    type=PATH,
    help="File in which a live run keeps its objects, to go on with them at the next start  [default: "
    "beside --prompts, as NAME.state.json]",
)
ALLOW_UNDISTILLED = click.Option(
    ["--allow-undistilled"],
    is_flag=True,
    help="Run weights whose masks are not meaningful; marks every overlay.",
)
VERIFY = click.Option(
    ["--verify"], is_flag=True, help="Compare every mask with the unsplit model's afterwards."
)
LEDGER = click.Option(
    ["--ledger"],
    type=PATH,
    help="File of what each operator has seen in the session  [default: beside sites.toml]",
)
DRY_RUN = click.Option(
    ["--dry-run"], is_flag=True, help="Read options and files, say what is wrong with them, and end."
)
REUSE_THRESHOLD = click.Option(
    ["--reuse-threshold"],
    type=Number(0, 255),
    default=EdgeOptions.reuse_threshold,
    show_default=True,
    help="Do not send a window again that changed by no more grey levels on average, for still cameras. "
    "A tile that comes tells its site that something moved in that window.",
)
SPOT_CHECKS = click.Option(
    ["--spot-checks"],
    type=Number(0, 1000),
    default=EdgeOptions.spot_checks,
    show_default=True,
    help="Compute at most so many windows a second again that sites have answered, to find a site that lies; "
    "0: none.",
)
SPOT_CHECK_SHARE = click.Option(
    ["--spot-check-share"],
    type=Number(0, 1, min_open=True),
    default=EdgeOptions.spot_check_share,
    show_default=True,
    help="Spend no more of the edge's engine time on that.",
)
KEEP_BOXES = click.Option(
    ["--keep-box", "keep_boxes"],
    type=Numbers("x0,y0,x1,y1"),
    multiple=True,
    help="Send no window that this box touches: the edge computes it itself, on every frame; repeatable.",
)
KEEP = click.Option(
    ["--keep"],
    type=Kinds(),
    default=EdgeOptions.keep,
    metavar="KIND,...",
    help="Send no window that shows such a thing: faces, text, or module:function, a detector of your own. "
    "Each frame is looked at before anything of it leaves.",
)
KEEP_PX = click.Option(
    ["--keep-px"],
    type=Count(64, 4096),
    default=EdgeOptions.keep_px,
    show_default=True,
    help="Longest side, in pixels, of what is looked at for that: fewer are faster, and miss more.",
)
KEEP_OBJECTS = click.Option(
    ["--keep-objects"],
    is_flag=True,
    help="Keep the windows that segmented objects touch, foretold from their masks.",
)
KEEP_FOR_SESSION = click.Option(
    ["--for-session", "keep_for_session"],
    is_flag=True,
    help="Keep a position for the rest of the run once something in it was kept, so that how many windows "
    "are sent tells less.",
)
KEPT = click.Option(
    ["--kept"],
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Predict for frames that keep so many more windows here, any ones.",
)
WHEN_SITES_FAIL = click.Option(
    ["--when-sites-fail"],
    type=click.Choice(["local", "lose"]),
    help="Compute here what no site may have, or lose its frame  [default: local where the window stage is]",
)
ENCODER = click.Option(
    ["--encoder"],
    type=click.Choice(FORMS),
    help="Begin with the global stage on rows of windows that have come, or run it whole  [default: with "
    "sites and a bundle of export --streaming what a measurement at the start finds better, else whole]",
)
OUT = click.Option(["--out"], type=PATH, help="Directory for masks, overlays and summary.json.")
RECORD = click.Option(
    ["--record/--no-record"],
    default=None,
    help="Write masks and overlays  [default: of files, not of live sources]",
)
RECORD_MB = click.Option(
    ["--record-mb"],
    type=Number(10),
    default=RunOptions.record_mb,
    show_default=True,
    help="Space of a live source's recording; the oldest parts go.",
)
PRICE_PER_GB = click.Option(
    ["--price-per-gb"],
    type=Number(0),
    help="What a gigabyte that leaves the sites costs, to tell what an hour costs.",
)
TRACE = click.Option(
    ["--trace"], type=PATH, help="Write a timeline for ui.perfetto.dev, and a picture of it."
)
ONCE = click.Option(
    ["--once"],
    is_flag=True,
    help="With --preview go through a file once from its start, in place of waiting for viewers, who play it "
    "and step through it.",
)
PREVIEW = preview_option("Serve a page: watch, point, play a file and step through it.")
PREVIEW_HOST = click.Option(["--preview-host"], default=PreviewOptions.host, show_default=True)
PREVIEW_KEYS = click.Option(
    ["--preview-keys"], type=PATH, help="Folder of `pedsam keys --preview`; needed off loopback."
)
PREVIEW_WIDTH = click.Option(
    ["--preview-width"],
    type=Count(16),
    default=PreviewOptions.longest_px,
    show_default=True,
    help="Longest side, in pixels, of the pictures that the page gets.",
)
METRICS_PORT = click.Option(
    ["--metrics-port"], type=click.IntRange(0, 65535), help="Serve Prometheus metrics of this edge."
)
METRICS_HOST = click.Option(["--metrics-host"], default=MetricsOptions.host, show_default=True)

METRICS_KEYS = click.Option(
    ["--metrics-keys"], type=PATH, help="Folder of `pedsam keys --preview`; needed off loopback."
)
MJPEG = click.Option(
    ["--mjpeg"],
    type=click.IntRange(0, 65535),
    metavar="PORT",
    help="Serve the picture with its masks as MJPEG, for players and home systems.",
)
MJPEG_HOST = click.Option(["--mjpeg-host"], default=MjpegOptions.host, show_default=True)
MJPEG_KEYS = click.Option(
    ["--mjpeg-keys"], type=PATH, help="Folder of `pedsam keys --preview`; needed off loopback."
)
MJPEG_WIDTH = click.Option(
    ["--mjpeg-width"],
    type=Count(16),
    default=MjpegOptions.width,
    show_default=True,
    help="Longest side, in pixels, of those pictures.",
)
HEARTBEAT = click.Option(
    ["--heartbeat"],
    type=PATH,
    help="File to touch every two seconds while the run moves, for a health check.",
)

MQTT = click.Option(
    ["--mqtt"],
    type=BrokerAddress(),
    metavar="URL",
    help="Tell an MQTT broker, and so Home Assistant, of the objects: mqtts://user@host:port, or mqtt:// "
    "without TLS.",
)
MQTT_PASSWORD_FILE = click.Option(
    ["--mqtt-password-file"], type=PATH, help="File that holds the user's password."
)
MQTT_CA = click.Option(
    ["--mqtt-ca"],
    type=PATH,
    help="Certificate, as PEM, of whoever signed the broker's  [default: those that the system trusts]",
)
MQTT_TOPIC = click.Option(
    ["--mqtt-topic"],
    type=Topic(),
    default=MqttOptions.topic,
    show_default=True,
    help="What the run's topics begin with; each run needs its own.",
)
MQTT_INSECURE = click.Option(
    ["--mqtt-insecure"], is_flag=True, help="Allow plain mqtt:// to a broker that is not on loopback."
)
MQTT_SNAPSHOTS = click.Option(
    ["--mqtt-snapshots/--no-mqtt-snapshots"],
    default=MqttOptions.snapshots,
    help="Whether a picture is published when somebody asks the broker for one  [default: yes]",
)

# The tables of edge.toml, which are the sections of the help too. A key is the name of its option's value.
TABLES: Mapping[str, tuple[click.Option, ...]] = {
    "source": (SOURCE, CAMERA_SIZE, CAMERA_FPS, CAMERA_PROXY, FPS, ROTATE, REALTIME, ONCE),
    "loop": (
        BUNDLE, BACKEND, THREADS, ENCODER, WIRE, IN_FLIGHT, KEYFRAME_EVERY, MAX_FPS, MAX_MBIT, BOXES, POINTS,
        TRACK, PROMPTS, STATE, ALLOW_UNDISTILLED, VERIFY, DRY_RUN,
    ),
    "privacy": (
        SITES, ACCEPT_EXPOSURE, NEW_SESSION, INSECURE, LEDGER, REUSE_THRESHOLD, SPOT_CHECKS, SPOT_CHECK_SHARE,
        KEEP, KEEP_PX, KEEP_OBJECTS, KEEP_BOXES, KEEP_FOR_SESSION, WHEN_SITES_FAIL,
    ),
    "sinks": (
        OUT, RECORD, RECORD_MB, TRACE, PREVIEW, PREVIEW_HOST, PREVIEW_KEYS, PREVIEW_WIDTH, METRICS_PORT,
        METRICS_HOST, METRICS_KEYS, MJPEG, MJPEG_HOST, MJPEG_KEYS, MJPEG_WIDTH, HEARTBEAT, PRICE_PER_GB,
    ),
    "mqtt": (MQTT, MQTT_PASSWORD_FILE, MQTT_CA, MQTT_TOPIC, MQTT_INSECURE, MQTT_SNAPSHOTS),
}  # fmt: skip
# What is said of one run, not of a service that starts again and again.
NOT_IN_FILE = (FPS, ONCE, BOXES, POINTS, VERIFY, NEW_SESSION, DRY_RUN)

# What each option is for, where it is not for every source and whatever else is given: kinds of Source, a
# source that is live, the option without which it does nothing, the values of one with which it does nothing.
_MANY_FRAMES = frozenset({"folder", "video", "camera", "stream"})
KINDS: Mapping[str, frozenset[str]] = {
    "camera_size": frozenset({"camera"}),
    "camera_fps": frozenset({"camera", "stream"}),
    "camera_proxy": frozenset({"stream"}),
    "fps": frozenset({"folder"}),
    "realtime": frozenset({"video"}),
    "once": frozenset({"picture", "folder", "video"}),
    **dict.fromkeys(("in_flight", "keyframe_every", "max_fps", "track", "reuse_threshold"), _MANY_FRAMES),
}
LIVE_ALONE = frozenset({"record_mb", "state"})
NEEDS: Mapping[str, str] = {
    **dict.fromkeys(
        (
            "accept_exposure",
            "new_session",
            "insecure",
            "ledger",
            "max_mbit",
            "price_per_gb",
            "spot_checks",
            "spot_check_share",
            "keep_boxes",
            "keep",
            "keep_objects",
            "keep_for_session",
            "when_sites_fail",
        ),
        "sites",
    ),
    "keep_px": "keep",
    **dict.fromkeys(("preview_host", "preview_keys", "preview_width", "once"), "preview"),
    **dict.fromkeys(("metrics_host", "metrics_keys"), "metrics_port"),
    **dict.fromkeys(("mjpeg_host", "mjpeg_keys", "mjpeg_width"), "mjpeg"),
    **dict.fromkeys(
        ("mqtt_password_file", "mqtt_ca", "mqtt_topic", "mqtt_insecure", "mqtt_snapshots"), "mqtt"
    ),
    "record_mb": "record",
}
_SOURCES = {
    "picture": "a picture",
    "folder": "a folder of pictures",
    "video": "a video file",
    "camera": "a camera",
    "stream": "a network stream",
}


def idle_in_run(ctx: click.Context, source: Source) -> Iterator[str]:
    """A sentence for each option of `run` that was given and does nothing for this source, or as the others
    are."""
    what = f"for {_SOURCES[source.kind]}"
    unfit = {name: what for name, kinds in KINDS.items() if source.kind not in kinds}
    if not source.live:
        without = " without --realtime" if source.kind == "video" else ""
        unfit |= dict.fromkeys(LIVE_ALONE, f"{what}{without}")
    return idle_options(ctx, idle_reasons(ctx, NEEDS, IDLE_THREADS) | unfit)


def values_of(kind: type, options: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Takes the options out that are fields of a dataclass, named with `prefix` before, as its arguments."""
    names = [field.name for field in fields(kind) if prefix + field.name in options]
    return {name: options.pop(prefix + name) for name in names}


def values_with(prefix: str, options: dict[str, Any]) -> dict[str, Any]:
    """Takes the options out whose names begin with `prefix`, without it."""
    names = [name for name in options if name.startswith(prefix)]
    return {name.removeprefix(prefix): options.pop(name) for name in names}


def inputs_of(ctx: click.Context) -> Iterator[NamedFile]:
    """What else a command reads: its prompts, its keys and its edge.toml."""
    if (prompts := ctx.params.get("prompts")) is not None:
        yield NamedFile("the file of --prompts", prompts)
    for name in ("preview_keys", "metrics_keys", "mjpeg_keys"):
        if (keys := ctx.params.get(name)) is not None:
            what = f"a file of --{name.replace('_', '-')}"
            yield from (NamedFile(what, keys / file) for file in (CERTIFICATE, KEY, TOKEN))
    for name in ("mqtt_password_file", "mqtt_ca"):
        if (file := ctx.params.get(name)) is not None:
            yield NamedFile(f"the file of --{name.replace('_', '-')}", file)
    if CONFIG in ctx.meta:
        yield NamedFile("the file of --config", ctx.meta[CONFIG])
