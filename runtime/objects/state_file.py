"""The state file of a live run: its objects, for the next start. Only runs write it.

    {"format": 1, "given": "9f3c...", "objects": [
        {"name": "cup", "from_frame": 0, "points": [[310, 205, 1]], "seen": [251.5, 140, 380, 262.5]}]}

An object has the box and points with which a person asked for it, and in `seen` the box where it was seen
last. The frame that the points were set on is gone by the next start: an object is looked for in the box,
which it may have left by then, and by its points only where it was never seen. `given` is the hash of what
the run was given by its prompts file and options: where that is other than now, a person has changed it.

A run that is cut off while it writes in place, where the file cannot be replaced, leaves a damaged one.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from runtime.objects.prompts import Prompt, Prompts, entry_of, parse_objects
from stages.errors import InputError
from stages.files import check_writable_in_place, write_in_place
from stages.locks import lock_file
from stages.text_files import read_bytes

FORMAT = 1
_BEGINNING = b'{\n "format": '  # of every state file, by which a damaged one is told from somebody's own file


@dataclass(frozen=True)
class State:
    """What a state file holds."""

    given: str
    prompts: Prompts


@dataclass(frozen=True)
class StateFile:
    """Where a live run keeps its objects, and the hash of what it was given to begin with."""

    path: Path
    given: str

    def write(self, prompts: Prompts) -> None:
        """Replace the objects. Blocks. Raises OSError."""
        data = {"format": FORMAT, "given": self.given, "objects": [_entry(each) for each in prompts.entries]}
        write_in_place(self.path, json.dumps(data, indent=1) + "\n")


def state_path(state: Path | None, prompts: Path | None) -> Path | None:
    """The state file that is asked for, else the one beside the prompts file."""
    if state is not None and prompts is not None and state.resolve() == prompts.resolve():
        raise InputError(
            f"--state and --prompts both name {state}; the objects of a run go into their own file"
        )
    return state or (prompts.with_suffix(".state.json") if prompts is not None else None)


@contextlib.contextmanager
def opened_state(
    path: Path, given: Prompts | None, say: Callable[[str], None], *, lock: bool = True
) -> Iterator[tuple[StateFile | None, Prompts]]:
    """The state file, no other run's while the block runs, and the objects to begin with.

    These are the file's, unless a person has since given others: `given` are those of the prompts file and
    the options, None where there are neither. `say` gets a sentence about which were taken, and one when the
    file is damaged or another run's, and is not used. Without `lock` nothing keeps others from it. Raises
    InputError for a file that no run wrote.
    """
    if not lock:
        yield _choose(path, given, say)
        return
    held: contextlib.AbstractContextManager[Any] | None
    try:
        held = lock_file(path.with_name(path.name + ".lock"))
    except BlockingIOError:
        held = None
    except OSError:  # a folder in which nothing can be made: that shows when the file is written
        held = contextlib.nullcontext()
    if held is None:
        say(f"another run keeps its objects in {path}; those of this run are not: give it its own --state")
        yield None, given or Prompts(())
        return
    with held:
        yield _choose(path, given, say)


def _choose(path: Path, given: Prompts | None, say: Callable[[str], None]) -> tuple[StateFile, Prompts]:
    wanted = hash_of(given) if given is not None else ""
    state = _read(path, say)
    if state is None:
        return StateFile(path, wanted), given or Prompts(())
    if given is not None and wanted != state.given:
        say(f"the prompts were changed since {path} was written: they are taken, and its objects are not")
        return StateFile(path, wanted), given
    names = ", ".join(dict.fromkeys(each.name for each in state.prompts.entries)) or "none"
    say(f"objects of the last run, from {path}: {names}")
    return StateFile(path, state.given), state.prompts


def check_state(path: Path) -> None:
    """Raise InputError for a state file that a run could not read, or not write; changes nothing."""
    _read(path, lambda sentence: None)
    try:
        check_writable_in_place(path)
    except OSError as exc:
        raise InputError(cannot_write(path, exc)) from exc


def cannot_write(path: Path, error: OSError) -> str:
    """The sentence about a state file that cannot be written."""
    return (
        f"the objects cannot be kept for the next start: state file {path} cannot be written "
        f"({error.strerror}); give --state a file in a folder that can be written"
    )


def hash_of(prompts: Prompts) -> str:
    """SHA-256 of what prompts ask for, however their file is laid out."""
    text = json.dumps([entry_of(each) for each in prompts.entries], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _read(path: Path, say: Callable[[str], None]) -> State | None:
    """None where there is no file or an empty one, and, which is said, where it is damaged."""
    try:
        data = read_bytes(path)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as exc:
        said = exc.strerror if isinstance(exc, OSError) else exc
        raise InputError(f"state file {path} cannot be read ({said}); give another --state") from exc
    if not data:
        return None
    cut = _BEGINNING[: len(data)]
    if data.strip(b"\0") and not data.startswith((cut, b"\0" + cut[1:])):
        raise InputError(f"{path} is no state file of a run, so it is not written to; give another --state")
    try:
        return _parse(json.loads(data))
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError, InputError) as exc:
        say(f"state file {path} is damaged ({exc}): the objects of the last run are lost")
        return None


def _parse(data: Mapping[str, Any]) -> State:
    if data["format"] != FORMAT:
        raise ValueError(f"it is of format {data['format']!r}, expected {FORMAT}")
    seen = [each.pop("seen", None) for each in data["objects"]]
    asked = parse_objects(data["objects"], 1)
    return State(str(data["given"]), Prompts(tuple(map(_again, asked, seen))))


def _again(asked: Prompt, seen: list[float] | None) -> Prompt:
    """What to look for instead of `asked` on the first frames of a run."""
    if seen is None:
        return replace(asked, asked=asked)
    x0, y0, x1, y1 = seen
    return Prompt(asked.name, (x0, y0, x1, y1), asked=asked)


def _entry(prompt: Prompt) -> dict[str, Any]:
    asked, seen = prompt.asked or prompt, prompt.box_xyxy
    if seen is None or prompt.asked is None or prompt == replace(asked, asked=asked):
        return entry_of(asked)
    return {**entry_of(asked), "seen": [round(value, 2) for value in seen]}
