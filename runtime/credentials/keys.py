"""Keys for sites that others can reach: certificates and a token a site, and the sites.toml that names them.

    keys/a/           copied to site a: server.pem, server.key, client_ca.pem, token
    keys/edge/a/      stays at the edge: ca.pem, ca.key, client.pem, client.key, token
    keys/sites.toml   what `pedsam run --sites` reads
    keys/preview/     for the live preview at the edge, with --preview: the files of a site

Each site has its own certificate authority (CA), client certificate and token: two operators that compare
their keys, and what the edge presents to them, find nothing in common. Making keys again for a site issues
new certificates under its CA and keeps its token.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from runtime.credentials.certificates import Authority
from stages.address import Address
from stages.errors import InputError
from stages.files import (
    check_replaceable,
    real_path,
    replace_file,
    replacing,
    sync_folder,
    temporary_path,
)
from stages.json_values import brief
from stages.network import host_problem, read_token, url_problem
from stages.text_files import parse_toml, read_text
from stages.tls import CERTIFICATE, CLIENT_CA, KEY, TOKEN

EDGE, PREVIEW = "edge", "preview"
_SITES_FILE = "sites file"
SITE_FILES = (CERTIFICATE, KEY, CLIENT_CA, TOKEN)
EDGE_FILES = ("ca.pem", "ca.key", "client.pem", "client.key", TOKEN)
# What file managers, editors and file systems leave in a folder.
_IGNORED = re.compile(r"\..*|.*~|Thumbs\.db|desktop\.ini|lost\+found", re.IGNORECASE)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}")


@dataclass(frozen=True)
class KeySite:
    """A site that needs keys; `url` is https://host or https://host:port."""

    name: str
    url: str
    operator: str

    @property
    def host(self) -> str:
        """The host as certificates name it: clients leave out the dot at the end of a name."""
        return (urlsplit(self.url).hostname or "").removesuffix(".")

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
class IssuedKeys:
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
    """The live preview as a site that needs keys, at a name or IP address of the edge device.

    Raises InputError for what is neither.
    """
    if "/" in host:
        raise InputError(f"the preview's host is {host!r}, expected a name or an IP address without https://")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    if problem := host_problem(host):
        raise InputError(f"the preview's host {host!r} {problem}")
    url = f"https://[{host}]" if ":" in host else f"https://{host}"
    return KeySite(PREVIEW, url.lower(), PREVIEW)


def make_keys(
    sites: Sequence[KeySite], out: Path, days: int, now: datetime, rotate_token: bool = False
) -> list[IssuedKeys]:
    """Write the keys of all sites below `out`, new ones or renewed ones, and say until when they are good.

    Every site is checked, and every file written beside its place, before the first one takes it. Raises
    InputError for a folder that holds something else, an authority that cannot be read or ends too soon, and
    a disk that cannot be written.
    """
    found = {site.name: _look(site.name, out) for site in sites}
    issued = [_issue(site, found[site.name], days, now, rotate_token) for site in sites]
    try:
        for folder in (out, out / EDGE):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folders: dict[Path, Mapping[str, bytes]] = {}
        for site, files in zip(sites, issued, strict=True):
            folders |= {out / EDGE / site.name: files.edge, out / site.name: files.site}
        for folder, contents in folders.items():
            for name in contents if folder.exists() else ():
                check_replaceable(folder / name)
        with contextlib.ExitStack() as stack:
            for folder, contents in folders.items():
                stack.enter_context(_staged(folder, contents))
    except OSError as exc:
        raise InputError(f"keys cannot be written to {out} ({exc.strerror}); choose another --out") from exc
    return [
        IssuedKeys(site, out / site.name, files.until, found[site.name] is not None)
        for site, files in zip(sites, issued, strict=True)
    ]


def write_sites(sites: Sequence[KeySite], path: Path) -> list[str]:
    """Write sites.toml, or add to it what it lacks; returns what is left to change by hand, in lines.

    A file in which a person wrote stays as it is. Raises InputError when it is no TOML or cannot be written.
    """
    by_hand: list[str] = []
    try:
        text = read_text(path, _SITES_FILE) if os.path.lexists(path) else ""
        present = _entries(parse_toml(text, path, _SITES_FILE))
        missing = [_table(site.entry()) for site in sites if site.name not in present]
        if missing and text not in ("", _joined([_table(entry) for entry in present.values()])):
            by_hand = [f"{path} was changed by hand and is left as it is: add to it", "", *missing]
        elif missing:
            replace_file(path, _joined([*([text] if text else []), *missing]), durable=True, mode=0o600)
    except (OSError, InputError) as exc:
        raise InputError(f"{path} cannot be added to ({exc}); fix it or move it away") from exc
    return [
        *by_hand,
        *(line for site in sites for line in _differences(site, present.get(site.name), path)),
    ]


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
    expected = "expected like https://host:port"
    if problem := url_problem(url):
        raise InputError(f"url of site {name} {problem}; {expected}")
    parts = urlsplit(url)
    if parts.scheme == "http":
        raise InputError(
            f"url of site {name} is {Address(url)}: keys are for TLS, and plain http has none; {expected}"
        )
    if parts.path not in ("", "/"):
        raise InputError(f"url of site {name} is {Address(url)}: a site has no path; {expected}")
    if problem := host_problem(parts.hostname or ""):
        raise InputError(f"the host in url of site {name}, {parts.hostname!r}, {problem}")
    return f"https://{parts.netloc.lower()}"


