"""`edge.toml`: the options of `pedsam run` in a file, for an edge that runs as a service.

Every key is an option of the command line without its dashes; an option that is given as well wins. Paths are
relative to the file. All keys are optional; in brackets what holds without them.

[source]
source = "rtsp://camera/main"    # as --source                                    (needed here or as option)
camera_size = "1280x720"         # what to ask a camera for                       (its own)
camera_fps = 30.0                #                                                (its own)
rotate = 0                       # degrees clockwise: 0, 90, 180 or 270           (0)
realtime = false                 # play a video file as if it were a camera       (false)

[loop]
bundle = "bundles/vit_b"         #                                                (the shipped mini model)
backend = "auto"                 #                                                ("auto")
threads = 4                      # CPU threads of an engine                       (one a core)
wire = "fp16"                    # what sites answer with                         (the bundle's own)
in_flight = 3                    # frames whose windows travel at once, at most   (3)
keyframe_every = 1               # run the model on every Nth frame               (1)
max_fps = 10.0                   #                                                (no limit)
max_mbit = 50.0                  # sent to all sites together, megabits a second  (no limit)
track = true                     # follow objects                                 (true for films)
prompts = "prompts.json"         # what to segment; of a live source kept there   (none)
allow_undistilled = false        #                                                (false)

[privacy]
sites = "sites.toml"             #                                                (every window runs here)
accept_exposure = false          # let one operator alone see every window        (false)
insecure = false                 # plain http to sites off loopback               (false)
reuse_threshold = 0.0            # grey levels a window may change and not be sent  (0.0)

[sinks]
out = "out"                      # masks, overlays, summary.json                  (needed for files)
record = false                   #                                                (true for files, else false)
record_mb = 1000.0               # space of a live source's recording             (1000.0)
trace = "trace.json"             # timeline for Perfetto                          (none)
preview = 8080                   # port of the page on which to watch and click   (none)
preview_host = "127.0.0.1"       #                                                ("127.0.0.1")
preview_keys = "keys/preview"    # from pedsam keys --preview; needed off loopback  (none)
preview_width = 1280             # longest side of the page's pictures, pixels    (1280)
metrics_port = 9100              # Prometheus                                     (none)
metrics_host = "127.0.0.1"       #                                                ("127.0.0.1")
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from stages.errors import InputError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

TABLES: Mapping[str, tuple[str, ...]] = {
    "source": ("source", "camera_size", "camera_fps", "rotate", "realtime"),
    "loop": (
        "bundle", "backend", "threads", "wire", "in_flight", "keyframe_every", "max_fps", "max_mbit", "track",
        "prompts", "allow_undistilled",
    ),
    "privacy": ("sites", "accept_exposure", "insecure", "reuse_threshold"),
    "sinks": (
        "out", "record", "record_mb", "trace", "preview", "preview_host", "preview_keys", "preview_width",
        "metrics_port", "metrics_host",
    ),
}  # fmt: skip


def read_edge(path: Path, options: Mapping[str, click.Parameter]) -> dict[str, Any]:
    """Values by option name. `options` are those of the command: they say which type a key has.

    Raises InputError in one sentence for whatever is wrong with the file.
    """
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as exc:
        raise InputError(f"edge file {path} cannot be read: {exc}") from exc
    values: dict[str, Any] = {}
    try:
        for name, table in data.items():
            values |= _table(name, table, options)
    except InputError as exc:
        raise InputError(f"edge file {path}: {exc}") from exc
    return {key: _resolved(path.parent, key, value, options[key]) for key, value in values.items()}


def _table(name: str, table: Any, options: Mapping[str, click.Parameter]) -> dict[str, Any]:
    if name not in TABLES:
        raise InputError(f"it has the unknown table [{name}]; known are {', '.join(TABLES)}")
    if not isinstance(table, dict):
        raise InputError(f"{name} is a table: write [{name}] above its keys")
    for key, value in table.items():
        if key not in TABLES[name]:
            raise InputError(f"[{name}] has the unknown key {key!r}; known are {', '.join(TABLES[name])}")
        expected = _type_of(options[key])
        if type(value) is not expected and not (expected is float and type(value) is int):
            raise InputError(f"{key} in [{name}] is {value!r:.80}, expected {_NAMES[expected]}")
    return table


_NAMES: Mapping[type, str] = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}


def _type_of(option: click.Parameter) -> type:
    """What TOML has to hold for an option."""
    if isinstance(option.type, click.types.BoolParamType):
        return bool
    if isinstance(option.type, click.types.IntParamType):
        return int
    return float if isinstance(option.type, click.types.FloatParamType) else str


def _resolved(folder: Path, key: str, value: Any, option: click.Parameter) -> Any:
    """Paths are relative to the file; a source is a path if it names something that is there."""
    if isinstance(option.type, click.Path):
        return str(folder / value)
    if key == "source" and (folder / value).exists():
        return str(folder / value)
    return value
