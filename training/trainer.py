"""The training loop of `pedsam train` and `pedsam distill`.

Mixed precision, gradient accumulation and several GPUs are Hugging Face accelerate's. Matrices are trained by
Muon, all else by AdamW. The rate is constant after a warm-up and falls to zero over the last steps (arXiv
2405.18392), or over the last of the time, where that is what is given: a run that takes too long is ended
well by resuming it with fewer steps or less time. From scratch, pictures grow from two windows a side to the
whole canvas.

Between reports nothing waits for the device, so that it never waits for its next kernel.
"""

from __future__ import annotations

import copy
import json
import math
import pickle
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, broadcast
from torch import Tensor, nn
from torch.nn import functional as F

from stages.errors import InputError
from stages.files import replacing, writing
from stages.geometry import Geometry
from training.augmentation import Batch, Batches
from training.muon import Muon
from training.objective import Objective, true_iou
from training.promptable import Promptable
from training.prompting import clicks, noisy_boxes

Report = Callable[[int, Mapping[str, float]], None]


REPORT_EVERY_S = 10.0
TIMED_FROM, TIMED_STEPS = 12, 20  # steps of a session whose parts are timed, and reported as ms


@dataclass(frozen=True)
class TrainOptions:
    """How to train.

    A step is `accumulate` batches of `pictures` with `objects` each, on every device. `sizes` are (share of
    the steps, pixels of the canvas), `rate` counts between warm-up and cool-down, `ema` is the decay of the
    averaged weights that are kept in the end, `seconds` ends a session early (the next one resumes). After
    `budget` seconds from `began` all is to be done, however many steps that were. `decoder_share` is the
    prompt encoder's and mask decoder's of the rate. `trains` says what is trained, which a session that goes
    on must not change.
    """

    steps: int
    sizes: tuple[tuple[float, int], ...]
    pictures: int = 16
    objects: int = 5
    accumulate: int = 1
    rate: float = 2e-3
    weight_decay: float = 0.05
    warm_up: float = 0.03
    cool_down: float = 0.4
    ema: float = 0.998
    seed: int = 0
    seconds: float = math.inf
    save_every_s: float = 60.0
    validate_every: int = 250
    budget: float = math.inf
    began: float = field(default_factory=time.monotonic)
    decoder_share: float = 1.0
    trains: str = ""

    def done(self, step: int, before: float = 0.0) -> float:
        """Share of the training that is over at this step; `before` is what was when this session began."""
        if math.isinf(self.budget):
            return step / self.steps
        spent = (time.monotonic() - self.began) / self.budget
        return max(step / self.steps, min(1.0, before + (1 - before) * spent))

    def size(self, done: float) -> int:
        """Pixels of the canvas when this share is done."""
        for share, pixels in self.sizes:
            done -= share
            if done < 0:
                return pixels
        return self.sizes[-1][1]

    def rate_at(self, step: int, done: float) -> float:
        """Share of `rate` in this step; warm-up counts in steps, since the first ones take longest."""
        warm = (step + 1) / max(1.0, self.warm_up * self.steps)
        cool = (1 - done) / max(1 / self.steps, self.cool_down)
        return min(1.0, warm, cool)


def growing_sizes(geometry: Geometry) -> tuple[tuple[float, int], ...]:
    """Two windows a side, then three, then the canvas: whole windows, so that no padding is computed."""
    two, three = (n * geometry.tile_px for n in (2, 3))
    return (0.45, two), (0.4, three), (0.15, geometry.image_size)


