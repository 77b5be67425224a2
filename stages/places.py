"""The part of a bundle that each place gets: which stages, which other files, with their hashes.

A site gets the window stage and the probe it checks itself with; an edge gets the head where the bundle has
one, the global stage, with its parts where the bundle has them, and the decoder, the window stage as its
fallback where the bundle holds it, the padding embeddings and the probe.
Nobody gets `whole`, which only `run --verify` needs, or `engines/`, which are built where they run.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

from stages.bundle import MANIFEST, PADDING_FILE, PROBE_FILE, Bundle, sha256
from stages.errors import BundleError
from stages.hidden import HEAD
from stages.streaming import PARTS, can_stream


@dataclass(frozen=True)
class Part:
    """What a place gets: the stages it cannot do without, those it takes where the bundle holds them, and
    files of the folder `edge/`, where it holds those."""

    needed: tuple[str, ...]
    optional: tuple[str, ...]
    files: tuple[str, ...]


PLACES: Mapping[str, Part] = {
    "site": Part(("window",), (), (PROBE_FILE,)),
    "edge": Part(("global", "decoder"), ("window",), (PADDING_FILE, PROBE_FILE)),
}


@dataclass(frozen=True)
class PartFile:
    """One file of a part: its path inside the bundle with "/", its sha256 in hex, its size."""

    name: str
    sha256: str
    bytes: int


def stages_for(bundle: Bundle, place: str, without: Collection[str] = ()) -> tuple[str, ...]:
    """The stages that a place of PLACES gets of this bundle, those it needs first.

    `without` names stages to leave out of the optional ones (an edge without its fallback: "window"). Raises
    BundleError when the bundle lacks a stage that the place needs.
    """
    part = PLACES[place]
    needed = edge_stages(bundle) if place == "edge" else part.needed
    missing = [name for name in needed if not bundle.has(name)]
    if missing:
        raise BundleError(
            f"{bundle.path} does not hold {' and '.join(missing)}, which {_a(place)} needs; copy the "
            "folders from the full bundle"
        )
    return needed + tuple(name for name in part.optional if bundle.has(name) and name not in without)


def edge_stages(bundle: Bundle) -> tuple[str, ...]:
    """The stages that an edge cannot do without."""
    needed = PLACES["edge"].needed
    return (HEAD, *needed) if bundle.head_blocks else needed


def part_files(bundle: Bundle, place: str, without: Collection[str] = ()) -> tuple[PartFile, ...]:
    """Every file that a place gets, `bundle.json` last: copied in this order it is no bundle until whole.

    Reads and hashes each file. Raises BundleError naming the first that is missing or not what the bundle
    records, and as `stages_for`.
    """
    stages = stages_for(bundle, place, without)
    if place == "edge" and can_stream(bundle):
        stages += PARTS  # they share the weights of the global stage; onnxruntime alone runs them
    return tuple(_hashed(bundle, _recorded(bundle, stages, PLACES[place])))


def _recorded(bundle: Bundle, stages: Iterable[str], part: Part) -> dict[str, str]:
    files = {name: digest for stage in stages for name, digest in bundle.stage(stage).files.items()}
    edge = {name: bundle.edge_files[name] for name in part.files if name in bundle.edge_files}
    return files | {name: digest for name, digest in edge.items() if (bundle.path / name).is_file()}


def _hashed(bundle: Bundle, files: Mapping[str, str]) -> Iterator[PartFile]:
    bundle.verify(files)
    for name in sorted(files):
        yield PartFile(name, files[name], (bundle.path / name).stat().st_size)
    manifest = bundle.path / MANIFEST
    yield PartFile(MANIFEST, sha256(manifest), manifest.stat().st_size)


def checksums(files: Iterable[PartFile]) -> str:
    """What `sha256sum --check` takes in the directory of a copy: it needs no Python and no pedsam there.

    Raises BundleError for a name that would need sha256sum's escapes.
    """
    lines = [f"{file.sha256}  {file.name}\n" for file in files]
    if any(line.count("\n") != 1 or "\\" in line or "\r" in line for line in lines):
        raise BundleError("a file of the bundle has a line break or a backslash in its name; export it again")
    return "".join(lines)


def _a(place: str) -> str:
    return f"an {place}" if place[0] in "aeiou" else f"a {place}"
