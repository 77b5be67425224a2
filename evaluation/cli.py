"""`pedsam evaluate`."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import click

from evaluation.evaluate import evaluate
from evaluation.masks import prompt_kinds
from evaluation.model import Subject, bundle_subject
from evaluation.options import EvaluateOptions
from evaluation.record import record, require_recordable
from evaluation.report import print_report
from runtime.options import ACCEPT_EXPOSURE, BUNDLE, INSECURE, NEW_SESSION, SITES, WIRE
from stages.bundle import Bundle, shipped_bundle
from stages.console import make_console
from stages.errors import InputError
from stages.options import BACKEND, IDLE_THREADS, PATH, THREADS, Count, Number, warn_of_idle_options

# Options that mean here what they mean to `pedsam run`.
SHARED = (BUNDLE, SITES, WIRE, BACKEND, THREADS, ACCEPT_EXPOSURE, NEW_SESSION, INSECURE)
_NEEDS = dict.fromkeys(("accept_exposure", "new_session", "insecure"), "sites")


@click.command("evaluate", params=list(SHARED))
@click.option(
    "--data",
    type=PATH,
    required=True,
    help="Pictures with true masks: a folder of NAME.jpg with label maps NAME.png, or a COCO instance JSON.",
)
@click.option(
    "--pictures",
    "--images",
    type=PATH,
    help="Folder of the pictures  [default: near the label maps or COCO JSON]",
)
@click.option(
    "--prompts",
    default="point,box",
    show_default=True,
    help="How each instance is prompted: its deepest point, its exact box, or both.",
)
@click.option(
    "--checkpoint",
    type=PATH,
    help="Instead of a bundle: weights in SAM's own block order, or MobileSAM's; run unsplit by PyTorch.",
)
@click.option("--whole", is_flag=True, help="Run the encoder unsplit, from the bundle's whole stage.")
@click.option(
    "--blur",
    type=Number(),
    default=0.0,
    show_default=True,
    help="Blur pictures first: a Gaussian's sigma, in pixels of the picture scaled to 1024 a longest side.",
)
@click.option("--limit", type=Count(1), help="So many pictures, drawn by --seed  [default: all]")
@click.option(
    "--sheet/--no-sheet", default=True, show_default=True, help="Draw examples of good, median and bad masks."
)
@click.option("--seed", type=Count(0), default=0, show_default=True, help="Of --limit and of the intervals.")
@click.option(
    "--record",
    "keep",
    is_flag=True,
    help="Keep the result in the bundle's bundle.json too: of distilled weights, on all pictures.",
)
@click.option(
    "--out",
    type=PATH,
    required=True,
    help="Directory for report.json, instances.csv and sheet.png.",
)
def command(
    bundle: Path | None, checkpoint: Path | None, whole: bool, prompts: str, keep: bool, **options: Any
) -> None:
    """Mean IoU of a model's masks on pictures whose instances are known.

    Through sites, split in this process (no --sites), or --whole. Intervals come from resampling pictures.
    """
    chosen = EvaluateOptions(prompts=prompt_kinds(prompts), **options)
    warn_of_idle_options(_NEEDS, IDLE_THREADS)
    console = make_console()
    kept = require_recordable(Bundle.load(bundle) if bundle else None, chosen) if keep else None
    if checkpoint is None:
        subject = bundle_subject(Bundle.load(bundle or shipped_bundle()), chosen, whole)
    else:
        of_a_bundle = (bundle, chosen.sites, chosen.wire) != (None, None, None) or whole
        subject = _checkpoint_subject(checkpoint, of_a_bundle)
    report = asyncio.run(evaluate(subject, chosen, console))
    print_report(console, report)
    if kept:
        console.print(f"recorded in {record(kept, report)}")


def _checkpoint_subject(checkpoint: Path, of_a_bundle: bool) -> Subject:
    if of_a_bundle:
        raise InputError(
            "--checkpoint is run by PyTorch; give it without --bundle, --sites, --wire and --whole"
        )
    from evaluation.checkpoint import checkpoint_subject  # torch takes seconds to import

    return checkpoint_subject(checkpoint)
