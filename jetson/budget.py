"""Whether a bundle fits into a board's memory, which CPU and GPU share: what each part takes, and from where.

Two sums, each with the system beside it: an edge that runs with all its engines open, and the builder at
its largest stage. None of it was measured on a Jetson by us: each term says whether it was measured (and on
what), computed, published by others, or estimated.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from export.engines.memory import LEAST_WORKSPACE, LIBRARY_BYTES, RUNTIME_BYTES, weights_bytes
from stages.bundle import Bundle
from stages.errors import InputError
from stages.geometry import GEOMETRIES, Geometry
from stages.hidden import HEAD
from stages.places import stages_for
from stages.weights import stage_parameters

MEASURED, COMPUTED, PUBLISHED, ESTIMATED = "measured", "computed", "published elsewhere", "estimated"

ORIN_NANO_8GB = 7620 << 20  # MemTotal that JetPack 6 shows
# RAM in use by an Orin Nano on JetPack 6 that does little; others idle between 1483 and 3645 MiB.
SYSTEM_BYTES = 2513 << 20
HEADLESS_SAVES = 865_000_000  # by NVIDIA, at most
# The edge's largest resident size in two hours of mini by onnxruntime on an x86-64 CPU, engines included:
# benchmarks/results/soak_mini.json.
PROCESS_BYTES = 342_700_000
FRAME_PX = (1080, 1920)
FRAMES_HELD = 8  # read, being cut, on their way, being decoded, being drawn
OBJECTS_SHOWN = 4

# What an engine takes beside its weights, in MB at the largest shapes of the plans: window, global, decoder.
# By TensorRT for RTX for sm_86 without a GPU: benchmarks/results/engine_memory.json.
ACTIVATIONS_MB: Mapping[tuple[str, str], tuple[float, float, float]] = {
    ("mini", "fp16"): (12.4, 10.4, 16.3),
    ("small", "fp16"): (18.3, 22.0, 21.2),
    ("vit_b", "fp16"): (162.3, 107.3, 59.2),
    ("vit_l", "fp16"): (214.5, 134.2, 59.2),
    ("vit_h", "fp16"): (249.7, 155.2, 59.2),
    ("mini", "fp32"): (14.2, 18.1, 26.3),
    ("small", "fp32"): (24.7, 39.3, 36.8),
    ("vit_b", "fp32"): (257.0, 172.6, 126.4),
    ("vit_l", "fp32"): (334.4, 210.0, 126.4),
    ("vit_h", "fp32"): (409.7, 268.1, 126.4),
}
_COLUMN = {HEAD: 0, "window": 0, "global": 1, "decoder": 2}  # a head asks for no more than its window stage


@dataclass(frozen=True)
class Term:
    """One part of a sum, in bytes. `evidence` is MEASURED, COMPUTED, PUBLISHED or ESTIMATED."""

    name: str
    bytes: int
    evidence: str
    source: str


@dataclass(frozen=True)
class Budget:
    """What one edge takes beside the system, with its window engine where `fallback` is true.

    `running` is the edge at its start, when the last engine file is read; `building` the largest build.
    """

    model: str
    precision: str
    fallback: bool
    running: tuple[Term, ...]
    building: tuple[Term, ...]

    @property
    def running_bytes(self) -> int:
        return sum(term.bytes for term in self.running)

    @property
    def building_bytes(self) -> int:
        return sum(term.bytes for term in self.building)

    @property
    def peak_bytes(self) -> int:
        return max(self.running_bytes, self.building_bytes)

    @property
    def description(self) -> str:
        return f"{self.model} in {self.precision}" + ("" if self.fallback else " without its fallback")


@dataclass(frozen=True)
class BoardMemory:
    """A board's memory. `total_bytes` is MemTotal; `desktop`: whether one runs, or will.

    `available_bytes` is MemAvailable with no edge running, where the board was asked; else it is estimated.
    """

    total_bytes: int
    desktop: bool = True
    available_bytes: int | None = None

    @property
    def for_programs(self) -> int:
        """Bytes left beside the system."""
        if self.available_bytes is not None:
            return self.available_bytes
        return self.total_bytes - SYSTEM_BYTES + (0 if self.desktop else HEADLESS_SAVES)

    def headless(self) -> BoardMemory:
        """The same board with its desktop off."""
        available = self.available_bytes
        if self.desktop and available is not None:
            available += HEADLESS_SAVES
        return BoardMemory(self.total_bytes, False, available)


@dataclass(frozen=True)
class _Engine:
    stage: str
    weights: int
    activations: int


def bundle_budget(bundle: Bundle, fallback: bool = True) -> Budget:
    """The budget of an edge with this bundle. `fallback` False: its window stage is left out.

    Raises BundleError when the bundle lacks a stage that an edge needs.
    """
    names = stages_for(bundle, "edge", () if fallback else ("window",))
    precisions = {name: bundle.stage(name).precision for name in names}
    engines = [_of_bundle(bundle, name, precision) for name, precision in precisions.items()]
    shown = " and ".join(sorted({_short(precision) for precision in precisions.values()}))
    return _budget(bundle.geometry, shown, engines)


def model_budget(geometry: Geometry, precision: str, fallback: bool = True) -> Budget:
    """The budget of an edge with a model whose bundle is not at hand, all stages in `precision`."""
    names = ("global", "decoder", *(["window"] if fallback else []))
    return _budget(geometry, precision, [_of_geometry(geometry, name, precision) for name in names])


def _of_bundle(bundle: Bundle, name: str, precision: str) -> _Engine:
    """Weights by the files, unless what the dimensions say is more: fp32 stages may be stored as fp16."""
    expected = _of_geometry(bundle.geometry, name, precision, bundle.head_blocks)
    return _Engine(name, max(expected.weights, weights_bytes(bundle, name)), expected.activations)


def _of_geometry(geometry: Geometry, name: str, precision: str, head_blocks: int = 0) -> _Engine:
    weights = stage_parameters(geometry, head_blocks)[name].bytes(precision)
    figures = ACTIVATIONS_MB[_measured_as(geometry), "fp32" if precision.startswith("fp32") else "fp16"]
    return _Engine(name, weights, int(figures[_COLUMN[name]] * 1e6))


def _measured_as(geometry: Geometry) -> str:
    """The smallest model of the table that is no smaller than this one."""
    for name, known in GEOMETRIES.items():
        if known.dim >= geometry.dim and known.image_size >= geometry.image_size:
            return name
    return next(reversed(GEOMETRIES))


def _short(precision: str) -> str:
    return precision.partition(" ")[0]


def _budget(geometry: Geometry, precision: str, engines: list[_Engine]) -> Budget:
    largest = max(engine.weights for engine in engines)
    fallback = any(engine.stage == "window" for engine in engines)
    running = (*_fixed(), *_engine_terms(engines), _read(largest), _frames(geometry))
    building = (
        Term("TensorRT's builder", LIBRARY_BYTES, PUBLISHED, "over 1.5 GB on an 8 GB Orin Nano"),
        Term("weights, parsed and in the engine", 2 * largest, COMPUTED, "twice those of the largest stage"),
        Term("workspace", LEAST_WORKSPACE, MEASURED, "more than any stage asks for (410 MB, as above)"),
    )
    return Budget(geometry.name, precision, fallback, running, building)


def _fixed() -> Iterator[Term]:
    yield Term("CUDA and TensorRT's runtime", RUNTIME_BYTES, ESTIMATED, "once a process")
    yield Term("the edge's process", PROCESS_BYTES, MEASURED, "two hours of mini on an x86-64 CPU")


def _engine_terms(engines: list[_Engine]) -> Iterator[Term]:
    names = ", ".join(engine.stage for engine in engines)
    weights, activations = sum(e.weights for e in engines), sum(e.activations for e in engines)
    yield Term(f"weights of {names}", weights, COMPUTED, "parameters times the size of each")
    yield Term(f"activations of {names}", activations, MEASURED, "TensorRT for RTX, built for sm_86")


def _read(largest: int) -> Term:
    return Term("the engine file being read", largest, COMPUTED, "the largest, beside its weights on the GPU")


def _frames(geometry: Geometry) -> Term:
    """Frames in every step at once, and what is made of each."""
    g = geometry
    rows, cols, channels = g.tile_shape
    tiles = g.windows * rows * cols * channels
    embeddings = g.windows * g.window**2 * g.dim * 2 + g.prompt_dim * g.tokens**2 * 4
    pixels = FRAME_PX[0] * FRAME_PX[1]
    frame = 3 * pixels + 3 * g.image_size**2 + tiles + embeddings
    masks = OBJECTS_SHOWN * 4 * pixels
    what = f"{FRAMES_HELD} frames of {FRAME_PX[1]} x {FRAME_PX[0]}, {OBJECTS_SHOWN} masks"
    return Term("frames and embeddings", FRAMES_HELD * frame + masks, COMPUTED, what)


# Does it fit?


def fits(budget: Budget, memory: BoardMemory) -> bool:
    return budget.peak_bytes <= memory.for_programs


def require_fit(bundle: Bundle, memory: BoardMemory, fallback: bool = True) -> Budget:
    """The budget of a bundle that fits. Raises InputError with one sentence that names what would fit."""
    budget = bundle_budget(bundle, fallback)
    if not fits(budget, memory):
        raise InputError(refusal(budget, bundle.geometry, memory))
    return budget


def refusal(budget: Budget, geometry: Geometry, memory: BoardMemory) -> str:
    """Why a budget does not fit, and what does: one sentence without its full stop."""
    when = "to run" if budget.running_bytes >= budget.building_bytes else "to build its engines"
    desktop = " with the desktop" if memory.desktop else " without a desktop"
    others = list(_that_fit(budget, geometry, memory))
    what_fits = f"what fits: {', or '.join(others[:2])}" if others else "no model of pedsam fits"
    return (
        f"{budget.description} needs {_gb(budget.peak_bytes)} {when}, and this board has "
        f"{_gb(max(0, memory.for_programs))} of {_gb(memory.total_bytes)} for programs{desktop}; {what_fits}"
    )


def _that_fit(budget: Budget, geometry: Geometry, memory: BoardMemory) -> Iterator[str]:
    """What fits instead, the nearest first."""
    if fits(budget, memory.headless()):
        yield "the same with --headless"
    if geometry.name in GEOMETRIES and budget.precision != "fp16":
        yield from _named(model_budget(geometry, "fp16", budget.fallback), memory)
    names = list(GEOMETRIES)
    smaller = names[: names.index(geometry.name)] if geometry.name in names else names
    for name in reversed(smaller):
        yield from _named(model_budget(GEOMETRIES[name], "fp16", budget.fallback), memory)


def _named(budget: Budget, memory: BoardMemory) -> Iterator[str]:
    if fits(budget, memory):
        yield f"{budget.description} ({_gb(budget.peak_bytes)})"


# Tables of docs/engines.md


def models_table() -> str:
    """Markdown: every model in fp16 and fp32 on an Orin Nano 8GB."""
    head = "| model | precision | weights | activations | running | building | with the desktop | headless |"
    lines = [head, "| --- | --- | --- | --- | --- | --- | --- | --- |"]
    for geometry in GEOMETRIES.values():
        for precision in ("fp16", "fp32"):
            lines.append(_row(model_budget(geometry, precision)))
    return "\n".join(lines) + "\n"


def _row(budget: Budget) -> str:
    weights, activations = budget.running[2:4]
    memory = BoardMemory(ORIN_NANO_8GB)
    answers = ["fits" if fits(budget, each) else "does not fit" for each in (memory, memory.headless())]
    sizes = (weights.bytes, activations.bytes, budget.running_bytes, budget.building_bytes)
    return f"| {' | '.join([budget.model, budget.precision, *map(_gb, sizes), *answers])} |"


def terms_table(budget: Budget) -> str:
    """Markdown: every term of a budget with its evidence."""
    lines = ["| when | what | takes | | how |", "| --- | --- | --- | --- | --- |"]
    for when, terms in (("running", budget.running), ("building", budget.building)):
        lines += [f"| {when} | {t.name} | {_gb(t.bytes)} | {t.evidence} | {t.source} |" for t in terms]
    return "\n".join(lines) + "\n"


def _gb(size: int) -> str:
    return f"{size / 1e9:.2f} GB"
