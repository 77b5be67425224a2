"""Keys for sites that others can reach: certificates and a token a site, and the sites.toml that names them.

    keys/a/           copied to site a: server.pem, server.key, client_ca.pem, token
    keys/edge/a/      stays at the edge: ca.pem, ca.key, client.pem, client.key, token
    keys/sites.toml   what `pedsam run --sites` reads
    keys/preview/     for the live preview at the edge itself, when asked for: as a site's

Each site has its own authority, client certificate and token: two operators that compare what they were
given, and what the edge shows them, find nothing in common. Making keys again for a site makes new
certificates under the authority it has and keeps its token.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from runtime.certificates import Authority
from stages.errors import InputError
from stages.network import read_token

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

EDGE, PREVIEW = "edge", "preview"
SITE_FILES = ("server.pem", "server.key", "client_ca.pem", "token")
EDGE_FILES = ("ca.pem", "ca.key", "client.pem", "client.key", "token")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}")
_HOST = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?|[0-9a-f:.]+")  # a DNS name, an IPv4 or IPv6 address


@dataclass(frozen=True)
class KeySite:
    """A site that needs keys; `url` is https://host or https://host:port."""

    name: str
    url: str
    operator: str

    @property
    def host(self) -> str:
        return urlsplit(self.url).hostname or ""

    def entry(self) -> dict[str, str]:
        """Its table in sites.toml."""
        folder = f"{EDGE}/{self.name}"
        return {
            "name": self.name,
            "operator": self.operator,
            "url": self.url,
            "token_file": f"{folder}/token",
            "ca": f"{folder}/ca.pem",
            "cert": f"{folder}/client.pem",
            "key": f"{folder}/client.key",
        }


@dataclass(frozen=True)
class SiteKeys:
    """What was made for a site: `until` is when the first of its certificates expires (UTC)."""

    site: KeySite
    folder: Path
    until: datetime
    renewed: bool


def parse_sites(sites: Sequence[str], operators: Sequence[str]) -> tuple[KeySite, ...]:
    """Sites from "a=https://host:port" and operators from "a=alpha"; a site without one is its own.

    Raises InputError in one sentence for what cannot be used.
    """
    urls = _pairs(sites, "--site", "a=https://203.0.113.7:8443")
    names = _pairs(operators, "--operator", "a=alpha")
    if unknown := sorted(names.keys() - urls.keys()):
        raise InputError(f"--operator names the site {unknown[0]}, for which there is no --site")
    return tuple(_site(name, url, names.get(name, name)) for name, url in urls.items())


def preview_at(host: str) -> KeySite:
    """The live preview as a place that needs keys, at a name or IP address of the edge device.

    Raises InputError for what is neither.
    """
    url = f"https://[{host}]" if ":" in host else f"https://{host}"
    if not _HOST.fullmatch(host.lower()):
        raise InputError(f"the preview's host is {host!r}, expected a name or an IP address")
    return KeySite(PREVIEW, url.lower(), PREVIEW)


def make_keys(
    sites: Sequence[KeySite], out: Path, days: int, now: datetime, rotate_token: bool = False
) -> list[SiteKeys]:
    """Write the keys of all sites below `out`, new ones or renewed ones, and say until when they are good.

    Every site is checked before the first file is written. Raises InputError for a folder that holds
    something else, an authority that cannot be read or ends too soon, and a disk that cannot be written.
    """
    found = {site.name: _look(site.name, out) for site in sites}
    issued = [_issue(site, found[site.name], days, now, rotate_token) for site in sites]
    try:
        for folder in (out, out / EDGE):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for site, files in zip(sites, issued, strict=True):
            _write_folder(out / EDGE / site.name, files.edge)
            _write_folder(out / site.name, files.site)
    except OSError as exc:
        raise InputError(f"keys cannot be written to {out} ({exc.strerror}); choose another --out") from exc
    return [
        SiteKeys(site, out / site.name, files.until, found[site.name] is not None)
        for site, files in zip(sites, issued, strict=True)
    ]


def write_sites(sites: Sequence[KeySite], path: Path) -> list[str]:
    """Write sites.toml, or add to it what it lacks; returns what is left to change by hand, in sentences.

    What the file says already stays as it is. Raises InputError when it is no TOML or cannot be written.
    """
    try:
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        present = _entries(tomllib.loads(text))
        missing = [_table(site) for site in sites if site.name not in present]
        if missing:
            _replace_file(path, _joined(text, missing))
    except (OSError, ValueError) as exc:
        raise InputError(f"{path} cannot be added to ({exc}); mend it or move it away") from exc
    return [line for site in sites for line in _differences(site, present.get(site.name), path)]


def _pairs(texts: Iterable[str], option: str, example: str) -> dict[str, str]:
    result: dict[str, str] = {}
    for text in texts:
        name, _, value = text.partition("=")
        if not name or not value:
            raise InputError(f"{option} is {text!r}, expected like {example}")
        if name in result:
            raise InputError(f"{option} names the site {name} twice; give each site its own name")
        result[name] = value
    return result


def _site(name: str, url: str, operator: str) -> KeySite:
    if not _NAME.fullmatch(name) or name in (EDGE, PREVIEW):
        raise InputError(
            f"site name {name!r} cannot name a folder here: use up to 32 letters, digits, - and _, "
            f"and not {EDGE!r} or {PREVIEW!r}"
        )
    if not operator.isprintable() or set(operator) & set('"\\'):
        raise InputError(
            f"operator {operator!r} of site {name} must be printable, without quotes or backslashes"
        )
    return KeySite(name, _checked_url(name, url), operator)


