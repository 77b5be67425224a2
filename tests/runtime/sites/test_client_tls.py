"""A site behind TLS as the edge sees it: with the keys made for it, and all that can be wrong with them."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.client_reqrep import ConnectionKey

from runtime.sites.client import SiteClient
from runtime.sites.config import SiteConfig
from runtime.sites.reasons import reason
from server.serve import ServeOptions, running_site
from stages.bundle import Bundle
from stages.errors import SiteUnavailable
from stages.tls import server_context as server_tls
from tests.support.clients import has_ipv6
from tests.support.edge import Impostor, canvas_of, grant_for, sendable
from tests.support.keys import LONG_AGO, keys_for, site_at
from tests.support.tls import answering, nothing, server_context, site_with

# Not unblocked_loop: it turns asyncio's debug mode on, where a handshake that fails is an error of the loop.
pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return keys_for(tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> SiteConfig:
    """Another site, with authority, client certificate and token of its own."""
    return site_at("", keys_for(tmp_path_factory.mktemp("other"), "b"))


async def connect(bundle: Bundle, site: SiteConfig) -> None:
    async with SiteClient(site, bundle, "fp16") as client:
        await client.connect(bundle.probe())


async def failure(bundle: Bundle, site: SiteConfig) -> str:
    """What connecting to the site ends with."""
    with pytest.raises(SiteUnavailable) as caught:
        await connect(bundle, site)
    text = str(caught.value)
    assert text.startswith(f"site {site.name}: ")
    assert "\n" not in text
    return text


# What works


async def test_the_keys_made_for_a_site_reach_it(mini_bundle: Bundle, keys: Path) -> None:
    async with site_with(mini_bundle, keys) as site, SiteClient(site, mini_bundle, "fp16") as client:
        await client.connect(mini_bundle.probe())
        tile = canvas_of("16:9", mini_bundle.geometry).window_inputs([7], mini_bundle)
        (embedding,) = await client.infer([grant_for(site, 7)], sendable(tile))
    assert embedding.shape == mini_bundle.embedding_shape


@pytest.mark.parametrize("host", ["localhost", "[::1]"])
async def test_names_and_ipv6_addresses(mini_bundle: Bundle, tmp_path: Path, host: str) -> None:
    if host == "[::1]" and not has_ipv6():
        pytest.skip("this machine has no IPv6 loopback")
    keys = keys_for(tmp_path, host=host)
    options = ServeOptions(host=host.strip("[]"), port=0, threads=1, keys=keys)
    async with running_site(mini_bundle, options) as running:
        port = running.url.rpartition(":")[2]
        await connect(mini_bundle, site_at(f"https://{host}:{port}", keys))


# What fails, and what is said


async def test_an_expired_certificate(mini_bundle: Bundle, tmp_path: Path) -> None:
    keys = keys_for(tmp_path, ago=LONG_AGO)
    async with answering(nothing, keys) as url:
        text = await failure(mini_bundle, site_at(url, keys))
    assert "its certificate has expired; renew it with `pedsam keys` and copy its folder" in text


async def test_a_certificate_of_the_future(mini_bundle: Bundle, tmp_path: Path) -> None:
    keys = keys_for(tmp_path, ago=-LONG_AGO)
    async with answering(nothing, keys) as url:
        text = await failure(mini_bundle, site_at(url, keys))
    assert "is not valid yet; check this machine's clock" in text


@pytest.mark.parametrize("known", [True, False])
async def test_a_certificate_of_another_authority(
    mini_bundle: Bundle, keys: Path, other: SiteConfig, known: bool
) -> None:
    async with site_with(mini_bundle, keys) as site:
        text = await failure(mini_bundle, replace(site, ca=other.ca if known else None))
    who = f"ca {other.ca}" if known else "an authority this system trusts"
    assert f"its certificate is not signed by {who}" in text
    assert "check ca in sites.toml" in text


async def test_a_certificate_for_another_address(mini_bundle: Bundle, tmp_path: Path) -> None:
    keys = keys_for(tmp_path, host="site.example")
    async with site_with(mini_bundle, keys) as site:
        text = await failure(mini_bundle, site)
    assert "its certificate is for another address (IP address mismatch" in text
    assert "make keys for that url with `pedsam keys`" in text


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_no_client_certificate(mini_bundle: Bundle, keys: Path, version: ssl.TLSVersion) -> None:
    async with site_with(mini_bundle, keys) as site:
        text = await failure(mini_bundle, AtMost.of(replace(site, cert=None, key=None), version))
    assert "because it got no client certificate; put cert and key into sites.toml" in text


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_a_client_certificate_of_another_site(
    mini_bundle: Bundle, keys: Path, other: SiteConfig, version: ssl.TLSVersion
) -> None:
    async with site_with(mini_bundle, keys) as site:
        text = await failure(mini_bundle, AtMost.of(replace(site, cert=other.cert, key=other.key), version))
    assert f"for this edge's certificate; check that {other.cert} and its key are for" in text


async def test_an_expired_client_certificate(mini_bundle: Bundle, tmp_path: Path) -> None:
    keys_for(tmp_path, ago=LONG_AGO)
    old = shutil.copytree(tmp_path / "edge/a", tmp_path / "old")
    keys = keys_for(tmp_path)  # renewed, and the edge goes on with what it had
    async with site_with(mini_bundle, keys) as site:
        site = replace(site, cert=old / "client.pem", key=old / "client.key")
        text = await failure(mini_bundle, site)
    assert f"this edge's certificate {old}/client.pem expired on " in text
    assert "renew it with `pedsam keys`" in text
    shutil.rmtree(old)
    assert "check that" in reason(aiohttp.ServerDisconnectedError(), site, False)  # it can no longer be read


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("shows", [True, False])
async def test_a_server_that_says_why_in_an_alert(
    mini_bundle: Bundle, keys: Path, other: SiteConfig, version: ssl.TLSVersion, shows: bool
) -> None:
    """As nginx and Triton behind it do; with TLS 1.3 the alert may be lost to a reset of the connection."""
    with alerting(keys) as url:
        site = replace(
            site_at(url, keys), cert=other.cert if shows else None, key=other.key if shows else None
        )
        text = await failure(mini_bundle, AtMost.of(site, version))
    assert ("for this edge's certificate" if shows else "because it got no client certificate") in text


@pytest.mark.parametrize("token", [None, "wrong"])
async def test_a_wrong_token(mini_bundle: Bundle, keys: Path, token: str | None) -> None:
    async with site_with(mini_bundle, keys) as site:
        text = await failure(mini_bundle, replace(site, token=token))
    assert "refuses this edge (401: the token of this site is missing or wrong" in text
    assert "check token_file in sites.toml" in text


async def test_a_closed_port(mini_bundle: Bundle, keys: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    text = await failure(mini_bundle, site_at(f"https://127.0.0.1:{port}", keys))
    assert f"cannot be reached at 127.0.0.1:{port} (Connect" in text
    assert "check url in sites.toml and whether the site runs" in text


async def test_a_redirect_is_not_followed(mini_bundle: Bundle, keys: Path) -> None:
    asked: list[str | None] = []

    async def redirect(request: web.Request) -> web.StreamResponse:
        asked.append(request.path)
        raise web.HTTPFound("/elsewhere")

    async with answering(redirect, keys) as url:
        text = await failure(mini_bundle, site_at(url, keys))
    assert "redirects, which is not followed; put the final url into sites.toml" in text
    assert asked == ["/v2/models/window/config"]


async def test_plain_http_behind_an_https_url(mini_bundle: Bundle, keys: Path) -> None:
    async with Impostor(mini_bundle).running() as url:
        text = await failure(mini_bundle, site_at(url.replace("http:", "https:"), keys))
    assert text == (
        "site a: speaks plain HTTP at its https url; start the site with --keys, or change https: to http: "
        "in its url in sites.toml"
    )


async def test_a_plain_http_url_of_a_site_with_keys(mini_bundle: Bundle, keys: Path) -> None:
    async with site_with(mini_bundle, keys) as site:
        text = await failure(mini_bundle, replace(site, url=site.url.replace("https:", "http:")))
    assert text == (
        "site a: closed the connection without an answer; if it was started with --keys, change http: to "
        "https: in its url in sites.toml"
    )


@pytest.mark.parametrize(
    "host", ["pedsam_site", "site.example.", "Site.Example", "xn--mnchen-3ya.example", "1a"]
)
async def test_any_name_that_gets_keys_is_taken_by_tls(host: str, tmp_path: Path) -> None:
    """Docker Compose's names have underscores, and a dot at the end keeps a resolver from adding a domain."""
    folder = keys_for(tmp_path, host=host)
    site = site_at(f"https://{host}", folder)

    async def hello(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(
        hello, "127.0.0.1", 0, ssl=server_tls(folder, "", client_certificates=True)
    )
    port = server.sockets[0].getsockname()[1]
    connector = aiohttp.TCPConnector(ssl=site.ssl_context() or False, resolver=Here())
    session = aiohttp.ClientSession(connector=connector)
    async with server, session, session.get(f"{site.url}:{port}/") as response:
        assert response.status == 204


class Here(AbstractResolver):
    """Every name is this machine's."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        return [ResolveResult(hostname=host, host="127.0.0.1", port=port, family=family, proto=0, flags=0)]

    async def close(self) -> None:
        pass


async def test_a_connection_lost_later_is_not_blamed_on_certificates(mini_bundle: Bundle, keys: Path) -> None:
    async with site_with(mini_bundle, keys) as site, SiteClient(site, mini_bundle, "fp16") as client:
        await client.connect(mini_bundle.probe())
        answered = client.traffic.body_down > 0
    while_sending = aiohttp.ClientOSError(None, "Can not write request body for http://site/")
    while_sending.__cause__ = aiohttp.ClientConnectionResetError("Cannot write to closing transport")
    for lost in (aiohttp.ServerDisconnectedError(), while_sending):
        assert reason(lost, site, answered) == (
            "closed the connection in the middle of an answer; see whether the site still runs"
        )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[SSL: TLSV13_ALERT_CERTIFICATE_REQUIRED] tlsv13 alert", "refuses the TLS connection"),
        ("[SSL: SSLV3_ALERT_CERTIFICATE_EXPIRED] sslv3 alert", "refuses the TLS connection"),
        ("[SSL: TLSV1_ALERT_UNKNOWN_CA] tlsv1 alert", "refuses the TLS connection"),
        ("[SSL: TLSV1_ALERT_PROTOCOL_VERSION] tlsv1 alert", "TLS failed"),
        ("[SSL: RECORD_LAYER_FAILURE] record layer failure", "speaks plain HTTP"),
        (
            "[SSL: UNEXPECTED_EOF_WHILE_READING] EOF occurred in violation of protocol",
            "closed the connection",
        ),
        ("[SSL: INTERNAL_ERROR] internal error", "TLS failed"),
    ],
)
def test_errors_of_openssl_are_told_wrapped_or_not(keys: Path, text: str, words: str) -> None:
    """Other versions of OpenSSL and aiohttp than this one's: the same in words of their own."""
    site = site_at("https://site.example", keys)
    key = ConnectionKey("site.example", 443, True, True, None, None, None)
    for exc in (
        aiohttp.ClientOSError(1, text),
        ssl.SSLError(1, text),
        aiohttp.ClientConnectorSSLError(key, ssl.SSLError(1, text)),
    ):
        assert reason(exc, site, False).startswith(words)


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE])
def test_an_edge_without_files_is_not_the_sites_fault_at_any_moment(number: int) -> None:
    site, full = SiteConfig("a", "alpha", "https://site.example"), OSError(number, os.strerror(number))
    key = ConnectionKey("site.example", 443, True, True, None, None, None)
    errors = (full, aiohttp.ClientOSError(*full.args), aiohttp.ClientConnectorDNSError(key, full))
    for exc in (*errors, aiohttp.ClientConnectorError(key, full)):
        assert reason(exc, site, False) == (
            f"cannot be asked, as the edge may open no more files ({os.strerror(number)}); give it more with "
            "`ulimit -n`, or LimitNOFILE= of its service"
        )


