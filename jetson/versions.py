"""A version of the edge: its image, its part of the bundle, its configuration, secrets, unit and script.

Everything but image and bundle is small and made here as bytes. A version's ID is the hash of all of it, so
that flashing the same thing twice finds it there. jetson/scripts/versions.sh says where it lies on a board.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import shlex
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from string import Template
from typing import Any

from jetson.connection import SCRIPTS
from stages.errors import InputError
from stages.text_files import read_toml
from stages.tls import CERTIFICATE, KEY, TOKEN

FILES = Path(__file__).parent / "files"
UNIT = "pedsam.service"
MAX_SOURCE_BYTES = 500_000_000
# Where the container finds a version's folders.
INSIDE = "/pedsam"
HEARTBEAT = "/run/pedsam/heartbeat"
# Keys of edge.toml that name what a run writes, and what they are called on the board.
STATE_FILES = {"out": "out", "trace": "trace.json"}
KEY_FOLDERS = ("preview_keys", "metrics_keys", "mjpeg_keys")
KEY_FILES = ("mqtt_password_file", "mqtt_ca")
SITE_FILES = ("token_file", "ca", "cert", "key")


@dataclass(frozen=True)
class Edge:
    """What edge.toml and sites.toml say, as far as flashing has to know. `values` are edge.toml's, by key."""

    config: Path
    values: Mapping[str, Any] = field(repr=False)  # a source may hold a password
    sites: tuple[Mapping[str, Any], ...]
    sites_folder: Path

    @property
    def source(self) -> str:
        """A camera, a stream, or files, which go to the board too."""
        return str(self.values["source"])

    @property
    def source_file(self) -> Path | None:
        path = self.config.parent / self.source
        try:
            return path if path.is_file() or path.is_dir() else None
        except (OSError, ValueError):  # a long address is no name of a file
            return None

    @property
    def prompts_file(self) -> Path | None:
        """What to segment, where edge.toml names a file of it that is there."""
        path = self.config.parent / str(self.values["prompts"]) if "prompts" in self.values else None
        return path if path is not None and path.is_file() else None

    @property
    def serves_page(self) -> bool:
        return "preview" in self.values

    @property
    def run_arguments(self) -> list[str]:
        """`pedsam run` in the container: edge.toml, and where its files are there."""
        words = [
            *("run", "--config", f"{INSIDE}/config/edge.toml", "--bundle", f"{INSIDE}/bundle"),
            *("--sites", f"{INSIDE}/config/sites.toml", "--ledger", f"{INSIDE}/state/ledger.json"),
            *("--heartbeat", HEARTBEAT),
        ]
        if self.source_file is None or self.values.get("realtime"):  # objects are kept of live sources alone
            words += ["--state", f"{INSIDE}/state/objects.json"]
        if self.prompts_file is not None:
            words += ["--prompts", f"{INSIDE}/config/prompts.json"]
        for key, name in STATE_FILES.items():
            if key in self.values:
                words += [_option(key), f"{INSIDE}/state/{name}"]
        for key in (*KEY_FOLDERS, *KEY_FILES):
            if key in self.values:
                words += [_option(key), f"{INSIDE}/keys/{key}"]
        if self.source_file is not None:
            words += ["--source", f"{INSIDE}/config/{_source_name(self.source_file)}"]
        return words


def read_edge(config: Path, sites: Path) -> Edge:
    """Raises InputError, in one sentence, for files that cannot be read or do not make a service."""
    tables = read_toml(config, "edge file")
    values = {
        key: value for table in tables.values() if isinstance(table, dict) for key, value in table.items()
    }
    if not isinstance(values.get("source"), str) or not values["source"]:
        raise InputError(f'{config} names no source; write source = "csi://0" or the like under [source]')
    if "preview" not in values and "prompts" not in values:
        raise InputError(
            f"{config} says neither where to click nor what to segment; write preview = 8080 under [sinks], "
            'or prompts = "prompts.json" under [loop]'
        )
    listed = read_toml(sites, "sites file").get("site")
    if not isinstance(listed, list) or not listed or not all(isinstance(each, dict) for each in listed):
        raise InputError(f"sites file {sites} must hold one [[site]] table a site; see `pedsam keys`")
    return Edge(config, values, tuple(listed), sites.parent)


@dataclass(frozen=True)
class Version:
    """`image` is the image's tag on the board; `files` are the small files, by their path in the version's
    folder; `bundle` is the hash of each file of the bundle's part."""

    id: str
    image: str
    files: Mapping[str, bytes] = field(repr=False)  # keys and tokens among them
    bundle: Mapping[str, str]

    def tar(self) -> bytes:
        """The small files: readable by their owner alone, scripts executable."""
        return tar_of({name: (data, _mode(name)) for name, data in self.files.items()})

    def checksums(self) -> bytes:
        """The small files as `sha256sum --check` reads them."""
        return checksum_lines({name: hashlib.sha256(data).hexdigest() for name, data in self.files.items()})


@dataclass(frozen=True)
class Service:
    """Who runs the service: a user of the board, whose folder ~/pedsam is `base`. `power` is the mode that is
    set, and whose clocks are pinned, before each start."""

    user: str
    base: str
    power: str | None

    def files(self) -> dict[str, bytes]:
        """The systemd unit, and the script that it runs for the power mode."""
        template = Template((FILES / UNIT).read_text(encoding="utf-8"))
        # "+": as root; "-": where it fails, the service starts all the same
        before = (
            f"ExecStartPre=+-/usr/bin/timeout -k 5 60 /bin/sh {self.base}/current/power.sh boot {self.power}"
            if self.power
            else ""
        )
        unit = template.substitute(user=self.user, base=self.base, before=before).encode()
        script = {"power.sh": (SCRIPTS / "power.sh").read_bytes()} if self.power else {}
        return {UNIT: unit, **script}


