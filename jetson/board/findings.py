"""What a check of a board found, and what the board is wanted for."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from rich.table import Table
from rich.text import Text

Level = Literal["ok", "warning", "refused"]

MIB, GIB = 1024**2, 1024**3


@dataclass(frozen=True)
class Finding:
    """What a check found, in one sentence. `fix` is a command for the workstation that helps, or ""."""

    level: Level
    what: str
    fix: str = ""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What the board is to do. `address` is what `ssh` takes; `sources` are cameras as `--source` names them.

    `image_bytes` is the size of the image that will be brought, uncompressed, None when it is there;
    `home_bytes` what goes to the home folder; `memory_bytes` what the edge needs while it runs. `no_root`
    and `headless` are the options of `flash`, which mends a wrong clock itself where `sets_clock`.
    """

    address: str
    sources: tuple[str, ...] = field(default=(), repr=False)  # a stream's address may hold a password
    image_bytes: int | None = None
    home_bytes: int = 0
    memory_bytes: int | None = None
    no_root: bool = False
    headless: bool = False
    sets_clock: bool = False

    def command(self, command: str) -> str:
        """The line for the workstation that runs a command on the board; sudo may ask for a password."""
        terminal = "-t " if "sudo" in command else ""
        return f"ssh {terminal}{shlex.quote(self.address)} {shlex.quote(command)}"


def sentence(finding: Finding) -> str:
    """A finding with what helps."""
    return f"{finding.what}: {finding.fix}" if finding.fix else finding.what


def refused(findings: Iterable[Finding]) -> Finding | None:
    """The first finding that stops `flash`."""
    return next((finding for finding in findings if finding.level == "refused"), None)


def table(findings: Iterable[Finding]) -> Table:
    """Findings for a terminal."""
    styles = {"ok": "green", "warning": "yellow", "refused": "red"}
    shown = Table("", "what", "what helps")
    for finding in findings:
        shown.add_row(Text(finding.level, styles[finding.level]), Text(finding.what), Text(finding.fix))
    return shown


def size(count: int) -> str:
    """A number of bytes for a person."""
    return f"{count / GIB:.1f} GiB" if count >= GIB / 10 else f"{count / MIB:.0f} MiB"
