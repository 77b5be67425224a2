"""What the turns say: medians, quartiles, ratios round by round, and the tables of the pages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.peers.report import spread

TRITON = "Triton"
TRITON_IS = "Triton 2.51 of nvidia-pytriton 0.7.0, which has the Python backend alone: onnxruntime runs there"
PEDSAM = "pedsam serve"
DIRECT = "the engine, called directly"
ENGINE = "its engine"
NOTHING = "an engine that does nothing"
CLIENTS = ("edge", "tritonclient")
# Written down before anything was measured; of tiles a second.
AIMS = {("vit_b", ENGINE, f"{PEDSAM}, edge / {DIRECT}"): 0.95} | {
    (model, NOTHING, f"{PEDSAM}, edge / {TRITON}, edge"): 1.0 for model in ("mini", "vit_b")
}


@dataclass(frozen=True)
class Turn:
    """So many tiles in so many requests, by the clock and the processor of the server."""

    tiles: int
    requests: int
    seconds: float
    processor_s: float


def in_short(turns: Mapping[str, Sequence[Turn]]) -> dict[str, Any]:
    """Medians and quartiles of each, and of the ratios of tiles a second in each round."""
    rows = {
        name: {
            "tiles_per_s": spread([turn.tiles / turn.seconds for turn in each]),
            "requests_per_s": spread([turn.requests / turn.seconds for turn in each]),
            "processor_us_a_tile": spread([1e6 * turn.processor_s / turn.tiles for turn in each]),
        }
        for name, each in turns.items()
    }
    pairs = [
        *((f"{PEDSAM}, {client}", f"{TRITON}, {client}") for client in CLIENTS),
        *((f"{server}, edge", DIRECT) for server in (PEDSAM, TRITON)),
    ]
    ratios = {
        f"{one} / {other}": spread(
            [
                a.tiles / a.seconds / (b.tiles / b.seconds)
                for a, b in zip(turns[one], turns[other], strict=True)
            ]
        )
        for one, other in pairs
        if one in turns and other in turns
    }
    return {"rows": rows, "ratios": ratios}


def aims(models: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Each aim with what was measured."""
    return [
        {"what": f"{model}, {kind}: {ratio}", "at_least": least, "measured": found, "met": found >= least}
        for (model, kind, ratio), least in AIMS.items()
        if model in models
        for found in [models[model][kind]["ratios"][ratio]["median"]]
    ]


def markdown(*results: Mapping[str, Any]) -> str:
    """Tables and sentences of the pages, of one run after the other."""
    return "\n\n".join(_section(result) for result in results)


def _section(result: Mapping[str, Any]) -> str:
    return "\n".join([*_head(result), "", *_rows(result), "", *_ratios(result), "", *_aims(result)]).strip()


def _head(result: Mapping[str, Any]) -> Iterator[str]:
    machine, threads = result["machine"], result["threads"]
    yield (
        f"{result['in_flight']} requests in flight; medians of {result['rounds']} rounds in turn, with "
        f"quartiles; each engine in onnxruntime on {threads} thread{'s' if threads > 1 else ''}, the clients "
        f"on the same {machine['cores']} cores of an {machine['cpu']}, {machine['date']}, load "
        f"{result['load']:.1f}. {result['triton']}."
    )


def _kinds(result: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """What was measured, in words, of every model: with its engine, and with one that does nothing."""
    return [
        (f"{model}, {kind}", found[kind])
        for model, found in result["models"].items()
        for kind in (ENGINE, NOTHING)
    ]


def _rows(result: Mapping[str, Any]) -> Iterator[str]:
    yield "| | server, client | tiles/s | requests/s | processor of the server, us a tile |"
    yield "| --- | --- | --- | --- | --- |"
    for kind, found in _kinds(result):
        for name, row in found["rows"].items():
            figures = (_figure(row["tiles_per_s"]), _figure(row["requests_per_s"]))
            yield _row(kind, name, *figures, _short(row["processor_us_a_tile"]["median"]))


def _ratios(result: Mapping[str, Any]) -> Iterator[str]:
    """A column for each kind; a ratio that a kind has not leaves its cell empty."""
    kinds = _kinds(result)
    yield _row("tiles/s of", "over those of", *(kind for kind, _ in kinds))
    yield "| --- " * (2 + len(kinds)) + "|"
    for ratio in dict.fromkeys(ratio for _, found in kinds for ratio in found["ratios"]):
        given = (found["ratios"].get(ratio) for _, found in kinds)
        yield _row(*ratio.split(" / "), *(_figure(each) if each else "" for each in given))


def _aims(result: Mapping[str, Any]) -> Iterator[str]:
    for aim in result["aims"]:
        verdict = "met" if aim["met"] else "missed"
        measured = f"measured {aim['measured']:.2f}, {verdict}"
        yield f"- Aim for {aim['what']}: at least {aim['at_least']}; {measured}."


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _figure(found: Mapping[str, float]) -> str:
    low, middle, high = (_short(found[key]) for key in ("low", "median", "high"))
    return f"{middle} ({low} to {high})"


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
