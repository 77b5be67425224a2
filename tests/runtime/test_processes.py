"""Real site processes, one of them killed; and runs that are interrupted."""

from __future__ import annotations

import io
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

import anyio
import numpy as np
import pytest
from anyio.streams.text import TextReceiveStream
from click.testing import CliRunner
from PIL import Image
from rich.console import Console

from pedsam.command import main
from runtime.frames.sources import Frame, PictureSource
from runtime.keeper import LOOK_S
from runtime.objects.prompts import Prompt, Prompts
from runtime.results.run_folder import run_folder
from runtime.run_options import RunOptions
from runtime.session import run_session
from stages.bundle import Bundle
from stages.errors import InputError
from tests.runtime.test_session import real_sites
from tests.support import marks
from tests.support.disks import put_away
from tests.support.edge import Impostor, sites_file, stall, write_photo
from tests.support.pictures import SHAPES, photo
from tests.support.processes import MODULE, serving

pytestmark = pytest.mark.anyio

PROMPTS = Prompts((Prompt("box", (20, 20, 200, 200)), Prompt("point", None, ((100, 100, 1),))))


class Interrupted(PictureSource):
    """Kills a process, and waits until it is gone, just before a certain frame is read."""

    def __init__(self, paths: list[Path], process: subprocess.Popen[str], frame: int) -> None:
        super().__init__(paths)
        self._process = process
        self._frame = frame

    def __iter__(self) -> Iterator[Frame]:
        for frame in super().__iter__():
            if frame.number == self._frame:
                self._process.kill()
                self._process.wait(timeout=60)
            yield frame


def masks(out: Path) -> list[str]:
    return (out / "masks.jsonl").read_text().splitlines()


async def test_killing_one_of_three_sites_loses_no_frame_and_no_mask(
    mini_bundle: Bundle, tmp_path: Path
) -> None:
    paths = [write_photo(tmp_path / f"{i}.png", shape) for i, shape in enumerate([*SHAPES, *SHAPES][:8])]

    async def run(out: Path, source: PictureSource, sites: Path | None) -> dict[str, object]:
        chosen = RunOptions(out=out, sites=sites, threads=1, allow_undistilled=True)
        return await run_session(mini_bundle, source, PROMPTS, chosen, Console(file=io.StringIO()))

    with ExitStack() as stack:
        sites = [stack.enter_context(serving(mini_bundle.path)) for _ in range(3)]
        listed = sites_file(tmp_path / "sites.toml", *zip("abc", (site.url for site in sites), strict=True))
        summary = await run(tmp_path / "killed", Interrupted(paths, sites[1].process, 3), listed)
    await run(tmp_path / "alone", PictureSource(paths), None)
    assert (summary["frames"], summary["frames_lost"]) == (8, 0)
    assert masks(tmp_path / "killed") == masks(tmp_path / "alone")
    assert len(masks(tmp_path / "killed")) == 16
    check_sites(summary)


def check_sites(summary: dict[str, object]) -> None:
    """b went down in the middle, and nobody was shown more than its cap because of that."""
    found = summary["sites"]
    assert isinstance(found, dict)
    assert {name: site["state"] for name, site in found.items()} == {"a": "ready", "b": "down", "c": "ready"}
    assert 0 < found["b"]["tiles_served"] < found["a"]["tiles_served"]
    for site in found.values():
        assert len(site["operator_exposure"]) <= site["operator_cap"] == 9  # of 25 windows among three
    assert isinstance(summary["windows_run_at_edge"], int)
    assert summary["windows_run_at_edge"] > 0


async def test_three_sites_with_keys_give_the_masks_of_a_local_run(
    mini_bundle: Bundle, tmp_path: Path
) -> None:
    """`keys`, three `serve --keys` and `run` with the sites.toml that `keys` wrote."""
    ports = dict(zip("abc", free_ports(3), strict=True))
    made = [f"--site={name}=https://127.0.0.1:{port}" for name, port in ports.items()]
    result = CliRunner().invoke(main, ["keys", "--out", str(tmp_path / "keys"), *made])
    assert result.exit_code == 0, result.output
    picture = write_photo(tmp_path / "a.png")
    with ExitStack() as stack:
        for name, port in ports.items():
            keys = str(tmp_path / "keys" / name)
            stack.enter_context(serving(mini_bundle.path, "--keys", keys, "--port", str(port)))
        sites = str(tmp_path / "keys/sites.toml")
        with running(mini_bundle, picture, tmp_path / "sites", "--sites", sites) as process:
            output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    with running(mini_bundle, picture, tmp_path / "local") as process:
        process.communicate(timeout=120)
    assert masks(tmp_path / "sites") == masks(tmp_path / "local")
    summary = json.loads((tmp_path / "sites/summary.json").read_text())
    assert {name: site["tiles_served"] for name, site in summary["sites"].items()} == dict.fromkeys("abc", 5)


def free_ports(number: int) -> list[int]:
    """Ports that nobody listens on now."""
    with ExitStack() as stack:
        held = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(number)]
        return [each.getsockname()[1] for each in held]


