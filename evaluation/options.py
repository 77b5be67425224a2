"""What `pedsam evaluate` is told."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from runtime.edge import EdgeOptions


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions(EdgeOptions):
    """Options of `pedsam evaluate`; see its help. `prompts` are kinds of `evaluation.masks.KINDS`,
    `pictures` is a folder, None where pictures are beside their masks."""

    data: Path
    pictures: Path | None = None
    out: Path
    prompts: tuple[str, ...]
    blur: float = 0.0
    limit: int | None = None
    sheet: bool = True
    seed: int = 0
