"""A site with keys: TLS, client certificates, the token, and folders that cannot be used."""

from __future__ import annotations

import logging
import re
import shutil
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import numpy as np
import pytest
import tritonclient.http as sync_client
import tritonclient.http.aio as aio_client
from click.testing import CliRunner

from pedsam.command import main
from runtime.sites.config import SiteConfig
from server.keys import load_keys
from stages.bundle import Bundle
from stages.certificates import validity
from stages.errors import InputError
from stages.tensors import Array
from tests.support.clients import INFER, Client, dial
from tests.support.fakes import FakeEngine, answers, fake_site, tiles, tiny_bundle
from tests.support.keys import LONG_AGO, keys_for, site_at
from tests.support.messages import request
from tests.support.processes import serving

# Not unblocked_loop: it turns asyncio's debug mode on, where a handshake that fails is an error of the loop.
pytestmark = pytest.mark.anyio

CLOSED = (aiohttp.ClientConnectionError, ssl.SSLError)
DATATYPES = {"tile": "UINT8", "index": "INT32", "extent": "INT32"}


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return keys_for(tmp_path_factory.mktemp("keys"))


def bearer(site: SiteConfig) -> dict[str, str]:
    return {"Authorization": f"Bearer {site.token}"}


@asynccontextmanager
async def connected(
    keys: Path, engine: FakeEngine | None = None, handshake_s: float = 10, **changes: Any
) -> AsyncIterator[Client]:
    """A client of a site with these keys, as the edge sets it up; `changes` are to its SiteConfig."""
    async with fake_site(engine, keys=keys, handshake_s=handshake_s) as site:
        config = replace(site_at(site.url, keys), **changes)
        context = config.ssl_context()
        assert context is not None
        connector = aiohttp.TCPConnector(ssl=context)
        headers = bearer(config) if config.token else {}
        async with aiohttp.ClientSession(connector=connector, headers=headers) as session:
            yield Client(site, session)


# TLS


async def test_a_client_with_certificate_and_token_is_served(keys: Path) -> None:
    async with connected(keys) as client:
        assert client.site.url.startswith("https://127.0.0.1:")
        assert (await client.infer(1, 2)).holds(1, 2)


@pytest.mark.parametrize(
    ("version", "served"),
    [(ssl.TLSVersion.TLSv1_3, True), (ssl.TLSVersion.TLSv1_2, True), (ssl.TLSVersion.TLSv1_1, False)],
)
@pytest.mark.filterwarnings("ignore:.*TLSv1_1 is deprecated:DeprecationWarning")
async def test_tls_is_1_2_or_newer(keys: Path, version: ssl.TLSVersion, served: bool) -> None:
    async with fake_site(keys=keys) as site:
        config = site_at(site.url, keys)
        context = config.ssl_context()
        assert context is not None
        context.set_ciphers("DEFAULT:@SECLEVEL=0")  # else OpenSSL itself would not offer 1.1
        context.minimum_version = context.maximum_version = version
        async with aiohttp.ClientSession(headers=bearer(config)) as session:
            if served:
                async with session.get(site.url + "/v2", ssl=context) as answer:
                    assert answer.status == 200
            else:
                with pytest.raises(CLOSED):
                    await session.get(site.url + "/v2", ssl=context)


async def test_certificates_pass_strict_verification(keys: Path) -> None:
    """As Python 3.13 and later ask for by default."""
    async with fake_site(keys=keys) as site:
        config = site_at(site.url, keys)
        context = config.ssl_context()
        assert context is not None
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        async with (
            aiohttp.ClientSession() as session,
            session.get(site.url + "/v2/health/live", ssl=context) as answer,
        ):
            assert answer.status == 200


@pytest.mark.parametrize("whose", ["nobody's", "another site's", "the server's own"])
async def test_who_has_no_certificate_of_this_site_is_not_heard(
    keys: Path, tmp_path: Path, whose: str
) -> None:
    other = site_at("", keys_for(tmp_path, "b"))
    shown = {
        "nobody's": (None, None),
        "another site's": (other.cert, other.key),
        "the server's own": (keys / "server.pem", keys / "server.key"),  # it is for servers, not for clients
    }
    cert, key = shown[whose]
    async with connected(keys, cert=cert, key=key) as client:
        for path in ("/v2/health/live", "/v2"):
            with pytest.raises(CLOSED):
                await client.ask("GET", path)


