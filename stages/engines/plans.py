"""TensorRT plans in a bundle: where they lie, the record beside each, and when one may be used.

    engines/<device>/<stage>.plan     the serialised engine, built on that device from this bundle
    engines/<device>/<stage>.json     its record: ONNX, TensorRT, device, precision, shapes

A plan is executable code and fits one device, one TensorRT and one ONNX file. It is read only when its record
says exactly what is wanted here and its bytes hash to what the record says. The hash finds plans that were
cut short or changed; it is no protection from someone who can write both files.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from stages.bundle import Bundle, sha256
from stages.engines.devices import Device
from stages.errors import EngineError, InputError
from stages.files import replace_file
from stages.geometry import Geometry
from stages.text_files import read_json

FORMAT = 1
ENGINES = "engines"
IMAGE_VARIABLE = "PEDSAM_IMAGE"  # the digest of the container image this runs in, for `docker run --env`
# Smallest, usual and largest size of an axis. p counts objects decoded together, k the points of each (a box
# is two). What exceeds p runs in parts, as each object takes 32 MB of activations; what exceeds k is refused.
OBJECTS, POINTS = (1, 1, 4), (1, 2, 32)
WINDOW_AXIS, WINDOWS_AT_ONCE = "n", 8

Shapes = Mapping[str, tuple[tuple[int, ...], ...]]


@dataclass(frozen=True)
class PlanKey:
    """Everything a plan depends on; plans with equal keys are interchangeable.

    `onnx` maps the stage's files to their sha256. `shapes` maps inputs with dynamic axes to their smallest,
    usual and largest shape. `image` is the digest of the container image, "" outside of one and in records
    from before it was kept.
    """

    stage: str
    onnx: Mapping[str, str]
    site_digest: str
    precision: str
    library: str
    library_version: str
    device: str
    compute_capability: str
    shapes: Shapes
    image: str = ""


@dataclass(frozen=True)
class Attempt:
    """One try at building a stage. `outcome` is "built", or in a clause why not.

    `workspace_bytes` None: as much as the device has. `optimization_level` None: TensorRT's own default.
    """

    workspace_bytes: int | None
    optimization_level: int | None
    outcome: str


@dataclass(frozen=True)
class PlanRecord:
    """A plan's key, the hash and size of its bytes, and the time and memory of building and running it.

    `weights_bytes` and `activation_bytes` are device memory; None where the builder did not say.
    `peak_bytes` is the most memory that building used: the device's, or the system's where it is shared.
    `attempts` are all tries, the last is how the plan was built; empty in records from before they were kept.
    """

    key: PlanKey
    plan_sha256: str
    plan_bytes: int
    build_s: float
    weights_bytes: int | None
    activation_bytes: int | None
    peak_bytes: int
    attempts: tuple[Attempt, ...] = ()

    @property
    def workspace_bytes(self) -> int | None:
        """The workspace that the plan was built with; None for no limit, or where the record does not say."""
        return self.attempts[-1].workspace_bytes if self.attempts else None

    @property
    def optimization_level(self) -> int | None:
        """The builder's optimisation level; None for its default, or where the record does not say."""
        return self.attempts[-1].optimization_level if self.attempts else None

    def to_json(self) -> dict[str, Any]:
        return {"format": FORMAT, **asdict(self)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> PlanRecord:
        """Raises KeyError, TypeError or ValueError for what is no record."""
        if data["format"] != FORMAT:
            raise ValueError(f"format {data['format']!r:.40}, expected {FORMAT}")
        key = PlanKey(**data["key"])
        shapes = {name: tuple(map(tuple, three)) for name, three in key.shapes.items()}
        attempts = tuple(Attempt(**each) for each in data.get("attempts", ()))
        given: dict[str, Any] = {"key": replace(key, shapes=shapes), "attempts": attempts}
        rest = {field.name: data[field.name] for field in fields(cls) if field.name not in given}
        return cls(**given, **rest)


def plan_key(
    bundle: Bundle,
    name: str,
    device: Device,
    library: str,
    version: str,
    environ: Mapping[str, str] = os.environ,
) -> PlanKey:
    """The key that a plan of this stage must have to be used here. `library` is the module's name."""
    stage = bundle.stage(name)
    return PlanKey(
        stage=name,
        onnx=dict(stage.files),
        site_digest=bundle.site_digest,
        precision=stage.precision,
        library=library,
        library_version=version,
        device=device.name,
        compute_capability=device.sm,
        shapes=profile_shapes(bundle, name),
        image=environ.get(IMAGE_VARIABLE, ""),
    )


def profile_shapes(bundle: Bundle, name: str) -> Shapes:
    """Smallest, usual and largest shape of each of the stage's inputs that has a dynamic axis."""
    sizes = axis_sizes(bundle.geometry)
    return {
        spec.name: tuple(
            tuple(sizes[axis][i] if isinstance(axis, str) else axis for axis in spec.shape) for i in range(3)
        )
        for spec in bundle.stage(name).inputs
        if any(isinstance(axis, str) for axis in spec.shape)
    }


def axis_sizes(geometry: Geometry) -> dict[str, tuple[int, int, int]]:
    """Smallest, usual and largest size of every axis that is dynamic in some stage, by its name."""
    windows = geometry.windows
    return {WINDOW_AXIS: (1, min(WINDOWS_AT_ONCE, windows), windows), "p": OBJECTS, "k": POINTS}


def plan_path(bundle: Bundle, name: str, device: Device) -> Path:
    return bundle.path / ENGINES / device.folder / f"{name}.plan"


def record_path(plan: Path) -> Path:
    return plan.with_suffix(".json")


def is_built(bundle: Bundle, name: str, device: Device) -> bool:
    """Whether this stage was built for this device, whether or not the plan still fits."""
    return record_path(plan_path(bundle, name, device)).exists()


def read_record(plan: Path) -> PlanRecord:
    """The record beside a plan. Raises EngineError when there is none or it is damaged."""
    path = record_path(plan)
    if not path.exists():
        raise EngineError(
            f"{plan} was not built, or not completely; run pedsam build on the device that is to use it (for "
            "the stage `whole` with --for all)"
        )
    try:
        return PlanRecord.from_json(read_json(path))
    except InputError as exc:
        raise EngineError(f"{exc}; {_REBUILD}") from exc
    except (LookupError, TypeError, ValueError, AttributeError) as exc:
        raise EngineError(f"{path} cannot be read ({exc!r:.200}); {_REBUILD}") from exc


def load_plan(plan: Path, key: PlanKey) -> bytes:
    """Bytes of a plan that fits `key`. Raises EngineError saying what differs and what to do."""
    record = read_record(plan)
    if difference := _difference(record.key, key):
        raise EngineError(f"{plan} was built for {difference}; {_REBUILD}")
    try:
        data = plan.read_bytes()
    except OSError as exc:
        raise EngineError(f"{plan} cannot be read ({exc.strerror}); {_REBUILD}") from exc
    if hashlib.sha256(data).hexdigest() != record.plan_sha256:
        raise EngineError(f"{plan} is not what was built: {_CHANGED.format(len(data), record)}; {_REBUILD}")
    return data


def why_not_reusable(plan: Path, key: PlanKey) -> str | None:
    """One clause saying why a plan has to be built, or None when the one on disk is what would be built."""
    if not record_path(plan).exists():
        return "not built yet"
    try:
        record = read_record(plan)
        size = plan.stat().st_size
    except (EngineError, OSError):
        return "its record or plan cannot be read"
    if difference := _difference(record.key, key):
        return f"built for {difference}"
    if sha256(plan) != record.plan_sha256:
        return _CHANGED.format(size, record)
    return None


def save_plan(plan: Path, data: memoryview | bytes, record: PlanRecord) -> None:
    """Write a plan and its record, each by rename; killed in between, it leaves no usable plan."""
    plan.parent.mkdir(parents=True, exist_ok=True)
    record_path(plan).unlink(missing_ok=True)
    replace_file(plan, data)
    replace_file(record_path(plan), json.dumps(record.to_json(), indent=1).encode() + b"\n")


_REBUILD = "build it again with pedsam build"
_CHANGED = "its {0} bytes differ from the {1.plan_bytes} that its record describes"


def _difference(found: PlanKey, wanted: PlanKey) -> str | None:
    """The first thing two keys differ in, as "X, and here is Y"."""
    if (found.library, found.library_version) != (wanted.library, wanted.library_version):
        return (
            f"{found.library} {found.library_version}, and here is {wanted.library} {wanted.library_version}"
        )
    if (found.device, found.compute_capability) != (wanted.device, wanted.compute_capability):
        return (
            f"the GPU {found.device} ({found.compute_capability}), and here is {wanted.device} "
            f"({wanted.compute_capability})"
        )
    if found.image != wanted.image:
        return f"{_image(found)}, and here is {_image(wanted)}"
    if found.onnx != wanted.onnx:
        return "other weights than this bundle's (the ONNX files differ)"
    if found.site_digest != wanted.site_digest:
        return f"a bundle with site digest {found.site_digest}, and this one has {wanted.site_digest}"
    if found.precision != wanted.precision:
        return f"precision {found.precision}, and the bundle has {wanted.precision}"
    if found != wanted:
        return f"input shapes {dict(found.shapes)}, and here are {dict(wanted.shapes)}"
    return None


def _image(key: PlanKey) -> str:
    return f"the container image {key.image:.80}" if key.image else "no container image"
