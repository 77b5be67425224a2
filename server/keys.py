"""The folder a site gets from `pedsam keys`: its certificate and key, who may connect, and the token.

Read with the standard library alone, so that a site installs nothing for it.
"""

from __future__ import annotations

import logging
import ssl
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

from server.logs import facts
from stages.certificates import checked_until
from stages.errors import InputError
from stages.network import read_token

log = logging.getLogger("pedsam.site")

CERTIFICATE, KEY, CLIENT_CA, TOKEN = "server.pem", "server.key", "client_ca.pem", "token"
FILES = (CERTIFICATE, KEY, CLIENT_CA, TOKEN)
WARN_BEFORE = timedelta(days=30)


@dataclass(frozen=True)
class SiteKeys:
    """What `folder` holds: TLS settings that ask every client for a certificate, and the token.

    `until` is when the first of the certificates expires.
    """

    folder: Path
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
    keys = SiteKeys(folder, context, token, until)
    warn_of_end(keys, now)
    return keys


def warn_of_end(keys: SiteKeys, now: datetime) -> None:
    """Log that a certificate ends soon or has ended, if so."""
    if keys.until - now >= WARN_BEFORE:
        return
    word, level = ("expires", logging.WARNING) if now < keys.until else ("expired", logging.ERROR)
    day = f"{keys.until:%Y-%m-%d}"
    extra = facts(f"certificate_{word}", until=keys.until.isoformat())
    log.log(level, "the certificate in %s %s on %s; %s", keys.folder, word, day, _RENEW, extra=extra)


def renew(keys: SiteKeys) -> SiteKeys:
    """The keys now in the folder; connections made from now on see them, open ones stay.

    Raises InputError, and changes nothing, for a folder that cannot be used or is of another authority: the
    old one could not be taken out of the TLS settings in use.
    """
    renewed = load_keys(keys.folder)
    if renewed.context.get_ca_certs(binary_form=True) != keys.context.get_ca_certs(binary_form=True):
        raise InputError(f"{keys.folder / CLIENT_CA} is of another authority; restart the site to take it")
    keys.context.load_cert_chain(keys.folder / CERTIFICATE, keys.folder / KEY, password="")
    return replace(renewed, context=keys.context)


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
