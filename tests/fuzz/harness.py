"""What both targets of `make fuzz` do with atheris. Takes libFuzzer's options."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Generic, TypeVar

import atheris

MAX_BYTES = 1 << 16

T = TypeVar("T")


@dataclass(frozen=True)
class Target(Generic[T]):
    """What must not break, whatever input it is given; `pack` and `unpack` are between an input and bytes."""

    out: Path  # where the corpus is left, and the input that broke something
    seeds: Sequence[T]
    pack: Callable[[T], bytes]
    unpack: Callable[[bytes], T]
    mutated: Callable[[T, Random], T]  # changed by its structure
    check: Callable[[T], None]

    def fuzz(self) -> None:
        corpus = self.out / "corpus"
        corpus.mkdir(parents=True, exist_ok=True)
        for number, seed in enumerate(self.seeds):
            (corpus / f"seed{number}").write_bytes(self.pack(seed))
        options = [f"-max_len={MAX_BYTES}", f"-artifact_prefix={self.out}/", *sys.argv[1:], str(corpus)]
        atheris.Setup(
            [sys.argv[0], *options], lambda data: self.check(self.unpack(data)), custom_mutator=self._mutate
        )
        atheris.Fuzz()

    def _mutate(self, data: bytes, max_size: int, seed: int) -> bytes:
        """Every other time change the input by its structure, where it still has one."""
        random = Random(seed)
        if random.random() < 0.5:
            return bytes(atheris.Mutate(data, max_size))
        try:
            return self.pack(self.mutated(self.unpack(data), random))[:max_size]
        except (ValueError, RecursionError):
            return self.pack(self.mutated(random.choice(self.seeds), random))[:max_size]
