"""Coverage-guided fuzzing of what the edge reads of a site: `make fuzz`, or python -m tests.fuzz.sites.

The corpus, and the input that broke something, are left in out/fuzz/sites.
"""

from __future__ import annotations

from pathlib import Path

import atheris
from multidict import CIMultiDict

with atheris.instrument_imports(include=["stages", "runtime.sites.answers", "email"]):
    from tests.fuzz.answers import SEEDS, check_answer, mutated_answer

from runtime.sites.answers import Answer
from tests.fuzz.harness import Target


def pack(answer: Answer) -> bytes:
    """An answer as one fuzzer's input: method and status, a line a header, an empty line, the body."""
    lines = [
        f"{answer.method} {answer.status}",
        *(f"{name}:{value}" for name, value in answer.headers.items()),
    ]
    return "\n".join(lines).encode("utf-8", "surrogateescape") + b"\n\n" + answer.body


def unpack(data: bytes) -> Answer:
    """Headers are decoded as aiohttp decodes them."""
    head, _, body = data.partition(b"\n\n")
    first, *lines = head.decode("utf-8", "surrogateescape").split("\n")
    method, _, status = first.partition(" ")
    number = int(status) if status.isascii() and status.isdigit() and len(status) < 4 else 200
    pairs = [line.partition(":") for line in lines]
    return Answer(method, number, CIMultiDict((name, value) for name, _, value in pairs), body)


if __name__ == "__main__":
    Target(Path("out/fuzz/sites"), SEEDS, pack, unpack, mutated_answer, check_answer).fuzz()
