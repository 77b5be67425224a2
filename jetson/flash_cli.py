"""`pedsam flash`."""

from __future__ import annotations

import sys
from typing import Any

import click

from jetson.flash import flash
from jetson.steps.step import FlashOptions
from stages.console import make_console
from stages.options import PATH, BundleType, warn_of_idle_options

BOARD = click.Argument(["board"], metavar="USER@BOARD")
SSH_CONFIG = click.Option(
    ["--ssh-config"], type=PATH, help="Configuration file for OpenSSH instead of yours."
)


@click.command("flash", params=[BOARD, SSH_CONFIG])
@click.option(
    "--bundle", type=BundleType(), required=True, help="Bundle; the board gets the edge's part of it."
)
@click.option("--sites", type=PATH, required=True, help="sites.toml; its tokens and keys go along.")
@click.option("--config", type=PATH, required=True, help="edge.toml: the camera, the page, everything else.")
@click.option("--power", metavar="NAME", help="Power mode, as 25W or MAXN_SUPER; pins the clocks too.")
@click.option(
    "--image",
    metavar="FILE|TAG",
    help="File of a `docker save`, or an image of this machine's docker or the board's  [default: build it "
    "on the board]",
)
@click.option("--headless", is_flag=True, help="Turn the board's desktop off, which takes memory.")
@click.option(
    "--no-root", is_flag=True, help="Without sudo: docker starts the service, and power stays as it is."
)
@click.option("--reboot", is_flag=True, help="Reboot the board where the power mode needs it.")
@click.option(
    "--allow-undistilled", is_flag=True, help="Flash weights whose masks are not meaningful, to try the rest."
)
@click.option("--dry-run", is_flag=True, help="Look, say what would be done, change nothing.")
def command(board: str, dry_run: bool, **options: Any) -> None:
    """Install a container and a service on a board that runs JetPack; does not touch JetPack or its
    partitions.

    USER@BOARD is what `ssh` takes. Give the same command again after a failure: it goes on from there.
    """
    warn_of_idle_options({"reboot": "power"})
    flash(
        FlashOptions(address=board, **options),
        make_console(),
        dry_run=dry_run,
        confirm=confirm,
    )


def confirm(question: str) -> bool:
    """A person's answer; no where there is none to ask."""
    return sys.stdin.isatty() and click.confirm(question)