@dataclass(frozen=True)
class _Found:
    """What an earlier run made for a site."""

    authority: Authority
    token: str = field(repr=False)


def _look(name: str, out: Path) -> _Found | None:
    """What there is of a site; None when nothing. InputError when it is not what was made here."""
    edge = out / EDGE / name
    _check_foreign(out / name, SITE_FILES)
    _check_foreign(edge, EDGE_FILES)
    if os.path.lexists(edge):
        return _read(name, edge)
    if os.path.lexists(out / name):
        raise InputError(
            f"{out / name} is there but not {edge}, which holds the authority of site {name}; put it back, "
            f"or move {out / name} away to begin anew"
        )
    return None


def _check_foreign(folder: Path, known: Iterable[str]) -> None:
    """Refuse what others than `pedsam keys` may have put there, but not a file manager's own files.

    It could be a key that would travel with the folder. Another --out is no way out: sites that have keys
    would need new ones.
    """
    if not os.path.lexists(folder):
        return
    try:
        names = {*os.listdir(folder)}
    except NotADirectoryError as exc:
        raise InputError(f"{folder} is a file where a folder is needed; move it away") from exc
    except OSError as exc:
        raise InputError(f"{folder} cannot be read ({exc.strerror}); keys are renewed from it") from exc
    left_over = {temporary_path(folder / name).name for name in known}
    foreign = sorted(name for name in names - {*known, *left_over} if not _IGNORED.fullmatch(name))
    if foreign:
        raise InputError(
            f"{folder} holds {foreign[0]}, which `pedsam keys` did not write; move it away and try again, "
            "with the same --out, so that sites keep the authority they know"
        )


def _read(name: str, edge: Path) -> _Found:
    try:
        authority = Authority.from_pem((edge / "ca.pem").read_bytes(), (edge / "ca.key").read_bytes())
    except (OSError, ValueError) as exc:
        raise InputError(
            f"the authority of site {name} (ca.pem and ca.key in {edge}) cannot be read: {exc}; put it back, "
            f"or move {edge} and the site's own folder away to begin anew"
        ) from exc
    return _Found(authority, read_token(edge / TOKEN, f"token of site {name}"))


@dataclass(frozen=True)
class _Issued:
    """The files of a site, by name: those that stay at the edge and those that go to the site."""

    edge: Mapping[str, bytes] = field(repr=False)
    site: Mapping[str, bytes] = field(repr=False)
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
    server_pair = {CERTIFICATE: server.certificate, KEY: server.key}
    return _Issued(
        {"ca.key": own.key, "ca.pem": own.certificate, **client_pair, TOKEN: line},
        {CLIENT_CA: own.certificate, **server_pair, TOKEN: line},
        until,
    )


@contextlib.contextmanager
def _staged(folder: Path, files: Mapping[str, bytes]) -> Iterator[None]:
    """Files written beside their places, which they take when the block ends; they go when it fails.

    They are on the disk before the block begins. mkdtemp makes a new folder for its owner only (700).
    """
    if folder.exists():
        folder.chmod(0o700)
        with contextlib.ExitStack() as stack:
            for name, content in files.items():
                with stack.enter_context(replacing(folder / name, 0o600)).open("r+b") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
            yield
        for place in {real_path(folder / name).parent for name in files}:
            sync_folder(place)
        return
    staged = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        for name, content in files.items():
            replace_file(staged / name, content, durable=True, mode=0o600)
        yield
        staged.rename(folder)
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def _entries(data: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The tables of a sites.toml by name. Raises InputError for one that holds anything else."""
    tables = data.get("site", [])
    if data.keys() - {"site"} or not isinstance(tables, list):
        raise InputError("it holds something else than [[site]] tables")
    return {str(table.get("name")): table for table in tables if isinstance(table, dict)}


def _joined(tables: Sequence[str]) -> str:
    """A sites.toml as it is written here."""
    return "\n".join(tables)


def _table(entry: Mapping[str, Any]) -> str:
    return "\n".join(["[[site]]", *(f'{key} = "{value}"' for key, value in entry.items()), ""])


def _differences(site: KeySite, present: Mapping[str, Any] | None, path: Path) -> list[str]:
    """What a person may want to change in a table that was there before; the operator is theirs to name."""
    if present is None:
        return []
    changed = [key for key, value in site.entry().items() if key != "operator" and present.get(key) != value]
    return [
        f"{path} was left as it is: for site {site.name} it says {key} = {_shown(key, present.get(key))}, "
        f"change that to {site.entry()[key]!r}"
        for key in changed
    ]


def _shown(key: str, value: object) -> str:
    """A value of a table that a person wrote, whose url may hold a password."""
    return str(Address(str(value))) if key == "url" else brief(value)