async def test_a_ledger_that_goes_away_ends_no_run_and_changes_no_mask(
    mini_bundle: Bundle, tmp_path: Path
) -> None:
    """A file takes its folder's place under a run. Then a site is killed, whose windows others could take
    over if that could be entered; they do when the folder is back."""
    state, sites_toml = tmp_path / "state", tmp_path / "sites.toml"
    state.mkdir()
    with ExitStack() as stack:
        sites = [stack.enter_context(serving(mini_bundle.path)) for _ in range(3)]
        sites_file(sites_toml, *zip("abc", (site.url for site in sites), strict=True), more="cap = 15")
        terminal = stack.enter_context((tmp_path / "terminal").open("w+"))
        source, out = film(tmp_path / "in", 500), tmp_path / "out"
        more = ("--sites", str(sites_toml), "--ledger", str(state / "ledger.json"))
        with running(mini_bundle, source, out, *more, terminal=terminal) as process:
            await until_masks(out, 1)
            put_back = put_away(state)
            before = exposure_in(tmp_path / "state.away/ledger.json")
            sites[1].process.kill()
            await until_said(tmp_path / "terminal", "ledger.json cannot be written (File exists):")
            await until_masks(out, len(masks(out)) + 2)
            assert exposure_in(tmp_path / "state.away/ledger.json") == before
            put_back()
            await until_said(tmp_path / "terminal", "can be written again: new windows are sent")
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=60) == 0
    summary = json.loads((out / "summary.json").read_text())
    assert summary["frames_lost"] == 0
    assert summary["windows_run_at_edge"] > 0
    exposure = exposure_in(state / "ledger.json")
    for name, site in summary["sites"].items():
        assert site["operator_exposure"] == exposure[f"operator-{name}"]
    assert exposure["operator-b"] == before["operator-b"]
    assert exposure != before  # a or c has taken over
    undisturbed = film(tmp_path / "same", summary["frames"])
    with running(mini_bundle, undisturbed, tmp_path / "alone") as process:
        process.communicate(timeout=120)
    assert masks(out) == masks(tmp_path / "alone")


async def test_a_run_whose_ledger_cannot_be_written_at_its_end_ends_with_1(
    mini_bundle: Bundle, tmp_path: Path
) -> None:
    """A file has taken its folder's place. The next run would not know what operators have seen."""
    state, out, terminal = tmp_path / "state", tmp_path / "out", tmp_path / "terminal"
    state.mkdir()
    with ExitStack() as stack:
        urls = [stack.enter_context(serving(mini_bundle.path)).url for _ in range(2)]
        sites = sites_file(tmp_path / "sites.toml", *zip("ab", urls, strict=True))
        more = ("--sites", str(sites), "--ledger", str(state / "ledger.json"))
        source, log = film(tmp_path / "in", 500), stack.enter_context(terminal.open("w+"))
        with running(mini_bundle, source, out, *more, terminal=log) as process:
            await until_masks(out, 2)
            put_away(state)
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=60) == 1, terminal.read_text()
    summary = json.loads((out / "summary.json").read_text())
    unwritten = (
        f"the exposure ledger {state / 'ledger.json'} is not what this run has written, and cannot be "
        "written again (File exists); the next run does not know what operators have seen in this one"
    )
    assert summary["ledger_unwritten"] == unwritten
    assert unwritten in summary["warnings"]
    assert summary["nothing_done"] is None
    assert len(masks(out)) == summary["frames"] >= 2
    lines = terminal.read_text().splitlines()
    assert lines[-1] == f"Error: {unwritten}; its masks and results are kept"
    assert [line for line in lines[:-1] if "is not what this run has written" in line] == [unwritten]


def exposure_in(ledger: Path) -> dict[str, list[int]]:
    exposure: dict[str, list[int]] = json.loads(ledger.read_text())["exposure"]
    return exposure


def film(folder: Path, frames: int) -> Path:
    """A folder with two pictures in turn, so that no window stays as it was."""
    folder.mkdir()
    for number, moved in enumerate((photo("16:9"), np.roll(photo("16:9"), 4, axis=1))):
        Image.fromarray(moved).save(folder / f"{number:03}.png")
    for number in range(2, frames):
        os.link(folder / f"{number % 2:03}.png", folder / f"{number:03}.png")
    return folder


async def until_masks(out: Path, lines: int) -> None:
    with anyio.fail_after(60):
        while not (out / "masks.jsonl").exists() or len(masks(out)) < lines:  # noqa: ASYNC110 (another process)
            await anyio.sleep(0.02)


async def until_said(terminal: Path, words: str) -> None:
    with anyio.fail_after(60):
        while words not in said(terminal):  # noqa: ASYNC110 (of another process)
            await anyio.sleep(0.02)


def said(terminal: Path) -> str:
    """What stands there, without the breaks of its lines."""
    return " ".join(terminal.read_text().split())


@contextmanager
def running(
    bundle: Bundle, source: Path, out: Path, *more: str, terminal: IO[str] | int = subprocess.PIPE
) -> Iterator[subprocess.Popen[str]]:
    """`pedsam run` as a process of its own, killed at the end if it still runs."""
    line = [*MODULE, "run", "--bundle", str(bundle.path), "--source", str(source), "--out", str(out)]
    line += ["--box", "20,20,200,200", "--allow-undistilled", "--threads", "1", *more]
    with subprocess.Popen(line, text=True, stdout=terminal, stderr=subprocess.STDOUT) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