async def test_a_handshake_that_is_never_finished_is_hung_up_on(keys: Path) -> None:
    async with connected(keys, handshake_s=1) as client:
        reader, writer = await dial(client.site)
        with anyio.fail_after(10):
            assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()
        assert (await client.infer(1)).holds(1)


async def test_a_handshake_under_way_does_not_hold_up_the_shutdown(keys: Path) -> None:
    with anyio.fail_after(10):
        async with fake_site(keys=keys, handshake_s=60) as site:
            _, writer = await dial(site)
    writer.close()


async def test_with_keys_other_machines_may_connect(keys: Path) -> None:
    async with fake_site(keys=keys, host="0.0.0.0") as site:  # noqa: S104
        assert site.url.startswith("https://0.0.0.0:")


# The token


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "Bearer wrong",
        "Bearer {}x",
        "Basic {}",
        "{}",
        "Bearer {} {}",
        "Bearer \u00e9",
    ],
)
@pytest.mark.parametrize(
    "path", ["/v2", "/v2/models/window/config", "/metrics", "/nowhere", "/v2/health/live/"]
)
async def test_without_the_token_nothing_is_answered(keys: Path, header: str | None, path: str) -> None:
    token = (keys / "token").read_text().strip()
    headers = {} if header is None else {"Authorization": header.replace("{}", token)}
    async with connected(keys, token=None) as client:
        answer = await client.ask("GET", path, headers=headers)
    assert answer.status == 401
    assert answer.error.startswith("the token of this site is missing or wrong")
    assert answer.headers["WWW-Authenticate"] == "Bearer"


async def test_tiles_without_the_token_reach_no_engine(keys: Path) -> None:
    engine = FakeEngine()
    async with connected(keys, engine, token=None) as client:
        body, length = request()
        answer = await client.ask(
            "POST", INFER, data=body, headers={"Inference-Header-Content-Length": str(length)}
        )
        assert answer.status == 401
    assert engine.batches == []


@pytest.mark.parametrize("path", ["/v2/health/live", "/v2/health/ready"])
async def test_health_needs_no_token(keys: Path, path: str) -> None:
    async with connected(keys, token=None) as client:
        assert (await client.ask("GET", path)).status == 200


async def test_the_scheme_is_written_as_one_likes(keys: Path) -> None:
    token = (keys / "token").read_text().strip()
    async with connected(keys, token=None) as client:
        assert (await client.ask("GET", "/v2", headers={"Authorization": f"bearer {token}"})).status == 200


# Stock clients


def requested(arrays: dict[str, Array]) -> list[Any]:
    result = []
    for name, array in arrays.items():
        result.append(sync_client.InferInput(name, list(array.shape), DATATYPES[name]))
        result[-1].set_data_from_numpy(array)
    return result


async def test_the_stock_asyncio_client_infers(keys: Path) -> None:
    async with fake_site(keys=keys) as site:
        config = site_at(site.url, keys)
        address = site.url.removeprefix("https://")
        async with aio_client.InferenceServerClient(
            address, ssl=True, ssl_context=config.ssl_context()
        ) as client:
            assert await client.is_server_ready()
            result = await client.infer("window", requested(tiles(3, 7)), headers=bearer(config))
    assert (result.as_numpy("embedding") == answers(tiles(3, 7))["embedding"]).all()


