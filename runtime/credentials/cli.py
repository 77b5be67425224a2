"""`pedsam keys`."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path

import click
from rich.table import Table

from runtime.credentials.keys import (
    EDGE,
    PREVIEW,
    IssuedKeys,
    make_keys,
    parse_sites,
    preview_at,
    write_sites,
)
from stages.console import make_console
from stages.errors import InputError
from stages.options import PATH


@click.command("keys")
@click.option(
    "--site",
    "sites",
    multiple=True,
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
    "--preview",
    metavar="HOST",
    help="Make keys for the live preview too, where a phone finds this device: a name or an IP address.",
)
@click.option("--out", type=PATH, required=True, help="Folder for the keys and sites.toml.")
@click.option(
    "--days",
    type=click.IntRange(1, 3650),
    default=365,
    show_default=True,
    help="How long certificates are good, at least.",
)
@click.option("--rotate-token", is_flag=True, help="Make new tokens for sites that have one.")
def command(
    sites: tuple[str, ...],
    operators: tuple[str, ...],
    preview: str | None,
    out: Path,
    days: int,
    rotate_token: bool,
) -> None:
    """Make certificates and a token for each site, and the sites.toml that names them.

    Run it again with the same options to renew: a site keeps its authority and its token.
    """
    if not sites and preview is None:
        raise InputError("there is nothing to make keys for; give --site NAME=URL or --preview HOST")
    wanted = parse_sites(sites, operators)
    own = [preview_at(preview)] if preview is not None else []
    made = make_keys([*wanted, *own], out, days, datetime.now(timezone.utc), rotate_token)
    make_console().print(_table(made))
    lines = [*_steps(made[: len(wanted)], out), *write_sites(wanted, out / "sites.toml")] if wanted else []
    for line in [*lines, *(_preview_steps(out) if own else [])]:
        click.echo(line)


def _table(made: list[IssuedKeys]) -> Table:
    table = Table("site", "address", "certificate until", "keys")
    for keys in made:
        address = keys.site.url.removeprefix("https://")
        state = "renewed" if keys.renewed else "new"
        table.add_row(keys.site.name, address, f"{keys.until:%Y-%m-%d}", state)
    return table


def _steps(made: list[IssuedKeys], out: Path) -> list[str]:
    """What to do next; not in the table, which would cut the lines."""
    copies = [f"  scp -r {keys.folder} USER@{_scp_host(keys.site.host)}:" for keys in made]
    return [
        "copy to each site its own folder, and nothing else:",
        *copies,
        "there:  pedsam serve --bundle BUNDLE --host 0.0.0.0 --port PORT --keys NAME",
        f"here:   pedsam run --sites {out / 'sites.toml'} ...",
        f"{out / 'edge'} stays here; ca.key in it makes new certificates, so keep a copy in a safe place",
    ]


def _preview_steps(out: Path) -> list[str]:
    return [
        f"preview: pedsam run --preview 8080 --preview-host 0.0.0.0 --preview-keys {out / PREVIEW} ...",
        f"a browser asks about an authority it does not know: install {out / EDGE / PREVIEW / 'ca.pem'} "
        "there, or compare the fingerprint that run shows",
    ]


def _scp_host(host: str) -> str:
    return f"[{host}]" if ":" in host else host
