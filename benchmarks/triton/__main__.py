"""The command; see benchmarks/triton/__init__.py."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from benchmarks.bundles import random_bundle
from benchmarks.machine import describe
from benchmarks.sentences import sentences
from benchmarks.triton.clients import CLIENTS, IN_FLIGHT, one_turn
from benchmarks.triton.report import DIRECT, ENGINE, NOTHING, TRITON_IS, Turn, aims, in_short, markdown
from benchmarks.triton.servers import (
    Server,
    Work,
    called_directly,
    idle_servers,
    real_servers,
    triton_python,
)
from runtime.sites.traffic import message_bytes
from stages.bundle import Bundle, shipped_bundle
from stages.machine import cores

ROUNDS = 3
SIZES = {"mini": (320, 1600), "vit_b": (24, 300)}  # tiles a turn, and with engines that do nothing


def turns_of(
    servers: Sequence[Server], work: Work, tiles: int, rounds: int, direct: Iterator[Turn] | None
) -> dict[str, list[Turn]]:
    """By server and client, and of the engine alone where `direct` gives its turns."""
    found: dict[str, list[Turn]] = {}
    for _ in range(rounds):
        for server in servers:
            for client in CLIENTS:
                turn = asyncio.run(one_turn(server, client, work, tiles, probed=direct is not None))
                found.setdefault(f"{server.name}, {client}", []).append(turn)
        if direct is not None:
            found.setdefault(DIRECT, []).append(next(direct))
    return found


def measured(work: Work, python: Path, folder: Path, rounds: int, threads: int) -> dict[str, Any]:
    """One bundle: with engines that do nothing, then with real ones."""
    size = message_bytes(work.bundle.stage("window"), work.outputs, 1)
    with idle_servers(work, python, folder / "idle") as servers:
        idle = in_short(turns_of(servers, work, work.idle_tiles, rounds, None))
    with (
        real_servers(work, python, folder / "real", threads) as servers,
        contextlib.closing(called_directly(work, threads)) as direct,
    ):
        real = in_short(turns_of(servers, work, work.tiles, rounds, direct))
    return {
        "bundle": work.bundle.description,
        "bytes_of_a_tile": {"up": size.up, "down": size.down},
        "tiles_a_turn": {ENGINE: work.tiles, NOTHING: work.idle_tiles},
        ENGINE: real,
        NOTHING: idle,
    }


@click.command(help=__doc__)
@click.option(
    "--vit-b", type=click.Path(path_type=Path), help="Bundle of vit_b  [default: one in out/random]"
)
@click.option(
    "--model", "models", type=click.Choice(["mini", "vit_b"]), multiple=True, default=["mini", "vit_b"]
)
@click.option("--rounds", type=click.IntRange(1), default=ROUNDS, show_default=True)
@click.option("--threads", type=click.IntRange(1), help="Of each engine  [default: one a core but one]")
@click.option("--out", type=click.Path(path_type=Path), required=True)
def main(vit_b: Path | None, models: tuple[str, ...], rounds: int, threads: int | None, out: Path) -> None:
    python, threads = triton_python(), threads or max(1, cores() - 1)
    machine, load, found = describe(), os.getloadavg()[0], {}
    for model in models:
        path = shipped_bundle() if model == "mini" else vit_b or random_bundle("vit_b")
        work = Work(model, Bundle.load(path), *SIZES[model])
        with tempfile.TemporaryDirectory() as folder:
            found[model] = measured(work, python, Path(folder), rounds, threads)
    result = {
        "machine": machine,
        "load": load,
        "in_flight": IN_FLIGHT,
        "threads": threads,
        "rounds": rounds,
        "triton": TRITON_IS,
        "models": found,
        "aims": aims(found),
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    click.echo(markdown(result))


if __name__ == "__main__":
    with sentences():
        main()
