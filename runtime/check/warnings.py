"""Warnings: what does not stop a run but defeats the purpose of several operators. Pure functions.

Sites of different operators that share an address, a certificate, a proxy or a secret may be one party, which
then sees the windows of both.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from runtime.check.reachability import Certificate
from runtime.sites.answers import date_of
from runtime.sites.config import SiteConfig
from stages.bundle import sha256
from stages.certificates import validity
from stages.network import is_loopback

SOON = timedelta(days=30)
CLOCK = timedelta(minutes=5)
_LOCAL = (
    "{} on this machine (loopback): good for a trial, but whoever runs the machine sees the whole picture"
)
_SAME_ADDRESS = (
    "{} answer at the same address {}: one machine or one proxy may see the windows of all of them; ask the "
    "operators where they run, or use another site"
)
_SAME_RANGE = (
    "{} are in one address range {}: one provider may run them all; ask the operators where they run, or use "
    "another site"
)
_SAME_KEY = (
    "{} show the same certificate key (SHA-256 {}): one server, or one proxy that ends TLS, sees the windows "
    "of all of them; make keys for each with `pedsam keys`, and copy each its own folder"
)
_SAME_FILE = (
    "{} have the same {} in sites.toml, so that they can tell that they work for one edge; make keys for "
    "each with `pedsam keys`"
)
# Headers that proxies and content networks add to what passes through them, in small letters.
PROXY_HEADERS = (
    "via", "forwarded", "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-cache",
    "x-served-by", "x-varnish", "x-envoy-upstream-service-time", "cf-ray", "x-amz-cf-id", "x-azure-ref",
    "fly-request-id",
)  # fmt: skip


@dataclass(frozen=True)
class SiteFacts:
    """Facts of a site: its addresses, its certificate, the headers of an answer and when it came."""

    config: SiteConfig
    addresses: tuple[str, ...] = ()
    certificate: Certificate | None = None
    headers: Mapping[str, str] | None = None
    at: datetime | None = None


def warnings(sites: Sequence[SiteFacts], now: datetime) -> list[str]:
    """All warnings, a sentence each, those about operators first."""
    return [
        *shared_addresses(sites),
        *shared_certificates(sites),
        *shared_secrets(sites),
        *(line for site in sites for line in proxies(site)),
        *(line for site in sites for line in expiring(site, now)),
        *(line for site in sites for line in clock(site)),
    ]


def shared_addresses(sites: Sequence[SiteFacts]) -> list[str]:
    """Sites of different operators at one address, in one /24 (IPv4) or in one /48 (IPv6)."""
    local = [site.config.name for site in sites if any(map(is_loopback, site.addresses))]
    found = [_LOCAL.format(_names(local))] if local else []
    together: set[str] = set()
    for address, group in _shared(sites, lambda site: _elsewhere(site.addresses)):
        together |= {site.config.name for site in group}
        found.append(_SAME_ADDRESS.format(_with_operators(group), address))
    for network, group in _shared(sites, lambda site: set(map(_network, _elsewhere(site.addresses)))):
        if not {site.config.name for site in group} <= together:
            found.append(_SAME_RANGE.format(_with_operators(group), network))
    return found


def shared_certificates(sites: Sequence[SiteFacts]) -> list[str]:
    """Different operators with one certificate or key: one server, or one proxy that ends TLS for both."""
    groups = _shared(sites, lambda site: [site.certificate.key_fingerprint] if site.certificate else [])
    return [_SAME_KEY.format(_with_operators(group), key[:16]) for key, group in groups]


def shared_secrets(sites: Sequence[SiteFacts]) -> list[str]:
    """Different operators that are shown the same token, client certificate or authority by this edge."""
    secrets: dict[str, Callable[[SiteConfig], str | None]] = {
        "token": lambda site: site.token,
        "client certificate": lambda site: _digest(site.cert),
        "ca": lambda site: _digest(site.ca),
    }
    return [
        _SAME_FILE.format(_with_operators(group), what)
        for what, secret in secrets.items()
        for _, group in _shared(sites, lambda site, secret=secret: list(filter(None, [secret(site.config)])))  # type: ignore[misc]
    ]


def proxies(site: SiteFacts) -> list[str]:
    """A site whose answers passed through something that says so."""
    headers = {name.lower(): value for name, value in (site.headers or {}).items()}
    through = [f"{name}: {headers[name]:.80}" for name in PROXY_HEADERS if name in headers]
    if not through:
        return []
    return [
        f"site {site.config.name}: answers through a proxy ({'; '.join(through)}); if TLS ends there, "
        "whoever runs it sees the tiles too; reach the site directly, or count that party as its operator"
    ]


def expiring(site: SiteFacts, now: datetime) -> list[str]:
    """Certificates, the site's and the edge's own, that are good for less than 30 days."""
    dates = {"its certificate": site.certificate.until} if site.certificate else {}
    if site.config.cert:
        dates[f"this edge's certificate {site.config.cert}"] = validity(site.config.cert)[1]
    return [
        f"site {site.config.name}: {whose} is good until {until:%Y-%m-%d}; renew it with `pedsam keys` and "
        "copy its folder to the site again"
        for whose, until in dates.items()
        if now <= until < now + SOON
    ]


def clock(site: SiteFacts) -> list[str]:
    """A site whose clock differs from this machine's, so that certificates seem expired or not yet valid."""
    theirs = date_of(site.headers or {})
    if theirs is None or site.at is None:
        return []
    ahead = theirs - site.at
    if abs(ahead) <= CLOCK:
        return []
    minutes, way = abs(ahead).total_seconds() / 60, "ahead of" if ahead > timedelta() else "behind"
    return [
        f"site {site.config.name}: its clock is {minutes:.0f} minutes {way} this machine's; set both clocks "
        "(timedatectl set-ntp true), or certificates will seem expired or not valid yet"
    ]


def _shared(
    sites: Iterable[SiteFacts], keys: Callable[[SiteFacts], Iterable[str]]
) -> list[tuple[str, list[SiteFacts]]]:
    """Each key that sites of more than one operator have, with those sites."""
    groups: dict[str, list[SiteFacts]] = {}
    for site in sites:
        for key in keys(site):
            groups.setdefault(key, []).append(site)
    return [(key, group) for key, group in groups.items() if len({s.config.operator for s in group}) > 1]


def _elsewhere(addresses: Iterable[str]) -> list[str]:
    return [address for address in addresses if not is_loopback(address)]


def _network(address: str) -> str:
    """What an address is compared by: its /24 (IPv4) or its /48 (IPv6)."""
    found = ipaddress.ip_address(address.partition("%")[0])  # without the zone of a link-local address
    return str(ipaddress.ip_network((found, 24 if found.version == 4 else 48), strict=False))


def _digest(path: Path | None) -> str | None:
    """Hash of a file; None without one, or when it cannot be read, which connecting reports."""
    try:
        return sha256(path) if path else None
    except OSError:
        return None


def _names(names: Sequence[str]) -> str:
    return f"site {names[0]} is" if len(names) == 1 else f"sites {', '.join(names)} are"


def _with_operators(sites: Sequence[SiteFacts]) -> str:
    return "sites " + " and ".join(f"{site.config.name} ({site.config.operator})" for site in sites)
