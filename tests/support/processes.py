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
    arguments += ["--port", "0", "--threads", "1", *options]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
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
