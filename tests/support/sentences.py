"""What the code may say to a person, read from its sources."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache

from tests.support.documents import ROOT

PACKAGES = ("pedsam", "stages", "media", "export", "server", "runtime", "jetson")
DIFFERS = "\0"  # in a sentence of the code: what it fills in


@cache
def sentences() -> tuple[str, ...]:
    """Every text in the code that may be shown, with DIFFERS for each value it fills in."""
    files = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
    return tuple(text for path in files for text in _texts(ast.parse(path.read_text(encoding="utf-8"))))


def _texts(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(
                str(part.value) if isinstance(part, ast.Constant) else DIFFERS for part in node.values
            )
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
