"""Where each option of `run` does something."""

from __future__ import annotations

from runtime.options import KINDS, LIVE_ALONE, NEEDS, TABLES
from stages.options import IDLE_THREADS

OPTIONS = {str(option.name) for options in TABLES.values() for option in options}
# These do what they say for every source, and whatever else is given; --verify and --out are checked apart.
FOR_ALL = {
    "source", "bundle", "backend", "wire", "boxes", "points", "prompts", "allow_undistilled", "verify",
    "dry_run", "encoder", "sites", "out", "record", "rotate", "trace", "preview", "metrics_port", "heartbeat",
    "mjpeg", "mqtt",
}  # fmt: skip


def test_of_every_option_it_is_known_where_it_does_something() -> None:
    known = {*KINDS, *LIVE_ALONE, *NEEDS, *IDLE_THREADS}
    assert known | FOR_ALL == OPTIONS
    assert not known & FOR_ALL
    assert set(NEEDS.values()) <= OPTIONS
    assert {other for other, _ in IDLE_THREADS.values()} <= OPTIONS
