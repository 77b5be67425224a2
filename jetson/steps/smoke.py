"""The smoke test: the built-in picture through the real sites, by the board and by this machine.

It runs before the version's service replaces the one that runs. Both runs keep an exposure ledger of their
own: the picture is nobody's.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jetson.clocks import over_current_rise
from jetson.connection import BoardError
from jetson.steps.power import read_power
from jetson.steps.step import Job, Plan, Say, Step
from jetson.versions import FILES

RESULT = "smoke.json"
PICTURE = FILES / "smoke.jpg"
BOX = "180,60,450,330"  # of the cup in it: x0, y0, x1, y1 in pixels
FRAMES = 20
# Masks of two backends differ where the edge of an object is not sharp; another model's differ by far more.
LEAST_IOU = 0.9
# Keys of edge.toml that decide how the sites are reached and what they answer.
_PASSED = ("wire", "accept_exposure", "insecure")


class SmokeStep(Step):
    """Runs `pedsam run` on both machines and compares the masks."""

    name = "smoke test"

    def look(self, job: Job) -> Plan:
        if passed := result_of(job):
            return Plan(f"version {job.id} passed it: {passed}")
        return Plan(
            "not run yet",
            f"run {FRAMES} frames of a picture through the sites and compare masks with this machine's",
        )

    def do(self, job: Job, say: Say) -> str:
        before = _over_current(job)
        result = self._on_board(job, say)
        result["over_current"] = over_current_rise(before, _over_current(job))
        say("the same picture through the same sites from this machine")
        result["iou"] = round(iou(result.pop("mask"), self._here(job)), 4)
        if result["iou"] < LEAST_IOU:
            raise BoardError(
                f"masks of {job.board.address} and of this machine differ (IoU {result['iou']:.2f}, at least "
                f"{LEAST_IOU}): the engines of the board do not compute what the bundle says; try "
                'backend = "onnxruntime-cpu" under [loop] of edge.toml, and report it'
            )
        job.write(RESULT, result)
        return describe(result)

    def _on_board(self, job: Job, say: Say) -> dict[str, Any]:
        """What the run's summary says, and `mask`, the first frame's as COCO RLE."""
        arguments = [*_arguments(job), *_chosen(job.edge.values, ("backend", "threads"))]
        job.run("smoke.sh", "run", job.id, str(FRAMES), *arguments, what="the smoke test failed", on_line=say)
        summary = job.run("smoke.sh", "read", "summary.json", what="no summary").out
        masks = job.run("smoke.sh", "read", "masks.jsonl", what="no masks").out
        try:
            return self._told(json.loads(summary), masks)
        except (LookupError, TypeError, ValueError) as exc:
            raise BoardError(
                f"what the smoke test wrote on {job.board.address} cannot be read ({exc})"
            ) from exc

    def _told(self, summary: Mapping[str, Any], masks: str) -> dict[str, Any]:
        return {
            "fps": summary["fps"],
            "latency_ms": summary["latency_ms"]["end_to_end"]["p50"],
            "limited_by": summary["limited_by"],
            "board": summary.get("board"),
            "mask": _first_mask(masks),
        }

    def _here(self, job: Job) -> Mapping[str, Any]:
        """The mask of this machine, after the board's, whose speed is measured."""
        with tempfile.TemporaryDirectory(prefix="pedsam-smoke-") as folder:
            line = [
                *(sys.executable, "-m", "pedsam", "run", "--source", str(PICTURE), "--out", f"{folder}/out"),
                *("--bundle", str(job.bundle.path), "--sites", str(job.options.sites)),
                *("--ledger", f"{folder}/ledger.json", "--new-session"),
                *_arguments(job),
            ]
            done = subprocess.run(
                line,
                capture_output=True,
                encoding="utf-8",
                errors="replace",
                check=False,
                stdin=subprocess.DEVNULL,
            )
            if done.returncode:
                said = (done.stderr.strip() or done.stdout.strip() or "it said nothing").splitlines()[-1]
                raise BoardError(f"the smoke test passes on the board, and fails on this machine: {said}")
            return _first_mask((Path(folder) / "out/masks.jsonl").read_text(encoding="utf-8"))


def _over_current(job: Job) -> Mapping[str, int]:
    """The board's counters of throttling for over-current, {} where they cannot be read."""
    try:
        return read_power(job.board).over_current
    except BoardError:
        return {}


def _arguments(job: Job) -> list[str]:
    """Options that both runs have."""
    allowed = ["--allow-undistilled"] if job.options.allow_undistilled else []
    return ["--box", BOX, "--no-track", *_chosen(job.edge.values, _PASSED), *allowed]


def _chosen(values: Mapping[str, Any], keys: Sequence[str]) -> list[str]:
    """Options as edge.toml gives them."""
    words = []
    for key in keys:
        option, value = "--" + key.replace("_", "-"), values.get(key)
        if value is True:
            words.append(option)
        elif value not in (None, False):
            words += [option, str(value)]
    return words


def _first_mask(lines: str) -> Mapping[str, Any]:
    mask: Mapping[str, Any] = json.loads(lines.splitlines()[0])["segmentation"]
    return mask


def iou(one: Mapping[str, Any], other: Mapping[str, Any]) -> float:
    """Intersection over union of two masks as COCO RLE."""
    from pycocotools import mask as coco  # of the extra `edge`, which a run on this machine needs too

    return float(coco.iou([dict(one)], [dict(other)], [0])[0][0])


def result_of(job: Job) -> str:
    """The smoke test that the version passed, in one line; "" where it did not yet."""
    try:
        return describe(job.read(RESULT))
    except (LookupError, TypeError, ValueError):
        return ""


def describe(result: Mapping[str, Any]) -> str:
    """The result in one line."""
    parts = [
        f"masks equal this machine's (IoU {result['iou']:.3f})",
        f"{result['fps']:.1f} frames/s",
        f"{result['latency_ms']:.0f} ms a frame",
    ]
    parts += _of_board(result.get("board") or {})
    parts += [result["over_current"]] if result.get("over_current") else []
    return f"{', '.join(parts)}; limited by {result['limited_by']}"


def _of_board(board: Mapping[str, Any]) -> list[str]:
    """What the board did meanwhile, as far as it was told."""
    forms = {
        "temperature_c_peak": "{:.0f} °C at most",
        "power_w_mean": "{:.1f} W",
        "memory_available_mb_least": "{} MB of memory left",
    }
    return [form.format(board[key]) for key, form in forms.items() if board.get(key) is not None]
