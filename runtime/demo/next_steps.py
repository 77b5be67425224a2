"""What somebody who has seen the demo tries next."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path


def next_steps() -> str:
    """Two commands, each with what it does."""
    command = own_command()
    return (
        "next, a page to click on what to segment:\n"
        f"  {command} run --source photo.jpg --preview    # in a photo of yours\n"
        f"  {command} run --source 0 --preview            # in what your camera sees"
    )


def own_command() -> str:
    """How this program was started, as a person would type it again."""
    given = Path(sys.argv[0])
    if given.name != "pedsam":
        return "pedsam"
    found = shutil.which("pedsam")
    return "pedsam" if found is not None and Path(found).resolve() == given.resolve() else str(given)
