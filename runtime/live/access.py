"""Who may talk to the preview and read metrics: host names, origins of pages, the token, and how often.

Off loopback both need keys: a certificate, and a token for whoever asks. The preview's token travels in the
fragment of its address, which browsers send to nobody: it is in no request line, log or Referer. The page
takes it from there and sends it in its first message. A page of somebody else cannot read it and, whatever it
knows, is refused by its origin; a name of somebody else that leads here (DNS rebinding) is refused by the
Host header.
"""

from __future__ import annotations

import hmac
import ssl
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from stages.address import is_ip_address
from stages.certificates import checked_until
from stages.errors import InputError
from stages.network import is_loopback, read_token
from stages.tls import CERTIFICATE, KEY, TOKEN, server_context

_RENEW = "renew it with `pedsam keys --preview`"


@dataclass(frozen=True)
class Identity:
    """What a folder of keys says: TLS settings, the token, for which names, and the SHA-256 fingerprint."""

    context: ssl.SSLContext
    token: str = field(repr=False)
    names: tuple[str, ...]
    fingerprint: str


def check_exposed(host: str, keys: Path | None, exposed: str, what: str, option: str) -> None:
    """Raise InputError when `what` would be served off loopback without keys; it shows `exposed`."""
    if keys is None and not is_loopback(host):
        raise InputError(
            f"{host} is not a loopback address: anyone on the way could see {exposed}; make keys with "
            f"`pedsam keys --preview HOST` and give {option}, or reach the {what} on 127.0.0.1 through ssh -L"
        )


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
    context = server_context(folder, _RENEW, client_certificates=False)
    return Identity(context, token, _names(certificate), fingerprint)


def _names(certificate: x509.Certificate) -> tuple[str, ...]:
    """The names and addresses a certificate is good for, in its order."""
    try:
        listed = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    return tuple(str(entry.value).lower() for entry in listed)


@dataclass(frozen=True)
class Access:
    """The checks of one endpoint, bound to `host`; `names` are those that may lead to it."""

    host: str
    token: str = field(repr=False)
    names: Collection[str] = ()
    tls: bool = False

    def allows_host(self, header: str | None) -> bool:
        """Whether a Host header names this endpoint: an address, since only names can be rebound, or a name
        that is known. On loopback any port, as of a tunnel."""
        host = _hostname(header)
        if host is None:
            return False
        if is_loopback(self.host):
            return is_loopback(host)
        return is_ip_address(host) or host in {self.host.lower(), *self.names}

    def allows_origin(self, origin: str | None, host: str | None) -> bool:
        """Whether a request comes from the endpoint's own page, or from no page at all."""
        scheme = "https" if self.tls else "http"
        return origin is None or origin.lower() == f"{scheme}://{(host or '').lower()}"

    def accepts(self, token: str) -> bool:
        """Whether this is the token; compared in constant time."""
        return hmac.compare_digest(token.encode(errors="replace"), self.token.encode())


def _hostname(header: str | None) -> str | None:
    try:
        return urlsplit(f"//{header or ''}").hostname
    except ValueError:
        return None


class RateLimit:
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
