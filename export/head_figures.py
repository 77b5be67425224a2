"""What a linear map rebuilds of what sites get, for whoever exports a bundle with a head.

The figures are those of mini in benchmarks/results/head_blocks_mini.json; a test holds them equal.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """What is `sent` of windows, bytes up of a 16:9 frame, and how near the rebuilt pixels come."""

    sent: str
    blocks: int
    bytes_up: int
    psnr_db: float
    ssim: float


FIGURES = (
    Figure("tiles, dct:15/6", 0, 33_270, 27.9, 0.89),
    Figure("tiles, dct:10/3", 0, 23_520, 25.9, 0.84),
    Figure("tiles, dct:6/3", 0, 17_490, 24.3, 0.78),
    Figure("hidden, 192 x int8", 1, 78_975, 26.3, 0.83),
    Figure("hidden, 192 x int8", 2, 78_975, 25.5, 0.80),
    Figure("hidden, 192 x int8", 4, 78_975, 23.8, 0.72),
)


def table() -> str:
    """Lines for a terminal: each figure, and what follows from them."""
    lines = ["what one linear map a token rebuilds of windows that sites get, measured on mini:"]
    for each in FIGURES:
        what = f"{each.sent}, K = {each.blocks}" if each.blocks else f"{each.sent}, decoded"
        seen = f"{each.psnr_db:.1f} dB, SSIM {each.ssim:.2f}"
        lines.append(f"  {what:32} {seen}, {each.bytes_up / 1e3:.1f} kB up a frame of 16:9")
    lines.append(
        "hidden states show windows about as coarse --tiles do, for more bytes: they hide no picture"
    )
    return "\n".join(lines)