async def test_an_interrupted_run_ends_with_complete_files(
    mini_bundle: Bundle, tmp_path: Path, how: signal.Signals
) -> None:
    out = tmp_path / "out"
    with running(mini_bundle, film(tmp_path / "in", 500), out, "--verify") as process:
        await until_masks(out, 3)
        process.send_signal(how)
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    assert "Traceback" not in output
    assert "stopping after the frames under way" in output
    summary = json.loads((out / "summary.json").read_text())
    assert 3 <= summary["frames"] < 500
    assert [json.loads(text)["frame"] for text in masks(out)] == list(range(summary["frames"]))
    assert len(list((out / "overlay").iterdir())) == summary["frames"]
    assert summary["iou_with_unsplit"] >= 0.999  # of the frames that were done, and no others were read


async def test_a_run_whose_detector_hangs_says_so_and_can_be_stopped(
    mini_bundle: Bundle, tmp_path: Path
) -> None:
    """It hangs for minutes, and neither a frame nor the end of the run waits for it."""
    out = tmp_path / "out"
    async with real_sites(mini_bundle, tmp_path) as sites:
        more = ("--sites", str(sites), "--no-record", "--keep", marks.HANG)
        with running(mini_bundle, film(tmp_path / "in", 50), out, *more) as process:
            assert process.stdout is not None
            said = ""
            while "is lost" not in said:
                line = await anyio.to_thread.run_sync(process.stdout.readline)
                assert line, said
                said += line
            process.send_signal(signal.SIGINT)
            stopped_s = time.monotonic()
            rest, _ = await anyio.to_thread.run_sync(process.communicate)
            took_s = time.monotonic() - stopped_s
    words = " ".join((said + rest).split())
    since = f"--keep {marks.HANG} has looked at one frame for more than {LOOK_S:g} s"
    assert f"is lost: {since}, so that nothing of this one was sent" in words
    assert "stopping after the frames under way" in words
    assert "Traceback" not in words
    summary = json.loads((out / "summary.json").read_text())
    assert [site["windows_seen"] for site in summary["sites"].values()] == [[], [], []]
    assert process.returncode == 1, words
    assert "nothing was done: every frame is lost" in words
    assert (
        took_s < 60
    )  # of the minutes that it hangs; without other work on the machine it is LOOK_S and a bit


async def test_a_run_whose_terminal_is_closed_completes_its_files(
    mini_bundle: Bundle, tmp_path: Path
) -> None:
    """What it prints at its end goes nowhere, which is no error."""
    picture = write_photo(tmp_path / "a.png")
    with running(mini_bundle, picture, tmp_path / "out") as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.wait(timeout=120) == 0
    assert json.loads((tmp_path / "out/summary.json").read_text())["frames"] == 1


async def test_a_second_run_into_a_folder_is_refused_while_the_first_goes_on(
    mini_bundle: Bundle, tmp_path: Path
) -> None:
    """Also one that was not asked to record, whose summary would take the first one's place."""
    chosen = RunOptions(out=tmp_path / "out", threads=1, allow_undistilled=True)
    source = PictureSource([write_photo(tmp_path / "a.png")])
    quiet = Console(file=io.StringIO())
    with run_folder(tmp_path / "out", ()), pytest.raises(InputError, match="another run writes into"):
        await run_session(mini_bundle, source, PROMPTS, chosen, quiet)
    assert not (tmp_path / "out/masks.jsonl").exists()
    await run_session(mini_bundle, source, PROMPTS, chosen, quiet)
    assert len(masks(tmp_path / "out")) == 2


async def test_a_second_interrupt_does_not_wait_for_a_stalled_site(
    mini_bundle: Bundle, tmp_path: Path
) -> None:
    impostor = Impostor(mini_bundle, *[stall] * 100)
    picture = write_photo(tmp_path / "a.png")
    async with impostor.running() as url:
        sites = sites_file(tmp_path / "sites.toml", ("a", url))
        line = [*MODULE, "run", "--bundle", str(mini_bundle.path), "--source", str(picture)]
        line += ["--out", str(tmp_path / "out"), "--point", "9,9", "--allow-undistilled"]
        line += ["--sites", str(sites), "--accept-exposure", "--spot-checks", "0"]
        async with await anyio.open_process(line, stderr=subprocess.STDOUT) as process:
            assert process.stdout is not None
            output = TextReceiveStream(process.stdout)
            with anyio.fail_after(60):
                await impostor.seen.wait()
                process.send_signal(signal.SIGINT)
                text = await output.receive()
                while "stopping" not in text:
                    text += await output.receive()
                process.send_signal(signal.SIGINT)
                async for rest in output:
                    text += rest
                assert await process.wait() == 1
    assert text.rstrip().endswith("Aborted!")
    assert "Traceback" not in text
    assert not (tmp_path / "out/summary.json").exists()
