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
from stages.tls import CERTIFICATE, CLIENT_CA, KEY, TOKEN, load_certificate, server_context

log = logging.getLogger("pedsam.site")

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

    A certificate that expires within WARN_BEFORE is logged as a warning.
    """
    _check_files(folder)
    token = read_token(folder / TOKEN, f"the token in {folder}")
    context = server_context(folder, _COPY, client_certificates=True)
    now = now or datetime.now(timezone.utc)
    until = min(checked_until(folder / name, now, _RENEW) for name in (CERTIFICATE, CLIENT_CA))
    keys = SiteKeys(folder, context, token, until)
    warn_of_expiry(keys, now)
    return keys


def warn_of_expiry(keys: SiteKeys, now: datetime) -> None:
    """Log that a certificate expires within WARN_BEFORE, or has expired."""
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
        raise InputError(f"{keys.folder / CLIENT_CA} is of another authority; restart the site to use it")
    load_certificate(keys.context, keys.folder, _COPY)
    return replace(renewed, context=keys.context)


_RENEW = "renew it with `pedsam keys` at the edge and copy the folder here again"
_COPY = "copy here again the folder that `pedsam keys` made"


def _check_files(folder: Path) -> None:
    for name in FILES:
        if not (folder / name).is_file():
            raise InputError(
                f"{folder} holds no {name}; --keys takes the folder that `pedsam keys` made for this "
                f"site, with {', '.join(FILES)}: copy it here again"
            )
