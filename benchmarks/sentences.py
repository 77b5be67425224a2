"""What went wrong with a measurement, in a sentence instead of a traceback."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stages.errors import InputError, PedsamError
from stages.files import check_replaceable, writing
from stages.problems import system_problem


@contextmanager
def sentences() -> Iterator[None]:
    """Ends the program with what an error of the block says."""
    try:
        yield
    except (PedsamError, OSError) as exc:
        sys.exit(f"Error: {exc if isinstance(exc, PedsamError) else system_problem(exc) or exc}")


def check_out(path: Path) -> None:
    """Raise InputError for a file of results that cannot be written, before anything is measured."""
    if path.is_dir():
        raise InputError(f"{path} is a folder where a file is needed; give another --out")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            check_replaceable(path)
