"""The Markdown pages of this project, taken apart: links, headings, code, tables."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).parents[2]
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class CodeLine:
    """A command line of a page. `whole` is False for one that only names a command and some options."""

    words: tuple[str, ...]
    whole: bool

    def __str__(self) -> str:
        return shlex.join(self.words)


@dataclass(frozen=True)
class Document:
    """A page: its path from the root of the repository, as "docs/live.md", and its text."""

    name: str
    text: str

    @classmethod
    def read(cls, name: str) -> Document:
        return cls(name, (ROOT / name).read_text(encoding="utf-8"))

    def __str__(self) -> str:
        return self.name

    @property
    def path(self) -> Path:
        return ROOT / self.name

    @cached_property
    def prose(self) -> str:
        """Everything that stands in no fenced block."""
        return _FENCE.sub("", self.text)

    @cached_property
    def anchors(self) -> frozenset[str]:
        """What the headings can be linked by, as GitHub makes it of them."""
        headings = re.findall(r"^#+ (.+)$", self.prose, re.MULTILINE)
        return frozenset(re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings)

    @cached_property
    def links(self) -> tuple[str, ...]:
        """Targets of links and pictures."""
        return tuple(re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`]*`", "`", self.prose)))

    def blocks(self, *languages: str) -> list[str]:
        """Texts of the fenced blocks in one of these languages; "" are those that name none."""
        return [text for language, text in _FENCE.findall(self.text) if language in languages]

    @cached_property
    def spans(self) -> tuple[str, ...]:
        """Code within the text, each on one line."""
        return tuple(" ".join(span.split()) for span in re.findall(r"`([^`]+)`", self.prose))

    def code_lines(self, start: str) -> Iterator[CodeLine]:
        """Command lines in blocks and in the text that begin with the expression `start`, without it.

        "..." in a line says that it is not whole.
        """
        for block in self.blocks("", "sh", "bash"):
            for line in block.replace("\\\n", " ").splitlines():
                yield from _code_line(line.strip(), start, whole=True)
        for span in self.spans:
            yield from _code_line(span, start, whole=False)

    def section(self, heading: str) -> str:
        """The text under a heading, up to the next one of any level."""
        _, found, rest = self.text.partition(f"{heading}\n")
        assert found, f"{self.name} has no heading {heading!r}"
        return re.split(r"^#+ ", rest, maxsplit=1, flags=re.MULTILINE)[0]


def _code_line(line: str, start: str, whole: bool) -> Iterator[CodeLine]:
    match = re.match(rf"(?:{start})(?!\S)", line)
    if match:
        words = tuple(shlex.split(line[match.end() :], comments=True))
        yield CodeLine(tuple(word for word in words if word != "..."), whole and "..." not in words)


def table_rows(text: str) -> list[list[str]]:
    """Cells of the first table of a text, without its head."""
    lines = [line for line in text.split("|\n\n")[0].splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


DOCUMENTS = tuple(
    Document.read(str(path.relative_to(ROOT)))
    for path in (
        ROOT / "README.md",
        ROOT / "THREAT_MODEL.md",
        ROOT / "stages/mini/README.md",
        ROOT / "assets/small/README.md",
        ROOT / "runtime/preview/PROTOCOL.md",
        *sorted((ROOT / "docs").glob("*.md")),
    )
)
README = DOCUMENTS[0]
