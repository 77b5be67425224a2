"""Why a request to a site failed, for a person: the one place that knows aiohttp's and OpenSSL's errors."""

from __future__ import annotations

import errno
import os
import ssl
from datetime import datetime, timezone
from pathlib import Path

import aiohttp

from runtime.sites.config import SiteConfig, cannot_be_asked
from stages.address import Address
from stages.certificates import validity

# OpenSSL's verification results (X509_V_ERR_*, x509_vfy.h)
_NOT_YET_VALID, _EXPIRED, _OTHER_ADDRESS = 9, 10, (62, 63, 64)
_NO_TLS = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE")  # what a plain HTTP answer looks like to OpenSSL
# Alerts about a client's certificate (RFC 8446, 6.2); handshake_failure is what TLS 1.2 sends for none.
_ABOUT_CLIENT = ("CERTIFICATE", "UNKNOWN_CA", "HANDSHAKE_FAILURE", "DECRYPT_ERROR", "ACCESS_DENIED")
_DISCONNECTED = (errno.ECONNRESET, errno.EPIPE, errno.ECONNABORTED)
_WHO_ANSWERS = "see the site's log, and check in sites.toml that url is that of a site"
NO_CONNECTION = "took no connection in time; check url in sites.toml and whether the site runs"


def reason(exc: Exception, site: SiteConfig, answered: bool) -> str:
    """What went wrong and what to do about it, to follow the site's name; `answered`: it did before.

    `exc` is an error of aiohttp, or one that a TLS handshake raised by itself.
    """
    if isinstance(exc, aiohttp.ConnectionTimeoutError):
        return NO_CONNECTION
    if isinstance(exc, aiohttp.ClientConnectorCertificateError):
        return _distrusted(exc.certificate_error, site)
    if isinstance(exc, ssl.SSLCertVerificationError):
        return _distrusted(exc, site)
    if isinstance(exc, aiohttp.ClientConnectorDNSError):
        return unresolved(exc.os_error)
    cause = exc.os_error if isinstance(exc, aiohttp.ClientConnectorError) else exc
    if _disconnected(cause):
        if site.url.startswith("https:") and not answered:  # not every server says why in an alert
            return f"closed the connection without an answer, {_check_client_certificate(site)}"
        if site.url.startswith("http:") and not answered:  # a TLS server does so, or answers in no HTTP
            return (
                "closed the connection without an answer; if it was started with --keys, change http: to "
                "https: in its url in sites.toml"
            )
        return "closed the connection in the middle of an answer; see whether the site still runs"
    if "[SSL" in str(cause):  # aiohttp wraps an ssl.SSLError that comes later in an error of its own
        return _tls(str(cause), site)
    if isinstance(exc, aiohttp.ClientConnectorError):
        return unreachable(exc.host, exc.port, exc.os_error)
    if isinstance(exc, aiohttp.ClientResponseError):
        return f"gave an answer that is no HTTP ({_brief(exc.message)}); {_WHO_ANSWERS}"
    return cannot_be_asked(exc) or f"the request failed ({type(exc).__name__}: {_brief(exc)})"


def unforeseen(exc: Exception) -> str:
    """What to say of an error that nothing else here knows."""
    return cannot_be_asked(exc) or (
        f"failed in a way that is not foreseen ({type(exc).__name__}: {_brief(exc)}); {_WHO_ANSWERS}"
    )


def _brief(text: object) -> str:
    return f"{' '.join(str(text).split()):.200}"


def unresolved(error: OSError) -> str:
    """What to say of a host name without an address."""
    full = cannot_be_asked(error) or _cannot_open()  # resolvers, as that of mDNS, lose the reason
    return full or f"its host name cannot be resolved ({error}); check url in sites.toml"


def _cannot_open() -> str | None:
    """What to say where this process can open no file."""
    try:
        os.close(os.open(os.devnull, os.O_RDONLY))
    except OSError as exc:
        return cannot_be_asked(exc)
    return None


def unreachable(host: str, port: int | None, error: OSError) -> str:
    """What to say of an address that takes no connection."""
    if full := cannot_be_asked(error) or _cannot_open():
        return full
    number = error.errno or 0  # by it, for asyncio's own words on a refusal hold the address once more
    what = os.strerror(number) if number > 0 else error.strerror or error
    where = f"{host}:{port} ({what})"
    return f"cannot be reached at {where}; check url in sites.toml and whether the site runs"


def _disconnected(cause: BaseException) -> bool:
    kinds = (aiohttp.ServerDisconnectedError, aiohttp.ClientPayloadError, ConnectionResetError)
    if type(cause) is aiohttp.ClientOSError and cause.errno is None and cause.__cause__ is not None:
        return _disconnected(cause.__cause__)  # aiohttp could not write the request's body
    if isinstance(cause, kinds) or (isinstance(cause, OSError) and cause.errno in _DISCONNECTED):
        return True
    return "EOF occurred in violation of protocol" in str(cause)  # ssl.SSLEOFError, wrapped or not


def _distrusted(error: Exception, site: SiteConfig) -> str:
    """The site's certificate did not pass."""
    code = getattr(error, "verify_code", None)
    text = getattr(error, "verify_message", "") or str(error)
    if code == _EXPIRED:
        return (
            "its certificate has expired; renew it with `pedsam keys` and copy its folder to the site again"
        )
    if code == _NOT_YET_VALID:
        return "its certificate is not valid yet; check this machine's clock"
    if code in _OTHER_ADDRESS:
        return (
            f"its certificate is for another address ({text.rstrip('.')}); check url in sites.toml, or "
            "make keys for that url with `pedsam keys`"
        )
    authority = f"ca {site.ca}" if site.ca else "an authority this system trusts"
    return (
        f"its certificate is not signed by {authority} ({text}); check ca in sites.toml, and who answers at "
        f"{Address(site.url)}"
    )


def _tls(text: str, site: SiteConfig) -> str:
    if any(word in text for word in _NO_TLS):
        return (
            "speaks plain HTTP at its https url; start the site with --keys, or change https: to http: in "
            "its url in sites.toml"
        )
    if "_ALERT_" in text and any(word in text for word in _ABOUT_CLIENT):
        return f"refuses the TLS connection ({text}), {_check_client_certificate(site)}"
    return f"TLS failed ({text}); check url, cert and key in sites.toml"


def _check_client_certificate(site: SiteConfig) -> str:
    if site.cert is None:
        return "probably because it got no client certificate; put cert and key into sites.toml"
    until = _until(site.cert)
    if until and until < datetime.now(timezone.utc):
        expired = f"because this edge's certificate {site.cert} expired on {until:%Y-%m-%d}"
        return f"{expired}; renew it with `pedsam keys`"
    return f"probably for this edge's certificate; check that {site.cert} and its key are for this site"


def _until(certificate: Path) -> datetime | None:
    """When it expires; None when the file has gone or changed since the connections were set up."""
    try:
        return validity(certificate)[1]
    except (OSError, ValueError):
        return None
