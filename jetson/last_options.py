"""The options of the last flash of each board, on this machine, for `pedsam board update`.

They name files of this machine. So they are kept here: a board that was taken over could name others.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from jetson.steps.step import FlashOptions
from stages.errors import InputError
from stages.files import replace_file
from stages.text_files import read_json

_PATHS = ("bundle", "sites", "config", "ssh_config")


def file() -> Path:
    """Where they are: below $XDG_STATE_HOME, by default ~/.local/state."""
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state"
    return Path(state) / "pedsam/flashed.json"


def save(options: FlashOptions) -> None:
    """Keep the options of a flash, with absolute paths. Raises InputError."""
    known = _read()
    known[options.address] = {
        name: str(value.absolute()) if isinstance(value, Path) else value
        for name, value in vars(options).items()
    }
    if options.image is not None and Path(options.image).is_file():
        known[options.address]["image"] = str(Path(options.image).absolute())
    try:
        file().parent.mkdir(parents=True, exist_ok=True)
        replace_file(file(), json.dumps(known, indent=1) + "\n", mode=0o600)
    except OSError as exc:
        raise InputError(f"{file()} cannot be written ({exc.strerror}); `board update` needs it") from exc


def load(address: str) -> FlashOptions:
    """Those of the last flash of this board by this machine. Raises InputError where there was none."""
    try:
        stored = dict(_read()[address])
        paths = {name: Path(stored[name]) for name in _PATHS if stored[name] is not None}
        return FlashOptions(**stored | paths)
    except (LookupError, TypeError, ValueError) as exc:
        raise InputError(f"this machine has not flashed {address} yet; use `pedsam flash`") from exc


def _read() -> dict[str, Any]:
    try:
        known = read_json(file())
    except InputError:
        return {}
    return known if isinstance(known, dict) else {}
