"""The folder a site gets from `pedsam keys`: its certificate and key, who may connect, and the token.

Read with the standard library alone, so that a site installs nothing for it.
"""

from __future__ import annotations

import logging
import ssl
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path

from stages.certificates import checked_until
from stages.errors import InputError
from stages.network import read_token

log = logging.getLogger("pedsam.site")

CERTIFICATE, KEY, CLIENT_CA, TOKEN = "server.pem", "server.key", "client_ca.pem", "token"
FILES = (CERTIFICATE, KEY, CLIENT_CA, TOKEN)
WARN_BEFORE = timedelta(days=30)


@dataclass(frozen=True)
class SiteKeys:
    """TLS settings that ask every client for a certificate, the token, and when the certificate expires."""

    context: ssl.SSLContext
    token: str = field(repr=False)
    until: datetime


def load_keys(folder: Path, now: datetime | None = None) -> SiteKeys:
    """What `pedsam keys` made for this site. Raises InputError for a file that is missing, wrong or expired.

    A certificate that ends within WARN_BEFORE is logged as a warning.
    """
    _check_files(folder)
    token = read_token(folder / TOKEN, f"the token in {folder}")
    context = _context(folder)
    now = now or datetime.now(timezone.utc)
    until = min(checked_until(folder / name, now, _RENEW) for name in (CERTIFICATE, CLIENT_CA))
    if until - now < WARN_BEFORE:
        log.warning("the certificate in %s expires on %s; %s", folder, f"{until:%Y-%m-%d}", _RENEW)
    return SiteKeys(context, token, until)


_RENEW = "renew it with `pedsam keys` at the edge and copy the folder here again"


def _check_files(folder: Path) -> None:
    for name in FILES:
        if not (folder / name).is_file():
            raise InputError(
                f"{folder} holds no {name}; --keys takes the folder that `pedsam keys` made for this "
                f"site, with {', '.join(FILES)}: copy it here again"
            )


def _context(folder: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_mode = ssl.CERT_REQUIRED
    try:
        context.load_cert_chain(folder / CERTIFICATE, folder / KEY, password="")  # else it may ask
    except (OSError, ssl.SSLError) as exc:
        raise InputError(_unusable(folder, f"{CERTIFICATE} with {KEY}", exc)) from exc
    try:
        context.load_verify_locations(folder / CLIENT_CA)
    except (OSError, ssl.SSLError) as exc:
        raise InputError(_unusable(folder, CLIENT_CA, exc)) from exc
    return context


def _unusable(folder: Path, what: str, exc: Exception) -> str:
    return f"{what} in {folder} cannot be used ({exc}); copy here again the folder that `pedsam keys` made"
