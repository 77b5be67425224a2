"""What the turns of the peers say: medians, quartiles, ratios round by round, and the tables of the pages."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import ROOT
from benchmarks.peers.process import Turn

NAMES = {
    "eager": "segment_anything, PyTorch eager",
    "compiled": "segment_anything, torch.compile",
    "whole": "the reordered model unsplit, onnxruntime",
    "split": "pedsam, every window at the edge",
    "edge": "pedsam, the edge's part: windows at sites",
    "mobile_sam": "MobileSAM, PyTorch eager",
    "mobile_sam_graph": "MobileSAM, onnxruntime",
}
RATIOS = (
    ("edge", "whole"),
    ("edge", "eager"),
    ("split", "whole"),
    ("whole", "eager"),
    ("compiled", "eager"),
    ("edge", "mobile_sam_graph"),
    ("split", "mobile_sam_graph"),
    ("mobile_sam_graph", "mobile_sam"),
)
# Written down before anything was measured: of a ratio at most so much, of an edge's memory so many MB.
RATIO_AIMS = {
    "vit_b": {("edge", "whole"): 0.46, ("edge", "eager"): 0.25},
    "vit_h": {("edge", "whole"): 0.17, ("edge", "eager"): 0.10},
}
MEMORY_AIMS = {"vit_b": 1200, "vit_h": 3000}
ACCURACY = "benchmarks/results/accuracy_mini.json"
ACCURACY_ROWS = {"mini": "as shipped", "mobile_sam": "MobileSAM, 1024 pixels, unsplit"}
_CLOCKS: Mapping[str, Callable[[Turn], float]] = {
    "embedding_s": lambda turn: turn.embedding.clock_s,
    "embedding_processor_s": lambda turn: turn.embedding.processor_s,
    "mask_s": lambda turn: turn.both.clock_s,
    "mask_processor_s": lambda turn: turn.both.processor_s,
}


def spread(values: Sequence[float]) -> dict[str, float]:
    """The median and the quartiles."""
    low, middle, high = np.percentile(values, (25, 50, 75))
    return {"median": round(float(middle), 4), "low": round(float(low), 4), "high": round(float(high), 4)}


def of_peer(turns: Sequence[Turn]) -> dict[str, Any]:
    """Seconds of the turns of one peer; those to the mask include the embedding's."""
    return {key: spread([of(turn) for turn in turns]) for key, of in _CLOCKS.items()}


def ratios(turns: Mapping[str, Sequence[Turn]]) -> dict[str, Any]:
    """Of peers that ran, round by round, by the clock and by the processor."""
    return {
        f"{one} / {other}": {
            key: spread([of(a) / of(b) for a, b in zip(turns[one], turns[other], strict=True)])
            for key, of in _CLOCKS.items()
        }
        for one, other in RATIOS
        if one in turns and other in turns
    }


def aims(model: str, found: Mapping[str, Any], peaks_mb: Mapping[str, float]) -> list[dict[str, Any]]:
    """Each aim of the model with what was measured; ratios to the mask, by the processor."""
    rows = []
    for (one, other), most in RATIO_AIMS.get(model, {}).items():
        if ratio := found.get(f"{one} / {other}"):
            rows.append(_aim(f"{one} / {other}", most, ratio["mask_processor_s"]["median"]))
    if model in MEMORY_AIMS and "edge" in peaks_mb:
        rows.append(_aim("memory of the edge, MB", MEMORY_AIMS[model], peaks_mb["edge"]))
    return rows


def _aim(what: str, at_most: float, measured: float) -> dict[str, Any]:
    return {"what": what, "at_most": at_most, "measured": measured, "met": measured <= at_most}


def accuracy() -> dict[str, Any]:
    """Mean IoU by a box on the held-out pictures, as measured elsewhere, of what ships and of MobileSAM."""
    rows = json.loads((ROOT / ACCURACY).read_text(encoding="utf-8"))["rows"]
    found = {name: round(rows[row]["miou"]["box"], 3) for name, row in ACCURACY_ROWS.items()}
    return {"file": ACCURACY, "box": found}


def markdown(*results: Mapping[str, Any]) -> str:
    """Tables and sentences of the pages, one model after the other."""
    return "\n\n".join("\n".join(_lines(result)).strip() for result in results)


def _lines(result: Mapping[str, Any]) -> Iterator[str]:
    machine, peers, threads = result["machine"], result["peers"], result["threads"]
    yield (
        f"{result['model']}, one picture of 1280 x 720, {threads} thread{'s' if threads > 1 else ''} each, "
        f"{result['rounds']} rounds in turn, medians with quartiles; {machine['cores']} cores of an "
        f"{machine['cpu']}, {machine['date']}, load {result['load']['before']:.1f} before and "
        f"{result['load']['after']:.1f} after. Seconds of the clock, and of the processor over all threads."
    )
    yield ""
    yield "| peer | to the image embedding | and a mask by a box | processor | peak memory |"
    yield "| --- | --- | --- | --- | --- |"
    for name, peer in peers.items():
        seconds = [_seconds(peer[key]) for key in ("embedding_s", "mask_s", "mask_processor_s")]
        yield _row(NAMES[name], *seconds, f"{peer['peak_mb']:.0f} MB")
    yield ""
    yield "| ratio, round by round | to the mask, processor | clock | to the embedding, processor |"
    yield "| --- | --- | --- | --- |"
    for name, ratio in result["ratios"].items():
        keys = ("mask_processor_s", "mask_s", "embedding_processor_s")
        yield _row(name.replace("_", " "), *(_ratio(ratio[key]) for key in keys))
    yield ""
    yield from _notes(result)


def _notes(result: Mapping[str, Any]) -> Iterator[str]:
    for aim in result["aims"]:
        verdict = "met" if aim["met"] else "missed"
        measured = f"measured {aim['measured']:.4g}, {verdict}"
        yield f"- Aim for {aim['what']}: at most {aim['at_most']:g}; {measured}."
    for name, why in result["left_out"].items():
        yield f"- Left out: {NAMES[name]}: {why}."
    if "compiled" in result["peers"]:
        first_s = result["peers"]["compiled"]["first_s"]
        yield f"- The first picture of torch.compile, which compiles, took {first_s:.0f} s."
    box = result["accuracy"]["box"]
    yield (
        f"- Mean IoU by a box on the held-out pictures ([file](../{result['accuracy']['file']})): MobileSAM "
        f"{box['mobile_sam']:.3f}, mini {box['mini']:.3f}. Nobody has trained vit_b's reordered "
        "weights yet."
    )


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _seconds(found: Mapping[str, float]) -> str:
    digits = 3 if found["median"] < 1 else 2
    low, middle, high = (f"{found[key]:.{digits}f}" for key in ("low", "median", "high"))
    return f"{middle} s ({low} to {high})"


def _ratio(found: Mapping[str, float]) -> str:
    return f"{found['median']:.2f} ({found['low']:.2f} to {found['high']:.2f})"


def write(path: Path, result: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
