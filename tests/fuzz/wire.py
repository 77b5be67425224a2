"""Coverage-guided fuzzing of the decoders: `make fuzz`, or python -m tests.fuzz.wire -runs=1000000.

The corpus, and the input that broke something, are left in out/fuzz.
"""

from __future__ import annotations

from pathlib import Path

import atheris

with atheris.instrument_imports(include=["stages"]):
    from tests.fuzz.messages import SEEDS, check, check_bounded, mutated

from tests.fuzz.harness import Target
from tests.support.messages import Message

_MEASURED_BYTES = 1 << 13  # measuring memory takes half of the speed: only where there is some to take


def pack(message: Message) -> bytes:
    """A message as one fuzzer's input: its header length on a line of its own, then the body."""
    body, length = message
    return (length or "").encode("latin-1", "replace") + b"\n" + body


def unpack(data: bytes) -> Message:
    length, _, body = data.partition(b"\n")
    return body, length.decode("latin-1") or None


def check_message(message: Message) -> None:
    body, length = message
    (check_bounded if len(body) > _MEASURED_BYTES else check)(body, length)


if __name__ == "__main__":
    Target(Path("out/fuzz"), SEEDS, pack, unpack, mutated, check_message).fuzz()
