"""The command; see benchmarks/peers/__init__.py."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
from PIL import Image

from benchmarks.bundles import mobile_sam_graphs, random_bundle
from benchmarks.machine import describe
from benchmarks.peers.process import NotRun, PeerProcess, Turn
from benchmarks.peers.report import accuracy, aims, markdown, of_peer, ratios, write
from benchmarks.peers.subjects import PEERS, Settings
from benchmarks.sentences import check_out, sentences
from runtime.demo.demo import photo
from stages.bundle import Bundle
from stages.errors import InputError
from stages.machine import cores
from stages.tensors import Pixels

MOBILE_SAM = "build/mobile_sam.pt"  # make brings it
SIZE = (1280, 720)  # pixels, width and height: 16:9, so ten of 25 windows are padding
MODELS = ("mini", "vit_b", "vit_h")
# By model: rounds, minutes for all of it, seconds for a peer's first picture, compiling included.
ROUNDS = {"mini": 9, "vit_b": 3, "vit_h": 3}
MINUTES = {"mini": 1.5, "vit_b": 5.0, "vit_h": 20.0}
FIRST_S = {"mini": 60.0, "vit_b": 100.0, "vit_h": 600.0}
LEAST_ROUNDS = {"mini": 3, "vit_b": 2, "vit_h": 1}  # however long they take


@click.command(help=__doc__)
@click.option("--model", type=click.Choice(MODELS), required=True)
@click.option("--bundle", type=click.Path(path_type=Path), help="With `whole`.  [default: one in out/random]")
@click.option("--mobile-sam", type=click.Path(path_type=Path), default=MOBILE_SAM, show_default=True)
@click.option("--peer", "names", multiple=True, type=click.Choice(list(PEERS)), help="[default: all]")
@click.option("--threads", type=click.IntRange(1), help="Of each peer  [default: one a core]")
@click.option("--rounds", type=click.IntRange(1), help="[default: by model]")
@click.option("--minutes", type=click.FloatRange(0.1), help="Rounds stop before  [default: by model]")
@click.option("--out", type=click.Path(path_type=Path), required=True)
def main(
    model: str,
    bundle: Path | None,
    mobile_sam: Path,
    names: tuple[str, ...],
    threads: int | None,
    rounds: int | None,
    minutes: float | None,
    out: Path,
) -> None:
    """Every peer in its turns, side by side in one run: seconds, ratios and memory."""
    check_out(out)
    path = bundle or random_bundle(model)
    _check(path, model)
    settings = Settings(picture(), model, path, mobile_sam, threads or cores())
    if mobile_sam.exists():
        mobile_sam_graphs(mobile_sam)  # once, and not in the time of its first picture
    ends_s = time.monotonic() + 60 * (minutes or MINUTES[model])
    numbers = rounds_within(rounds or ROUNDS[model], LEAST_ROUNDS[model], ends_s)
    result = measured(settings, names or tuple(PEERS), numbers, FIRST_S[model])
    write(out, result)
    click.echo(markdown(result))


def picture() -> Pixels:
    """A cup, RGB uint8 [720, 1280, 3]."""
    cup = Image.fromarray(photo("coffee")[20:357])
    return np.asarray(cup.resize(SIZE, Image.Resampling.BICUBIC))


def _check(path: Path, model: str) -> None:
    """Raise InputError for a bundle that cannot stand for the model, or has no unsplit graph."""
    bundle = Bundle.load(path)
    if bundle.geometry.name != model:
        raise InputError(f"{path} holds {bundle.geometry.name}, expected {model}; give another --bundle")
    if not bundle.has("whole"):
        raise InputError(f"{path} has no stage `whole` to compare with; leave --bundle out to have one made")


def measured(
    settings: Settings, names: Sequence[str], rounds: Iterable[int], first_s: float
) -> dict[str, Any]:
    """Everything the results file holds. A peer that has no first picture after `first_s` is left out."""
    machine, load, left_out = describe(), os.getloadavg()[0], {}
    turns: dict[str, list[Turn]] = {}
    with contextlib.ExitStack() as stack:
        running = []
        for name in names:
            try:
                running.append(stack.enter_context(PeerProcess(name, settings, first_s)))
            except NotRun as exc:
                left_out[name] = str(exc)
        for number in rounds:
            for process in running if number % 2 == 0 else running[::-1]:
                turns.setdefault(process.name, []).append(process.turn())
        peaks_mb = {process.name: round(process.peak_mb, 1) for process in running}
        peers = {
            process.name: {
                "about": process.about,
                "first_s": round(process.first.both.clock_s, 3),
                "peak_mb": peaks_mb[process.name],
                **of_peer(turns[process.name]),
            }
            for process in running
        }
    found = ratios(turns)
    return {
        "machine": machine,
        "load": {"before": load, "after": os.getloadavg()[0]},
        "model": settings.model,
        "threads": settings.threads,
        "rounds": max(map(len, turns.values()), default=0),
        "peers": peers,
        "left_out": left_out,
        "ratios": found,
        "aims": aims(settings.model, found, peaks_mb),
        "accuracy": accuracy(),
    }


def rounds_within(rounds: int, least: int, ends_s: float) -> Iterator[int]:
    """Numbers of rounds; after `least` none that would end after `ends_s` of time.monotonic."""
    longest_s = 0.0
    for number in range(rounds):
        began_s = time.monotonic()
        if began_s + longest_s > ends_s and number >= least:
            return
        yield number
        longest_s = max(longest_s, time.monotonic() - began_s)


if __name__ == "__main__":
    with sentences():
        main()