@dataclass(frozen=True)
class AtMost(SiteConfig):
    """A site with which the edge speaks no newer TLS than `version`: the versions fail at other moments."""

    version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3

    @classmethod
    def of(cls, site: SiteConfig, version: ssl.TLSVersion) -> AtMost:
        return cls(**vars(site), version=version)

    def ssl_context(self) -> ssl.SSLContext | None:
        context = super().ssl_context()
        assert context is not None
        context.maximum_version = self.version
        return context


@contextmanager
def alerting(keys: Path) -> Iterator[str]:
    """A server that asks for client certificates, on blocking sockets, which send their alerts."""
    context = server_context(keys)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(keys / "client_ca.pem")
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            connection, _ = listener.accept()
            try:
                context.wrap_socket(connection, server_side=True).close()
            except OSError:
                connection.close()
            else:
                return

    thread = threading.Thread(target=serve)
    thread.start()
    address = listener.getsockname()
    try:
        yield f"https://127.0.0.1:{address[1]}"
    finally:
        stop(address, keys)
        thread.join()
        listener.close()


def stop(address: tuple[str, int], keys: Path) -> None:
    """The first client with the right certificate ends the server."""
    context = site_at("https://x", keys).ssl_context()
    assert context is not None
    with socket.create_connection(address) as plain, context.wrap_socket(plain, server_hostname="127.0.0.1"):
        pass
