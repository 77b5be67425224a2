"""`pedsam run` with real sites of which one answers its probe alone, hangs, or does not answer in time."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pytest
from anyio.abc import Process
from anyio.streams.text import TextReceiveStream
from PIL import Image

from runtime.sites.health import FAILS_TILES
from runtime.sites.start import BEGINS
from stages.bundle import Bundle
from tests.support.edge import sites_file, stall, status
from tests.support.pictures import photo
from tests.support.processes import MODULE, serving
from tests.support.proxies import Proxy, forward, held

pytestmark = pytest.mark.anyio
PATIENCE_S = 100


@contextmanager
def real_sites(bundle: Bundle, names: str) -> Iterator[dict[str, str]]:
    """URLs of `pedsam serve` processes."""
    with ExitStack() as stack:
        yield {name: stack.enter_context(serving(bundle.path)).url for name in names}


def film(folder: Path) -> Path:
    """More pictures than any run here gets to; each differs from the one before in every window."""
    folder.mkdir()
    picture = np.ascontiguousarray(photo("16:9")[::2, ::2])
    for number in range(2):
        Image.fromarray(np.roll(picture, 9 * number, axis=1)).save(folder / f"{number:04}.bmp")
    for number in range(2, 2000):
        os.link(folder / f"{number % 2:04}.bmp", folder / f"{number:04}.bmp")
    return folder


@dataclass
class Run:
    """A `pedsam run` under way: what it has said, and its summary at the end."""

    process: Process
    out: Path
    said: str = ""
    summary: dict[str, Any] = field(default_factory=dict)

    async def says(self, words: str) -> None:
        assert self.process.stdout is not None
        stream = TextReceiveStream(self.process.stdout)
        while words not in " ".join(self.said.split()):
            self.said += await stream.receive()

    async def has_results(self) -> None:
        while not (self.out / "masks.jsonl").exists():  # noqa: ASYNC110  (another process)
            await anyio.sleep(0.05)

    def about(self, name: str) -> list[str]:
        """What it has told about a site, the last line of repeated ones without their number."""
        return [line for line in self.summary["messages"] if line.startswith(f"site {name}:")]


@asynccontextmanager
async def run(bundle: Bundle, sites: Path, source: Path, *more: str) -> AsyncIterator[Run]:
    """`pedsam run`, stopped after the block and its first frame."""
    out = source.parent / "out"
    line = [*MODULE, "run", "--bundle", str(bundle.path), "--source", str(source), "--out", str(out)]
    line += ["--sites", str(sites), "--point", "100,60", "--allow-undistilled", "--threads", "1", *more]
    with anyio.fail_after(PATIENCE_S):
        async with await anyio.open_process(line, stderr=subprocess.STDOUT) as process:
            going = Run(process, out)
            try:
                yield going
                await going.has_results()  # a run that is stopped before has done nothing
                process.send_signal(signal.SIGINT)
                assert process.stdout is not None
                async for text in TextReceiveStream(process.stdout):
                    going.said += text
                assert await process.wait() == 0, going.said
            except BaseException:
                process.kill()
                raise
        going.summary = json.loads((out / "summary.json").read_text())


async def test_a_site_that_fails_its_tiles_is_not_trusted_for_its_probe(
    mini_bundle: Bundle, tmp_path: Path
) -> None:
    """It is told twice and never again, and costs a copy of a tile an attempt."""
    source = film(tmp_path / "film")
    with real_sites(mini_bundle, "abc") as urls:
        proxy = Proxy(mini_bundle, urls["b"], *[status(500)] * 10_000)
        async with proxy.running() as url:
            urls["b"] = url
            listed = sites_file(tmp_path / "sites.toml", *urls.items())
            async with run(mini_bundle, listed, source, "--spot-checks", "0") as going:
                await going.says("answers its probe but fails its tiles")
                first = len(proxy.tiles)
                proxy.seen.clear()
                await proxy.seen.wait()
    b = going.summary["sites"]["b"]
    assert going.summary["frames_lost"] == 0
    assert (b["state"], b["tiles_served"]) == ("failing", 0)
    assert first + 1 <= len(proxy.tiles) <= first + b["failures"]
    assert len(going.about("b")) == 2, going.about("b")
    assert going.about("b")[1] == f"site b: {FAILS_TILES}"
    assert len(set(proxy.tiles)) <= 5


async def test_two_sites_of_one_operator_share_its_windows_until_one_hangs(
    mini_bundle: Bundle, tmp_path: Path
) -> None:
    source = film(tmp_path / "film")
    with real_sites(mini_bundle, "xy") as urls:
        y = Proxy(mini_bundle, urls["y"])
        y.script.extend([forward] * 150 + [stall] * 10_000)
        x = Proxy(mini_bundle, urls["x"])
        async with x.running() as x_url, y.running() as y_url:
            listed = sites_file(tmp_path / "sites.toml", ("x", x_url), ("y", y_url))
            listed.write_text(listed.read_text().replace("operator-y", "operator-x"))
            async with run(mini_bundle, listed, source, "--accept-exposure") as going:
                while len(y.tiles) < 150:
                    y.seen.clear()
                    await y.seen.wait()
                shared = len(x.tiles)
                await going.says("site y: hangs")
    assert 50 < shared < 450  # alike, as far as a busy machine lets them
    assert going.summary["frames_lost"] == 0
    assert going.summary["sites"]["y"]["state"] != "ready"
    assert going.summary["sites"]["x"]["state"] == "ready"
    assert len(y.tiles) < 250  # and few were lost on it meanwhile


async def test_a_site_that_does_not_answer_at_the_start_holds_up_nobody_and_joins_later(
    mini_bundle: Bundle, tmp_path: Path
) -> None:
    source = film(tmp_path / "film")
    with real_sites(mini_bundle, "abc") as urls:
        proxy = Proxy(mini_bundle, urls["c"], always=held)
        async with proxy.running() as url:
            urls["c"] = url
            listed = sites_file(tmp_path / "sites.toml", *urls.items())
            async with run(mini_bundle, listed, source) as going:
                await going.says("the run begins without it")
                await going.has_results()
                assert proxy.tiles == []
                proxy.always = None
                proxy.released.set()
                await going.says("site c: has joined and has its windows")
                while not proxy.tiles:
                    await proxy.seen.wait()
    assert going.about("c") == [
        f"site c: {BEGINS}",
        "site c: has joined and has its windows",
    ]
    assert going.summary["frames_lost"] == 0
    assert going.summary["windows_run_at_edge"] > 0
    for site in going.summary["sites"].values():
        assert len(site["operator_exposure"]) <= site["operator_cap"] == 5
