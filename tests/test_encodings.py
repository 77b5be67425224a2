"""Every call that opens a text file says in which encoding, so that none depends on the locale."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = (
    "benchmarks", "evaluation", "examples", "export", "jetson", "media", "pedsam", "runtime", "server",
    "stages", "training",
)  # fmt: skip
FILES = sorted(path for name in PACKAGES for path in (ROOT / name).rglob("*.py"))
MODE = re.compile("[rwxa][bt+]*")


def opens_text(node: ast.Call) -> bool:
    """Whether a call reads or writes a file as text."""
    name = getattr(node.func, "attr", getattr(node.func, "id", ""))
    given = [*node.args, *(each.value for each in node.keywords if each.arg == "mode")]
    texts = [each.value for each in given if isinstance(each, ast.Constant) and isinstance(each.value, str)]
    modes = [text for text in texts if MODE.fullmatch(text)]
    if isinstance(node.func, ast.Attribute) and name in ("read_text", "write_text"):
        return True
    if isinstance(node.func, ast.Attribute) and getattr(node.func.value, "id", "") in (
        "av",
        "tarfile",
        "zipfile",
    ):
        return False
    if name == "open" and not modes:
        return isinstance(node.func, ast.Name)  # else of an engine, a picture, a socket
    return name in ("open", "fdopen") and bool(modes) and "b" not in modes[0]


def without_encoding(source: str) -> list[int]:
    """Lines of calls that take the encoding of the locale."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    return [
        node.lineno
        for node in calls
        if opens_text(node) and "encoding" not in [each.arg for each in node.keywords]
    ]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_text_file_is_opened_with_an_encoding(path: Path) -> None:
    assert without_encoding(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("source", "lines"),
    [
        ("path.read_text()", [1]),
        ("\npath.write_text(text)", [2]),
        ("open(path)", [1]),
        ("path.open('w')", [1]),
        ("path.open(mode='a')", [1]),
        ("os.fdopen(descriptor, 'r')", [1]),
        ("path.open('rb')", []),
        ("open(path, 'wb', buffering=0)", []),
        ("path.open('w', encoding='utf-8')", []),
        ("path.read_text(encoding='ascii')", []),
        ("engine.open()", []),
        ("Image.open(path)", []),
    ],
)
def test_a_call_without_one_would_be_found(source: str, lines: list[int]) -> None:
    assert without_encoding(source) == lines
