"""Sites that cannot be used, each in one way: real servers, and what is said of them."""

from __future__ import annotations

import asyncio
import gzip
import shutil
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from aiohttp import web

from runtime.sites.client import Timeouts
from runtime.sites.config import SiteConfig
from stages.bundle import Bundle
from stages.tensors import Array
from tests.support.edge import Behaviour, Impostor, body, config, stall, status
from tests.support.keys import LONG_AGO, keys_for, site_at
from tests.support.raw_sites import ANY, RawSite
from tests.support.tls import answering, nothing, site_with

WAITS = Timeouts(connect_s=30.0, answer_s=60.0, probe_s=60.0)  # a busy machine makes nobody late
# For those that never answer.
NO_HANDSHAKE = Timeouts(connect_s=2.0, answer_s=60.0, probe_s=60.0)
NO_ANSWER = Timeouts(connect_s=30.0, answer_s=1.0)

Opening = Callable[[Bundle, Path], AbstractAsyncContextManager[SiteConfig]]


@dataclass(frozen=True)
class Failing:
    """A way to fail: `step` is where a check ends, `says` the whole sentence.

    In it {host}, {port}, {url}, {ca}, {cert} are the site's; {digest} is the bundle's; * is what the system
    or OpenSSL words.
    """

    opening: Opening
    step: str
    says: str
    timeouts: Timeouts = WAITS


@asynccontextmanager
async def unknown_host(bundle: Bundle, folder: Path) -> AsyncIterator[SiteConfig]:
    yield config("a", "http://pedsam-test.invalid:8443")


@asynccontextmanager
async def closed_port(bundle: Bundle, folder: Path) -> AsyncIterator[SiteConfig]:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    yield site_at(f"https://127.0.0.1:{port}", keys_for(folder))


@asynccontextmanager
async def silent(bundle: Bundle, folder: Path) -> AsyncIterator[SiteConfig]:
    """It takes connections and says nothing, not even its part of the TLS handshake."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield site_at(f"https://127.0.0.1:{listener.getsockname()[1]}", keys_for(folder))


def pretending(always: Behaviour) -> Opening:
    """A site over plain http that does something else than answer."""

    @asynccontextmanager
    async def opening(bundle: Bundle, folder: Path) -> AsyncIterator[SiteConfig]:
        async with Impostor(bundle, always=always).running() as url:
            yield config("a", url)

    return opening


@asynccontextmanager
async def other_weights(bundle: Bundle, folder: Path) -> AsyncIterator[SiteConfig]:
    site = Impostor(bundle)
    site.digest = "sha256:" + "0" * 64
    async with site.running() as url:
        yield config("a", url)


@asynccontextmanager
async def other_code(bundle: Bundle, folder: Path) -> AsyncIterator[SiteConfig]:
    site = Impostor(bundle)
    site.digest, site.code = "sha256:" + "0" * 64, "dct:6/3 tiles, 24 components a token"
    async with site.running() as url:
        yield config("a", url)


class Wrong(Impostor):
    """It names the digest and computes something else."""

    async def right_answer(self, inputs: dict[str, Array]) -> Array:
        return await super().right_answer(inputs) * 2


@asynccontextmanager
async def wrong_probe(bundle: Bundle, folder: Path) -> AsyncIterator[SiteConfig]:
    async with Wrong(bundle).running() as url:
        yield config("a", url)


def certified(ago_days: int = 0, host: str = "127.0.0.1") -> Opening:
    """A server whose certificate was made so long ago, for this host."""

    @asynccontextmanager
    async def opening(bundle: Bundle, folder: Path) -> AsyncIterator[SiteConfig]:
        keys = keys_for(folder, host=host, ago=LONG_AGO * ago_days)
        async with answering(nothing, keys) as url:
            yield site_at(url, keys)

    return opening


def with_keys(change: Callable[[SiteConfig, SiteConfig], SiteConfig]) -> Opening:
    """The bundled server, and an edge that has something wrong; the other site is one it knows too."""

    @asynccontextmanager
    async def opening(bundle: Bundle, folder: Path) -> AsyncIterator[SiteConfig]:
        other = site_at("", keys_for(folder / "other", "b"))
        async with site_with(bundle, keys_for(folder / "keys")) as site:
            yield change(site, other)

    return opening


@asynccontextmanager
async def expired_client(bundle: Bundle, folder: Path) -> AsyncIterator[SiteConfig]:
    """The site's keys were renewed, and the edge goes on with what it had."""
    keys_for(folder, ago=LONG_AGO)
    old = shutil.copytree(folder / "edge/a", folder / "old")
    async with site_with(bundle, keys_for(folder)) as site:
        yield replace(site, cert=old / "client.pem", key=old / "client.key")


@asynccontextmanager
async def plain_http(bundle: Bundle, folder: Path) -> AsyncIterator[SiteConfig]:
    async with Impostor(bundle).running() as url:
        yield site_at(url.replace("http:", "https:"), keys_for(folder))


@asynccontextmanager
async def redirecting(bundle: Bundle, folder: Path) -> AsyncIterator[SiteConfig]:
    async def redirect(request: web.Request) -> web.StreamResponse:
        raise web.HTTPFound("/elsewhere")

    keys = keys_for(folder)
    async with answering(redirect, keys) as url:
        yield site_at(url, keys)