class Trainer:
    """Trains one objective; `state_path` makes it resumable after a kill at any moment.

    Beside it grows a curve: one JSON line for each report, with losses or, now and then, validation.
    """

    def __init__(
        self,
        objective: Objective,
        batches: Batches,
        options: TrainOptions,
        accelerator: Accelerator,
        state_path: Path,
    ) -> None:
        self.model = objective.model.train()
        self.step = 0
        self._bare = objective
        self._averaged = copy.deepcopy(self.model).eval().requires_grad_(False)
        self._averaged.sent = self.model.sent  # the same: it holds averages itself
        self._done_before = 0.0
        self._batches = batches
        self._options = options
        self._accelerator = accelerator
        self._state_path = state_path
        self.curve_path = state_path.with_suffix(".curve.jsonl")
        self._optimisers = optimisers(objective, options)
        if state_path.exists():
            self._resume()
        self._objective = accelerator.prepare(objective)
        self._prepared = [accelerator.prepare(optimiser) for optimiser in self._optimisers]

    def run(self, report: Report, keep: Callable[[], None] = lambda: None) -> bool:
        """Train until `steps`, `budget` or `seconds` are over; False if only `seconds` are.

        Whenever the state is saved, `keep` is called too.
        """
        options = self._options
        started = saved = reported = time.monotonic()
        first = self.step
        over = done = self.done() >= 1
        while not over:
            if self.step - first == TIMED_FROM:
                self._bare.times.start(self._accelerator.device)
            losses = self.one_step()
            if self.step - first == TIMED_FROM + TIMED_STEPS:
                self._record(self._bare.times.stop(TIMED_STEPS), report)
            now = time.monotonic()
            done = self.done() >= 1
            over = done or self._same_on_all(now - started > options.seconds) > 0
            if over or now - reported > REPORT_EVERY_S:
                values = {name: float(value.detach()) for name, value in losses.items()}
                speed = (self.step - first) * self.images_a_step / (now - started)
                self._record({**values, "images/s": speed}, report)
                reported = now
            if self.step % options.validate_every == 0 or done:
                self._record(self.validate(), report)
            if now - saved > options.save_every_s and self.is_main_process:
                self._save()
                keep()
                saved = now
        self._save()
        return done

    def done(self) -> float:
        """Share of the training that is over, in steps or in time, as the main process says."""
        return self._same_on_all(self._options.done(self.step, self._done_before))

    def averaged(self) -> dict[str, Tensor]:
        """The averaged weights, in SAM's key layout, blocks in the order they run in."""
        weights: dict[str, Tensor] = self._averaged.sam.state_dict()
        return weights

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Mean IoU of low-resolution masks of the averaged weights on the pictures held back, by prompt kind.

        Empty where no picture held back has masks.
        """
        found: dict[str, list[Tensor]] = {"box mIoU": [], "point mIoU": []}
        generator = torch.Generator(self._accelerator.device).manual_seed(0)
        for batch in self._batches.held_back(self._options.pictures, self._options.objects):
            with self._accelerator.autocast():
                box, point = validation_ious(self._averaged, batch, generator)
            found["box mIoU"].append(box)
            found["point mIoU"].append(point)
        return {
            kind: float(torch.cat(values).mean()) for kind, values in found.items() if any(map(len, values))
        }

    @property
    def is_main_process(self) -> bool:
        """Of several processes, one reports and saves."""
        return bool(self._accelerator.is_main_process)

    @property
    def images_a_step(self) -> int:
        """Pictures in one update of the weights, on all devices together."""
        o = self._options
        return o.pictures * o.accumulate * int(self._accelerator.num_processes)

    def one_step(self) -> dict[str, Tensor]:
        """One update of the weights; the losses of its last batch by name."""
        options, generator, times = self._options, self._batches.generator, self._bare.times
        done = self.done()
        share = options.rate_at(self.step, done)
        for optimiser in self._optimisers:
            for group in optimiser.param_groups:
                group["lr"] = group["full_rate"] * share
        for _ in range(options.accumulate):
            batch = self._batches.draw(options.pictures, options.objects, options.size(done))
            times.mark("data")
            with self._accelerator.accumulate(self._objective), self._accelerator.autocast():
                losses: dict[str, Tensor] = self._objective(batch, self.step % 4 == 3, generator)
            self._accelerator.backward(sum(losses.values()))
            times.mark("backward")
            if self._accelerator.sync_gradients:
                norm = self._accelerator.clip_grad_norm_(self._objective.parameters(), 1.0)
                for optimiser in self._optimisers:  # an overflow in bf16: skip this step
                    optimiser.found_inf = 1 - norm.isfinite().float()  # type: ignore[attr-defined]
            for prepared in self._prepared:
                prepared.step()
                prepared.zero_grad()
        self.step += 1
        self._update_average()
        times.mark("optimiser")
        return losses

    @torch.no_grad()
    def _update_average(self) -> None:
        decay = min(self._options.ema, (1 + self.step) / (10 + self.step))
        current = list(self.model.sam.parameters())
        torch._foreach_lerp_(list(self._averaged.sam.parameters()), current, 1 - decay)

    def _same_on_all(self, value: float) -> float:
        """The main process's value: clocks differ, and a process that stops alone blocks the others."""
        if self._accelerator.num_processes == 1:
            return value
        told = torch.tensor(float(value), dtype=torch.float64, device=self._accelerator.device)
        return float(broadcast(told))

    def _record(self, values: Mapping[str, float], report: Report) -> None:
        if not self.is_main_process or not values:
            return
        report(self.step, values)
        with writing(self.curve_path), self.curve_path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": self.step, **values}) + "\n")

    def _save(self) -> None:
        if not self.is_main_process:
            return
        state = {
            "trains": self._options.trains,
            "step": self.step,
            "done": self._options.done(self.step, self._done_before),
            "objective": self._bare.state_dict(),
            "averaged": self.averaged(),
            "optimisers": [optimiser.state_dict() for optimiser in self._optimisers],
            "generator": self._batches.generator.get_state(),
            "drawn": self._batches.drawn,
        }
        with writing(self._state_path), replacing(self._state_path) as temporary:
            try:
                torch.save(state, temporary)
            except RuntimeError as exc:  # how torch tells that the disk is full
                raise OSError(str(exc).partition("\n")[0]) from exc

    def _resume(self) -> None:
        try:
            state: dict[str, Any] = torch.load(self._state_path, map_location="cpu", weights_only=True)
            if state["trains"] != self._options.trains:
                raise InputError(
                    f"{self._state_path} is of a training of {state['trains']!r:.200}, and this one is of "
                    f"{self._options.trains!r}; give its options again, or another --out"
                )
            self._bare.load_state_dict(state["objective"])
            self._averaged.sam.load_state_dict(state["averaged"])
            for optimiser, saved in zip(self._optimisers, state["optimisers"], strict=True):
                optimiser.load_state_dict(saved)
            self._batches.generator.set_state(state["generator"])
            self._batches.drawn = state["drawn"]
            self.step, self._done_before = state["step"], state["done"]
        except (RuntimeError, ValueError, KeyError, OSError, EOFError, pickle.UnpicklingError) as exc:
            raise InputError(
                f"{self._state_path} is damaged or of another training run; remove it to start anew, "
                "or give another --out"
            ) from exc


