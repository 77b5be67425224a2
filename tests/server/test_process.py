"""`pedsam serve` as a user starts it: what it prints, how it stops, and its errors."""

from __future__ import annotations

import re
import shutil
import signal
import socket
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path

import aiohttp
import numpy as np
import pytest
from click.testing import CliRunner, Result

from pedsam.command import main
from stages import wire
from stages.bundle import PROBE_FILE, Bundle, hash_files
from stages.tensors import Array
from stages.tile_inputs import blank_canvas, window_inputs
from tests.support.bundles import other_weights
from tests.support.clients import INFER
from tests.support.fakes import tiny_bundle
from tests.support.processes import MODULE, SCRIPT, serving
from tests.support.raw_http import exchange, http


@pytest.mark.parametrize(
    ("number", "command"),
    [(signal.SIGTERM, MODULE), (signal.SIGINT, SCRIPT), (signal.SIGHUP, MODULE)],
    ids=["SIGTERM", "SIGINT", "SIGHUP"],
)
def test_a_site_says_what_it_serves_and_stops_when_told(
    mini_bundle: Bundle, number: signal.Signals, command: Sequence[str]
) -> None:
    with serving(mini_bundle.path, command=command) as site:
        assert re.fullmatch(
            r"site ready: version 1, mini \(untrained weights\), onnxruntime [\d.]+ on CPU, probe reproduced",
            site.lines[0],
        )
        assert site.lines[1] == f"digest {mini_bundle.site_digest}"
        assert re.fullmatch(r"listening on http://127\.0\.0\.1:\d+", site.lines[2])
        site.process.send_signal(number)
        assert site.wait() == (0, "")
        assert site.lines[3:] == [
            "stopping: requests under way are finished first",
            "stopped after 0 tiles in 0 batches, 0 refused",
        ]


def test_a_site_of_two_bundles_says_which_is_which(mini_bundle: Bundle, tmp_path: Path) -> None:
    new = other_weights(mini_bundle, tmp_path)
    with serving(mini_bundle.path, "--bundle", str(new.path)) as site:
        assert site.lines[0].startswith("site ready: version 1, mini (untrained weights), onnxruntime")
        assert site.lines[1] == f"digest {mini_bundle.site_digest}"
        assert site.lines[2].startswith("site ready: version 2, mini (untrained weights), onnxruntime")
        assert site.lines[3] == f"digest {new.site_digest}"
        site.process.terminate()
        assert site.wait() == (0, "")
    assert [entry["event"] for entry in site.log] == [
        "listening",
        "version_loaded",
        "version_loaded",
        "ready",
        "stopping",
        "drained",
        "stopped",
    ]


def test_an_engine_that_does_not_reproduce_its_probe(mini_bundle: Bundle, tmp_path: Path) -> None:
    other = other_weights(mini_bundle, tmp_path / "other")
    shutil.copy(mini_bundle.path / PROBE_FILE, other.path / PROBE_FILE)
    replace(other, edge_files=hash_files(other.path, other.edge_files)).save()
    result = serve("--bundle", other.path, "--port", 0)
    assert_refused(result, 1, f"Error: the engine of {other.path} answers the probe with a difference of 0.")


@pytest.mark.anyio
async def test_a_request_under_way_is_finished_after_sigterm(mini_bundle: Bundle) -> None:
    windows = mini_bundle.geometry.windows
    sent = wire.encode_request(blank_tiles(mini_bundle), ["embedding"])
    with serving(mini_bundle.path) as site:

        async def body() -> AsyncIterator[bytes]:
            site.process.terminate()
            yield sent.body[:-1]
            yield sent.body[-1:]

        async with (
            aiohttp.ClientSession(site.url) as session,
            # With Expect: 100-continue the body is asked for by a site that has begun to serve the request.
            session.post(INFER, data=body(), headers=sent.headers, expect100=True) as answer,
        ):
            assert answer.status == 200
            assert len(await answer.read()) > windows * 9600
        assert site.wait() == (0, "")
        assert re.fullmatch(rf"stopped after {windows} tiles in \d+ batches, 0 refused", site.lines[-1])


