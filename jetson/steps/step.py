"""What a step of `flash` is: it says what it found, what is to be done, and does it; repeating it is safe."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from jetson.board.facts import BoardFacts
from jetson.board.findings import Wanted
from jetson.connection import Board, BoardError, Ran
from jetson.versions import Edge, Version
from stages.bundle import Bundle

Say = Callable[[str], None]

BEFORE = "before.json"


@dataclass(frozen=True, kw_only=True)
class FlashOptions:
    """Options of `pedsam flash`; see its help. `address` is what `ssh` takes."""

    address: str
    bundle: Path
    sites: Path
    config: Path
    power: str | None = None
    image: str | None = None
    headless: bool = False
    no_root: bool = False
    reboot: bool = False
    allow_undistilled: bool = False
    ssh_config: Path | None = None


@dataclass(frozen=True)
class Plan:
    """What a step found on the board, and what it will do there; `todo` is "" when nothing is to be done."""

    found: str
    todo: str = ""


@dataclass
class Job:
    """One flash of one board, as its steps share it.

    `image` is the tag of the version's image on the board, set by the image step when it looks; `version`
    is made by the bundle step.
    """

    options: FlashOptions
    board: Board
    facts: BoardFacts
    wanted: Wanted
    edge: Edge
    bundle: Bundle
    image: str = ""
    version: Version | None = None

    @property
    def made(self) -> Version:
        """The version, once the bundle step has looked."""
        if self.version is None:
            raise RuntimeError("the version is known once the bundle step has looked")
        return self.version

    @property
    def id(self) -> str:
        return self.made.id

    def remember(self, key: str, value: str) -> None:
        """Keep with the version how the board was before it, by name, unless that is known already."""
        before = self.read(BEFORE)
        if key not in before:
            self.write(BEFORE, {**before, key: value})

    def read(self, name: str) -> dict[str, Any]:
        """A JSON object of the version on the board, {} where there is none. Raises BoardError."""
        return read_json(self.board, f"versions/{self.id}/{name}")

    def write(self, name: str, value: Mapping[str, Any]) -> None:
        """Keep a JSON object with the version on the board."""
        write_json(self.board, f"versions/{self.id}/{name}", value)

    def run(
        self, script: str, *arguments: str, what: str, stdin: Any = None, on_line: Say | None = None
    ) -> Ran:
        """A script of jetson/scripts/ that has to succeed. Raises BoardError, which begins with `what`."""
        return required(self.board, script, *arguments, what=what, stdin=stdin, on_line=on_line)


def required(
    board: Board, script: str, *arguments: str, what: str, stdin: Any = None, on_line: Say | None = None
) -> Ran:
    """A script of jetson/scripts/ that has to succeed. Raises BoardError, which begins with `what`."""
    ran = board.script(script, *arguments, stdin=stdin, on_line=on_line)
    if ran.status:
        raise BoardError(f"{what} on {board.address}: {ran.last_line}", ran.out + ran.err)
    return ran


def read_json(board: Board, name: str) -> dict[str, Any]:
    """A JSON object in a file below ~/pedsam, {} where there is none. Raises BoardError for anything else."""
    text = required(board, "versions.sh", "read", name, what=f"~/pedsam/{name} cannot be read").out
    try:
        value = json.loads(text) if text.strip() else {}
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise BoardError(f"~/pedsam/{name} on {board.address} is damaged; remove it and flash again")
    return value


def write_json(board: Board, name: str, value: Mapping[str, Any]) -> None:
    """Keep a JSON object in a file below ~/pedsam."""
    data = json.dumps(value, indent=1).encode()
    digest = hashlib.sha256(data).hexdigest()
    what = f"~/pedsam/{name} cannot be written"
    required(board, "versions.sh", "write", name, digest, what=what, stdin=data)


def board_versions(board: Board) -> dict[str, str]:
    """IDs of the versions on the board that are `current`, `previous` and `pending`, where there are any."""
    lines = required(board, "versions.sh", "state", what="~/pedsam cannot be read").out.splitlines()
    pairs = (line.partition(" ") for line in lines)
    return {name: value for name, _, value in pairs if value}


class Step(ABC):
    """One named step. Raises a PedsamError, in one sentence with the command that helps, when it fails."""

    name: ClassVar[str]

    @abstractmethod
    def look(self, job: Job) -> Plan:
        """Read what is there; changes nothing. In a dry run, earlier steps have not been done."""

    @abstractmethod
    def do(self, job: Job, say: Say) -> str:
        """Do what the plan said, and return what was done. `say` shows a line of progress."""
