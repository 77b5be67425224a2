"""`pedsam serve` as a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio

MODULE = (sys.executable, "-m", "pedsam")
SCRIPT = (str(Path(sys.executable).with_name("pedsam")),)


@dataclass
class ServeProcess:
    """A running site; `lines` are what it has said on the terminal so far, `log` its whole log at the end."""

    process: subprocess.Popen[str]
    lines: list[str]
    url: str = ""
    log: list[dict[str, Any]] = field(default_factory=list)

    @property
    def address(self) -> str:
        """Host and port, as the stock client wants them."""
        return self.url.partition("//")[2]

    def read_line(self) -> str:
        """The next line that it says."""
        if self.process.stdout is None:
            raise RuntimeError("its output goes elsewhere")
        self.lines.append(self.process.stdout.readline().rstrip("\n"))
        return self.lines[-1]

    def wait(self) -> tuple[int, str]:
        """Its exit code and its complaints on standard error; the rest of its lines are in `lines` then.

        Refusals are the senders' affair: they are in `log` alone.
        """
        rest, errors = self.process.communicate(timeout=60)
        self.lines += rest.splitlines()
        complaints = []
        for line in errors.splitlines(keepends=True):
            entry = json.loads(line) if line.startswith("{") else {}
            self.log += [entry] if entry else []
            if entry.get("level") != "info" and entry.get("event") != "refused":
                complaints.append(line)
        return self.process.returncode, "".join(complaints)


@contextmanager
def serving(bundle: Path | None, *options: str, command: Sequence[str] = MODULE) -> Iterator[ServeProcess]:
    """A site on a free port of this machine, killed at the end if it still runs; None: of what ships."""
    arguments = [*command, "serve", *(["--bundle", str(bundle)] if bundle else [])]
    with site_process([*arguments, "--port", "0", "--threads", "1", *options]) as site:
        yield site


@contextmanager
def site_process(line: Sequence[str]) -> Iterator[ServeProcess]:
    """A site that this command line starts, killed at the end if it still runs."""
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield _started(process)
        finally:
            process.kill()


def _started(process: subprocess.Popen[str]) -> ServeProcess:
    site = ServeProcess(process, [])
    assert process.stdout is not None
    for line in process.stdout:
        site.lines.append(line.rstrip("\n"))
        if line.startswith("listening on "):
            site.url = line.split()[-1]
            return site
    raise AssertionError(f"the site did not start: {site.wait()}")


def limited(address_space: int, line: Sequence[str]) -> list[str]:
    """The command line under a limit of address space, in bytes."""
    return ["prlimit", f"--as={address_space}", *line]


def children(pid: int) -> list[int]:
    """The processes that a process has started itself and that have not ended."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


async def until_gone(pid: int) -> None:
    """Until a process has ended; its parent need not know yet."""
    with anyio.fail_after(60):
        while _is_running(pid):  # noqa: ASYNC110  (nothing tells another process)
            await anyio.sleep(0.01)


def _is_running(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
