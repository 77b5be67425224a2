"""`sites.toml`: which sites there are, whose they are and how to reach them.

[[site]]
name = "a"                       # for you: logs, tables
operator = "alpha"               # the trust domain; sites of one operator share one cap
url = "https://203.0.113.7:8443"
token_file = "keys/a/token"      # files are relative to sites.toml; all but name, operator, url optional
ca = "keys/a/ca.pem"
cert = "keys/a/client.pem"
key = "keys/a/client.key"
cap = 5                          # window positions the operator may ever see in a session
spare = false                    # true: gets windows only when another site fails
"""

from __future__ import annotations

import ssl
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from stages.errors import InputError
from stages.network import is_loopback, read_token

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_TYPES: dict[str, type] = {
    "name": str, "operator": str, "url": str, "token_file": str, "ca": str, "cert": str, "key": str,
    "cap": int, "spare": bool,
}  # fmt: skip
_REQUIRED = ("name", "operator", "url")


@dataclass(frozen=True)
class SiteConfig:
    """One entry of sites.toml with its files resolved; `token` is the text of token_file."""

    name: str
    operator: str
    url: str
    token: str | None = None
    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    cap: int | None = None
    spare: bool = False

    def ssl_context(self) -> ssl.SSLContext | None:
        """TLS settings for https, None for http. Raises InputError when a file is no certificate or key."""
        if urlsplit(self.url).scheme != "https":
            return None
        try:
            context = ssl.create_default_context(cafile=self.ca)
            if self.cert is not None:
                context.load_cert_chain(self.cert, self.key)
        except (OSError, ssl.SSLError) as exc:
            raise InputError(f"site {self.name}: its ca, cert or key file cannot be used ({exc})") from exc
        return context


def read_sites(path: Path, insecure: bool = False) -> tuple[SiteConfig, ...]:
    """All sites of a file. Raises InputError in one sentence for whatever is wrong with it.

    Plain http to anything but a loopback address is refused unless `insecure`.
    """
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as exc:
        raise InputError(f"sites file {path} cannot be read: {exc}") from exc
    entries = data.get("site")
    if not _is_table_list(entries) or set(data) != {"site"}:
        raise InputError(f"sites file {path} must hold one [[site]] table a site and nothing else")
    try:
        sites = tuple(_site(entry, path.parent, insecure) for entry in entries)
        _check_together(sites)
    except InputError as exc:
        raise InputError(f"sites file {path}: {exc}") from exc
    return sites


def _is_table_list(entries: object) -> bool:
    return isinstance(entries, list) and bool(entries) and all(isinstance(entry, dict) for entry in entries)


def operator_caps(sites: Sequence[SiteConfig], default: int) -> dict[str, int]:
    """The cap of each operator: what its sites say, else `default`."""
    caps = {site.operator: default for site in sites}
    return caps | {site.operator: site.cap for site in sites if site.cap is not None}


def _site(entry: Mapping[str, Any], folder: Path, insecure: bool) -> SiteConfig:
    name = entry.get("name", "without a name")
    for key, value in entry.items():
        if key not in _TYPES:
            raise InputError(f"site {name} has the unknown key {key!r}; known are {', '.join(_TYPES)}")
        if type(value) is not _TYPES[key]:
            raise InputError(f"{key} of site {name} is {value!r}, expected {_TYPES[key].__name__}")
    if missing := [key for key in _REQUIRED if not entry.get(key)]:
        raise InputError(f"site {name} has no {missing[0]}")
    if ("cert" in entry) != ("key" in entry):
        raise InputError(f"site {name} needs both cert and key, or neither")
    if entry.get("cap", 1) < 1:
        raise InputError(f"cap of site {name} is {entry['cap']}, expected at least 1")
    _check_url(name, entry["url"], insecure)
    files = {key: folder / entry[key] for key in ("ca", "cert", "key") if key in entry}
    token = None
    if "token_file" in entry:
        token = read_token(folder / entry["token_file"], f"token_file of site {name}")
    return SiteConfig(
        name, entry["operator"], entry["url"].rstrip("/"), token,
        cap=entry.get("cap"), spare=entry.get("spare", False), **files,
    )  # fmt: skip


def _check_url(name: str, url: str, insecure: bool) -> None:
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # no IPv6 address, no port
        usable = False
    if not usable or parts.query or parts.fragment or "@" in parts.netloc:
        raise InputError(f"url of site {name} is {url!r}, expected like https://host:port")
    if parts.scheme == "http" and not insecure and not is_loopback(parts.hostname or ""):
        raise InputError(
            f"site {name} is reached over plain http, where anyone on the way can read the tiles; use https, "
            "or --insecure on a network you trust"
        )


def _check_together(sites: Sequence[SiteConfig]) -> None:
    names = [site.name for site in sites]
    if twice := [name for name in names if names.count(name) > 1]:
        raise InputError(f"two sites are named {twice[0]}; give each its own name")
    if all(site.spare for site in sites):
        raise InputError("every site is a spare; at least one must not be")
    for operator in {site.operator for site in sites}:
        caps = {site.cap for site in sites if site.operator == operator and site.cap is not None}
        if len(caps) > 1:
            raise InputError(
                f"the sites of operator {operator} give different caps {sorted(caps)}; sites of one operator "
                "share one cap"
            )
