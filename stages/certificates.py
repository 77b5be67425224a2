"""The validity of a certificate file, read with the standard library alone."""

from __future__ import annotations

import re
import ssl
from datetime import datetime, timezone
from pathlib import Path

from stages.errors import InputError
from stages.text_files import read_bytes

_SEQUENCE, _UTC_TIME, _GENERALIZED_TIME = 0x30, 0x17, 0x18  # ASN.1 tags
_PEM = re.compile("-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)


def validity(path: Path) -> tuple[datetime, datetime]:
    """From when until when the first certificate of a PEM file is valid (UTC).

    The ssl module gives these dates for a peer's certificate only. In DER the third SEQUENCE of a
    certificate's first part is its validity, after the algorithm and the issuer (RFC 5280, 4.1). Raises
    ValueError when it holds none, OSError when it cannot be read.
    """
    found = _PEM.search(read_bytes(path).decode("latin-1"))  # comments around it may be in any encoding
    if found is None:
        raise ValueError("it has no BEGIN CERTIFICATE")
    try:
        _, certificate = _elements(ssl.PEM_cert_to_DER_cert(found[0]))[0]
        _, body = _elements(certificate)[0]
        dates = [content for tag, content in _elements(body) if tag == _SEQUENCE][2]
        start, until = (_time(tag, content.decode("ascii")) for tag, content in _elements(dates))
    except IndexError as exc:
        raise ValueError("it is cut off or no certificate") from exc
    return start, until


def checked_until(path: Path, now: datetime, renew: str) -> datetime:
    """When the certificate in a file expires. Raises InputError, which ends in `renew`, when it is not valid
    at `now` or cannot be read."""
    try:
        start, until = validity(path)
    except (OSError, ValueError) as exc:
        raise InputError(f"{path} holds no certificate that can be read ({exc}); {renew}") from exc
    if now >= until:
        raise InputError(f"the certificate {path} expired on {until:%Y-%m-%d}; {renew}")
    if now < start:
        raise InputError(
            f"the certificate {path} is valid from {start:%Y-%m-%d} on; check this machine's clock"
        )
    return until


def _elements(der: bytes) -> list[tuple[int, bytes]]:
    """Tag and content of each DER element."""
    found, at = [], 0
    while at < len(der):
        tag, length, at = der[at], der[at + 1], at + 2
        if length & 0x80:  # the long form: as many bytes of length follow
            size = length & 0x7F
            length, at = int.from_bytes(der[at : at + size], "big"), at + size
        found.append((tag, der[at : at + length]))
        at += length
    return found


def _time(tag: int, text: str) -> datetime:
    if tag == _UTC_TIME:  # two digits of the year, 1950 to 2049
        text = ("19" if text >= "50" else "20") + text
    elif tag != _GENERALIZED_TIME:
        raise ValueError("its validity has no dates")
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=timezone.utc)
