"""What `pedsam train` and `pedsam distill` share: options, and training from start to saved weights."""

from __future__ import annotations

import contextlib
import ctypes
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from stages.errors import InputError
from stages.files import writing
from stages.geometry import Geometry
from stages.locks import lock_file
from stages.options import PATH, Count, Number
from stages.tile_code import RGB, TileCode

if TYPE_CHECKING:
    from torch import nn

    from export.sam import Sam, Weights
    from training.samples import Sample
    from training.trainer import Trainer, TrainOptions

ESTIMATE_STEPS = 3
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of malloc.h
MAX_VALIDATION_PICTURES = 96  # of many pictures; of few a tenth is held back


@dataclass(frozen=True)
class TrainingCommandOptions:
    """The options both commands have; see their help."""

    out: Path
    steps: int
    pictures: int
    objects: int
    accumulate: int
    rate: float
    sizes: str | None
    low_memory: bool
    seconds: float
    seed: int
    device: str
    budget: float = math.inf
    half: bool = False
    decoder_share: float = 1.0
    tiles: str | None = None
    components: int | None = None

    def travelling_as(self, start: Weights) -> TrainingCommandOptions:
        """With the code and the components that the weights hold which training starts from, and a sentence
        about them, where no others are given."""
        held = start.projection.components if start.projection else None
        taken = [f"{start.tiles.name} tiles"] if self.tiles is None and start.tiles != RGB else []
        taken += [f"{held} components"] if self.components is None and held else []
        if taken:
            click.echo(
                f"training with {' and '.join(taken)}, as in the weights that it starts from; without: "
                f"--tiles rgb --components {start.geometry.dim}"
            )
        return replace(self, tiles=self.tiles or start.tiles.name, components=self.components or held)

    def train_options(
        self, sizes: tuple[tuple[float, int], ...], geometry: Geometry, trains: str = ""
    ) -> TrainOptions:
        """`sizes` count where --sizes is not given; `trains` as in TrainOptions."""
        from training.trainer import TrainOptions

        return TrainOptions(
            self.steps,
            _parsed_sizes(self.sizes, geometry) if self.sizes else sizes,
            self.pictures,
            self.objects,
            self.accumulate,
            rate=self.rate,
            seed=self.seed,
            seconds=self.seconds,
            budget=self.budget,
            decoder_share=self.decoder_share,
            trains=trains,
        )


