"""What the pages point at is there: pages, headings, files, folders, tests."""

from __future__ import annotations

import re

import pytest

from tests.support.documents import DOCUMENTS, README, ROOT, Document

pages = pytest.mark.parametrize("page", DOCUMENTS, ids=str)

# Beginnings of paths that are on no machine until a user makes them, or are parts of a bundle or of results.
ELSEWHERE = (
    ".venv/",
    "bundles/",
    "coco/",
    "edge/",
    "engines/",
    "keys/",
    "out/",
    "overlay/",
    "pedsam/",  # topics of MQTT
    "record/",
    "window/",
)


def paths_in(page: Document) -> set[str]:
    """What looks like a path of this repository: words with a slash in code."""
    words = {span for span in page.spans if re.fullmatch(r"[\w.-]+/[\w./-]*", span)}
    for line in page.code_lines(r"(?:\S*/)?pedsam|python\S* -m"):
        words |= {word for word in line.words if re.fullmatch(r"[\w.-]+/[\w./-]*", word)}
    return {word for word in words if not word.startswith(ELSEWHERE)}


@pages
def test_every_link_leads_somewhere(page: Document) -> None:
    for link in page.links:
        if not link.startswith("https://"):
            target, _, anchor = link.partition("#")
            path = (page.path.parent / target).resolve() if target else page.path
            assert path.exists(), f"{page} links to {link}, which is not there"
            if anchor:
                found = Document.read(str(path.relative_to(ROOT))).anchors
                assert anchor in found, f"{page} links to {link}; headings there are {sorted(found)}"


@pages
def test_every_path_exists(page: Document) -> None:
    missing = sorted(path for path in paths_in(page) if not (ROOT / path).exists())
    assert not missing, f"{page} names {missing}"


def test_paths_are_found_in_the_pages() -> None:
    assert {"stages/", "server/http/", "runtime/preview/", "export/engines/"} <= paths_in(README)
    assert "assets/mini.safetensors" in paths_in(Document.read("docs/training.md"))


def test_the_map_of_the_repository_shows_every_package() -> None:
    inner = (path for top in ("runtime", "jetson") for path in ROOT.glob(f"{top}/*/__init__.py"))
    packages = (*ROOT.glob("*/__init__.py"), *inner)
    shown = README.section("## Repository")
    names = [f"`{path.parent.relative_to(ROOT)}/`" for path in packages]
    assert not [name for name in names if name not in shown]


def test_the_readme_leads_to_every_page() -> None:
    linked = {link.partition("#")[0] for link in README.links}
    assert {page.name for page in DOCUMENTS} - {"README.md"} <= linked


def test_a_fresh_reader_finds_the_headings_that_the_code_names() -> None:
    assert "install" in README.anchors  # stages/problems.py, where a package is missing
    assert "a-site-in-a-container" in Document.read("docs/sites.md").anchors  # Dockerfile.site
