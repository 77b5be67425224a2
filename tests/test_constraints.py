"""constraints.txt pins whatever pyproject.toml asks for, once for each Python."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
UNPINNED = {
    "pedsam",
    "atheris",
    "tomli",
}  # ourselves; needed by `make fuzz` alone; needed by Python 3.10 alone


def requirements() -> Iterator[Requirement]:
    for texts in ([PROJECT["dependencies"]], PROJECT["optional-dependencies"].values()):
        for text in texts:
            yield from map(Requirement, text)


def pins(python: str) -> dict[str, str]:
    """The pinned version of each package for a Python like "3.11"."""
    found: dict[str, str] = {}
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            continue
        pin = Requirement(line)
        if pin.marker is None or pin.marker.evaluate({"python_version": python}):
            (version,) = pin.specifier
            assert version.operator == "==", line
            assert canonicalize_name(pin.name) not in found, line
            found[canonicalize_name(pin.name)] = version.version
    return found


@pytest.mark.parametrize("python", ["3.10", "3.11", "3.12", "3.13"])
def test_every_requirement_is_pinned_to_a_version_it_allows(python: str) -> None:
    pinned = pins(python)
    for each in requirements():
        if each.name not in UNPINNED:
            assert each.specifier.contains(pinned[canonicalize_name(each.name)]), each


def test_torch_is_named_without_its_build() -> None:
    """A local version like 2.13.0+cpu is on no public index, and others would bring CUDA along."""
    assert pins("3.11")["torch"] == "2.13.0"
