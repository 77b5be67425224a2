"""requirements-jetson.txt: the wheels of the Jetson's container, each with its hash.

The extras edge and mqtt of pyproject.toml in the versions of constraints.txt, or of constraints-jetson.txt
where that names another, as pip finds them on PyPI for Linux on aarch64. `python -m benchmarks.jetson_lock`
writes the file; `--check` compares it with these files, without a network; `--resolve` asks PyPI again and
compares.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.tags import Tag
from packaging.utils import canonicalize_name, parse_wheel_filename

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parent.parent
LOCK = ROOT / "requirements-jetson.txt"
# JetPack 6 has Python 3.10 and JetPack 7.2 has 3.12. `make image-check` builds on Debian 12, which has 3.11.
PYTHONS = ("3.10", "3.11", "3.12")
# NVIDIA's OpenCV, in the base, has GStreamer; the one on PyPI has none and would hide it.
LEFT_OUT = {"opencv-python-headless"}
# pycuda is compiled: Dockerfile.jetson names its source and hash. It needs these, the last one to be built.
FOR_PYCUDA = ("pytools>=2011.2", "platformdirs>=2.2.0", "mako", "setuptools")
ROOTS = ("pedsam[edge]", "pedsam[mqtt]", "pycuda")
GLIBC = range(17, 36)  # Ubuntu 22.04 has glibc 2.35: wheels for 2.17 to 2.35 run there
HEADER = """\
# Written by `make jetson-lock`; not to be edited. What Dockerfile.jetson installs besides pycuda and OpenCV,
# from pyproject.toml, constraints.txt and constraints-jetson.txt: wheels for Python 3.10 to 3.12 on aarch64.
"""


@dataclass(frozen=True)
class Locked:
    """One distribution in one version: for which Pythons, SHA-256 of its wheels by file name, who asks."""

    name: str
    version: str
    pythons: tuple[str, ...]
    wheels: dict[str, str] = field(default_factory=dict)
    via: frozenset[str] = frozenset()


class LockError(Exception):
    """The files contradict each other; the message says which and what to do."""


def environment(python: str) -> dict[str, str]:
    """What markers see on a Jetson with this Python, without an extra."""
    board = {"python_version": python, "python_full_version": f"{python}.12", "platform_machine": "aarch64"}
    system = {"sys_platform": "linux", "platform_system": "Linux", "os_name": "posix", "extra": ""}
    return {**cast("dict[str, str]", default_environment()), **board, **system}


def applies(requirement: Requirement, python: str) -> bool:
    return requirement.marker is None or requirement.marker.evaluate(environment(python))


def pins(python: str) -> dict[str, str]:
    """Version of each distribution for this Python, the Jetson's own over those of every place."""
    found: dict[str, str] = {}
    for name in ("constraints.txt", "constraints-jetson.txt"):
        lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
        for pin in (Requirement(line) for line in lines if line and not line.startswith("#")):
            if applies(pin, python):
                found[canonicalize_name(pin.name)] = next(iter(pin.specifier)).version
    return found