def test_the_stock_client_infers(keys: Path, mini_bundle: Bundle) -> None:
    probe = mini_bundle.probe()
    with serving(mini_bundle.path, "--keys", str(keys)) as site:
        config = site_at(site.url, keys)
        files = {"ca_certs": str(config.ca), "certfile": str(config.cert), "keyfile": str(config.key)}
        client = sync_client.InferenceServerClient(site.address, ssl=True, ssl_options=files)
        assert client.is_server_live()
        result = client.infer("window", requested(dict(probe.inputs)), headers=bearer(config))
        client.close()
        lines = site.lines
    difference = np.abs(result.as_numpy("embedding").astype(np.float32) - probe.embedding).max()
    assert difference <= probe.tolerance["float16"] * np.abs(probe.embedding).max()
    until = load_keys(keys).until
    assert lines[2] == f"certificate until {until:%Y-%m-%d}; clients need a certificate and a token"
    assert re.fullmatch(r"listening on https://127\.0\.0\.1:\d+", lines[3])


# The folder


def test_the_earlier_end_counts(keys: Path) -> None:
    ends = [validity(keys / name)[1] for name in ("server.pem", "client_ca.pem")]
    assert load_keys(keys).until == min(ends) == ends[0]


def test_an_expired_certificate_is_refused(tmp_path: Path) -> None:
    folder = keys_for(tmp_path, ago=LONG_AGO)
    with pytest.raises(InputError, match=r"server\.pem expired on 20..-..-..; renew it with `pedsam keys`"):
        load_keys(folder)


def test_an_expired_authority_is_refused(tmp_path: Path) -> None:
    folder = keys_for(tmp_path)
    old = keys_for(tmp_path / "old", ago=timedelta(days=9000))
    shutil.copy(old / "client_ca.pem", folder)
    with pytest.raises(InputError, match=r"client_ca\.pem expired"):
        load_keys(folder)


def test_a_certificate_of_the_future_points_at_the_clock(tmp_path: Path) -> None:
    folder = keys_for(tmp_path, ago=-LONG_AGO)
    with pytest.raises(InputError, match="check this machine's clock"):
        load_keys(folder)


@pytest.mark.parametrize(("left", "warned"), [(29, True), (31, False)])
def test_a_certificate_that_ends_soon_is_warned_of(
    keys: Path, caplog: pytest.LogCaptureFixture, left: int, warned: bool
) -> None:
    until = validity(keys / "server.pem")[1]
    with caplog.at_level(logging.WARNING, "pedsam.site"):
        load_keys(keys, until - timedelta(days=left))
    assert [f"expires on {until:%Y-%m-%d}" in line for line in caplog.messages] == [True] * warned


@pytest.mark.parametrize("name", ["server.pem", "server.key", "client_ca.pem", "token"])
def test_a_missing_file_is_named(keys: Path, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "a"
    shutil.copytree(keys, folder)
    (folder / name).unlink()
    with pytest.raises(InputError, match=rf"a holds no {re.escape(name)}; --keys takes the folder"):
        load_keys(folder)


@pytest.mark.parametrize("name", ["server.pem", "server.key", "client_ca.pem", "token"])
@pytest.mark.parametrize("content", ["", "one\ntwo\n"])
def test_a_wrong_file_is_named(keys: Path, tmp_path: Path, name: str, content: str) -> None:
    folder = tmp_path / "a"
    shutil.copytree(keys, folder)
    (folder / name).write_text(content)
    with pytest.raises(InputError, match=re.escape(name)) as caught:
        load_keys(folder)
    assert "\n" not in str(caught.value)


def test_a_key_of_another_certificate_is_refused(keys: Path, tmp_path: Path) -> None:
    folder, other = tmp_path / "a", keys_for(tmp_path / "other", "b")
    shutil.copytree(keys, folder)
    shutil.copy(other / "server.key", folder)
    with pytest.raises(InputError, match=r"server\.pem with server\.key in .* cannot be used"):
        load_keys(folder)


def test_the_token_is_in_no_repr(keys: Path) -> None:
    assert (keys / "token").read_text().strip() not in repr(load_keys(keys))


def test_the_command_refuses_in_a_sentence(tmp_path: Path) -> None:
    tiny_bundle(tmp_path).save()
    line = ["serve", "--bundle", str(tmp_path), "--port", "0", "--keys", str(tmp_path / "nowhere")]
    result = CliRunner().invoke(main, line)
    assert result.exit_code == 1
    assert result.output.startswith(f"Error: {tmp_path / 'nowhere'} holds no server.pem; --keys takes")
