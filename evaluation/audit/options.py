"""What `pedsam audit` is told."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from evaluation.audit.play import made_up_sites
from runtime.detectors.network import DetectorOptions
from runtime.frames.boxes import BoxXyxy
from runtime.frames.kept import KeptBoxes
from runtime.keeper import KeepOptions
from runtime.sites.config import SiteConfig, read_sites
from stages.errors import InputError
from stages.geometry import Geometry
from stages.tile_code import TileCode

OPERATORS = (1, 2, 3, 4, 6)
MOST_OPERATORS = 100
VIDEO_FRAMES = 50  # of a video, where --limit says nothing


@dataclass(frozen=True, kw_only=True)
class AuditOptions:
    """Options of `pedsam audit`; see its help. `components` are those of an embedding that comes back.

    What `keep_boxes` touch does not leave, nor what `keep` names, as in EdgeOptions.
    """

    geometry: Geometry
    tiles: tuple[TileCode, ...]
    components: int
    data: Path
    out: Path
    sites: Path | None = None
    operators: tuple[int, ...] = ()
    partitions: tuple[str, ...] = ()
    coalition: int = 1
    sequence: bool = False
    keep_boxes: tuple[BoxXyxy, ...] = ()
    keep: tuple[str, ...] = ()
    keep_px: int = DetectorOptions.px
    keep_for_session: bool = False
    recognise: bool = True
    mae: Path | None = None
    failures: float = 0.005
    limit: int | None = None
    sheet: bool = True
    seed: int = 0
    described: str = ""
    bundle: Path | None = None

    def keeping(self, films: bool) -> KeepOptions:
        """What is kept of data whose pictures follow each other in time or not."""
        return KeepOptions(
            boxes=KeptBoxes(self.keep_boxes),
            kinds=self.keep,
            detectors=DetectorOptions(self.keep_px),
            for_session=self.keep_for_session,
            films=films,
        )


@dataclass(frozen=True)
class Setting:
    """Who gets the windows: `sites` as placement takes them, under a name for the table."""

    name: str
    sites: tuple[SiteConfig, ...]

    @property
    def operators(self) -> int:
        return len({site.operator for site in self.sites})


def settings_of(options: AuditOptions) -> tuple[Setting, ...]:
    """Every way to share the windows that is asked for. Raises InputError, also where a coalition is larger
    than all of them."""
    found = [*_of_sites(options), *_of_operators(options), *_of_partitions(options)]
    most = max(setting.operators for setting in found)
    if options.coalition > most:
        raise InputError(
            f"--coalition {options.coalition} is more than there are operators; the most here is {most}"
        )
    return tuple(found)


def _of_sites(options: AuditOptions) -> list[Setting]:
    if options.sites is None:
        return []
    sites = tuple(
        SiteConfig(site.name, site.operator, f"played://{site.name}", cap=site.cap, spare=site.spare)
        for site in read_sites(options.sites, insecure=True)
    )
    return [Setting(options.sites.name, sites)]


def _of_operators(options: AuditOptions) -> list[Setting]:
    nothing_asked = options.sites is None and not options.operators and not options.partitions
    counts = options.operators or (OPERATORS if nothing_asked else ())
    return [Setting(_plural(count), made_up_sites(count)) for count in counts]


def _of_partitions(options: AuditOptions) -> list[Setting]:
    """The paper's: one part is one operator's. Of these 1x1 and one window a part are placements too."""
    grid = options.geometry.grid
    all_alone = f"{grid}x{grid}"
    asked = options.partitions
    if options.sites is None and not options.operators and not asked:
        asked = (all_alone,)
    for each in asked:
        if each not in ("1x1", all_alone):
            raise InputError(f"--partition {each!r:.20} is none of 1x1 and {all_alone}, an operator a window")
    counts = {"1x1": 1, all_alone: options.geometry.windows}
    return [Setting(f"partition {each}", made_up_sites(counts[each])) for each in asked]


def _plural(operators: int) -> str:
    return "1 operator" if operators == 1 else f"{operators} operators"
