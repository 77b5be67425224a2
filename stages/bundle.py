"""The directory a model travels in: ONNX stages, `bundle.json`, padding embeddings and the probe.

Layout (a copy with `bundle.json` and some of the stage folders is a valid smaller bundle):

    bundle.json
    edge/padding.npy     embeddings of windows that are all padding, [windows, w, w, r]
    edge/probe.npz       a synthetic tile and the embedding that a correct site returns
    window/model.onnx    and model.onnx.data, likewise global/, decoder/, whole/; head/ of format 3
    engines/<device>/    engines built from the stages, never copied between machines

`bundle.json` is written last and by rename, so a directory without it was never a bundle.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from stages.errors import BundleError, InputError
from stages.files import replace_file
from stages.geometry import Geometry
from stages.hidden import HEAD, HiddenForm
from stages.tensors import Array, TensorSpec
from stages.text_files import read_json
from stages.tile_code import RGB, TileCode

FORMAT = 2
HEAD_FORMAT = 3  # of bundles whose first window blocks run at the edge; else as 2
# Formats that are read; in 1 a tile is its pixels [S, S, 3] and extents have no top and left.
FORMATS = (1, FORMAT, HEAD_FORMAT)
MANIFEST = "bundle.json"
WEIGHT_STATUS = ("untrained", "undistilled", "distilled")
EDGE_FOLDER = "edge"
PADDING_FILE = f"{EDGE_FOLDER}/padding.npy"
PROBE_FILE = f"{EDGE_FOLDER}/probe.npz"
SHIPPED = Path(__file__).parent / "mini"


@dataclass(frozen=True)
class Stage:
    """One stage's record: `file` is its ONNX, `files` maps every file it needs to its sha256."""

    name: str
    file: str
    files: Mapping[str, str]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    precision: str
    parity: Mapping[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {
            "file": self.file,
            "files": dict(self.files),
            "inputs": [spec.to_json() for spec in self.inputs],
            "outputs": [spec.to_json() for spec in self.outputs],
            "precision": self.precision,
            "parity": dict(self.parity),
        }

    @classmethod
    def from_json(cls, name: str, data: Mapping[str, Any]) -> Stage:
        return cls(
            name,
            data["file"],
            dict(data["files"]),
            tuple(TensorSpec.from_json(spec) for spec in data["inputs"]),
            tuple(TensorSpec.from_json(spec) for spec in data["outputs"]),
            data["precision"],
            dict(data["parity"]),
        )


@dataclass(frozen=True)
class Probe:
    """A synthetic tile, ready to send, and the embedding that a correct site returns.

    `inputs` are the window stage's inputs with n = 1; `embedding` is float32 [1, w, w, r]; `tolerance` is
    the largest `stages.probe.difference`, per wire format: of the root mean square, and of the largest value
    where `by_largest`, in bundles of format 1.
    """

    inputs: Mapping[str, Array]
    embedding: Array
    tolerance: Mapping[str, float]
    by_largest: bool = False


@dataclass(frozen=True)
class Bundle:
    """A bundle opened for reading; `path` is its directory.

    `weights` is one of WEIGHT_STATUS, `trained_on` says where they come from, `embedding_dtype` is the
    dtype of the window stage's `embedding` ("float16", or "float32" for tests), `parity` holds what the
    export measured for the chain of stages. `tiles` is how a tile is sent, and `components` how many
    values a token of an embedding travels as; `variance_kept`, 0 to 1, is their share of its variance.
    `measured` is what `pedsam evaluate --record` found of its masks, nothing before that.

    The first `head_blocks` window blocks run at the edge; what they leave travels as `hidden` says, instead
    of tiles. It is None where there are none.
    """

    path: Path
    geometry: Geometry
    pixel_mean: tuple[float, ...]
    pixel_std: tuple[float, ...]
    weights: str
    trained_on: str
    embedding_dtype: str
    head_blocks: int
    stages: Mapping[str, Stage]
    edge_files: Mapping[str, str]
    probe_tolerance: Mapping[str, float]
    parity: Mapping[str, float] = field(default_factory=dict)
    components: int = field(kw_only=True)
    variance_kept: float = 1.0
    measured: Mapping[str, Any] = field(default_factory=dict)
    tiles: TileCode = RGB
    format: int = FORMAT
    hidden: HiddenForm | None = None

    @cached_property
    def site_digest(self) -> str:
        """Hash of everything that decides what a site computes: "sha256:" and 64 hex digits."""
        facts: dict[str, Any] = {
            "geometry": self.geometry.to_json(),
            "head_blocks": self.head_blocks,
            "pixel_mean": self.pixel_mean,
            "pixel_std": self.pixel_std,
            "files": dict(self.stage("window").files),
        }
        if self.format > 1:
            facts |= self._what_travels
        text = json.dumps(facts, sort_keys=True, separators=(",", ":"))
        return "sha256:" + hashlib.sha256(text.encode()).hexdigest()

    @property
    def _what_travels(self) -> dict[str, Any]:
        hidden = {} if self.hidden is None else {"hidden": self.hidden.to_json()}
        return {"tiles": self.tiles.to_json(), "components": self.components, **hidden}

    @property
    def _since_format_2(self) -> dict[str, Any]:
        measured = {"measured": dict(self.measured)} if self.measured else {}
        return {**self._what_travels, "variance_kept": self.variance_kept, **measured}

    @property
    def embedding_shape(self) -> tuple[int, int, int]:
        """See Geometry.embedding_shape."""
        return self.geometry.embedding_shape(self.components)

    @property
    def is_coded(self) -> bool:
        """Whether tiles, hidden states or embeddings travel as less than they are."""
        hidden = self.hidden or HiddenForm("fp16", self.geometry.dim)
        rounded = hidden.form == "int8" or hidden.components < self.geometry.dim
        return rounded or self.tiles != RGB or self.components < self.geometry.dim

    @property
    def description(self) -> str:
        """Model, weights, precisions lower than fp32, code: "vit_b (distilled weights, fp16, dct:10/3)".

        Of a head it says how many blocks it has: "mini (distilled weights, head of 2)".
        """
        low = sorted({s.precision for s in self.stages.values() if not s.precision.startswith("fp32")})
        coded = [self.tiles.name] if self.tiles != RGB else []
        coded += [f"head of {self.head_blocks}"] if self.head_blocks else []
        return f"{self.geometry.name} ({', '.join([f'{self.weights} weights', *low, *coded])})"

    @property
    def code(self) -> str:
        """What travels to a site and back, for a person: "dct:10/3 tiles, 192 components a token"."""
        return f"{self.sent}, {self.components} components a token"

    @property
    def sent_as(self) -> str:
        """What a site is sent of a window, in short: "dct:10/3", "head of 2, 192 x int8"."""
        if self.hidden is None:
            return self.tiles.name
        return f"head of {self.head_blocks}, {self.hidden.components} x {self.hidden.form}"

    @property
    def sent(self) -> str:
        """The same for a sentence."""
        if self.hidden is None:
            return f"{self.tiles.name} tiles"
        blocks = "1 block" if self.head_blocks == 1 else f"{self.head_blocks} blocks"
        return f"hidden states after {blocks} ({self.hidden.text})"

    def stage(self, name: str) -> Stage:
        if name not in self.stages:
            raise BundleError(f"{self.path} describes no stage {name!r}; export it again")
        return self.stages[name]

    def has(self, name: str) -> bool:
        """Whether this copy of the bundle holds the stage, not only its record.

        A damaged stage counts: opening it says which file is wrong.
        """
        return name in self.stages and (self.path / self.stages[name].file).is_file()

    def verified_file(self, name: str) -> Path:
        """Path of the stage's ONNX after the hashes of all its files were checked.

        Raises BundleError naming the first file that is missing or differs.
        """
        if name == "whole" and not self.has(name):
            raise BundleError(
                f"{self.path / 'whole/model.onnx'} is missing; copy it from the full bundle that pedsam "
                "export wrote, or leave --verify and --whole out, which need this unsplit model"
            )
        stage = self.stage(name)
        self.verify(stage.files)
        return self.path / stage.file

    def padding_embeddings(self) -> Array:
        """Embeddings of windows without picture: [windows, w, w, r] of `embedding_dtype`."""
        padding: Array = np.load(self._edge_file(PADDING_FILE), allow_pickle=False)
        return padding

    def probe(self) -> Probe:
        with np.load(self._edge_file(PROBE_FILE), allow_pickle=False) as arrays:
            inputs = {spec.name: arrays[spec.name] for spec in self.stage("window").inputs}
            return Probe(inputs, arrays["embedding"], self.probe_tolerance, by_largest=self.format == 1)

    def _edge_file(self, name: str) -> Path:
        if name not in self.edge_files:
            raise BundleError(f"{self.path / MANIFEST} records no {name}; export the bundle again")
        self.verify({name: self.edge_files[name]})
        return self.path / name

    def verify(self, files: Mapping[str, str]) -> None:
        """Hash `files` (path inside the bundle: sha256). Raises BundleError for the first that differs."""
        for name, expected in files.items():
            path = self.path / name
            try:
                found = sha256(path)
            except FileNotFoundError as exc:
                raise BundleError(
                    f"{path} is missing; copy it from the full bundle or export the bundle again"
                ) from exc
            except OSError as exc:
                raise BundleError(f"{path} cannot be read ({exc.strerror})") from exc
            if found != expected:
                raise BundleError(f"{path} differs from what {MANIFEST} records; copy or export it again")

    def save(self) -> None:
        """Write `bundle.json` beside stages already in place; the last act of an export."""
        manifest = {
            "format": self.format,
            "model": self.geometry.to_json(),
            "block_order": list(self.geometry.block_order),
            "head_blocks": self.head_blocks,
            "pixel_mean": list(self.pixel_mean),
            "pixel_std": list(self.pixel_std),
            "weights": {"status": self.weights, "trained_on": self.trained_on},
            "embedding_dtype": self.embedding_dtype,
            **(self._since_format_2 if self.format > 1 else {}),
            "stages": {name: stage.to_json() for name, stage in self.stages.items()},
            "edge_files": dict(self.edge_files),
            "probe_tolerance": dict(self.probe_tolerance),
            "parity": dict(self.parity),
            "site_digest": self.site_digest,
        }
        replace_file(self.path / MANIFEST, json.dumps(manifest, indent=1) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> Bundle:
        """Read and check `bundle.json`; files of a stage are hashed when the stage is opened.

        Raises BundleError when the directory is no bundle, of another format, or inconsistent.
        """
        path = Path(path)
        manifest = _read_manifest(path)
        try:
            bundle = cls._from_manifest(path, manifest)
            bundle._check(manifest)
        except (LookupError, TypeError, ValueError, AttributeError) as exc:
            raise BundleError(
                f"{path / MANIFEST} is damaged ({exc!r:.200}); export the bundle again"
            ) from exc
        return bundle

    @classmethod
    def _from_manifest(cls, path: Path, manifest: Mapping[str, Any]) -> Bundle:
        return cls(
            path=path,
            geometry=Geometry.from_json(manifest["model"]),
            pixel_mean=tuple(manifest["pixel_mean"]),
            pixel_std=tuple(manifest["pixel_std"]),
            weights=manifest["weights"]["status"],
            trained_on=manifest["weights"]["trained_on"],
            embedding_dtype=manifest["embedding_dtype"],
            head_blocks=manifest["head_blocks"],
            stages={name: Stage.from_json(name, data) for name, data in manifest["stages"].items()},
            edge_files=dict(manifest["edge_files"]),
            probe_tolerance=dict(manifest["probe_tolerance"]),
            parity=dict(manifest["parity"]),
            **_read_what_travels(manifest),
        )

    def _check(self, manifest: Mapping[str, Any]) -> None:
        where = self.path / MANIFEST
        if self.weights not in WEIGHT_STATUS:
            raise BundleError(
                f"{where} gives weight status {self.weights!r}, expected one of {WEIGHT_STATUS}"
            )
        if not isinstance(self.trained_on, str):
            raise BundleError(
                f"{where} gives trained_on {self.trained_on!r:.80}, expected a text; export the bundle again"
            )
        names = [name for stage in self.stages.values() for name in (stage.file, *stage.files)]
        outside = [name for name in (*names, *self.edge_files) if not _inside(name)]
        if outside:
            raise BundleError(f"{where} names {outside[0]!r}, a file outside the bundle; do not use it")
        for stage in self.stages.values():
            if stage.file not in stage.files:
                raise BundleError(f"{where} records no hash of {stage.file}; export the bundle again")
        if manifest["site_digest"] != self.site_digest:
            raise BundleError(f"{where} was edited: its site digest does not fit its window stage")
        if bool(self.head_blocks) != (self.format == HEAD_FORMAT) or (self.hidden and self.tiles != RGB):
            raise BundleError(
                f"{where} of format {self.format} gives {self.head_blocks!r:.40} head blocks and "
                f"{self.tiles.name} tiles; export the bundle again"
            )
        if self.hidden is not None:
            self._check_head(self.hidden)
        elif self.format > 1:
            self._check_what_travels()

    def _check_what_travels(self) -> None:
        """Raises BundleError unless the window stage takes and gives what `tiles` and `components` say."""
        window = self.stage("window")
        try:
            tile_bytes = self.tiles.tile_bytes(self.geometry)
        except InputError as exc:
            raise BundleError(f"{self.path / MANIFEST}: {exc}; export the bundle again") from exc
        self._check_shape("window", "tile", window.inputs, ("n", tile_bytes))
        self._check_shape("window", "embedding", window.outputs, ("n", *self.embedding_shape))

    def _check_head(self, hidden: HiddenForm) -> None:
        """Raises BundleError unless head and window stage give and take what `hidden` says."""
        most, where = len(self.geometry.window_blocks) - 1, self.path / MANIFEST
        if type(self.head_blocks) is not int or not 1 <= self.head_blocks <= most:
            raise BundleError(
                f"{where} gives {self.head_blocks!r:.40} head blocks, expected 1 to {most}; export the "
                "bundle again"
            )
        window = self.stage("window")
        for spec in hidden.specs(self.geometry):
            self._check_shape(HEAD, spec.name, self.stage(HEAD).outputs, spec.shape)
            self._check_shape("window", spec.name, window.inputs, spec.shape)
        self._check_shape("window", "embedding", window.outputs, ("n", *self.embedding_shape))

    def _check_shape(
        self, stage: str, name: str, specs: Iterable[TensorSpec], shape: tuple[int | str, ...]
    ) -> None:
        found = [spec.shape for spec in specs if spec.name == name]
        if found != [shape]:
            raise BundleError(
                f"{self.path / MANIFEST} gives {self.code}, and a {stage} stage whose {name} is "
                f"{found!r:.80}, expected {[shape]!r:.80}; export the bundle again"
            )


def shipped_bundle() -> Path:
    """Directory of the trained mini bundle that comes with pedsam, in this package."""
    if not (SHIPPED / MANIFEST).is_file():
        raise BundleError(
            f"{SHIPPED}, the bundle that comes with pedsam, is missing, as it is in containers; install "
            "pedsam again, or give --bundle"
        )
    return SHIPPED


def named_bundle(path: Path) -> Path:
    """The directory that a person means: "mini" is what comes with pedsam, unless something of that name lies
    here."""
    return shipped_bundle() if str(path) == SHIPPED.name and not os.path.lexists(path) else path


def is_bundle(path: Path) -> bool:
    """Whether a folder's bundle.json is one of pedsam's, of whatever format, be the rest damaged or not."""
    try:
        manifest = read_json(path / MANIFEST)
    except InputError:
        return False
    return isinstance(manifest, dict) and manifest.keys() >= {"format", "stages", "site_digest"}


def _read_manifest(path: Path) -> dict[str, Any]:
    if not os.path.lexists(path / MANIFEST):
        raise BundleError(f"{path} is no bundle: {_why_none(path)}")
    try:
        manifest = read_json(path / MANIFEST, "the bundle's")
    except InputError as exc:
        raise BundleError(f"{exc}; export the bundle again") from exc
    if not isinstance(manifest, dict) or manifest.get("format") not in FORMATS:
        found = manifest.get("format") if isinstance(manifest, dict) else None
        raise BundleError(
            f"{path / MANIFEST} has format {found!r}, expected one of {FORMATS}; export the bundle again"
        )
    return manifest


def _read_what_travels(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """How tiles and embeddings travel, as arguments of Bundle."""
    if manifest["format"] == 1:
        return {"format": 1, "components": manifest["model"]["dim"]}
    return {
        "format": manifest["format"],
        "tiles": TileCode.from_json(manifest["tiles"]),
        "components": int(manifest["components"]),
        "variance_kept": float(manifest["variance_kept"]),
        "measured": dict(manifest.get("measured", {})),
        "hidden": HiddenForm.from_json(manifest["hidden"]) if manifest["format"] == HEAD_FORMAT else None,
    }


def _why_none(path: Path) -> str:
    """A clause about a path without a manifest, and what to give instead."""
    if not os.path.lexists(path):
        other = ", or give --bundle mini, which comes with pedsam" if path.name == SHIPPED.name else ""
        return f"nothing is there; make one with pedsam export{other}"
    folder = path if path.is_dir() else path.parent
    near = [
        each for each in (folder, folder.parent, *sorted(folder.glob("*/"))) if (each / MANIFEST).is_file()
    ]
    advice = f"give --bundle {near[0]}" if near else "make one with pedsam export"
    return f"it {f'holds no {MANIFEST}' if path.is_dir() else 'is a file, expected a folder'}; {advice}"


def _inside(name: str) -> bool:
    parts = PurePosixPath(name)
    return not parts.is_absolute() and ".." not in parts.parts


def sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def hash_files(root: Path, names: Iterable[str]) -> dict[str, str]:
    return {name: sha256(root / name) for name in names}
