"""What a person sees of training: a bar in a terminal, lines in a log, a picture of the curve."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from stages.console import make_console
from stages.files import replacing, writing


class TrainingProgress:
    """A progress bar with the losses and images/s; validation, and in a log everything, stays as a line."""

    def __init__(self, steps: int) -> None:
        self._console = make_console()
        self._bar = Progress(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[values]}"),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task("training", total=steps, values="")
        self._steps = steps

    def __enter__(self) -> TrainingProgress:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def __call__(self, step: int, values: Mapping[str, float]) -> None:
        text = ", ".join(f"{name} {value:.3f}" for name, value in values.items())
        if "images/s" in values:
            self._bar.update(self._task, completed=step, values=text)
        if "images/s" not in values or not self._console.is_terminal:
            self._console.print(f"step {step} of {self._steps}: {text}")


def plot_curve(curve: Path, picture: Path) -> None:
    """Losses (averaged over 20 reports) and validation over the steps, as a PNG; `curve` is the Trainer's.

    Lines that were cut off, when training was killed or its disk was full, are left out. Raises InputError.
    """
    from matplotlib.figure import Figure

    series: dict[str, list[tuple[int, float]]] = {}
    for line in curve.read_text(encoding="utf-8").splitlines():
        try:
            values = json.loads(line)
        except ValueError:
            continue
        for name in values.keys() - {"step", "images/s"}:
            if name.startswith("ms "):
                continue
            series.setdefault(name, []).append((values["step"], values[name]))
    figure = Figure(figsize=(10, 4), layout="constrained")
    losses, validation = figure.subplots(1, 2)
    for name, points in sorted(series.items()):
        steps, values = zip(*points, strict=True)
        if name.endswith("mIoU"):
            validation.plot(steps, values, marker="o", label=name)
        else:
            losses.plot(steps, _smooth(values, 20), label=name)
    for axes, title in ((losses, "loss"), (validation, "mIoU on pictures held back")):
        axes.set(title=title, xlabel="step")
        if axes.lines:
            axes.legend()
        axes.grid(alpha=0.3)
    with writing(picture), replacing(picture) as temporary:
        figure.savefig(temporary, dpi=100, format="png")


def _smooth(values: tuple[float, ...], span: int) -> list[float]:
    """Mean of each value and up to span - 1 before it."""
    return [
        sum(part) / len(part) for n in range(len(values)) for part in [values[max(0, n + 1 - span) : n + 1]]
    ]
