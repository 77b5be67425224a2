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

import contextlib
import ipaddress
import posixpath
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

from yarl import URL

from stages.errors import InputError
from stages.json_values import brief
from stages.network import host_problem, is_loopback, read_token, url_problem
from stages.problems import no_more_files
from stages.text_files import TYPE_NAMES, Mistake, line_of, parse_toml, read_text

_TYPES: dict[str, type] = {
    "name": str, "operator": str, "url": str, "token_file": str, "ca": str, "cert": str, "key": str,
    "cap": int, "spare": bool,
}  # fmt: skip
_MAX_NAME = 80  # characters of a name that a sentence shows
_REQUIRED = ("name", "operator", "url")


@dataclass(frozen=True)
class SiteConfig:
    """One entry of sites.toml with its files resolved; `token` is the text of token_file."""

    name: str
    operator: str
    url: str
    token: str | None = field(default=None, repr=False)
    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    cap: int | None = None
    spare: bool = False
    token_file: Path | None = None

    def ssl_context(self) -> ssl.SSLContext | None:
        """TLS settings for https, None for http. Raises InputError when a file is no certificate or key."""
        if urlsplit(self.url).scheme != "https":
            return None
        try:
            context = ssl.create_default_context(cafile=self.ca)
            if self.cert is not None:
                context.load_cert_chain(self.cert, self.key)
        except (OSError, ssl.SSLError) as exc:
            problem = cannot_be_asked(exc) or f"its ca, cert or key file cannot be used ({exc})"
            raise InputError(f"site {self.name}: {problem}") from exc
        return context


def cannot_be_asked(exc: BaseException) -> str | None:
    """What to say of a site where it is the edge itself that can open no more files, sockets among them."""
    full = no_more_files(exc)
    return f"cannot be asked, as the edge may open no more files {full}" if full else None


def read_sites(path: Path, insecure: bool = False) -> tuple[SiteConfig, ...]:
    """All sites of a file. Raises InputError in one sentence for whatever is wrong with it.

    Plain http to anything but a loopback address is refused unless `insecure`.
    """
    text = read_text(path, "sites file")
    data = parse_toml(text, path, "sites file")
    entries: Any = data.get("site")
    if not _is_table_list(entries) or set(data) != {"site"}:
        others = ", ".join(sorted(set(data) - {"site"})[:5])
        found = f", found {others}" if others else ""
        raise InputError(f"sites file {path} must hold one [[site]] table a site and nothing else{found}")
    sites = tuple(_site_at(number, text, entry, path, insecure) for number, entry in enumerate(entries))
    try:
        _check_together(sites)
    except InputError as exc:
        raise InputError(f"sites file {path}: {exc}") from exc
    return sites


def _site_at(number: int, text: str, entry: Mapping[str, Any], path: Path, insecure: bool) -> SiteConfig:
    """One [[site]] table of the file's text; an error says in which line it is."""
    try:
        return _site(entry, path.parent, insecure)
    except Mistake as exc:
        line = line_of(text, "site", number, exc.key)
        where = f"line {line}" if line else f"site[{number}].{exc.key}"
        raise InputError(f"sites file {path}, {where}: {exc}") from exc


def _is_table_list(entries: object) -> bool:
    return isinstance(entries, list) and bool(entries) and all(isinstance(entry, dict) for entry in entries)


def operator_caps(sites: Sequence[SiteConfig], default: int) -> dict[str, int]:
    """The cap of each operator: what its sites say, else `default`."""
    caps = {site.operator: default for site in sites}
    return caps | {site.operator: site.cap for site in sites if site.cap is not None}


