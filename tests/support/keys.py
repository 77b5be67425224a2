"""Keys of sites for tests, made as `pedsam keys` makes them."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

from runtime.credentials.keys import make_keys, parse_sites, write_sites
from runtime.sites.config import SiteConfig, read_sites

LONG_AGO = timedelta(days=400)


def now() -> datetime:
    return datetime.now(timezone.utc)


def keys_for(
    out: Path, name: str = "a", host: str = "127.0.0.1", days: int = 100, ago: timedelta | None = None
) -> Path:
    """The folder of site `name` below `out`; sites.toml is beside it."""
    sites = parse_sites([f"{name}=https://{host}:8443"], [])
    made = make_keys(sites, out, days, now() - (ago or timedelta()))
    write_sites(sites, out / "sites.toml")
    return made[0].folder


def site_at(url: str, keys: Path) -> SiteConfig:
    """How the edge reaches the site that has these keys and answers at `url`."""
    (site,) = (site for site in read_sites(keys.parent / "sites.toml") if site.name == keys.name)
    return replace(site, url=url)