@asynccontextmanager
async def hanging_up(bundle: Bundle, folder: Path) -> AsyncIterator[SiteConfig]:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1 << 16)
        writer.close()

    async with await asyncio.start_server(hang_up, "127.0.0.1", 0) as server:
        yield config("a", f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")


@asynccontextmanager
async def no_http(bundle: Bundle, folder: Path) -> AsyncIterator[SiteConfig]:
    async with RawSite(bundle, ANY, b"SSH-2.0-OpenSSH_9.2\r\n").running() as url:
        yield config("a", url)


SITE_LOG_HINT = "see the site's log, and check url in sites.toml"
FAILING: Mapping[str, Failing] = {
    "unknown host": Failing(
        unknown_host, "name", "site a: its host name cannot be resolved (*); check url in sites.toml"
    ),
    "closed port": Failing(
        closed_port,
        "tcp",
        "site a: cannot be reached at 127.0.0.1:{port} (Connection refused); check "
        "url in sites.toml and whether the site runs",
    ),
    "silent": Failing(
        silent,
        "tls",
        "site a: took no connection in time; check url in sites.toml and whether the site runs",
        NO_HANDSHAKE,
    ),
    "stalled": Failing(
        pretending(always=stall), "http", f"site a: gave no answer within 1.0 s; {SITE_LOG_HINT}", NO_ANSWER
    ),
    "hangs up": Failing(
        hanging_up,
        "http",
        "site a: closed the connection without an answer; if it was started with --keys, change http: to "
        "https: in its url in sites.toml",
    ),
    "no HTTP": Failing(
        no_http,
        "http",
        "site a: gave an answer that is no HTTP (*); see the site's log, and check in sites.toml that url is "
        "that of a site",
    ),
    "expired": Failing(
        certified(ago_days=1),
        "tls",
        "site a: its certificate has expired; renew it with `pedsam keys` and copy its folder to the site "
        "again",
    ),
    "of the future": Failing(
        certified(ago_days=-1),
        "tls",
        "site a: its certificate is not valid yet; check this machine's clock",
    ),
    "another address": Failing(
        certified(host="site.example"),
        "tls",
        "site a: its certificate is for another address (*); check url in sites.toml, or make keys for that "
        "url with `pedsam keys`",
    ),
    "another authority": Failing(
        with_keys(lambda site, other: replace(site, ca=other.ca)),
        "tls",
        "site a: its certificate is not signed by ca {ca} (*); check ca in sites.toml, and who answers at "
        "{url}",
    ),
    "plain http": Failing(
        plain_http,
        "tls",
        "site a: speaks plain HTTP at its https url; start the site with --keys, or change https: to http: "
        "in its url in sites.toml",
    ),
    "no client certificate": Failing(
        with_keys(lambda site, other: replace(site, cert=None, key=None)),
        "http",
        "site a: closed the connection without an answer, probably because it got no client certificate; put "
        "cert and key into sites.toml",
    ),
    "another site's client certificate": Failing(
        with_keys(lambda site, other: replace(site, cert=other.cert, key=other.key)),
        "http",
        "site a: closed the connection without an answer, probably for this edge's certificate; check that "
        "{cert} and its key are for this site",
    ),
    "expired client certificate": Failing(
        expired_client,
        "http",
        "site a: closed the connection without an answer, because this edge's certificate {cert} expired on "
        "*; renew it with `pedsam keys`",
    ),
    "no certificate in the file": Failing(
        with_keys(lambda site, other: replace(site, cert=site.ca)),
        "tls",
        "site a: its ca, cert or key file cannot be used (*)",
    ),
    "redirect": Failing(
        redirecting, "http", "site a: redirects, which is not followed; put the final url into sites.toml"
    ),
    "500": Failing(
        pretending(always=status(500, "oh")), "http", f"site a: answered 500: oh; {SITE_LOG_HINT}"
    ),
    "503": Failing(
        pretending(always=status(503, "busy")),
        "http",
        "site a: does not serve this now: busy; try again later",
    ),
    "wrong token": Failing(
        with_keys(lambda site, other: replace(site, token="wrong")),  # noqa: S106
        "token",
        "site a: refuses this edge (401: the token of this site is missing or wrong; send it as "
        "`Authorization: Bearer TOKEN`); check token_file in sites.toml",
    ),
    "gzip": Failing(
        pretending(always=body(gzip.compress(b"x" * 100000), Content_Encoding="gzip")),
        "digest",
        "site a: its model config names no site digest; check url in sites.toml, and that `pedsam serve` "
        "answers there",
    ),
    "other weights": Failing(
        other_weights,
        "digest",
        f"site a: serves other weights: its site digest is sha256:{'0' * 64}, this bundle's is {{digest}}; "
        "give both the same bundle",
    ),
    "other code": Failing(
        other_code,
        "digest",
        "site a: serves another code: dct:6/3 tiles, 24 components a token, and this bundle's is rgb tiles, "
        "192 components a token; give both the same bundle",
    ),
    "wrong probe": Failing(
        wrong_probe,
        "probe",
        "site a: names digest {digest}, as this bundle does, but answers the probe with a difference of "
        "1.000, allowed 0.01; its engine computes something else: start the site with another --backend, or "
        "leave it out",
    ),
}
