"""Hosts, urls, ports and bearer tokens, for site and edge: what can be used, and what is wrong."""

from __future__ import annotations

import errno
import ipaddress
import os
import re
from pathlib import Path
from urllib.parse import urlsplit

from stages.address import Address, is_ip_address
from stages.errors import InputError
from stages.text_files import read_text

_MAX_TOKEN_BYTES = 64 << 10  # larger than what an HTTP header may hold
_UNPRIVILEGED = 1024
_NUMBER = re.compile("[0-9]+|0[xX][0-9a-fA-F]*")  # what ends in one the system reads as an IPv4 address
_MAX_HOST = 253  # of RFC 1035, without the dot at its end
_HOST_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.")


def is_loopback(host: str) -> bool:
    """Whether a host name or address stays on this machine, so that nobody reads plain HTTP."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def url_problem(url: str) -> str | None:
    """A clause saying which part of a site's URL is wrong; None when it can be used. Shows no user part."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError:  # brackets without an IPv6 address; Python's own sentence repeats a password
        return "has a host that cannot be read"
    if parts.scheme not in ("http", "https") or not url.lower().startswith(f"{parts.scheme}://"):
        return "does not begin with https://"
    if "@" in parts.netloc:
        return "has a user before @; a site knows its edge by certificate and token"
    if not host or not url.isprintable() or " " in url or "\\" in url:
        return "has no host" if not host else f"is {Address(url)}, with a character that no address has"
    if parts.query or parts.fragment:
        return "has a ? or #, which a site's address has not"
    try:
        usable = parts.port != 0
    except ValueError:
        usable = False
    return None if usable else "has a port that is no number from 1 to 65535"


def host_problem(host: str) -> str | None:
    """A clause saying why this is no host name or IP address, or none of a certificate; None if it is one."""
    if ":" in host:
        return _ipv6_problem(host)
    if wrong := sorted(set(host) - _HOST_CHARACTERS):
        hint = "; write it as DNS has it, beginning with xn--" if not wrong[-1].isascii() else ""
        return f"has {wrong[-1]!r}: a name has letters of a to z, digits, hyphens, underscores and dots{hint}"
    labels = host.removesuffix(".").split(".")
    if long := [label for label in labels if not 0 < len(label) < 64]:
        return f"has a part of {len(long[0])} characters between its dots, expected 1 to 63"
    if len(host.removesuffix(".")) > _MAX_HOST:
        return f"has {len(host)} characters, expected at most {_MAX_HOST}"
    if edged := [label for label in labels if label.startswith("-") or label.endswith("-")]:
        return f"has the part {edged[0]!r}, which begins or ends with a hyphen"
    if _NUMBER.fullmatch(labels[-1]) and not is_ip_address(host):
        return "looks like an IPv4 address and is none"
    return None


def _ipv6_problem(host: str) -> str | None:
    if "%" in host:
        return "has a zone after %, which no certificate can hold; use an address without one, or a name"
    return None if is_ip_address(host) else "looks like an IPv6 address and is none"


def listen_problem(exc: OSError | UnicodeError, port: int, options: str) -> str:
    """Why an address cannot be listened on, in parentheses, and what to do; `options` choose the address."""
    number = exc.errno if isinstance(exc, OSError) and exc.errno and exc.errno > 0 else 0
    if number == errno.EADDRINUSE:
        advice = (
            f"another process has port {port}, perhaps another pedsam: stop it, or choose another {options}"
        )
    elif number == errno.EACCES and port < _UNPRIVILEGED:
        advice = f"ports below {_UNPRIVILEGED} are for root; choose another {options}"
    elif number == errno.EADDRNOTAVAIL:
        advice = f"it is no address of this machine, where 0.0.0.0 means all; choose another {options}"
    else:
        advice = f"choose another {options}"
    # asyncio's own text repeats the address
    reason = os.strerror(number) if number else getattr(exc, "strerror", None) or str(exc)
    return f"({reason}); {advice}"


def read_token(path: Path, what: str) -> str:
    """The bearer token in a file: one line of visible ASCII. `what` names it in the InputError."""
    token = read_text(path, what, _MAX_TOKEN_BYTES).strip()
    if not token or not token.isascii() or not token.isprintable():
        raise InputError(f"{what} is no token: {path} must hold one line of visible ASCII")
    return token