def _checked_url(name: str, url: str) -> str:
    expected = f"url of site {name} is {url!r}, expected like https://host:port"
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError as exc:
        raise InputError(expected) from exc
    if parts.scheme == "http":
        raise InputError(f"{expected}: keys are for TLS, and plain http has none")
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        raise InputError(f"{expected}: a site has no path")
    if parts.scheme != "https" or "@" in parts.netloc or port == 0 or not _HOST.fullmatch(host):
        raise InputError(expected)
    return f"https://{parts.netloc.lower()}"


@dataclass(frozen=True)
class _Found:
    """What an earlier run made for a site."""

    authority: Authority
    token: str


def _look(name: str, out: Path) -> _Found | None:
    """What there is of a site; None when nothing. InputError when it is not what was made here."""
    edge = out / EDGE / name
    _check_foreign(out / name, SITE_FILES)
    _check_foreign(edge, EDGE_FILES)
    if edge.exists():
        return _read(name, edge)
    if (out / name).exists():
        raise InputError(
            f"{out / name} is there but not {edge}, which holds the authority of site {name}; put it back, "
            f"or move {out / name} away to begin anew"
        )
    return None


def _check_foreign(folder: Path, known: Iterable[str]) -> None:
    if not folder.exists():
        return
    if not folder.is_dir():
        raise InputError(f"{folder} is a file where a folder is needed; choose another --out")
    if foreign := sorted({path.name for path in folder.iterdir()} - set(known)):
        raise InputError(
            f"{folder} holds {foreign[0]}, which `pedsam keys` did not write; choose another --out"
        )


def _read(name: str, edge: Path) -> _Found:
    try:
        authority = Authority.from_pem((edge / "ca.pem").read_bytes(), (edge / "ca.key").read_bytes())
    except (OSError, ValueError) as exc:
        raise InputError(
            f"the authority of site {name} (ca.pem and ca.key in {edge}) cannot be read: {exc}; put it back, "
            f"or move {edge} and the site's own folder away to begin anew"
        ) from exc
    return _Found(authority, read_token(edge / "token", f"token of site {name}"))


@dataclass(frozen=True)
class _Issued:
    """The files of a site, by name: those that stay at the edge and those that go to the site."""

    edge: Mapping[str, bytes]
    site: Mapping[str, bytes]
    until: datetime


def _issue(site: KeySite, found: _Found | None, days: int, now: datetime, rotate_token: bool) -> _Issued:
    authority = found.authority if found else Authority.new(site.name, now)
    token = found.token if found and not rotate_token else secrets.token_urlsafe(32)
    server, client = authority.server(site.host, days, now), authority.client(site.name, days, now)
    until = min(server.until, client.until)
    if max(server.until, client.until) > authority.until:
        raise InputError(
            f"the authority of site {site.name} ends on {authority.until:%Y-%m-%d}, before new certificates "
            "would; give fewer --days, or move the site's two folders away to begin anew"
        )
    own, line = authority.to_pem(), f"{token}\n".encode()
    client_pair = {"client.pem": client.certificate, "client.key": client.key}
    server_pair = {"server.pem": server.certificate, "server.key": server.key}
    return _Issued(
        {"ca.key": own.key, "ca.pem": own.certificate, **client_pair, "token": line},
        {"client_ca.pem": own.certificate, **server_pair, "token": line},
        until,
    )


def _write_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write all files beside `folder`, then move them in: a new folder at once, renewed files one by one.

    What fails, fails before anything was replaced; what is cut off between two renewed files is whole again
    after the next run. mkdtemp makes the folder for its owner only (700).
    """
    staged = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        for name, content in files.items():
            _write_private(staged / name, content)
        if folder.exists():
            folder.chmod(0o700)
            for name in files:
                os.replace(staged / name, folder / name)
        else:
            staged.rename(folder)
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def _write_private(path: Path, content: bytes) -> None:
    """A new file for its owner only, on the disk before this returns."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _entries(data: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The tables of a sites.toml by name."""
    tables = data.get("site", [])
    if data.keys() - {"site"} or not isinstance(tables, list):
        raise ValueError("it holds something else than [[site]] tables")
    return {str(table.get("name")): table for table in tables if isinstance(table, dict)}


def _joined(text: str, tables: Sequence[str]) -> str:
    """The text with tables after it. ValueError when a list in it is written so that none can follow."""
    whole = "\n".join([*([text.rstrip("\n") + "\n"] if text else []), *tables])
    tomllib.loads(whole)
    return whole


def _table(site: KeySite) -> str:
    return "\n".join(["[[site]]", *(f'{key} = "{value}"' for key, value in site.entry().items()), ""])


def _differences(site: KeySite, present: Mapping[str, Any] | None, path: Path) -> list[str]:
    """What a person may want to change in a table that was there before; the operator is theirs to name."""
    if present is None:
        return []
    return [
        f"{path} was left as it is: for site {site.name} it says {key} = {present.get(key)!r}, "
        f"change that to {value!r}"
        for key, value in site.entry().items()
        if key != "operator" and present.get(key) != value
    ]


def _replace_file(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.unlink(missing_ok=True)  # of a run that was cut off
    _write_private(temporary, text.encode())
    os.replace(temporary, path)
