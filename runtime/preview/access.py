"""Who may talk to the preview: addresses it answers to, origins of pages, the token, and how often.

The token travels in the fragment of the address, which browsers send to nobody: it is in no request line,
log or Referer. The page takes it from there and says it in its first message. A page of somebody else cannot
read it and, whatever it knows, is refused by its origin; a name of somebody else that leads here (DNS
rebinding) is refused by the Host header.
"""

from __future__ import annotations

import hmac
import ipaddress
import ssl
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from stages.certificates import checked_until
from stages.errors import InputError
from stages.network import is_loopback, read_token

CERTIFICATE, KEY, TOKEN = "server.pem", "server.key", "token"
_RENEW = "renew it with `pedsam keys --preview`"


@dataclass(frozen=True)
class Identity:
    """What a folder of keys says: TLS settings, the token, for which names, and the SHA-256 fingerprint."""

    context: ssl.SSLContext
    token: str = field(repr=False)
    names: tuple[str, ...]
    fingerprint: str


def load_identity(folder: Path, now: datetime | None = None) -> Identity:
    """What `pedsam keys --preview` made. Raises InputError for a file that is missing, wrong or expired."""
    for name in (CERTIFICATE, KEY, TOKEN):
        if not (folder / name).is_file():
            raise InputError(
                f"{folder} holds no {name}; give the folder that `pedsam keys --preview HOST` made"
            )
    checked_until(folder / CERTIFICATE, now or datetime.now(timezone.utc), _RENEW)
    token = read_token(folder / TOKEN, f"the token in {folder}")
    certificate = x509.load_pem_x509_certificate((folder / CERTIFICATE).read_bytes())
    fingerprint = certificate.fingerprint(hashes.SHA256()).hex(":").upper()
    return Identity(_context(folder), token, _names(certificate), fingerprint)


def _context(folder: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(folder / CERTIFICATE, folder / KEY, password="")  # else it may ask
    except (OSError, ssl.SSLError) as exc:
        raise InputError(f"{CERTIFICATE} with {KEY} in {folder} cannot be used ({exc}); {_RENEW}") from exc
    return context


def _names(certificate: x509.Certificate) -> tuple[str, ...]:
    """The names and addresses a certificate is good for, in its order."""
    try:
        listed = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    return tuple(str(entry.value).lower() for entry in listed)


@dataclass(frozen=True)
class Access:
    """The checks of one preview, bound to `host`; `names` are those that may lead to it."""

    host: str
    token: str = field(repr=False)
    names: Collection[str] = ()
    tls: bool = False

    def hosts(self, header: str | None) -> bool:
        """Whether a Host header names this preview: an address, since only names can be rebound, or a name
        that is known. On loopback any port, as of a tunnel."""
        host = _hostname(header)
        if host is None:
            return False
        if is_loopback(self.host):
            return is_loopback(host)
        return _is_address(host) or host in {self.host.lower(), *self.names}

    def originates(self, origin: str | None, host: str | None) -> bool:
        """Whether a request comes from this preview's own page, or from no page at all."""
        scheme = "https" if self.tls else "http"
        return origin is None or origin.lower() == f"{scheme}://{(host or '').lower()}"

    def knows(self, token: str) -> bool:
        return hmac.compare_digest(token.encode(errors="replace"), self.token.encode())


def _hostname(header: str | None) -> str | None:
    try:
        return urlsplit(f"//{header or ''}").hostname
    except ValueError:
        return None


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


class Rate:
    """Allows `per_s` messages a second, and twice that at once."""

    def __init__(self, per_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_s = per_s
        self._clock = clock
        self._left = 2 * per_s
        self._at_s = clock()

    def allows(self) -> bool:
        """Whether one more message is within the rate; counts it."""
        now = self._clock()
        self._left = min(2 * self._per_s, self._left + (now - self._at_s) * self._per_s)
        self._at_s = now
        self._left -= 1
        return self._left >= 0