def _site(entry: Mapping[str, Any], folder: Path, insecure: bool) -> SiteConfig:
    shown = _shown(entry["name"]) if "name" in entry else "without a name"
    for key, value in entry.items():
        if key not in _TYPES:
            known = ", ".join(_TYPES)
            raise Mistake(f"site {shown} has the unknown key {brief(key)}; known are {known}", key)
        if type(value) is not _TYPES[key]:
            wanted = TYPE_NAMES[_TYPES[key]]
            found = "a list or a table" if key == "url" and isinstance(value, (list, dict)) else brief(value)
            raise Mistake(f"{key} of site {shown} is {found}, expected {wanted}", key)
    if missing := [key for key in _REQUIRED if not entry.get(key)]:
        raise Mistake(f"site {shown} has no {missing[0]}", missing[0])
    if ("cert" in entry) != ("key" in entry):
        raise Mistake(f"site {shown} needs both cert and key, or neither", "cert")
    if entry.get("cap", 1) < 1:
        raise Mistake(f"cap of site {shown} is {brief(entry['cap'])}, expected at least 1", "cap")
    url = _checked_url(shown, entry["url"], insecure)
    files = {key: folder / entry[key] for key in ("token_file", "ca", "cert", "key") if key in entry}
    token = None
    if "token_file" in entry:
        try:
            token = read_token(files["token_file"], f"token_file of site {shown}")
        except InputError as exc:
            raise Mistake(str(exc), "token_file") from exc
    return SiteConfig(
        entry["name"], entry["operator"], url, token,
        cap=entry.get("cap"), spare=entry.get("spare", False), **files,
    )  # fmt: skip


def _shown(name: object) -> str:
    """A name for a sentence: as it is where it is short and printable."""
    plain = isinstance(name, str) and name.isprintable() and len(name) <= _MAX_NAME
    return str(name) if plain else brief(name)


def _checked_url(name: str, url: str, insecure: bool) -> str:
    """The url without a slash at its end, its host as DNS has it."""
    expected = "expected like https://host:port"
    if problem := url_problem(url):
        raise Mistake(f"url of site {name} {problem}; {expected}", "url")
    url = _with_dns_name(url.rstrip("/"))
    parts = urlsplit(url)
    host = parts.hostname or ""
    if problem := host_problem(host.partition("%")[0]):  # a link-local address has a zone behind it
        raise Mistake(f"url of site {name} has a host that {problem}; {expected}", "url")
    if parts.scheme == "http" and not insecure and not is_loopback(host):
        raise Mistake(
            f"site {name} is reached over plain http, where anyone on the way can read the tiles; use https, "
            "or --insecure on a network you trust",
            "url",
        )
    return url


def _with_dns_name(url: str) -> str:
    """A url whose host begins with xn-- where it has other letters than ASCII and DNS can hold it."""
    parts = urlsplit(url)
    if url.isascii() or not parts.hostname:
        return url
    try:
        host = URL.build(scheme=parts.scheme, host=parts.hostname).raw_host
    except ValueError:  # UnicodeError is one
        return url
    return urlunsplit(parts._replace(netloc=f"{host}:{parts.port}" if parts.port else f"{host}"))


def _check_together(sites: Sequence[SiteConfig]) -> None:
    names = [site.name for site in sites]
    if twice := [name for name in names if names.count(name) > 1]:
        raise InputError(f"two sites are named {_shown(twice[0])}; give each its own name")
    if all(site.spare for site in sites):
        raise InputError("every site is a spare; at least one must not be")
    _check_urls_apart(sites)
    for operator in {site.operator for site in sites}:
        caps = {site.cap for site in sites if site.operator == operator and site.cap is not None}
        if len(caps) > 1:
            raise InputError(
                f"the sites of operator {_shown(operator)} give different caps {sorted(caps)}; sites of one "
                "operator share one cap"
            )


def _check_urls_apart(sites: Sequence[SiteConfig]) -> None:
    """Raises InputError where one url stands under two operators, each of which would get a cap for it."""
    first: dict[tuple[str, int, str], SiteConfig] = {}
    for site in sites:
        other = first.setdefault(_endpoint(site.url), site)
        if other.operator != site.operator:
            raise InputError(
                f"sites {_shown(other.name)} and {_shown(site.name)} have one url, but the operators "
                f"{_shown(other.operator)} and {_shown(site.operator)}; who answers there sees the windows "
                "of both: give them one operator, or leave one out"
            )


def _endpoint(url: str) -> tuple[str, int, str]:
    """Host, port and path that a url names, the same for every spelling of it."""
    parts = urlsplit(url)
    host = (parts.hostname or "").rstrip(".")
    with contextlib.suppress(ValueError):  # a name
        address = ipaddress.ip_address(host)
        host = str(getattr(address, "ipv4_mapped", None) or address)
    path = posixpath.normpath("/" + unquote(parts.path).lstrip("/"))
    return host, parts.port or (443 if parts.scheme == "https" else 80), path