def training_options(
    steps: int, pictures: int, accumulate: int, rate: float
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Adds the shared options, with these defaults; the command gets them as `options`."""
    shared = (
        click.option("--out", type=PATH, required=True, help="The weights, .safetensors."),
        click.option("--steps", type=Count(1), default=steps, show_default=True),
        click.option(
            "--pictures",
            type=Count(1),
            default=pictures,
            show_default=True,
            help="At a time, per device.",
        ),
        click.option("--objects", type=Count(2), default=5, show_default=True, help="Prompted per picture."),
        click.option(
            "--accumulate",
            type=Count(1),
            default=accumulate,
            show_default=True,
            help="Batches of PICTURES whose gradients make one step.",
        ),
        click.option("--rate", type=Number(0, min_open=True), default=rate, show_default=True),
        click.option(
            "--sizes", help="Canvas sizes in turn, as SHARE:PIXELS of the steps: 0.45:160,0.4:240,0.15:384."
        ),
        click.option("--low-memory", is_flag=True, help="Compute activations twice rather than keep them."),
        click.option(
            "--seconds",
            type=Number(0, endless=True),
            default=math.inf,
            help="Stop then; the same command resumes.",
        ),
        click.option(
            "--budget",
            type=Number(0, min_open=True, endless=True),
            default=math.inf,
            help="Be done after so many seconds, whatever was reached; the rate falls in time.",
        ),
        click.option(
            "--decoder-share",
            type=Number(0),
            default=1.0,
            show_default=True,
            help="Of the rate, for prompt encoder and mask decoder.",
        ),
        click.option(
            "--tiles",
            metavar="rgb|dct:L/C",
            help="Train on tiles in this code, which pedsam export then takes from OUT.  [default: that of "
            "the weights it starts from]",
        ),
        click.option(
            "--components",
            type=Count(1),
            help="Train with embeddings that travel as so many int8 numbers a token, whose projection pedsam "
            "export then takes from OUT.  [default: those of the weights it starts from]",
        ),
        click.option("--half", is_flag=True, help="Round the weights in OUT to fp16."),
        click.option("--seed", type=click.IntRange(0, 2**31), default=0, show_default=True),
        click.option("--device", type=click.Choice(["auto", "cpu"]), default="auto", show_default=True),
    )

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        def gathered(**given: Any) -> None:
            own = {name: given.pop(name) for name in TrainingCommandOptions.__dataclass_fields__}
            command(options=TrainingCommandOptions(**own), **given)

        gathered.__doc__ = command.__doc__
        gathered.__click_params__ = getattr(command, "__click_params__", [])  # type: ignore[attr-defined]
        for option in reversed(shared):
            gathered = option(gathered)
        return gathered

    return decorate


@dataclass(frozen=True)
class TrainingJob:
    """A training run: `sam` has its blocks in the order that `reordered` says.

    `teacher` makes image embeddings of pixels, as Promptable does; `taught` is the share of each batch that
    is compared with it.
    """

    geometry: Geometry
    sam: Sam
    reordered: bool
    samples: list[Sample]
    teacher: nn.Module | None = None
    masks: bool = True
    hints: bool = False
    taught: float = 1.0


def open_trainer(
    job: TrainingJob, options: TrainingCommandOptions, sizes: tuple[tuple[float, int], ...]
) -> Trainer:
    """Raises InputError for an --out or --sizes that cannot be used, and for masks without an object."""
    import torch

    from training.augmentation import Batches
    from training.data import holds_objects
    from training.hints import FeatureHintLoss
    from training.objective import Objective
    from training.pictures import open_pictures
    from training.promptable import Promptable
    from training.trainer import Trainer, accelerated
    from training.transport import SentEmbeddings

    tiles, components = _what_travels(job, options)
    if options.out.suffix != ".safetensors":
        raise InputError(f"--out {options.out} must end in .safetensors")
    if job.masks and not holds_objects(job.samples):
        raise InputError("none of the label maps holds an object; expected ids from 1 on, 0 is background")
    with writing(options.out):
        options.out.parent.mkdir(parents=True, exist_ok=True)
    order = "reordered" if job.reordered else "original"
    sends = f"{tiles.name} tiles and {components or job.geometry.dim} components"
    train_options = options.train_options(sizes, job.geometry, f"{job.geometry.name}, {order}, {sends}")
    accelerator = accelerated(train_options, options.device)
    device = accelerator.device
    if device.type == "cpu":
        _keep_freed_memory()
    else:
        torch.backends.cudnn.benchmark = True  # sizes repeat
    pictures = open_pictures(job.samples, job.geometry, device)
    held_back = min(MAX_VALIDATION_PICTURES, pictures.count // 10)
    batches = Batches(pictures, device, options.seed + accelerator.process_index, held_back, tiles)
    sent = SentEmbeddings(job.geometry.dim, components) if components else None
    objective = Objective(
        Promptable(job.sam, options.low_memory, sent),
        FeatureHintLoss(job.geometry.dim, device) if job.hints else None,
        job.teacher.to(device).eval() if job.teacher else None,
        job.masks,
        job.taught,
    )
    return Trainer(
        objective.to(device), batches, train_options, accelerator, options.out.with_suffix(".state")
    )


def _what_travels(job: TrainingJob, options: TrainingCommandOptions) -> tuple[TileCode, int | None]:
    """The code of tiles, and the components of embeddings; None where these travel as they are.

    Raises InputError for what the model cannot be trained with.
    """
    tiles, components, dim = TileCode.parse(options.tiles or RGB.name), options.components, job.geometry.dim
    tiles.tile_bytes(job.geometry)
    if not job.reordered and (tiles != RGB or components):
        raise InputError(
            "--tiles and --components are for --order reordered: in SAM's own order nothing travels"
        )
    if components and components > dim:
        raise InputError(f"--components {components} is more than the {dim} channels of the embedding")
    return tiles, components if components != dim else None


def _keep_freed_memory() -> None:
    """Have glibc keep freed memory for the next step: on the CPU fresh pages took a third of a step's time.

    Source: mallopt(3), M_MMAP_MAX and M_TRIM_THRESHOLD. Other C libraries have no mallopt and are left alone.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def train(trainer: Trainer, job: TrainingJob, options: TrainingCommandOptions) -> None:
    """Train, then write the averaged weights and the picture of the curve beside them.

    The weights are also written on the way, whenever the state is saved.
    """
    from training.progress import TrainingProgress, plot_curve

    def keep() -> None:
        _write_weights(trainer, job, options)

    with _alone(trainer), TrainingProgress(options.steps) as report:
        done = trainer.run(report, keep)
    if not trainer.is_main_process:
        return
    click.echo(f"{options.out}: {_write_weights(trainer, job, options)}")
    click.echo(f"peak memory: {_peak_gb():.1f} GB")
    plot_curve(trainer.curve_path, options.out.with_suffix(".curve.png"))
    click.echo("training is complete" if done else "stopped early; the same command goes on from here")


@contextlib.contextmanager
def _alone(trainer: Trainer) -> Iterator[None]:
    """Keeps other trainings away from the files of this one, by a lock on its curve."""
    if not trainer.is_main_process:
        yield
        return
    with writing(trainer.curve_path):
        try:
            lock = lock_file(trainer.curve_path)
        except BlockingIOError as exc:
            raise InputError(
                f"another training writes {trainer.curve_path}; wait for its end, or give another --out"
            ) from exc
    with lock:
        yield


def _write_weights(trainer: Trainer, job: TrainingJob, options: TrainingCommandOptions) -> str:
    """Write the averaged weights into OUT; returns what they were trained on."""
    from export.checkpoints.load import save_weights
    from training.trainer import in_own_order

    weights = trainer.averaged()
    if job.reordered:
        weights = in_own_order(weights, job.geometry)
    if options.half:
        weights = {name: tensor.half() for name, tensor in weights.items()}
    images = f"{len(job.samples)} pictures, {trainer.step} steps of {trainer.images_a_step}"
    trained_on = f"{images}, {'reordered' if job.reordered else 'original'} block order"
    sent = trainer.model.sent
    save_weights(
        weights,
        options.out,
        "distilled" if job.reordered else "undistilled",
        trained_on,
        sent.projection() if sent else None,
        TileCode.parse(options.tiles or RGB.name),
    )
    return trained_on


def estimate(trainer: Trainer, job: TrainingJob, options: TrainingCommandOptions) -> None:
    """Print memory, measured speed and hours. Spoils the weights: it takes a few steps."""
    import torch

    parameters = sum(p.numel() for p in trainer.model.parameters())
    kept = 4 * parameters * (5 if job.teacher else 4)  # weights, gradients, momentum, average, teacher
    click.echo(f"{parameters / 1e6:.1f} M parameters; weights and optimiser state: {kept / 1e9:.1f} GB")
    try:
        trainer.one_step()  # memory is allocated, kernels are chosen
        started = time.perf_counter()
        for _ in range(ESTIMATE_STEPS):
            trainer.one_step()
        seconds = (time.perf_counter() - started) / ESTIMATE_STEPS
    except torch.OutOfMemoryError as exc:
        raise InputError("this does not fit into the GPU: give fewer --pictures, or --low-memory") from exc
    speed = trainer.images_a_step / seconds
    click.echo(f"measured {ESTIMATE_STEPS} steps of {trainer.images_a_step} images: {speed:.2f} images/s")
    click.echo(f"peak memory: {_peak_gb():.1f} GB")
    count = len(job.samples)
    click.echo(f"all {count:,} images once: {count / speed / 3600:.2f} hours")
    click.echo(f"all {options.steps:,} steps: {options.steps * seconds / 3600:.2f} hours")


def _peak_gb() -> float:
    """Largest use of GPU memory so far, or of main memory where there is no GPU."""
    import resource

    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def _parsed_sizes(text: str, geometry: Geometry) -> tuple[tuple[float, int], ...]:
    try:
        sizes = tuple(
            (float(share), int(pixels)) for share, pixels in (part.split(":") for part in text.split(","))
        )
    except ValueError as exc:
        raise InputError(
            f"--sizes {text} cannot be read; expected SHARE:PIXELS,... as 0.5:240,0.5:384"
        ) from exc
    wrong = [p for _, p in sizes if p % geometry.patch or not geometry.patch <= p <= geometry.image_size]
    if wrong or abs(sum(share for share, _ in sizes) - 1) > 1e-6:
        raise InputError(
            f"--sizes {text}: shares must add up to 1, and pixels be multiples of {geometry.patch} up to "
            f"{geometry.image_size}"
        )
    return sizes
