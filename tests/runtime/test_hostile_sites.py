"""Sites that answer with bytes no HTTP library would send: each is taken out with a sentence, alone."""

from __future__ import annotations

import errno
import io
import json
import subprocess
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import anyio
import pytest
from rich.console import Console

from runtime.check.check import STEPS, CheckOptions, check_sites
from runtime.frames.sources import PictureSource
from runtime.objects.prompts import Prompt, Prompts
from runtime.run_options import RunOptions
from runtime.session import run_session
from runtime.sites.client import SiteClient, Timeouts
from runtime.sites.config import SiteConfig
from server.serve import ServeOptions, running_site
from stages.bundle import Bundle
from stages.errors import SiteError, SiteUnavailable
from tests.support.edge import (
    Impostor,
    canvas_of,
    config,
    grant_for,
    sendable,
    sites_file,
    stall,
    write_photo,
)
from tests.support.processes import MODULE
from tests.support.raw_sites import HOSTILE, TILE, RawSite

pytestmark = pytest.mark.anyio
# Long enough for what a busy machine answers; a site of the table that says nothing says it to a tile.
SHORT_OF_TILES = Timeouts(connect_s=30.0, answer_s=60.0, probe_s=60.0, tile_s=1.0, tile_factor=0.0)


@pytest.mark.parametrize("name", HOSTILE)
async def test_each_answer_is_a_sentence_that_the_site_failed(
    mini_bundle: Bundle, name: str, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    hostile = HOSTILE[name]
    site = RawSite(mini_bundle, hostile.asked, hostile.sends)
    async with (
        site.running() as url,
        SiteClient(config("a", url), mini_bundle, "fp16", SHORT_OF_TILES) as client,
    ):
        with pytest.raises(SiteError) as caught:
            await connect_and_infer(client, mini_bundle)
    check_sentence(str(caught.value), hostile.says)
    assert "not foreseen" not in str(caught.value)
    assert site.asked_times
    assert capfd.readouterr() == ("", "")
    assert not caplog.records


async def connect_and_infer(client: SiteClient, bundle: Bundle) -> None:
    await client.connect(bundle.probe())
    inputs = canvas_of("16:9", bundle.geometry).window_inputs([7], bundle)
    await client.infer([grant_for(client.config, 7)], sendable(inputs))


def check_sentence(text: str, says: str) -> None:
    assert text.isprintable()
    assert says in text
    assert len(text) < 1000


@dataclass(frozen=True)
class Breaking(Mapping[str, Any]):
    """Inputs of a probe that cannot be read: what goes wrong with a site in a way that nobody thought of."""

    error: BaseException

    def __getitem__(self, key: str) -> Any:
        raise self.error

    def __iter__(self) -> Iterator[str]:
        raise self.error

    def __len__(self) -> int:
        return 3


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (ValueError("invalid literal: '\u00b2'"), "not foreseen (ValueError: invalid literal: '\u00b2')"),
        (KeyError("\x1b[31m\u202e\ud800"), "not foreseen (KeyError: '\\x1b[31m\\u202e\\ud800')"),
        (LookupError("\x1b[31m\u202e\n\ud800"), "not foreseen (LookupError: ?[31m? ?)"),
        (MemoryError(), "not foreseen (MemoryError: )"),
        (RecursionError("x" * 10**6), f"not foreseen (RecursionError: {'x' * 200})"),
        (AssertionError(), "not foreseen (AssertionError: )"),
        (
            OSError(errno.EMFILE, "Too many open files"),
            "the edge may open no more files (Too many open files)",
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
async def test_what_nobody_foresaw_takes_the_site_out(
    mini_bundle: Bundle, error: Exception, says: str
) -> None:
    async with (
        Impostor(mini_bundle).running() as url,
        SiteClient(config("a", url), mini_bundle, "fp16") as client,
    ):
        probe = replace(mini_bundle.probe(), inputs=Breaking(error))
        for call in (client.connect, client.check_probe, client.run_probe):
            with pytest.raises(SiteUnavailable) as caught:
                await call(probe)
            check_sentence(str(caught.value), says)
            assert caught.value.site == "a"


async def test_a_cancellation_is_no_failure_of_the_site(mini_bundle: Bundle) -> None:
    impostor = Impostor(mini_bundle, always=stall)
    async with impostor.running() as url, SiteClient(config("a", url), mini_bundle, "fp16") as client:
        with anyio.CancelScope() as scope:
            scope.cancel()
            await client.connect(mini_bundle.probe())
    assert scope.cancelled_caught


class Odd(SiteConfig):
    """A site whose examination goes wrong in a way that nobody thought of."""

    def ssl_context(self) -> None:
        raise LookupError("\x1b[31m\u202e" + "x" * 10**6)


async def test_what_nobody_foresaw_is_the_sites_row_in_a_check(mini_bundle: Bundle) -> None:
    async with Impostor(mini_bundle).running() as url:
        sites = [Odd("a", "operator-a", url), config("b")]
        report = await check_sites(mini_bundle, sites, CheckOptions(threads=1))
    odd, closed = report.sites
    assert "Connection refused" in (closed.failure or "")
    assert [step.state.value for step in odd.steps] == ["ok", "ok", "failed"] + ["skipped"] * (len(STEPS) - 3)
    check_sentence(
        odd.failure or "", f"site a: failed in a way that is not foreseen (LookupError: ?[31m?{'x' * 190}"
    )


# Real processes of the edge

AT_ONCE = {name: hostile for name, hostile in HOSTILE.items() if hostile.asked != TILE}
SOME = dict(list(AT_ONCE.items())[::2])  # a run tells thirty different things a minute
STEERING = {name: hostile for name, hostile in AT_ONCE.items() if name.endswith("steers the terminal")}
LATER = {name: hostile for name, hostile in HOSTILE.items() if hostile.asked == TILE}


@asynccontextmanager
async def hostile_sites(bundle: Bundle, names: Mapping[str, object]) -> AsyncIterator[list[tuple[str, str]]]:
    """Names and urls of a site for each of these rows."""
    async with AsyncExitStack() as stack:
        sites = [RawSite(bundle, HOSTILE[name].asked, HOSTILE[name].sends) for name in names]
        yield [
            (name, await stack.enter_async_context(site.running()))
            for name, site in zip(names, sites, strict=True)
        ]


async def pedsam(*arguments: str | Path) -> tuple[int, str]:
    """Exit code and output of a command, on a terminal wide enough for every sentence."""
    line = [*MODULE, *map(str, arguments)]
    environment = {"COLUMNS": "5000", "PATH": "/usr/bin:/bin", "HOME": "/nonexistent"}
    ended = await anyio.run_process(line, check=False, stderr=subprocess.STDOUT, env=environment)
    return ended.returncode, ended.stdout.decode("utf-8")


def check_output(output: str) -> None:
    assert all(char.isprintable() or char == "\n" for char in output)
    assert "Traceback" not in output
    assert "not foreseen" not in output


async def test_a_run_goes_on_whatever_its_sites_answer(mini_bundle: Bundle, tmp_path: Path) -> None:
    picture = write_photo(tmp_path / "a.png", "square")
    async with AsyncExitStack() as stack:
        honest = await stack.enter_async_context(running_site(mini_bundle, ServeOptions(port=0, threads=1)))
        later = await stack.enter_async_context(hostile_sites(mini_bundle, LATER))
        at_once = await stack.enter_async_context(hostile_sites(mini_bundle, SOME))
        listed = sites_file(tmp_path / "sites.toml", ("honest", honest.url), *later, more="cap = 5")
        spares = sites_file(tmp_path / "spares.toml", *at_once, more="spare = true")
        listed.write_text(f"{listed.read_text()}\n{spares.read_text()}")
        code, output = await pedsam(
            *("run", "--bundle", mini_bundle.path, "--source", picture, "--out", tmp_path / "out"),
            *("--box", "20,20,200,200", "--allow-undistilled", "--threads", "1", "--sites", listed),
        )
    assert code == 0, output
    check_output(output)
    lines = output.splitlines()
    told = [
        name
        for name, hostile in {**SOME, **LATER}.items()
        if any(f"site {name}: " in line and hostile.says in line for line in lines)
    ]
    assert len(told) >= 10, output  # what else a run has to tell may come between
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert (summary["frames"], summary["frames_lost"]) == (1, 0)
    assert summary["sites"]["honest"]["state"] == "ready"
    assert summary["sites"]["honest"]["tiles_served"] == 5
    assert all(summary["sites"][name]["tiles_served"] == 0 for name in {**SOME, **LATER})
    await run_alone(mini_bundle, picture, tmp_path / "alone")
    assert (tmp_path / "out/masks.jsonl").read_text() == (tmp_path / "alone/masks.jsonl").read_text()


async def run_alone(bundle: Bundle, picture: Path, out: Path) -> None:
    """The same picture without sites."""
    options = RunOptions(out=out, threads=1, allow_undistilled=True)
    prompts = Prompts((Prompt("1", (20, 20, 200, 200)),))
    await run_session(bundle, PictureSource([picture]), prompts, options, Console(file=io.StringIO()))


async def test_a_check_has_a_row_for_whatever_its_sites_answer(mini_bundle: Bundle, tmp_path: Path) -> None:
    async with hostile_sites(mini_bundle, AT_ONCE) as sites:
        listed = sites_file(tmp_path / "sites.toml", *sites)
        code, output = await pedsam(
            *("check", "--bundle", mini_bundle.path, "--sites", listed),
            *("--threads", "1", "--allow-undistilled"),
            *("--json", tmp_path / "found.json"),
        )
    assert code == 1, output
    check_output(output)
    assert output.splitlines()[-1].startswith(f"0 of {len(AT_ONCE)} sites can be used")
    found = json.loads((tmp_path / "found.json").read_text())["sites"]
    for name, hostile in AT_ONCE.items():
        check_sentence(found[name]["failure"], hostile.says)
        assert f"\n{found[name]['failure']}\n" in output
    json.dumps(found, ensure_ascii=False).encode("utf-8")


async def test_a_run_that_no_site_lets_begin_ends_in_one_line(mini_bundle: Bundle, tmp_path: Path) -> None:
    """Without a window stage here; the sentence holds what each site was taken out for."""
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    for entry in mini_bundle.path.absolute().iterdir():
        if entry.name != "window":
            (bundle / entry.name).symlink_to(entry)
    async with hostile_sites(mini_bundle, STEERING) as sites:
        listed = sites_file(tmp_path / "sites.toml", *sites)
        code, output = await pedsam(
            *("run", "--bundle", bundle, "--source", write_photo(tmp_path / "a.png"), "--sites", listed),
            *("--out", tmp_path / "out", "--box", "20,20,200,200", "--allow-undistilled", "--threads", "1"),
        )
    assert code == 1, output
    check_output(output)
    assert output.splitlines()[-1].startswith(
        "Error: no site can be used and this bundle has no window stage"
    )
