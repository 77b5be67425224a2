"""What real boards print, in tests/jetson/samples; its INDEX.tsv says where each sample comes from."""

from __future__ import annotations

from pathlib import Path

SAMPLES = Path(__file__).parent.parent / "jetson" / "samples"


def lines_of(name: str) -> list[str]:
    """The lines of a sample."""
    return (SAMPLES / name).read_text(encoding="utf-8").splitlines()


def index() -> dict[str, list[str]]:
    """File -> kind, source and note, from INDEX.tsv."""
    rows = [line.split("\t") for line in lines_of("INDEX.tsv")[1:]]
    return {name: rest for name, *rest in rows}
