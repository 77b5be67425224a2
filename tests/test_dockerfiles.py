"""What a container's recipe says of this project is true: files it copies, options it sets by environment."""

from __future__ import annotations

import re

import pytest

from server.cli import command as serve
from tests.bundles import ROOT
from tests.test_isolation import PYPROJECT

SITE = (ROOT / "Dockerfile.site").read_text(encoding="utf-8")
ADMITTED = {
    line[1:] for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines() if line[0] == "!"
}


def copied(dockerfile: str) -> set[str]:
    lines = re.findall(r"^COPY (.+)$", dockerfile, re.MULTILINE)
    return {source for line in lines for source in line.split()[:-1]}


def test_what_is_copied_exists_and_reaches_the_builder() -> None:
    assert copied(SITE) == ADMITTED
    assert all((ROOT / name).exists() for name in ADMITTED)


def test_every_package_is_copied() -> None:
    shipped = PYPROJECT["tool"]["setuptools"]
    folders = {package.partition(".")[0] for package in shipped["packages"]}
    modules = {f"{name}.py" for name in shipped["py-modules"]}
    assert folders | modules | {"pyproject.toml", PYPROJECT["project"]["readme"]} == copied(SITE)


@pytest.mark.parametrize("name", sorted(set(re.findall(r"PEDSAM_SERVE_([A-Z_]+)=", SITE))))
def test_options_set_by_environment_exist(name: str) -> None:
    options = {word for parameter in serve.params for word in parameter.opts}
    assert f"--{name.lower().replace('_', '-')}" in options
