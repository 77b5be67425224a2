"""What a line allows: which code of tiles, how many components, which wire, at how many frames a second.

A frame takes the same bytes whatever it shows, so for a line of so many megabits a second and a round trip

    frames per second = min(line up / bytes up, line down / bytes down, IN_FLIGHT / way of one frame)
    way of one frame  = round trip + bytes up / line up + bytes down / line down

The sites' own rate bounds that where it was measured: it is what this bundle's tiles got, over this line and
with the wire chosen, and where they took less than half of it, it is the sites' engines that other wires and
codes meet too. What the edge's own
engines allow is not in it; `pedsam check` measures that. The line is one for all sites, as at a home; bytes
are bodies and heads. TLS, TCP and IP take a few hundredths more.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

from runtime.check.prediction import Shares, plan_frame
from runtime.check.site_speed import Patience, Speed, measure_alone
from runtime.pipeline import PipelineOptions
from runtime.sites.client import (
    REQUEST_BYTES,
    TIMEOUTS,
    WIRE_OUTPUTS,
    SiteClient,
    Timeouts,
    choose_wire,
    wire_formats,
)
from runtime.sites.config import SiteConfig
from runtime.sites.traffic import MessageBytes, frame_bytes, gigabytes_an_hour, most_windows
from stages.bundle import Bundle, Stage
from stages.errors import InputError, SiteError
from stages.geometry import Geometry
from stages.tensors import TensorSpec
from stages.tile_code import TileCode

CODES = ("rgb", "dct:15/6", "dct:10/3", "dct:6/3")  # from the most to the least of a picture
SHARES = (1, 2, 3, 4)  # components: all of the embedding's channels, a half, a third, a quarter
HEADS = MessageBytes(400, 250)  # of a request to `pedsam serve` and of its answer, about
IN_FLIGHT = PipelineOptions.in_flight
OWN = "this bundle"
UP, DOWN, SITES = "the way up", "the way down", "the sites"


@dataclass(frozen=True)
class Line:
    """Megabits a second and the round trip. `found` says where each comes from, for a person."""

    up_mbit: float
    down_mbit: float
    round_trip_s: float
    found: str = "given"


@dataclass(frozen=True)
class Allowed:
    """What the line allows with one code: bytes a frame, frames a second and what holds them back.

    `tiles` is OWN for the bundle as it is; gigabytes an hour and their price are at that rate.
    """

    tiles: str
    components: int
    wire: str
    size: MessageBytes
    fps: float
    limited_by: str
    gigabytes_up: float
    gigabytes_down: float
    price_an_hour: float | None


@dataclass(frozen=True)
class Outlook:
    """All that was found out. `sites_fps` are frames a second of the sites, where they were measured; `notes`
    say which could not be. `bytes_saved` are those up and down of a frame, with this bundle, for the windows
    that are kept."""

    bundle: Bundle
    size: tuple[int, int]
    line: Line
    shares: Shares
    allowed: tuple[Allowed, ...]
    sites_fps: float | None = None
    notes: tuple[str, ...] = ()
    bytes_saved: tuple[int, int] = (0, 0)

    @property
    def advice(self) -> Allowed | None:
        """Of the codes that the bytes of the line do not hold back the one that sends most; None without."""
        fitting = [each for each in self.allowed if each.limited_by not in (UP, DOWN)]
        return max(fitting, key=lambda each: each.size.up + each.size.down, default=None)


def look_ahead(
    bundle: Bundle,
    sites: Sequence[SiteConfig],
    size: tuple[int, int],
    line: Line,
    tiles_per_s: Mapping[str, float] | None = None,
    price_per_gb: float | None = None,
    notes: Sequence[str] = (),
    wire: str | None = None,
    kept: Collection[int] = (),
) -> Outlook:
    """What the line allows for frames of (height, width), first of all with this bundle and `wire`.

    `tiles_per_s` are those of the sites that could be measured, with `wire`; without it all are taken to be
    equally fast. Windows of those that could not go to others as far as caps allow, as in a run. Those `kept`
    of every frame are sent to nobody.
    """
    speeds = tiles_per_s or {site.name: 1.0 for site in sites}
    shares = plan_frame(bundle.geometry, size, sites, speeds, kept)
    sites_fps = None
    if tiles_per_s:
        frame_s = max(count / tiles_per_s[name] for name, count in shares.sites.items())
        sites_fps = 1 / frame_s if frame_s else None
    first, *others = _variants(bundle, choose_wire(bundle, wire))
    own = _allowed(first, shares, line, sites_fps, price_per_gb)
    engines_fps = sites_fps if sites_fps is not None and sites_fps < _line_fps(own.size, line) / 2 else None
    allowed = [_allowed(each, shares, line, engines_fps, price_per_gb) for each in others]
    every = _size(first, plan_frame(bundle.geometry, size, sites, speeds))
    saved = every.up - own.size.up, every.down - own.size.down
    return Outlook(bundle, size, line, shares, (own, *allowed), sites_fps, tuple(notes), saved)


_Variant = tuple[str, int, str, Stage]  # tiles, components, wire and the window stage as it is then


def _variants(bundle: Bundle, chosen: str) -> Iterator[_Variant]:
    """The bundle with each wire it offers, the chosen one first, then the same model with other codes."""
    stage = bundle.stage("window")
    own = int(_output(stage, "embedding").shape[-1])
    for wire in sorted(wire_formats(bundle), key=lambda name: name != chosen):
        yield OWN, own, wire, stage
    if not bundle.head_blocks:  # else no tile leaves the edge
        for code, share in product(CODES, SHARES):
            components = bundle.geometry.dim // share
            yield code, components, "int8", coded_stage(stage, bundle.geometry, code, components)


def coded_stage(stage: Stage, geometry: Geometry, code: str, components: int) -> Stage:
    """The record of a window stage with another code of its tiles and other components."""
    tile = TensorSpec(stage.inputs[0].name, "uint8", ("n", TileCode.parse(code).tile_bytes(geometry)))
    extent = TensorSpec("extent", "int32", ("n", 4))
    inputs = [extent if spec.name == "extent" else spec for spec in stage.inputs[1:]]
    outputs = [
        spec if spec.name == "scale" else replace(spec, shape=(*spec.shape[:-1], components))
        for spec in stage.outputs
    ]
    return replace(stage, inputs=(tile, *inputs), outputs=tuple(outputs))


def _output(stage: Stage, name: str) -> TensorSpec:
    return next(spec for spec in stage.outputs if spec.name == name)


def _allowed(
    variant: _Variant, shares: Shares, line: Line, sites_fps: float | None, price_per_gb: float | None
) -> Allowed:
    tiles, components, wire, _ = variant
    size = _size(variant, shares)
    fps, limited_by = _rate(size, line, sites_fps)
    up, down = (gigabytes_an_hour(way * fps, 1.0) for way in (size.up, size.down))
    price = None if price_per_gb is None else down * price_per_gb
    return Allowed(tiles, components, wire, size, fps, limited_by, up, down, price)


def _size(variant: _Variant, shares: Shares) -> MessageBytes:
    """Bytes of a frame, bodies and heads."""
    _, _, wire, stage = variant
    outputs = WIRE_OUTPUTS[wire]
    most = most_windows(stage, outputs, REQUEST_BYTES)
    bodies = frame_bytes(stage, outputs, [(count, most) for count in shares.sites.values()])
    heads = bodies.requests
    return MessageBytes(bodies.up + heads * HEADS.up, bodies.down + heads * HEADS.down, heads)


def _line_fps(size: MessageBytes, line: Line) -> float:
    return min(line.up_mbit / (size.up * 8e-6), line.down_mbit / (size.down * 8e-6))


def _rate(size: MessageBytes, line: Line, sites_fps: float | None) -> tuple[float, str]:
    """The formula above, and which part of it holds."""
    up_s, down_s = size.up * 8e-6 / line.up_mbit, size.down * 8e-6 / line.down_mbit
    rates = {
        UP: 1 / up_s,
        DOWN: 1 / down_s,
        f"the round trip, {IN_FLIGHT} frames under way": IN_FLIGHT / (line.round_trip_s + up_s + down_s),
    }
    if sites_fps is not None:
        rates[SITES] = sites_fps
    limit = min(rates, key=lambda name: rates[name])
    return rates[limit], limit


async def measure_line(
    bundle: Bundle,
    sites: Sequence[SiteConfig],
    wire: str,
    timeouts: Timeouts = TIMEOUTS,
    tell: Callable[[str], None] = lambda line: None,
) -> tuple[Line, dict[str, float], list[str]]:
    """The line as probes and noise find it, tiles a second by site, and why a site could not be measured.

    Sites are measured one after another, over one line: the highest rates up and down are the line's. The
    round trip is that of the farthest site, for which every frame waits. `tell` gets a line for each site
    that is busy and waited for.
    Raises InputError where none can be measured.
    """
    speeds: dict[str, Speed] = {}
    failures, patience = [], Patience(tell)
    for site in sites:
        try:
            async with SiteClient(site, bundle, wire, timeouts, on_busy=patience) as client:
                await client.check_digest()
                speeds[site.name] = await measure_alone(client, bundle.probe())
        except SiteError as exc:
            failures.append(str(exc))
    known = [(each.up, each.down) for each in speeds.values() if each.up and each.down]
    if not known:
        raise InputError(
            f"no site let the line be measured: {'; '.join(failures) or 'all refuse noise'}; give --up and "
            "--down"
        )
    up, down = (max(rates, key=lambda rate: rate.mbit_s) for rates in zip(*known, strict=True))
    round_trip_s = max(each.round_trip_s for each in speeds.values())
    found = f"measured over {len(known)} sites"
    if up.at_least or down.at_least:
        found += "; it was too quick to be told from the rest, and may be quicker"
    tiles_per_s = {name: each.tiles_per_s for name, each in speeds.items()}
    return Line(up.mbit_s, down.mbit_s, round_trip_s, found), tiles_per_s, failures
