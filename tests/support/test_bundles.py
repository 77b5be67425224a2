"""Exports are kept until a source that decides them changes."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from tests.support.bundles import EXPORTING, ROOT, code_of

# What an export imports that decides nothing it writes: what reads graphs back to check them, errors, how
# files are replaced, and options.
INDIFFERENT = (
    *("export/checkpoints/", "media/", "stages/engines/", "stages/address.py", "stages/console.py"),
    *("stages/errors.py", "stages/files.py", "stages/json_values.py", "stages/machine.py"),
    *("stages/options.py", "stages/problems.py", "stages/progress.py", "stages/strips.py"),
    *("stages/text_files.py", "stages/words.py"),
)


def test_comments_layout_and_docstrings_are_no_code() -> None:
    plain = 'class A:\n    "doc"\n    def f(self):\n        return 1\n'
    other = '"doc"\nclass A:\n    def f( self ) :  # a comment\n        "doc"\n\n        return 1\n'
    assert code_of(plain) == code_of(other)
    assert code_of(plain) != code_of(plain.replace("1", "2"))
    assert code_of("x = 'a'") != code_of("x = 'b'")


def test_every_source_an_export_uses_is_looked_at() -> None:
    kept = {path for pattern in EXPORTING for path in ROOT.glob(pattern)}
    missing = {path.relative_to(ROOT).as_posix() for path in used_by(ROOT / "export/cli.py") - kept}
    assert {path for path in missing if not path.startswith(INDIFFERENT)} == set()


def used_by(source: Path) -> set[Path]:
    """A source, and those of this project that it imports, and so on."""
    found, new = set[Path](), {source}
    while new:
        found |= new
        new = {path for each in new for path in imported_by(each)} - found
    return found


def imported_by(source: Path) -> Iterator[Path]:
    for node in ast.walk(ast.parse(source.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            path = ROOT / f"{node.module.replace('.', '/')}.py"
            if path.is_file():
                yield path
