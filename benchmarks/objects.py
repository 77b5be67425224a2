"""What more objects cost the edge: matching, the mask decoder and drawing, each beside its plain way.

    git archive 0a22f25 assets/mini/decoder | tar -x -C /tmp
    python -m benchmarks.objects --decoder-before /tmp/assets/mini/decoder/model.onnx --out FILE.json

Milliseconds are of the processor, on one thread, which a busy machine changes less than those of a clock. The
two ways of a row take turns; `ratio` is the median of their ratios. The plain ways: each object matched on
its own; a decoder as it was exported before, with all of onnxruntime's own optimisations; tinting in floats.
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before numpy is imported

import argparse
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.machine import describe, where
from benchmarks.sentences import check_out, sentences
from runtime.frames.canvas import make_canvas
from runtime.objects.decode import decoder_inputs
from runtime.objects.matching import FrameTokens, MemoryFrame, propagate
from runtime.objects.prompts import Prompt
from runtime.results.sinks import PALETTE, _tint
from stages.bundle import Bundle, shipped_bundle
from stages.engines.backends import make_engine
from stages.engines.onnxruntime_engine import library
from stages.errors import InputError
from stages.tensors import Array

OBJECTS = (1, 2, 4, 8, 32)
FRAME = (1080, 1920)
ROUNDS = 15


def processor_s(step: Callable[[], object]) -> float:
    started_s = time.process_time()
    step()
    return time.process_time() - started_s


def paired(
    new: Callable[[], object],
    plain: Callable[[], object],
    rounds: int = ROUNDS,
    processor_s: Callable[[Callable[[], object]], float] = processor_s,
) -> dict[str, float]:
    """Medians of both in ms of the processor, and the median ratio of `new` to `plain`."""
    taken = [(processor_s(new), processor_s(plain)) for _ in range(rounds + 1)][1:]  # the first warms up
    ours, theirs = zip(*taken, strict=True)
    return {
        "ms": round(1e3 * statistics.median(ours), 2),
        "plain_ms": round(1e3 * statistics.median(theirs), 2),
        "ratio": round(statistics.median(a / b for a, b in taken), 3),
    }


def matching(bundle: Bundle, random: np.random.Generator) -> dict[str, Any]:
    """Labels of three memory frames, objects of a quarter of the picture started on one frame."""
    g = bundle.geometry
    embeddings = [
        random.normal(size=(1, g.prompt_dim, g.tokens, g.tokens)).astype(np.float32) for _ in range(4)
    ]
    newest, memory = embeddings[0], [FrameTokens(each).features for each in embeddings[1:]]
    side = len(memory[0])

    def labels(number: int) -> npt.NDArray[np.float32]:
        found = np.zeros((side, side), np.float32)
        top, left = number % (side // 2), 3 * number % (side // 2)
        found[top : top + side // 2, left : left + side // 2] = 1
        return found

    def follow(together: bool, count: int) -> None:
        tokens = FrameTokens(newest)
        for number in range(count):
            marked = labels(number)
            seen = tokens if together else FrameTokens(newest)
            propagate(seen, [MemoryFrame(features, marked) for features in memory])

    return {str(n): paired(lambda n=n: follow(True, n), lambda n=n: follow(False, n)) for n in OBJECTS}  # type: ignore[misc]


def decoding(bundle: Bundle, before: Path | None, random: np.random.Generator) -> dict[str, Any]:
    """One call of the decoder for so many boxes; without an older decoder its time alone."""
    g, canvas = bundle.geometry, make_canvas(np.zeros((*FRAME, 3), np.uint8), bundle.geometry)
    image_embedding = random.normal(size=(1, g.prompt_dim, g.tokens, g.tokens)).astype(np.float32)
    engine = make_engine(bundle, "decoder", "onnxruntime-cpu", 1)
    engine.open()
    older = _plain_session(before) if before else None
    rows = {}
    for count in OBJECTS:
        feeds = decoder_inputs(image_embedding, canvas, [_box(number) for number in range(count)])
        rows[str(count)] = paired(
            lambda feeds=feeds: engine.infer(feeds),  # type: ignore[misc]
            lambda feeds=feeds: older.run(None, feeds) if older else engine.infer(feeds),  # type: ignore[misc]
        )
        if older is not None:
            rows[str(count)]["largest_difference"] = _difference(engine.infer(feeds), older, feeds)
    engine.close()
    return rows


def _box(number: int) -> Prompt:
    return Prompt(f"object {number}", (10.0 * number, 5.0 * number, 900.0 + 10 * number, 600.0 + 5 * number))


def _plain_session(path: Path) -> Any:
    onnxruntime = library()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as exc:  # the library's errors share no base class
        raise InputError(f"{path} is no graph that onnxruntime loads ({exc}); give a model.onnx") from exc


def _difference(found: Mapping[str, Array], older: Any, feeds: Mapping[str, Array]) -> float:
    expected = older.run(list(found), dict(feeds))
    return max(float(np.abs(a - b).max()) for a, b in zip(found.values(), expected, strict=True))


def drawing(random: np.random.Generator) -> dict[str, Any]:
    """One mask tinted on a frame, a tenth of it."""
    picture = random.integers(0, 256, (*FRAME, 3), np.uint8)
    mask = np.zeros(FRAME, bool)
    mask[300:700, 500:1018] = True
    return paired(lambda: _tint(picture, mask, PALETTE[0]), lambda: _plain_tint(picture, mask, PALETTE[0]))


def _plain_tint(picture: npt.NDArray[np.uint8], mask: npt.NDArray[np.bool_], colour: Sequence[int]) -> None:
    mixed = 0.55 * picture[mask] + 0.45 * np.array(colour, np.float32)
    picture[mask] = mixed.astype(np.uint8)


def markdown(result: Mapping[str, Any]) -> str:
    """Processor milliseconds by the number of objects, of both ways."""
    head = ["objects", "matching, plain", "now", "ratio", "decoder, plain", "now", "ratio"]
    lines = [f"| {' | '.join(head)} |", "|" + " --- |" * len(head)]
    for count in map(str, OBJECTS):
        cells = [_cells(result[part][count]) for part in ("matching", "decoder")]
        lines.append(f"| {count} | {' | '.join(cells)} |")
    tinting = result["tinting"]
    return "\n".join(
        [
            *lines,
            "",
            f"Milliseconds of the processor, {result['model']}; {where(result['machine'])}. Tinting a mask "
            f"of a tenth of a frame of 1920 x 1080: {tinting['plain_ms']:.1f} before, "
            f"{tinting['ms']:.1f} now.",
        ]
    )


def _cells(row: Mapping[str, float]) -> str:
    return f"{row['plain_ms']:.1f} | {row['ms']:.1f} | {row['ratio']:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundle", type=Path, help="default: the mini model of this clone")
    parser.add_argument("--decoder-before", type=Path, help="an older model.onnx of the same weights")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    check_out(given.out)
    bundle, random = Bundle.load(given.bundle or shipped_bundle()), np.random.default_rng(0)
    result = {
        "machine": describe(),
        "model": bundle.description,
        "matching": matching(bundle, random),
        "decoder": decoding(bundle, given.decoder_before, random),
        "tinting": drawing(random),
    }
    given.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    with sentences():
        main()