@pytest.mark.anyio
async def test_what_is_asked_by_raw_bytes(mini_bundle: Bundle) -> None:
    """A full batch, more than is kept before it is read, with a request behind its last one; half-closed."""
    sent = wire.encode_request(blank_tiles(mini_bundle), ["embedding"])
    twice = sent.body.replace(b'"outputs":[', b'"outputs":[{"name":"embedding"},', 1)
    length = sent.header_length or 0
    longer = {wire.HEADER_LENGTH: str(length + len(twice) - len(sent.body))}
    live = http("GET", "/v2/health/live")
    with serving(mini_bundle.path) as site:
        last = http("POST", INFER, sent.body, {**sent.headers, "Connection": "close"})
        reply = await exchange(site.url, last + live)
        assert reply is not None
        assert (reply.status, reply.headers["connection"]) == (200, "close")
        for request, body in (
            (live, b'{"live": true}'),
            (http("GET", "/v2/health/ready"), b'{"ready": true}'),
        ):
            reply = await exchange(site.url, request, half_close=True)
            assert reply is not None
            assert (reply.status, reply.body) == (200, body)
        reply = await exchange(site.url, http("POST", INFER, sent.body, sent.headers), half_close=True)
        assert reply is not None
        assert len(reply.body) > mini_bundle.geometry.windows * 9600
        reply = await exchange(site.url, http("POST", INFER, twice, longer))
        assert reply is not None
        assert reply.fact == "400 output 'embedding' is asked for twice; name each output once"
        site.process.terminate()
        assert site.wait() == (0, "")


def blank_tiles(bundle: Bundle) -> dict[str, Array]:
    """Every window of a black picture."""
    g = bundle.geometry
    extents = np.tile(np.array([0, 0, g.tile_px, g.tile_px], np.int32), (g.windows, 1))
    return window_inputs(bundle, blank_canvas(g), extents, range(g.windows))


# Errors


@pytest.fixture
def manifest_only(tmp_path: Path) -> Path:
    """A bundle without any stage's files."""
    tiny_bundle(tmp_path).save()
    return tmp_path


def serve(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["serve", *map(str, arguments)])


def assert_refused(result: Result, exit_code: int, words: str) -> None:
    assert result.exit_code == exit_code
    assert words in " ".join(result.output.split())
    assert isinstance(result.exception, SystemExit)  # not a traceback


def test_a_directory_that_is_no_bundle(tmp_path: Path) -> None:
    words = f"Error: {tmp_path} is no bundle: it holds no bundle.json; make one with pedsam export"
    assert_refused(serve("--bundle", tmp_path), 1, words)


def test_a_bundle_without_the_window_stage(manifest_only: Path) -> None:
    words = f"Error: {manifest_only} does not hold window, which a site needs; copy the folders from the full"
    assert_refused(serve("--bundle", manifest_only, "--port", 0), 1, words)


def test_a_damaged_window_stage(manifest_only: Path) -> None:
    (manifest_only / "window").mkdir()
    (manifest_only / "window/model.onnx").write_bytes(b"damaged")
    words = "window/model.onnx differs from what bundle.json records"
    assert_refused(serve("--bundle", manifest_only, "--port", 0), 1, words)


def test_an_address_others_can_reach(manifest_only: Path) -> None:
    words = "Error: 0.0.0.0 is not a loopback address and this site speaks plain HTTP"
    assert_refused(serve("--bundle", manifest_only, "--host", "0.0.0.0"), 1, words)  # noqa: S104


def test_a_taken_port(mini_bundle: Bundle) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = serve("--bundle", mini_bundle.path, "--port", port)
    assert_refused(result, 1, f"Error: cannot listen on 127.0.0.1:{port} (Address already in use)")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--bundle", "x", "--port", "65536"], "Invalid value for '--port'"),
        (["--bundle", "x", "--queue", "0"], "Invalid value for '--queue'"),
        (["--bundle", "x", "--max-batch", "0"], "Invalid value for '--max-batch'"),
        (["--bundle", "x", "--threads", "0"], "Invalid value for '--threads'"),
        (["--bundle", "x", "--grace", "-1"], "Invalid value for '--grace'"),
        (["--bundle", "x", "--log", "xml"], "'xml' is not one of 'json', 'text'"),
        (["--bundle", "x", "--backend", "tpu"], "'tpu' is not one of 'auto', 'tensorrt'"),
        (["--bundel", "x"], "--bundel"),
    ],
)
def test_wrong_options(arguments: list[str], words: str) -> None:
    assert_refused(serve(*arguments), 2, words)


def test_an_unknown_command() -> None:
    assert_refused(CliRunner().invoke(main, ["server"]), 2, "No such command 'server'")


def test_help_names_every_option_with_its_default() -> None:
    text = " ".join(serve("--help").output.split())
    for words in ("--bundle PATH", "127.0.0.1", "8001", "onnxruntime", "--insecure", "[default: 10.0"):
        assert words in text