def validation_ious(model: Promptable, batch: Batch, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """IoU of each object that counts, prompted by its exact box and by one click well inside."""
    full, target, valid = batch.full.flatten(0, 1), batch.masks.flatten(0, 1), batch.valid.flatten()
    each = model.encode(batch.coded)[0].repeat_interleave(batch.masks.shape[1], dim=0)
    boxes = noisy_boxes(full, generator, noise=0)
    corners = boxes.new_tensor([2.0, 3.0]).expand(len(boxes), 2)
    masks, _ = model.decode(each, boxes, corners, None)
    box = true_iou(masks[:, 0], target)
    points = F.pad(clicks(full, generator, stray=0), (0, 0, 0, 1))
    click = boxes.new_tensor([1.0, -1.0]).expand(len(boxes), 2)
    masks, rated = model.decode(each, points, click, None)
    best = 1 + rated[:, 1:].argmax(dim=1)
    point = true_iou(masks[torch.arange(len(masks), device=masks.device), best], target)
    return box[valid], point[valid]


def accelerated(options: TrainOptions, device: str = "auto", precision: str | None = None) -> Accelerator:
    """Gradient accumulation, as many processes as `accelerate launch` started, and mixed precision.

    `device` is auto or cpu; `precision` is bf16 or no  [default: bf16 where the machine computes in it].
    """
    cpu = device == "cpu" or not torch.cuda.is_available()
    bf16 = not cpu or torch.cpu.get_capabilities().get("avx512_bf16", False)
    return Accelerator(
        mixed_precision=precision or ("bf16" if bf16 else "no"),
        gradient_accumulation_steps=options.accumulate,
        cpu=cpu,
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
    )


def optimisers(objective: Objective, options: TrainOptions) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of linear layers, AdamW for tables, convolutions and vectors; those of the prompt
    encoder and mask decoder at their share of the rate."""
    sam = objective.model.sam
    slow = {id(p) for part in (sam.prompt_encoder, sam.mask_decoder) for p in part.parameters()}
    groups: dict[tuple[str, bool], list[nn.Parameter]] = {}
    for module in objective.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad:
                kind = _kind(module, name, parameter)
                groups.setdefault((kind, id(parameter) in slow), []).append(parameter)
    muon: list[dict[str, Any]] = []
    adam: list[dict[str, Any]] = []
    for (kind, is_slow), parameters in groups.items():
        rate = options.rate * (options.decoder_share if is_slow else 1.0)
        decay = 0.0 if kind == "vector" else options.weight_decay
        group = {"params": parameters, "weight_decay": decay, "full_rate": rate}
        (muon if kind == "matrix" else adam).append(group)
    return [
        Muon(muon, lr=options.rate),
        torch.optim.AdamW(adam, lr=options.rate, betas=(0.9, 0.98), fused=True),
    ]


def _kind(module: nn.Module, name: str, parameter: nn.Parameter) -> str:
    if parameter.ndim < 2:
        return "vector"
    return "matrix" if isinstance(module, nn.Linear) and name == "weight" else "table"


def in_own_order(state: Mapping[str, Tensor], geometry: Geometry) -> dict[str, Tensor]:
    """Weights of a model whose blocks were reordered, under the names SAM's own block order gives them."""
    names = {
        f"image_encoder.blocks.{new}.": f"image_encoder.blocks.{own}."
        for new, own in enumerate(geometry.block_order)
    }
    prefix = len("image_encoder.blocks.")
    renamed = {}
    for name, tensor in state.items():
        stem = name[: name.find(".", prefix) + 1] if name.startswith("image_encoder.blocks.") else ""
        renamed[names[stem] + name[len(stem) :] if stem else name] = tensor
    return renamed
