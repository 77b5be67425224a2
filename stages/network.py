"""What site and edge agree on about addresses and tokens."""

from __future__ import annotations

import ipaddress
from pathlib import Path

from stages.errors import InputError


def is_loopback(host: str) -> bool:
    """Whether a host name or address stays on this machine, so that plain HTTP shows tiles to nobody."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def read_token(path: Path, what: str) -> str:
    """The bearer token in a file: one line of visible ASCII. `what` names it in the InputError."""
    try:
        token = path.read_text().strip()
    except (OSError, ValueError) as exc:
        raise InputError(f"{what} cannot be read: {exc}") from exc
    if not token or not token.isascii() or not token.isprintable():
        raise InputError(f"{what} is no token: {path} must hold one line of visible ASCII")
    return token
