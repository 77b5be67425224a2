"""The mean of two weight files of mini, and how it does on the training pictures that are held back.

    python -m benchmarks.average_weights --before A.safetensors --after B.safetensors --data TRAIN \\
        --out mini.safetensors --results benchmarks/results/training_mini/averaged.json

Source: Wortsman et al., "Robust fine-tuning of zero-shot models" (arXiv 2109.01903), weight-space ensembles.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import click

from benchmarks.machine import describe
from export.checkpoints.load import load_weights, save_weights
from export.modules import reordered_encoder
from stages.geometry import GEOMETRIES
from training.data import read_samples
from training.job import TrainingCommandOptions, TrainingJob, open_trainer
from training.tally import Tally

SHARES = (0.0, 0.5, 1.0)  # of the later weights; the middle one is kept
_FILE = click.Path(path_type=Path)


@click.command()
@click.option("--before", type=_FILE, required=True)
@click.option("--after", type=_FILE, required=True)
@click.option("--data", type=_FILE, required=True)
@click.option("--out", type=_FILE, required=True)
@click.option("--results", type=_FILE, required=True)
def main(before: Path, after: Path, data: Path, out: Path, results: Path) -> None:
    """Write the mean to OUT and mean IoU on held-back pictures, of both and of the mean, to RESULTS."""
    geometry, samples, found = GEOMETRIES["mini"], read_samples(data, None, Tally()), {}
    for share in SHARES:
        first, second = load_weights(geometry, before), load_weights(geometry, after)
        if first.projection or second.projection:
            raise click.UsageError("weights with a projection have no mean; give those without projection.*")
        later = second.sam.state_dict()
        mixed = {k: v.float().lerp(later[k].float(), share) for k, v in first.sam.state_dict().items()}
        second.sam.load_state_dict(mixed)
        if share == 0.5:
            save_weights(second.sam.state_dict(), out, second.status, second.trained_on, tiles=second.tiles)
        reordered_encoder(second.sam.image_encoder, geometry)
        options = TrainingCommandOptions(out, 1, 8, 12, 1, 1.0, None, False, math.inf, 0, "auto")
        trainer = open_trainer(
            TrainingJob(geometry, second.sam, True, samples), options, ((1.0, geometry.image_size),)
        )
        found[str(share)] = {kind: round(value, 4) for kind, value in trainer.validate().items()}
    text = json.dumps({"machine": describe(), "share_of_the_later_weights": found}, indent=1)
    results.write_text(text + "\n", encoding="utf-8")
    click.echo(text)


if __name__ == "__main__":
    main()
