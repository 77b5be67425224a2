"""Coverage-guided fuzzing of the decoders: `make fuzz`, or python -m tests.fuzz.wire -runs=1000000.

Takes libFuzzer's options. The corpus, and the input that broke something, are left in out/fuzz.
"""

from __future__ import annotations

import sys
from pathlib import Path
from random import Random

import atheris

with atheris.instrument_imports(include=["stages"]):
    from tests.fuzz.messages import SEEDS, check, check_bounded, mutated

from tests.support.messages import Message

OUT = Path("out/fuzz")
MAX_BYTES = 1 << 16
_MEASURED_BYTES = 1 << 13  # measuring memory takes half of the speed: only where there is some to take


def pack(message: Message) -> bytes:
    """A message as one fuzzer's input: its header length on a line of its own, then the body."""
    body, length = message
    return (length or "").encode("latin-1", "replace") + b"\n" + body


def unpack(data: bytes) -> Message:
    length, _, body = data.partition(b"\n")
    return body, length.decode("latin-1") or None


def run(data: bytes) -> None:
    body, length = unpack(data)
    (check_bounded if len(body) > _MEASURED_BYTES else check)(body, length)


def mutate(data: bytes, max_size: int, seed: int) -> bytes:
    """Every other time change the message by its structure, where it still has one."""
    random = Random(seed)
    if random.random() < 0.5:
        return bytes(atheris.Mutate(data, max_size))
    try:
        return pack(mutated(unpack(data), random))[:max_size]
    except (ValueError, RecursionError):
        return pack(mutated(random.choice(SEEDS), random))[:max_size]


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
