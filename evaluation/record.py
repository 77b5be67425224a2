"""What was measured, kept in the bundle itself: its mean IoU beside what travels and the variance kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from evaluation.options import EvaluateOptions
from stages.bundle import MANIFEST, Bundle
from stages.errors import InputError
from stages.files import writing

RECORDED = ("miou", "interval95", "pictures", "instances", "data", "wire", "how", "date")


def require_recordable(bundle: Bundle | None, options: EvaluateOptions) -> Bundle:
    """The bundle to record in. Raises InputError where the numbers would not be those of its masks."""
    if bundle is None:
        raise InputError("--record keeps the result in the bundle that was measured; give --bundle")
    where = bundle.path / MANIFEST
    if bundle.format == 1:
        raise InputError(f"{where} has format 1, which holds no mean IoU; export the bundle again")
    if bundle.weights != "distilled":
        raise InputError(
            f"--record is for distilled weights, and those of {bundle.path} are {bundle.weights}: their "
            "masks say nothing of the model; leave --record out"
        )
    if options.blur or options.limit is not None:
        raise InputError("--record keeps the mean of all pictures as they are; leave --blur and --limit out")
    return bundle


def record(bundle: Bundle, report: Mapping[str, Any]) -> Path:
    """Write a report's numbers into `bundle.json`, in place of those of before; returns its path.

    What a site computes, and so the site digest, stays. Raises InputError when it cannot be written.
    """
    path = bundle.path / MANIFEST
    with writing(path):
        replace(bundle, measured={name: report[name] for name in RECORDED}).save()
    return path
