"""What a container's recipe says of this project is true: files it copies, options it sets by environment."""

from __future__ import annotations

import io
import re
import tarfile

import click
import pytest

from jetson.board.releases import OFFERED
from jetson.steps.image import build_context
from runtime.cli import command as run
from server.cli import command as serve
from tests.support.bundles import ROOT
from tests.test_isolation import PYPROJECT

SITE = (ROOT / "Dockerfile.site").read_text(encoding="utf-8")
JETSON = (ROOT / "Dockerfile.jetson").read_text(encoding="utf-8")
EDGE = (ROOT / "Dockerfile.edge").read_text(encoding="utf-8")
LOCK = {"constraints.txt", "constraints-jetson.txt", "requirements-jetson.txt"}
every = pytest.mark.parametrize("recipe", [SITE, JETSON, EDGE], ids=["site", "jetson", "edge"])
with_an_edge = pytest.mark.parametrize("recipe", [JETSON, EDGE], ids=["jetson", "edge"])


def admitted(ignore: str) -> set[str]:
    """What an ignore file lets through to the builder."""
    lines = (ROOT / ignore).read_text(encoding="utf-8").splitlines()
    return {line[1:] for line in lines if line[0] == "!"}


def copied(dockerfile: str) -> set[str]:
    """Files and folders that it copies from this project, whole."""
    lines = re.findall(r"^COPY (?!--from)(.+)$", dockerfile, re.MULTILINE)
    return {source for line in lines for source in line.split()[:-1] if "/" not in source}


def test_what_is_copied_reaches_the_builder() -> None:
    assert copied(SITE) | copied(JETSON) == admitted(".dockerignore")
    assert copied(EDGE) == admitted("Dockerfile.edge.dockerignore")


def test_a_bundle_is_no_part_of_an_image() -> None:
    """A board and a site get their own."""
    with tarfile.open(fileobj=io.BytesIO(build_context())) as context:
        names = context.getnames()
    assert {"Dockerfile.jetson", "pedsam/command.py", "stages/bundle.py"} <= set(names)
    assert not [name for name in names if name.startswith("stages/mini/")]


@every
def test_what_is_copied_exists(recipe: str) -> None:
    lines = re.findall(r"^COPY (?!--from)(.+)$", recipe, re.MULTILINE)
    assert all((ROOT / source).exists() for line in lines for source in line.split()[:-1])


@every
def test_every_package_is_copied(recipe: str) -> None:
    shipped = PYPROJECT["tool"]["setuptools"]
    folders = {pattern.rstrip("*") for pattern in shipped["packages"]["find"]["include"]}
    assert folders | {"pyproject.toml", PYPROJECT["project"]["readme"]} == copied(recipe) - LOCK


def argument(name: str) -> str:
    """The default of an argument of Dockerfile.jetson, the same wherever it is set."""
    (value,) = set(re.findall(rf'^ARG {name}="?(.+?)"?$', JETSON, re.MULTILINE))
    return str(value)


@pytest.mark.parametrize("name", ["BUILD_BASE", "RUN_BASE"])
def test_the_bases_of_the_jetson_are_pinned(name: str) -> None:
    assert re.search(r":[\w.]+@sha256:[0-9a-f]{64}$", argument(name))


def test_the_jetsons_base_is_the_one_that_boards_are_offered() -> None:
    assert [base.image for base in OFFERED] == [argument("BUILD_BASE")]


def test_pycuda_is_pinned_to_one_source() -> None:
    constraints = (ROOT / "constraints-jetson.txt").read_text(encoding="utf-8").splitlines()
    pin, _, digest = argument("PYCUDA").partition(" ")
    assert pin in constraints
    assert re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", digest)


def test_both_stages_ask_for_the_same_of_the_base() -> None:
    for name in ("MODULES", "LIBRARIES"):
        assert JETSON.count(f"ARG {name}=") == 2
        assert argument(name)  # which fails on two values


@with_an_edge
def test_the_healthcheck_is_what_is_copied_there(recipe: str) -> None:
    (script,) = re.findall(r'^HEALTHCHECK .* CMD \["(.+)"\]$', recipe, re.MULTILINE)
    assert f"COPY jetson/files/alive.sh {script}\n" in recipe


@pytest.mark.parametrize(
    ("command", "name"),
    [
        *((serve, name) for name in sorted(set(re.findall(r"PEDSAM_SERVE_([A-Z_]+)=", SITE)))),
        *((run, name) for name in sorted(set(re.findall(r"PEDSAM_RUN_([A-Z_]+)=", JETSON + EDGE)))),
    ],
)
def test_options_set_by_environment_exist(command: click.Command, name: str) -> None:
    options = {word for parameter in command.params for word in parameter.opts}
    assert f"--{name.lower().replace('_', '-')}" in options


@with_an_edge
def test_the_healthcheck_looks_at_what_the_edge_touches(recipe: str) -> None:
    (file,) = re.findall(r"PEDSAM_RUN_HEARTBEAT=(\S+)", recipe)
    assert f"${{PEDSAM_RUN_HEARTBEAT:-{file}}}" in (ROOT / "jetson/files/alive.sh").read_text(
        encoding="utf-8"
    )
