"""The preview of a running loop on a socket: the page, its files and its WebSocket."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import secrets
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import segno
from aiohttp import web
from aiohttp.typedefs import Handler

from runtime.live import Live, Newest
from runtime.preview import protocol
from runtime.preview.access import Access, Identity, load_identity
from runtime.preview.encoder import Encoder
from runtime.preview.viewers import Limits, Shared, Viewers, facts
from stages.errors import InputError
from stages.network import is_loopback

log = logging.getLogger("pedsam.preview")

STATIC = Path(__file__).parent / "static"
FAREWELL_S = 1.0  # at the end, for viewers to take their leave
TYPES = {
    ".html": "text/html",
    ".js": "text/javascript",
    ".css": "text/css",
    ".svg": "image/svg+xml",
    ".webmanifest": "application/manifest+json",
}
HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


@dataclass(frozen=True)
class PreviewOptions:
    """`port` 0 takes a free one. `keys` is a folder from `pedsam keys --preview`, needed off loopback.

    `token` None is that of the keys, else a new one. `model` and `banner` are shown; `longest_px` bounds the
    pictures that viewers get, `quality` is JPEG's (1 to 100).
    """

    host: str = "127.0.0.1"
    port: int = 8080
    keys: Path | None = None
    token: str | None = field(default=None, repr=False)
    model: str = ""
    banner: str | None = None
    longest_px: int = 1280
    quality: int = 80
    status_s: float = 0.5
    limits: Limits = field(default_factory=Limits)


@contextlib.asynccontextmanager
async def preview(live: Live, options: PreviewOptions) -> AsyncIterator[str]:
    """Shows a loop for as long as the block runs; gives the address to open, with the token in it.

    Raises InputError for an address that may not or cannot be bound and for keys that cannot be used.
    """
    _check_exposed(options)
    identity = load_identity(options.keys) if options.keys else None
    token = options.token or (identity.token if identity else secrets.token_urlsafe(24))
    access = Access(options.host, token, identity.names if identity else (), tls=identity is not None)
    viewers = Viewers(access, _shared(live, options))
    runner = web.AppRunner(
        _application(access, viewers), access_log=None, logger=log, shutdown_timeout=FAREWELL_S
    )
    await runner.setup()
    try:
        port = await _listen(runner, options, identity)
        yield _address(options.host, port, identity, token)
    finally:
        await runner.cleanup()


def introduction(address: str, options: PreviewOptions) -> str:
    """Lines for the terminal: where the preview is and, where a phone may come, its QR code.

    A browser asks about a certificate whose authority it does not know: here is its fingerprint, to compare.
    """
    lines = [f"preview: {address}"]
    if not is_loopback(urlsplit(address).hostname or ""):
        code = io.StringIO()
        segno.make(address, error="m").terminal(out=code, compact=True)
        lines.append(code.getvalue().rstrip("\n"))
    if options.keys is not None:
        lines.append(f"certificate, SHA-256: {load_identity(options.keys).fingerprint}")
    return "\n".join(lines)


def _check_exposed(options: PreviewOptions) -> None:
    if options.keys is None and not is_loopback(options.host):
        raise InputError(
            f"{options.host} is not a loopback address: anyone on the way could see the picture; make keys "
            "with `pedsam keys --preview HOST` and give --preview-keys, or reach a preview on 127.0.0.1 "
            "through ssh -L"
        )


def _shared(live: Live, options: PreviewOptions) -> Shared:
    return Shared(
        live,
        Encoder(live.frames, options.longest_px, options.quality),
        Newest(),
        facts(options.model, options.banner, options.limits),
        options.limits,
        options.status_s,
    )


def _application(access: Access, viewers: Viewers) -> web.Application:
    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        """Answers to known names only, and puts HEADERS on whatever goes out."""
        if not access.hosts(request.headers.get("Host")):
            raise web.HTTPMisdirectedRequest(text="the preview does not answer to this name\n")
        return await handler(request)

    async def harden(request: web.Request, response: web.StreamResponse) -> None:
        response.headers.update(HEADERS)

    async def say_goodbye(_: web.Application) -> None:
        await viewers.close()

    application = web.Application(middlewares=[guard])
    application.on_response_prepare.append(harden)
    application.on_shutdown.append(say_goodbye)
    application.router.add_get(protocol.PATH, viewers.serve)
    for path, file in _files().items():
        application.router.add_get(path, file)
    return application


def _files() -> dict[str, Handler]:
    """The page's files by their path; index.html is at /. Read once: nothing else is ever served."""
    return {
        "/" if file.name == "index.html" else f"/{file.name}": _static(file)
        for file in sorted(STATIC.iterdir())
        if file.suffix in TYPES
    }


def _static(file: Path) -> Handler:
    body, kind = file.read_bytes(), TYPES[file.suffix]

    async def answer(request: web.Request) -> web.StreamResponse:
        return web.Response(body=body, content_type=kind, charset="utf-8")

    return answer


async def _listen(runner: web.AppRunner, options: PreviewOptions, identity: Identity | None) -> int:
    """Listens; returns the port."""
    site = web.TCPSite(runner, options.host, options.port, ssl_context=identity.context if identity else None)
    try:
        await site.start()
    except (OSError, UnicodeError) as exc:  # UnicodeError: a host that cannot be a name
        reason = os.strerror(exc.errno) if isinstance(exc, OSError) and exc.errno and exc.errno > 0 else exc
        raise InputError(
            f"the preview cannot listen on {options.host}:{options.port} ({reason}); choose another port or "
            "host"
        ) from exc
    port: int = runner.addresses[0][1]
    return port


def _address(host: str, port: int, identity: Identity | None, token: str) -> str:
    """What to open. Bound to every address of the machine, that is where its certificate says it is."""
    scheme = "https" if identity else "http"
    if identity and identity.names and host in ("0.0.0.0", "::"):  # noqa: S104  (compared, not bound)
        host = identity.names[0]
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}/#token={token}"
