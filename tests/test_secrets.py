"""Nothing that holds a secret shows it when it is printed."""

from __future__ import annotations

import dataclasses
import importlib
import re
from collections.abc import Iterator
from pathlib import Path

from jetson.board.findings import Wanted
from jetson.versions import Edge, Version
from runtime.frames.cameras import CameraOptions
from runtime.sites.config import SiteConfig
from stages.address import Address
from tests.test_isolation import modules_of

SECRET = re.compile("token|secret|password|passphrase|(^|_)keys?$", re.IGNORECASE)
# Fields that are called so and hold none: paths, what a plan or an object is found by, and a class whose own
# fields are looked at.
HARMLESS = re.compile(r"Path( \| None)?|PlanKey|SiteKeys \| None")
NAMES = {"runtime.objects.registry.TrackedObject.key"}


def secret_fields() -> Iterator[tuple[str, dataclasses.Field[object]]]:
    """Each with its full name, of every dataclass of a site, an edge and the tools for boards."""
    for name in (
        name for top in ("stages", "media", "runtime", "server", "jetson") for name in modules_of(top)
    ):
        module = importlib.import_module(name)
        kinds = (kind for kind in vars(module).values() if isinstance(kind, type) and kind.__module__ == name)
        for kind in filter(dataclasses.is_dataclass, kinds):
            for field in dataclasses.fields(kind):
                if SECRET.search(field.name):
                    yield f"{name}.{kind.__name__}.{field.name}", field


def test_no_field_that_holds_a_secret_is_in_the_repr_of_its_dataclass() -> None:
    shown = {
        name for name, field in secret_fields() if field.repr and not HARMLESS.fullmatch(str(field.type))
    }
    assert shown == NAMES
    assert len(list(secret_fields())) > 10


def test_secrets_are_not_printed() -> None:
    address = "rtsp://admin:s3cret@cam/x"
    site = SiteConfig("a", "alpha", "https://a", token="s3cret")  # noqa: S106
    edge = Edge(Path("edge.toml"), {"source": address}, (), Path())
    version = Version("1", "image", {"keys/token": b"s3cret"}, {})
    for holder in (
        site,
        edge,
        version,
        CameraOptions(proxy=Address(address)),
        Wanted(address="b", sources=(address,)),
    ):
        assert "s3cret" not in f"{holder} {holder!r} {[holder]}"