def roots(python: str) -> Iterator[tuple[Requirement, str]]:
    """What is asked for directly, with who asks."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    asking = ([*project["dependencies"], *extras["edge"]], extras["mqtt"], FOR_PYCUDA)
    for via, texts in zip(ROOTS, asking, strict=True):
        for requirement in map(Requirement, texts):
            if applies(requirement, python) and requirement.name not in LEFT_OUT:
                yield requirement, via


def resolve(python: str) -> dict[str, Locked]:
    """The closure of the roots in the pinned versions, a layer of requirements at a time, from PyPI."""
    pinned, found = pins(python), dict[str, Locked]()
    waiting = list(roots(python))
    while waiting:
        layer = {canonicalize_name(each.name): pinned_version(each, pinned, python) for each, _ in waiting}
        new: dict[str, str] = {name: version for name, version in layer.items() if name not in found}
        items = {canonicalize_name(item["metadata"]["name"]): item for item in from_pypi(new, python)}
        found |= {name: locked(name, item, python) for name, item in items.items()}
        for each, via in waiting:
            name = canonicalize_name(each.name)
            found[name] = replace(found[name], via=found[name].via | {via})
        waiting = [(each, name) for name, item in items.items() for each in requires(item, python)]
    return found


def pinned_version(requirement: Requirement, pinned: dict[str, str], python: str) -> str:
    version = pinned.get(canonicalize_name(requirement.name))
    if version is None or not requirement.specifier.contains(version):
        raise LockError(
            f"Python {python}: {requirement} is asked for and {version or 'no version'} is pinned; "
            "pin one that fits in constraints.txt or constraints-jetson.txt"
        )
    return version


def requires(item: dict[str, Any], python: str) -> Iterator[Requirement]:
    for requirement in map(Requirement, item["metadata"].get("requires_dist", ())):
        if applies(requirement, python):
            yield requirement


def locked(name: str, item: dict[str, Any], python: str) -> Locked:
    source = item["download_info"]
    wheel = source["url"].rsplit("/", 1)[-1]
    return Locked(
        name, item["metadata"]["version"], (python,), {wheel: source["archive_info"]["hashes"]["sha256"]}
    )


def from_pypi(wanted: dict[str, str], python: str) -> list[dict[str, Any]]:
    """pip's report of the wheels of these versions. Raises LockError with pip's words where there is none."""
    if not wanted:
        return []
    digits = python.replace(".", "")
    platforms = [f"manylinux_2_{minor}_aarch64" for minor in reversed(GLIBC)] + ["manylinux2014_aarch64"]
    with tempfile.TemporaryDirectory() as folder:
        line = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--isolated",
            "--quiet",
            "--dry-run",
            "--ignore-installed",
        ]
        line += ["--no-deps", "--report", "-", "--target", folder, "--index-url", "https://pypi.org/simple"]
        line += ["--disable-pip-version-check", "--only-binary", ":all:", "--implementation", "cp"]
        line += ["--python-version", python, "--abi", f"cp{digits}", "--abi", "abi3", "--abi", "none"]
        line += [word for platform in platforms for word in ("--platform", platform)]
        line += [f"{name}=={version}" for name, version in wanted.items()]
        asked = {**os.environ, "PIP_CONFIG_FILE": os.devnull}  # a machine's own indexes have other files
        done = subprocess.run(line, capture_output=True, text=True, check=False, env=asked)
    if done.returncode:
        raise LockError(f"Python {python}: {done.stderr.strip().splitlines()[-1]}")
    installed: list[dict[str, Any]] = json.loads(done.stdout)["install"]
    return installed


def merged(resolved: Iterable[dict[str, Locked]]) -> list[Locked]:
    """One entry for each distribution and version, by name, then by Python."""
    found: dict[tuple[str, str], Locked] = {}
    for each in (each for one in resolved for each in one.values()):
        before = found.get((each.name, each.version), replace(each, pythons=(), wheels={}, via=frozenset()))
        found[each.name, each.version] = replace(
            before,
            pythons=(*before.pythons, *each.pythons),
            wheels={**before.wheels, **each.wheels},
            via=before.via | each.via,
        )
    return sorted(found.values(), key=lambda each: (each.name, each.pythons))


def text(entries: Iterable[Locked]) -> str:
    return HEADER + "".join(map(entry_text, entries))


def entry_text(entry: Locked) -> str:
    wheels = sorted(entry.wheels.items())
    pin = f"{entry.name}=={entry.version}"
    if entry.pythons != PYTHONS:
        pin += "; " + " or ".join(f'python_version == "{python}"' for python in entry.pythons)
    lines = [f"# via {', '.join(sorted(entry.via))}", *(f"# {name}" for name, _ in wheels)]
    return "\n".join(
        ["", *lines, " \\\n    ".join([pin, *(f"--hash=sha256:{digest}" for _, digest in wheels)]), ""]
    )


def parse(written: str) -> list[Locked]:
    """The entries of the file. Raises LockError where it is not as this module writes it."""
    entries = [parse_entry(block) for block in written.split("\n\n")[1:]]
    if text(entries) != written:
        raise LockError("it was edited by hand, or is cut short: `make jetson-lock` writes it anew")
    return entries


def parse_entry(block: str) -> Locked:
    comments = re.findall(r"^# (.+)$", block, re.MULTILINE)
    wheels = [name for name in comments if name.endswith(".whl")]
    hashes = re.findall(r"--hash=sha256:([0-9a-f]{64})", block)
    pin = Requirement(block.splitlines()[len(comments)].rstrip(" \\"))
    if len(wheels) != len(hashes):
        raise LockError(f"{pin.name} has {len(wheels)} wheels and {len(hashes)} hashes")
    return Locked(
        pin.name,
        next(iter(pin.specifier)).version,
        tuple(python for python in PYTHONS if applies(pin, python)),
        dict(zip(wheels, hashes, strict=True)),
        frozenset(name for via in comments if via.startswith("via ") for name in via[4:].split(", ")),
    )


def problems(entries: list[Locked]) -> Iterator[str]:
    """Where the lock does not fit pyproject.toml and the constraints, a sentence each."""
    asking = {python: set(asked(python)) for python in PYTHONS}
    for python in PYTHONS:
        here = {entry.name: entry for entry in entries if python in entry.pythons}
        yield from (f"Python {python}: {sentence}" for sentence in missing(python, here))
        yield from (f"Python {python}: {sentence}" for sentence in unfit(python, here))
    for entry in entries:
        for via in sorted(entry.via & set(ROOTS)):
            if not any((entry.name, via) in asking[python] for python in entry.pythons):
                yield f"{entry.name} is locked for {via}, which does not ask for it"


def asked(python: str) -> Iterator[tuple[str, str]]:
    for requirement, via in roots(python):
        yield canonicalize_name(requirement.name), via


def missing(python: str, here: dict[str, Locked]) -> Iterator[str]:
    for requirement, via in roots(python):
        entry = here.get(canonicalize_name(requirement.name))
        if entry is None or via not in entry.via:
            yield f"{requirement} of {via} is not in it"
        elif not requirement.specifier.contains(entry.version):
            yield f"{requirement} is asked for and {entry.version} locked"


def unfit(python: str, here: dict[str, Locked]) -> Iterator[str]:
    pinned = pins(python)
    for name, entry in here.items():
        if not entry.via & {*here, *ROOTS}:
            yield f"nothing asks for {name}"
        if entry.version != pinned.get(name):
            yield f"{name} is locked at {entry.version} and pinned at {pinned.get(name, 'no version')}"
        if not any(runs_on_a_jetson(wheel, python) for wheel in entry.wheels):
            yield f"{name} {entry.version} has no wheel for aarch64"


def runs_on_a_jetson(wheel: str, python: str) -> bool:
    """Whether a wheel of this file name installs there."""
    interpreter = f"cp{python.replace('.', '')}"
    _, _, _, tags = parse_wheel_filename(wheel)
    return any(fits(tag, interpreter) for tag in tags)


def fits(tag: Tag, interpreter: str) -> bool:
    platforms = {"any", "manylinux2014_aarch64", *(f"manylinux_2_{minor}_aarch64" for minor in GLIBC)}
    if tag.platform not in platforms:
        return False
    if tag.abi == "abi3":  # of this Python or an older one
        return int(tag.interpreter[3:]) <= int(interpreter[3:])
    return tag.abi in ("none", interpreter) and tag.interpreter in (interpreter, "py3", "py2.py3")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare with the files it comes from, offline")
    parser.add_argument("--resolve", action="store_true", help="ask PyPI again and compare")
    options = parser.parse_args()
    try:
        if options.check:
            if found := list(problems(parse(LOCK.read_text(encoding="utf-8")))):
                raise LockError("; ".join(found))
            return
        fresh = text(merged(resolve(python) for python in PYTHONS))
        if not options.resolve:
            LOCK.write_text(fresh, encoding="utf-8")
        elif fresh != LOCK.read_text(encoding="utf-8"):
            raise LockError("PyPI has other wheels for these versions by now")
    except LockError as exc:
        sys.exit(f"{LOCK.name}: {exc}. `make jetson-lock` writes it anew.")


if __name__ == "__main__":
    main()
