"""`pedsam evaluate`."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from evaluation.evaluate import evaluate
from evaluation.masks import prompt_kinds
from evaluation.model import Subject, bundle_subject
from evaluation.options import EvaluateOptions
from evaluation.report import print_report
from runtime.cli import command as run
from stages.bundle import Bundle, shipped_bundle
from stages.errors import InputError

# Options that mean here what they mean to `pedsam run`.
SHARED = ("bundle", "sites", "wire", "backend", "threads", "accept_exposure", "new_session", "insecure")


@click.command("evaluate", params=[option for option in run.params if option.name in SHARED])
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    required=True,
    help="Pictures with true masks: a folder of NAME.jpg with label maps NAME.png, or a COCO instance JSON.",
)
@click.option(
    "--prompts",
    default="point,box",
    show_default=True,
    help="How each instance is prompted: its deepest point, its exact box, or both.",
)
@click.option(
    "--checkpoint",
    type=click.Path(path_type=Path),
    help="Instead of a bundle: weights in SAM's own block order, or MobileSAM's; run unsplit by PyTorch.",
)
@click.option("--whole", is_flag=True, help="Run the encoder unsplit, from the bundle's whole stage.")
@click.option(
    "--blur",
    type=float,
    default=0.0,
    show_default=True,
    help="Blur pictures first: a Gaussian's sigma, in pixels of the picture scaled to 1024 a longest side.",
)
@click.option("--limit", type=click.IntRange(1), help="So many pictures, drawn by --seed  [default: all]")
@click.option(
    "--sheet/--no-sheet", default=True, show_default=True, help="Draw examples of good, median and bad masks."
)
@click.option(
    "--seed", type=click.IntRange(0), default=0, show_default=True, help="Of --limit and of the intervals."
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    help="Directory for report.json, instances.csv and sheet.png.",
)
def command(bundle: Path | None, checkpoint: Path | None, whole: bool, prompts: str, **options: Any) -> None:
    """Mean IoU of a model's masks on pictures whose instances are known.

    Through sites, split in this process (no --sites), or --whole. Intervals come from resampling pictures.
    """
    console = Console()
    chosen = EvaluateOptions(prompts=prompt_kinds(prompts), **options)
    if checkpoint is None:
        subject = bundle_subject(Bundle.load(bundle or shipped_bundle()), chosen, whole)
    else:
        of_a_bundle = (bundle, chosen.sites, chosen.wire) != (None, None, None) or whole
        subject = _checkpoint_subject(checkpoint, of_a_bundle)
    print_report(console, asyncio.run(evaluate(subject, chosen, console)))


def _checkpoint_subject(checkpoint: Path, of_a_bundle: bool) -> Subject:
    if of_a_bundle:
        raise InputError(
            "--checkpoint is run by PyTorch; give it without --bundle, --sites, --wire and --whole"
        )
    from evaluation.checkpoint import checkpoint_subject  # torch takes seconds to import

    return checkpoint_subject(checkpoint)
