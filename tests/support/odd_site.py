"""A site as a process of its own around an engine that fails in a way no real one can be made to fail.

python -m tests.support.odd_site MODE FILE GRACE: MODE says what each engine call does but that of the check
at the start. "hangs" never comes back, "late" comes back once FILE is there, "raises" raises.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from server.logs import logging_to
from server.serve import ServeOptions, serve
from stages.errors import EngineError
from stages.tensors import Array
from tests.support.fakes import FakeEngine, tiny_bundle

STALL_S = 1.0


class OddEngine(FakeEngine):
    def __init__(self, mode: str, until: Path) -> None:
        super().__init__()
        self._mode = mode
        self._until = until

    def _infer(self, feeds: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        if feeds["extent"].any():  # else it is the blank window of the check at the start
            if self._mode == "raises":
                raise EngineError("the device is gone")
            while self._mode == "hangs" or not self._until.exists():
                time.sleep(0.01)
        return super()._infer(feeds, outputs)


def main(mode: str, until: str, grace_s: str) -> None:
    options = ServeOptions(port=0, grace_s=float(grace_s), stall_s=STALL_S)
    with logging_to(sys.stderr, "json"):
        asyncio.run(serve([tiny_bundle()], options, _say, lambda bundle: OddEngine(mode, Path(until))))


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
