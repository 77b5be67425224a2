"""Coverage-guided fuzzing of what the edge reads of a site: `make fuzz`, or python -m tests.fuzz.sites.

Takes libFuzzer's options. The corpus, and the input that broke something, are left in out/fuzz/sites.
"""

from __future__ import annotations

import sys
from pathlib import Path
from random import Random

import atheris
from multidict import CIMultiDict

with atheris.instrument_imports(include=["stages", "runtime.sites.answers", "email"]):
    from tests.fuzz.answers import SEEDS, check_answer, mutated_answer

from runtime.sites.answers import Answer

OUT = Path("out/fuzz/sites")
MAX_BYTES = 1 << 16


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


def run(data: bytes) -> None:
    check_answer(unpack(data))


def mutate(data: bytes, max_size: int, seed: int) -> bytes:
    """Every other time change the answer by its structure, where it still has one."""
    random = Random(seed)
    if random.random() < 0.5:
        return bytes(atheris.Mutate(data, max_size))
    try:
        return pack(mutated_answer(unpack(data), random))[:max_size]
    except (ValueError, RecursionError):
        return pack(mutated_answer(random.choice(SEEDS), random))[:max_size]


def main() -> None:
    corpus = OUT / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(SEEDS):
        (corpus / f"seed{number}").write_bytes(pack(seed))
    options = [f"-max_len={MAX_BYTES}", f"-artifact_prefix={OUT}/", *sys.argv[1:], str(corpus)]
    atheris.Setup([sys.argv[0], *options], run, custom_mutator=mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
