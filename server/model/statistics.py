"""What a site counts of each version it serves: sums since the start, nothing about any one request."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass
class Statistics:
    """Counts and seconds since the start.

    `requests` were answered with embeddings, `failures` were not, by Triton's words for why. `refused` are
    tiles that found no room. `batch_sizes` maps tiles in an engine call to the number of such calls, which
    took `engine_s` together. The other times are sums over requests: `queue_s` until its turn, `input_s` to
    decode it, `infer_s` in the engine calls of its batch, `output_s` to encode its answer, `request_s` all
    of that; the network is in none of them.
    """

    requests: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    refused: int = 0
    batch_sizes: Counter[int] = field(default_factory=Counter)
    engine_s: float = 0.0
    request_s: float = 0.0
    queue_s: float = 0.0
    input_s: float = 0.0
    infer_s: float = 0.0
    output_s: float = 0.0

    @property
    def tiles(self) -> int:
        """Tiles run."""
        return sum(size * calls for size, calls in self.batch_sizes.items())

    @property
    def batches(self) -> int:
        """Engine calls."""
        return sum(self.batch_sizes.values())
