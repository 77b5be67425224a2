"""What a real Triton answers to every row of the conformance table.

TRITON_PYTHON=.venv-triton/bin/python python -m tests.triton.capture writes it down anew.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.server.conformance.table import CAPTURE, ROWS, Capture
from tests.support.fakes import STAGE
from tests.support.raw_http import Reply, exchange
from tests.triton.server import interpreter, model_config, triton

MAX_BATCH = 25
_WORDS = 160
_FRAMING = ("content-length", "transfer-encoding")


def capture(python: Path, folder: Path) -> Capture:
    """The answers of a Triton that serves the tests' tiny model, by row."""
    with triton(python, folder, model_config(STAGE, MAX_BATCH, {})) as running:
        return asyncio.run(_ask(running.url))


async def _ask(url: str) -> Capture:
    return {row.name: _summary(await exchange(url, row.request)) for row in ROWS}


def _summary(reply: Reply | None) -> dict[str, str]:
    if reply is None:
        return {"fact": "none"}
    fact = reply.fact.replace("[request id: <id_unknown>] ", "")[:_WORDS]
    return {"fact": fact} | {name: text for name, text in reply.headers.items() if name not in _FRAMING}


def main() -> None:
    python = interpreter()
    if python is None:
        sys.exit("TRITON_PYTHON names no interpreter; see tests/triton/server.py for what it needs")
    with TemporaryDirectory() as folder:
        answers = capture(python, Path(folder))
    lines = (f"{json.dumps(name)}: {json.dumps(answer)}" for name, answer in answers.items())
    CAPTURE.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
