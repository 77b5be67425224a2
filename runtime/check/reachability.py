"""Whether a site can be reached: its host name, its port, its certificate.

Errors are worded by `runtime.sites.reasons`, as those of a run are.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import ipaddress
import socket
import ssl
import time
import warnings
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import urlsplit

import anyio
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from runtime.sites.config import SiteConfig
from runtime.sites.reasons import NO_CONNECTION, reason, unreachable, unresolved
from stages.errors import SiteUnavailable
from stages.words import shown

HAPPY_EYEBALLS_DELAY_S = 0.25  # before the next address of a name is tried beside the first one (RFC 8305)


@dataclass(frozen=True)
class Certificate:
    """What a site showed: names as its issuer wrote them, SHA-256 of itself and of its public key in hex."""

    subject: str
    issuer: str
    until: datetime
    fingerprint: str
    key_fingerprint: str

    @classmethod
    def from_der(cls, der: bytes) -> Certificate:
        found = x509.load_der_x509_certificate(der)
        key = found.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of names that are longer than they may be
            subject, issuer = _name(found.subject), _name(found.issuer)
        return cls(
            subject,
            issuer,
            found.not_valid_after_utc,
            hashlib.sha256(der).hexdigest(),
            hashlib.sha256(key).hexdigest(),
        )


def _name(name: x509.Name) -> str:
    """Its common name and organisation, or all of it when it has neither."""
    parts = [
        str(found.value)
        for kind in (NameOID.COMMON_NAME, NameOID.ORGANIZATION_NAME)
        for found in name.get_attributes_for_oid(kind)
    ]
    return shown(", ".join(parts) or name.rfc4514_string())


def host_of(site: SiteConfig) -> str:
    return urlsplit(site.url).hostname or ""


def port_of(site: SiteConfig) -> int:
    parts = urlsplit(site.url)
    return parts.port or (443 if parts.scheme == "https" else 80)


async def resolve(site: SiteConfig, timeout_s: float) -> tuple[str, ...]:
    """The addresses of a site's host. Raises SiteUnavailable when there is none."""
    host = host_of(site)
    with contextlib.suppress(ValueError):
        return (str(ipaddress.ip_address(host)),)
    loop = asyncio.get_running_loop()
    try:
        with anyio.fail_after(timeout_s):
            found = await loop.getaddrinfo(
                host, port_of(site), type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG
            )
    except TimeoutError as exc:
        raise SiteUnavailable(site.name, unresolved(OSError("no answer of a name server"))) from exc
    except OSError as exc:
        raise SiteUnavailable(site.name, unresolved(exc)) from exc
    return tuple(dict.fromkeys(str(address[0]) for *_, address in found))


async def connect_time_s(site: SiteConfig, timeout_s: float) -> float:
    """Seconds until the site's port has taken a connection. Raises SiteUnavailable when it does not."""
    started = time.perf_counter()
    async with _connected(site, timeout_s, None):
        return time.perf_counter() - started


async def tls_handshake(
    site: SiteConfig, context: ssl.SSLContext, timeout_s: float
) -> tuple[str, Certificate]:
    """TLS version and the site's certificate. Raises SiteUnavailable for one that does not pass."""
    async with _connected(site, timeout_s, context) as writer:
        connection = writer.get_extra_info("ssl_object")
        return str(connection.version()), Certificate.from_der(connection.getpeercert(binary_form=True))


@contextlib.asynccontextmanager
async def _connected(
    site: SiteConfig, timeout_s: float, context: ssl.SSLContext | None
) -> AsyncIterator[asyncio.StreamWriter]:
    """A connection to the site, with TLS when there is a context."""
    try:
        with anyio.fail_after(timeout_s):
            _, writer = await asyncio.open_connection(
                host_of(site), port_of(site), ssl=context, happy_eyeballs_delay=HAPPY_EYEBALLS_DELAY_S
            )
    except TimeoutError as exc:
        raise SiteUnavailable(site.name, NO_CONNECTION) from exc
    except OSError as exc:
        if context is None:
            raise SiteUnavailable(site.name, unreachable(host_of(site), port_of(site), exc)) from exc
        raise SiteUnavailable(site.name, reason(exc, site, answered=False)) from exc
    try:
        yield writer
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