def make_version(
    edge: Edge,
    bundle: Mapping[str, str],
    image: str,
    memory_mb: int,
    service: Service | None,
    *,
    allow_undistilled: bool = False,
) -> Version:
    """The version that these make up. Without `service` docker starts it."""
    arguments = [*edge.run_arguments, *(["--allow-undistilled"] if allow_undistilled else [])]
    environment = {"IMAGE": image, "MEMORY_MB": str(memory_mb), "RUN_ARGUMENTS": shlex.join(arguments)}
    files = {
        "config/edge.toml": edge.config.read_bytes(),
        "config/smoke.jpg": (FILES / "smoke.jpg").read_bytes(),
        "container.sh": (FILES / "container.sh").read_bytes(),
        "version.env": "".join(
            f"{name}={shlex.quote(text)}\n" for name, text in environment.items()
        ).encode(),
        **_site_files(edge),
        **_key_folders(edge),
        **_key_files(edge),
        **_given_files(edge),
        **(service.files() if service else {}),
    }
    facts = [f"{digest} {name}" for name, digest in sorted(bundle.items())]
    facts += [f"{hashlib.sha256(data).hexdigest()} {name}" for name, data in sorted(files.items())]
    name = hashlib.sha256("\n".join(facts).encode()).hexdigest()[:12]
    return Version(name, image, files, bundle)


def _site_files(edge: Edge) -> dict[str, bytes]:
    """sites.toml with the paths it has on the board, and the files it names."""
    files, tables = {}, []
    for number, site in enumerate(edge.sites):
        lines = ["[[site]]"]
        for key, value in site.items():
            if key in SITE_FILES:
                name = f"keys/site-{number}/{key}"
                files[name] = _bytes(edge.sites_folder / str(value), f"{key} of site {site.get('name')}")
                value = f"../{name}"
            lines.append(f"{key} = {json.dumps(value)}")  # a string, number or boolean of JSON is one of TOML
        tables.append("\n".join(lines) + "\n")
    return {"config/sites.toml": "\n".join(tables).encode(), **files}


def _key_folders(edge: Edge) -> dict[str, bytes]:
    """What an endpoint needs of the folders of `pedsam keys --preview`; the authority's key stays here."""
    return {
        f"keys/{key}/{name}": _bytes(edge.config.parent / str(edge.values[key]) / name, key)
        for key in KEY_FOLDERS
        if key in edge.values
        for name in (CERTIFICATE, KEY, TOKEN)
    }


def _key_files(edge: Edge) -> dict[str, bytes]:
    """What it takes to talk to a broker."""
    return {
        f"keys/{key}": _bytes(edge.config.parent / str(edge.values[key]), key)
        for key in KEY_FILES
        if key in edge.values
    }


def _given_files(edge: Edge) -> dict[str, bytes]:
    """Prompts, and a source that is a file or a folder of them."""
    files = {}
    if edge.prompts_file is not None:
        files["config/prompts.json"] = _bytes(edge.prompts_file, "prompts")
    source = edge.source_file
    if source is None:
        return files
    paths = sorted(path for path in source.iterdir() if path.is_file()) if source.is_dir() else [source]
    size = sum(path.stat().st_size for path in paths)
    if size > MAX_SOURCE_BYTES:
        raise InputError(
            f"source {source} holds {size / 1e6:.0f} MB, and at most {MAX_SOURCE_BYTES / 1e6:.0f} MB go to a "
            "board; name a camera or a stream, or take a part of it"
        )
    for path in paths:
        below = f"/{_printable_name(path)}" if source.is_dir() else ""
        files[f"config/{_source_name(source)}{below}"] = _bytes(path, "source")
    return files


def _printable_name(path: Path) -> str:
    """The name of a file of a source. Raises InputError for one that no list of checksums can hold."""
    if not path.name.isprintable() or "\\" in path.name:
        raise InputError(f"source: {path.name!r} has characters that are not printable; give it another name")
    return path.name


def _source_name(source: Path) -> str:
    """A word that needs no quotes."""
    suffix = source.suffix.lower()
    return f"source{suffix}" if source.is_file() and re.fullmatch(r"\.[a-z0-9]+", suffix) else "source"


def _option(key: str) -> str:
    return "--" + key.replace("_", "-")


def _bytes(path: Path, what: str) -> bytes:
    try:
        return path.read_bytes()
    except (OSError, ValueError) as exc:  # ValueError: a null byte in its name
        said = exc.strerror if isinstance(exc, OSError) else exc
        raise InputError(f"{what}: {path} cannot be read ({said})") from exc


def tar_of(files: Mapping[str, tuple[bytes, int]]) -> bytes:
    """A tar of contents and permissions by path, the same for the same files."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, (data, mode) in sorted(files.items()):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(data), mode
            tar.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


def checksum_lines(hashes: Mapping[str, str]) -> bytes:
    """As sha256sum writes them."""
    return "".join(f"{digest}  {name}\n" for name, digest in sorted(hashes.items())).encode()


def _mode(name: str) -> int:
    return 0o700 if name.endswith(".sh") else 0o600
