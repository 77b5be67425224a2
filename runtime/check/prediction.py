"""How fast the loop will be, from what was measured of its parts: frames per second, what limits, bytes.

Steps of the loop overlap over several frames, so that with everything keeping up

    frames per second = 1 / max(windows, engines, detectors, read, write, edge processor)

windows          the slowest site's seconds for its windows of one frame, all sites busy at once, round trip
                 included (the loop sends the windows of a frame when those of the one before are back)
engines          head, if any, + global + decoder + windows that run at the edge, those kept among them: one
                 thread owns every engine of the edge
detectors        of --keep, one after another, on a thread of their own
read, write      resizing a frame; masks to frame size, overlay and video (in threads beside the engines)
edge processor   processor seconds of all that the edge does for a frame / its cores; sites on this very
                 machine count too, at a core each while they work

Gigabytes an hour are message bodies and heads of HTTP at that rate. What this leaves out: reading from the
camera or disk, faults, and other work of this machine.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from runtime.check.site_speed import Together
from runtime.sites.areas import Areas
from runtime.sites.assignment import assign, default_cap, least_cap, takeover
from runtime.sites.client import REQUEST_BYTES, WIRE_OUTPUTS, wire_formats
from runtime.sites.config import SiteConfig, operator_caps
from runtime.sites.may_see import MaySee, may_see
from runtime.sites.traffic import frame_bytes, gigabytes_an_hour, most_windows
from stages.bundle import Bundle
from stages.errors import InputError
from stages.geometry import Geometry

NOT_HERE = (
    "this bundle has no window stage to run them here; fix the sites that failed, raise caps to {} each, add "
    "sites of other operators, or copy the window stage to the edge"
)


@dataclass(frozen=True)
class Shares:
    """Windows of one frame: how many each site gets, how many run at the edge for want of room elsewhere, and
    how many are `kept` there; and what each operator of a site that works `may_see`. With `least_cap` each
    these could have them all."""

    sites: Mapping[str, int]
    at_edge: int
    may_see: Mapping[str, MaySee] = field(default_factory=dict, compare=False)
    least_cap: int = field(default=0, compare=False)
    kept: int = 0

    @property
    def sent(self) -> int:
        return sum(self.sites.values())


@dataclass(frozen=True)
class EdgeTimes:
    """Seconds of each step at the edge for one frame with one object; `window_s` of one window, if it can,
    `head_s` of all windows of a frame, 0 without a head, `detect_s` of all detectors, 0 without any.

    `processor_s` are processor seconds of all of them (without windows), on `cores`, and of these
    `detect_processor_s` the detectors'.
    """

    read_s: float
    global_s: float
    decode_s: float
    write_s: float
    window_s: float | None
    processor_s: float
    cores: int
    head_s: float = 0.0
    detect_s: float = 0.0
    detect_processor_s: float = 0.0

    def without_detectors(self) -> EdgeTimes:
        """Those of a run that looks for nothing."""
        processor_s = self.processor_s - self.detect_processor_s
        return replace(self, processor_s=processor_s, detect_s=0.0, detect_processor_s=0.0)


@dataclass(frozen=True)
class Prediction:
    """`steps_s` are seconds of each step a frame, `gigabytes_an_hour` up and down by wire format; of these
    are `heads_an_hour` heads of HTTP, by wire format too."""

    fps: float
    limited_by: str
    steps_s: Mapping[str, float]
    gigabytes_an_hour: Mapping[str, tuple[float, float]]
    heads_an_hour: Mapping[str, tuple[float, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class FrameBytes:
    """Bytes up and down that a frame takes, by wire format: `bodies`, and the `heads` of its requests."""

    bodies: Mapping[str, tuple[float, float]]
    heads: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    def of(self, wire: str) -> tuple[float, float]:
        """Bodies and heads, up and down."""
        bodies, heads = self.bodies[wire], self.heads.get(wire, (0.0, 0.0))
        return bodies[0] + heads[0], bodies[1] + heads[1]


def plan_frame(
    geometry: Geometry,
    size: tuple[int, int],
    sites: Sequence[SiteConfig],
    tiles_per_s: Mapping[str, float],
    kept: Collection[int] = (),
) -> Shares:
    """Share the windows of a frame of (height, width), but those `kept`, as a new session of a run does.

    `tiles_per_s` names the sites that work. Windows of operators that do not go to spares, then to operators
    with room under their caps, then to the edge.
    """
    picture = geometry.windows_with_picture(*size)
    windows = [window for window in picture if window not in kept]
    regular = {site.operator for site in sites if not site.spare}
    caps = operator_caps(sites, default_cap(len(windows), len(regular)))
    speeds: dict[str, float] = {}
    for site in sites:
        if site.name in tiles_per_s:
            speeds[site.operator] = speeds.get(site.operator, 0.0) + tiles_per_s[site.name]
    areas = Areas.of(geometry, [size], kept)
    regular_caps = {name: caps[name] for name in regular & speeds.keys()}
    home = assign(geometry, windows, regular_caps, speeds, areas=areas)
    left = [window for window in windows if window not in home]
    spares = sorted(speeds.keys() - regular)
    home |= takeover(geometry, left, spares, caps, {}, speeds, areas)
    operators = list(home.values())
    shares: dict[str, int] = {}
    for operator in speeds:
        names = [s.name for s in sites if s.operator == operator and s.name in tiles_per_s]
        shares |= _share(operators.count(operator), {name: tiles_per_s[name] for name in names})
    held = {name: [window for window, owner in home.items() if owner == name] for name in speeds}
    rooms = {name: max(0, caps[name] - len(held[name])) for name in held}
    least = least_cap(windows, [()] * max(1, len(regular & speeds.keys())))
    seen = may_see(areas, held, rooms)
    return Shares(shares, len(windows) - len(home), seen, least, len(picture) - len(windows))


def windows_kept(
    geometry: Geometry, size: tuple[int, int], count: int, boxed: Collection[int] = ()
) -> frozenset[int]:
    """Those of a frame of (height, width) in boxes, and `count` others, which are any: the first ones.

    Raises InputError where none would be left to be sent.
    """
    picture = geometry.windows_with_picture(*size)
    others = [window for window in picture if window not in boxed]
    if count >= len(others):
        height, width = size
        raise InputError(
            f"{len(picture) - len(others) + count} windows of a frame of {width} x {height} are kept, and it "
            f"has {len(picture)}; keep at most {len(picture) - 1}, so that one is sent"
        )
    return frozenset(boxed).intersection(picture) | frozenset(others[:count])


@dataclass(frozen=True)
class Keeping:
    """What it costs to keep `windows` of every frame, and saves: seconds of the edge's engines, the frames
    per second where all windows were sent, and bytes up and down of a frame that are not sent."""

    windows: int
    edge_s: float
    fps_without: float
    bytes_saved: tuple[float, float]


def cost_of_keeping(
    kept: Shares,
    without: Shares,
    together: Together,
    edge: EdgeTimes,
    sizes: FrameBytes,
    sizes_without: FrameBytes,
    wire: str,
    shared_s: float = 0.0,
) -> Keeping:
    """`without` and its sizes are those of a frame that keeps nothing, whose sites take as long for a window
    as they do now; the rest as in `predict`."""
    sites_s = {
        name: together.sites_s[name] * without.sites[name] / count
        for name, count in kept.sites.items()
        if count and name in together.sites_s
    }
    more = without.sent / kept.sent
    every = Together(sites_s, together.processor_s * more, together.heads)
    fps = predict(without, every, edge, sizes_without, shared_s * more).fps
    saved = [of_all - now for now, of_all in zip(sizes.of(wire), sizes_without.of(wire), strict=True)]
    return Keeping(kept.kept, kept.kept * (edge.window_s or 0.0), fps, (saved[0], saved[1]))


def _share(count: int, tiles_per_s: Mapping[str, float]) -> dict[str, int]:
    """Windows of one operator among its sites: each to the one that is done with it first."""
    shares = dict.fromkeys(tiles_per_s, 0)
    for _ in range(count):
        shares[min(shares, key=lambda name: (shares[name] + 1) / tiles_per_s[name])] += 1
    return shares


def predict(
    plan: Shares,
    together: Together,
    edge: EdgeTimes,
    sizes: FrameBytes,
    shared_s: float = 0.0,
) -> Prediction:
    """The formula above. `shared_s` are processor seconds of sites on this machine.

    Without sites all windows are the plan's `at_edge`, and nothing is sent.

    Raises ValueError when windows are left to an edge that cannot run them.
    """
    own_windows = plan.at_edge + plan.kept
    if own_windows and edge.window_s is None:
        raise ValueError(f"{own_windows} windows of every frame fit nowhere")
    slowest = sorted(together.sites_s, key=lambda name: together.sites_s[name])[-1:]
    windows_s = own_windows * (edge.window_s or 0.0)
    processor_s = edge.processor_s + together.processor_s + windows_s + shared_s
    own = f" + {own_windows} windows" if own_windows else ""
    head = "head + " if edge.head_s else ""
    steps_s = {
        **{f"the window stage at site {name}": together.sites_s[name] for name in slowest},
        f"the engines at the edge ({head}global + decoder{own})": edge.head_s
        + edge.global_s
        + edge.decode_s
        + windows_s,
        **({"the detectors of --keep": edge.detect_s} if edge.detect_s else {}),
        "resizing frames": edge.read_s,
        "drawing and writing results": edge.write_s,
        f"the edge's processor ({edge.cores} cores)": processor_s / edge.cores,
    }
    limit = max(steps_s, key=lambda name: steps_s[name])
    fps = 1 / steps_s[limit]
    gigabytes, of_heads = {}, {}
    for name, bodies in sizes.bodies.items():
        heads = sizes.heads.get(name, (0.0, 0.0))
        of_heads[name] = _an_hour(heads[0], heads[1], fps)
        gigabytes[name] = _an_hour(bodies[0] + heads[0], bodies[1] + heads[1], fps)
    return Prediction(fps, limit, steps_s, gigabytes, of_heads)


def _an_hour(up: float, down: float, fps: float) -> tuple[float, float]:
    """Gigabytes an hour of so many bytes a frame."""
    return gigabytes_an_hour(up * fps, 1.0), gigabytes_an_hour(down * fps, 1.0)


def bytes_of_frame(
    bundle: Bundle, plan: Shares, taken: Mapping[str, int], heads: tuple[float, float]
) -> FrameBytes:
    """What a frame takes with each wire format of a bundle, which decides how many windows share a request.

    `taken` says of each site how many windows it takes in a request, `heads` are bytes of those of a request
    and of its answer.
    """
    stage, bodies, of_requests = bundle.stage("window"), {}, {}
    for name in wire_formats(bundle):
        outputs = WIRE_OUTPUTS[name]
        fitting = most_windows(stage, outputs, REQUEST_BYTES)
        shares = [(plan.sites[site], min(fitting, most)) for site, most in taken.items()]
        size = frame_bytes(stage, outputs, shares)
        bodies[name] = float(size.up), float(size.down)
        of_requests[name] = heads[0] * size.requests, heads[1] * size.requests
    return FrameBytes(bodies, of_requests)
