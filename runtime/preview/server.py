"""The preview of a running pipeline on a socket: the page, its files and its WebSocket."""

from __future__ import annotations

import contextlib
import io
import logging
import secrets
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import segno
from aiohttp import web
from aiohttp.typedefs import Handler

from runtime.live.access import Access, Identity, check_exposed, load_identity
from runtime.live.endpoint import base_url, checking_host, listen
from runtime.live.interface import Live
from runtime.live.newest import Newest
from runtime.preview import protocol
from runtime.preview.held_pictures import HeldEncoder
from runtime.preview.pictures import FrameEncoder
from runtime.preview.viewers import Shared, ViewerLimits, Viewers, facts
from stages.network import is_loopback

log = logging.getLogger("pedsam.preview")

STATIC = Path(__file__).parent / "static"
SHUTDOWN_TIMEOUT_S = 1.0  # at the end, for viewers to close their connections
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
    limits: ViewerLimits = field(default_factory=ViewerLimits)


def preview_identity(options: PreviewOptions) -> Identity | None:
    """The keys of the preview. Raises InputError for an address that needs some and for wrong ones."""
    check_exposed(options.host, options.keys, "the picture", "preview", "--preview-keys")
    return load_identity(options.keys) if options.keys else None


@contextlib.asynccontextmanager
async def preview(live: Live, options: PreviewOptions) -> AsyncIterator[str]:
    """Shows a pipeline while the block runs; gives the address to open, with the token in it.

    Raises InputError for an address that may not or cannot be bound and for keys that cannot be used.
    """
    identity = preview_identity(options)
    token = options.token or (identity.token if identity else secrets.token_urlsafe(24))
    access = Access(options.host, token, identity.names if identity else (), tls=identity is not None)
    viewers = Viewers(access, _shared(live, options))
    runner = web.AppRunner(
        _application(access, viewers), access_log=None, logger=log, shutdown_timeout=SHUTDOWN_TIMEOUT_S
    )
    await runner.setup()
    try:
        port = await listen(runner, options.host, options.port, identity, "preview")
        yield f"{base_url(options.host, port, identity)}/#token={token}"
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


def _shared(live: Live, options: PreviewOptions) -> Shared:
    return Shared(
        live,
        FrameEncoder(live.frames, live.geometry, options.longest_px, options.quality),
        HeldEncoder(live),
        Newest(),
        facts(options.model, options.banner, options.limits),
        options.limits,
        options.status_s,
    )


def _application(access: Access, viewers: Viewers) -> web.Application:
    async def add_headers(request: web.Request, response: web.StreamResponse) -> None:
        response.headers.update(HEADERS)

    async def close_viewers(_: web.Application) -> None:
        await viewers.close()

    application = web.Application(middlewares=[checking_host(access, "preview")])
    application.on_response_prepare.append(add_headers)
    application.on_shutdown.append(close_viewers)
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
