"""Addresses that people give, cameras' above all, which hold passwords in many places.

XM and Hikvision cameras have them in the path (/user=admin&password=x), others in the query; a user part may
hold any character where it was typed without %XX. So an address is shown with its scheme, host and port only.

A text that names nothing may be a mistyped address, or a mistyped name of a file: `readable` shows such a
text up to where a password may begin, and names of files as they are.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Collection
from dataclasses import dataclass, field

from stages.errors import printable

HIDDEN = "…"
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]{0,15})://")
_HOST = re.compile(r"(?:\[[0-9A-Fa-f:.]+(?:%[\w.-]+)?\]|[\w.-]+)(?::[0-9]{0,5})?")
_ADDRESSES = re.compile(
    r"""(?P<before>['"(]?)(?P<address>(?:
        [A-Za-z][\w+.-]*:// | [^\s('"]*:[^\s('"]*@ | [^\s('"]*[?&][^\s('"]*= |
        (?<![\w-])(?!-)[^\s('"]*(?:user|pass|pwd|psw|pw|token|key|auth|secret)\w*=
    ).*)""",
    re.DOTALL | re.VERBOSE | re.IGNORECASE,
)
_CLOSING = {"'": "'", '"': '"', "(": ")", "": ""}
_ENDS_HOST = re.compile(r"[/?#\\]")
# Schemes with a host behind them. Behind another one may stand anything.
_WITH_HOST = frozenset(
    {
        "rtsp", "rtsps", "rtspu", "http", "https", "rtmp", "rtmps", "rtmpt", "rtmpe", "udp", "tcp", "rtp",
        "srt", "mms", "ftp", "ftps", "sftp", "ssh", "smb", "nfs", "ws", "wss", "onvif", "csi", "mqtt",
        "mqtts",
    }
)  # fmt: skip
_MISTYPED = re.compile(rf"({'|'.join(sorted(_WITH_HOST, key=len, reverse=True))})([:;]|//|\\)", re.IGNORECASE)
_WINDOWS = re.compile(r"[A-Za-z]:\\")


@dataclass(frozen=True)
class Address:
    """An address whose text, in whatever way it is printed, is its scheme, host and port: "rtsp://cam:554/…".

    What cannot be told apart from a user, a password, a path or a query is left out, the host too. `secret`
    is the whole text, for opening it and nothing else.
    """

    secret: str = field(repr=False)

    def __str__(self) -> str:
        match = _SCHEME.match(self.secret)
        if match is None:
            return HIDDEN
        rest = self.secret[match.end() :]
        host = _host(rest)
        if self.scheme not in _WITH_HOST and "@" not in rest and not _is_ip(host):
            host = ""
        if rest == host:
            return f"{self.scheme}://{host}"
        return f"{self.scheme}://{f'{host}/' if host else ''}{HIDDEN}"

    def __repr__(self) -> str:
        return f"Address({str(self)!r})"

    def __format__(self, spec: str) -> str:
        return format(str(self), spec)

    @property
    def scheme(self) -> str:
        """In small letters; "" where there is none."""
        match = _SCHEME.match(self.secret)
        return match[1].lower() if match else ""


def readable(text: str, suffixes: Collection[str] = ()) -> str:
    """A text that names nothing here, for the person who gave it: the name of a file as it is, an address
    with its host at most, and what may be either up to where a password may begin. `suffixes`, in small
    letters, are those by which a name is that of a file."""
    if _SCHEME.match(text):
        return str(Address(text))
    if match := _MISTYPED.match(text):
        return match[1] + HIDDEN
    host = re.split(r"[/\s]", text, maxsplit=1)[0]
    if _is_ip(host):
        return host if host == text else f"{host}/{HIDDEN}"
    sure = 0 if "://" in text else _sure_part(text, suffixes)
    return printable(text[:sure]) + (HIDDEN if sure < len(text) else "")


def names_address(text: str) -> bool:
    """Whether a text is an address where the name of a file is expected."""
    return "://" in text or bool(re.match("[^/:]*:[^/]*@", text))


def without_addresses(sentence: str) -> str:
    """A sentence of others, click's for instance, cut where an address begins: nobody knows where it ends."""
    return _ADDRESSES.sub(_hidden_address, sentence)


def _hidden_address(match: re.Match[str]) -> str:
    shown = Address(match["address"].strip())
    return f"{match['before']}{shown}{_CLOSING[match['before']]}"


def _sure_part(text: str, suffixes: Collection[str]) -> int:
    """How many characters at the start of a text without a scheme hold no password."""
    in_folder = os.path.isdir(os.path.dirname(text))
    is_file = in_folder or os.path.splitext(text)[1].lower() in suffixes
    before, at, behind = text.partition("@")
    if at and not in_folder and (":" in before or "/" in behind or not (is_file or "/" in before)):
        return 0
    sign = re.compile("[=?&]" if is_file else "[=?&:]").search(text, 3 if _WINDOWS.match(text) else 0)
    return len(text) if sign is None else sign.end()


def _host(rest: str) -> str:
    """Host and port of what follows the scheme; "" where they are not certain.

    A "/", "?" or "#" in a password that was not escaped looks like the end of the host.
    """
    before = _ENDS_HOST.split(rest, maxsplit=1)[0]
    if "@" not in rest[len(before) :] or _is_ip(before):
        host = before.rpartition("@")[2]
    elif _HOST.fullmatch(before) or rest.count("@") > 1:
        return ""
    else:
        host = _ENDS_HOST.split(rest.partition("@")[2], maxsplit=1)[0]
    return host if _HOST.fullmatch(host) else ""


def _is_ip(host: str) -> bool:
    """Whether it is a number, with or without a port, which is nobody's user name."""
    match = re.fullmatch(r"\[?([0-9A-Fa-f:.]+?)\]?(:[0-9]{1,5})?", host)
    return match is not None and is_ip_address(match[1])


def is_ip_address(host: str) -> bool:
    """Whether a host is an IP address and no name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
