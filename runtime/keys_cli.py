"""`pedsam keys`."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from runtime.keys import SiteKeys, make_keys, parse_sites, write_sites


@click.command("keys")
@click.option(
    "--site",
    "sites",
    multiple=True,
    required=True,
    metavar="NAME=URL",
    help="A site and where it will answer, like a=https://203.0.113.7:8443; repeatable.",
)
@click.option(
    "--operator",
    "operators",
    multiple=True,
    metavar="NAME=OPERATOR",
    help="Who runs a site; sites of one operator share one cap  [default: each site its own]",
)
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, help="Folder for the keys and sites.toml."
)
@click.option(
    "--days",
    type=click.IntRange(1, 3650),
    default=365,
    show_default=True,
    help="How long certificates are good, at least.",
)
@click.option("--rotate-token", is_flag=True, help="Make new tokens for sites that have one.")
def command(
    sites: tuple[str, ...], operators: tuple[str, ...], out: Path, days: int, rotate_token: bool
) -> None:
    """Make certificates and a token for each site, and the sites.toml that names them.

    Run it again with the same options to renew: a site keeps its authority and its token.
    """
    wanted = parse_sites(sites, operators)
    made = make_keys(wanted, out, days, datetime.now(timezone.utc), rotate_token)
    Console().print(_table(made))
    for line in [*_steps(made, out), *write_sites(wanted, out / "sites.toml")]:
        click.echo(line)


def _table(made: list[SiteKeys]) -> Table:
    table = Table("site", "address", "certificate until", "keys")
    for keys in made:
        address = keys.site.url.removeprefix("https://")
        state = "renewed" if keys.renewed else "new"
        table.add_row(keys.site.name, address, f"{keys.until:%Y-%m-%d}", state)
    return table


def _steps(made: list[SiteKeys], out: Path) -> list[str]:
    """What to do next; not in the table, which would cut the lines."""
    copies = [f"  scp -r {keys.folder} USER@{_scp_host(keys.site.host)}:" for keys in made]
    return [
        "copy to each site its own folder, and nothing else:",
        *copies,
        "there:  pedsam serve --bundle BUNDLE --host 0.0.0.0 --port PORT --keys NAME",
        f"here:   pedsam run --sites {out / 'sites.toml'} ...",
        f"{out / 'edge'} stays here; ca.key in it makes new certificates, so keep a copy in a safe place",
    ]


def _scp_host(host: str) -> str:
    return f"[{host}]" if ":" in host else host
