"""What share of the windows of pictures is counted as kept."""

from __future__ import annotations

import asyncio
from pathlib import Path

import cv2
import numpy as np
import pytest

from benchmarks.kept_windows import looked_at, row
from runtime.frames.kept import Kept
from stages.geometry import GEOMETRIES


def kept(*windows: int, seconds: float = 0.1) -> Kept:
    return Kept(frozenset(windows), seconds)


def test_several_kinds_keep_what_any_of_them_does() -> None:
    """24 holds no picture and does not count; a window of both kinds counts once."""
    shown = [frozenset(range(10)), frozenset(range(20)), frozenset(range(4))]
    faces = [kept(0, 1, 24), kept(), kept(0, 1)]
    text = [kept(1, 2, seconds=0.2), kept(seconds=0.4), kept(2, 3, seconds=0.3)]
    found = row([faces, text], shown)
    assert found["windows_kept"] == pytest.approx((0.3 + 0 + 1) / 3)
    assert found["pictures_with_any"] == pytest.approx(2 / 3)
    assert found["pictures_with_all"] == pytest.approx(1 / 3)
    assert (found["pictures"], found["processor_ms"]) == (3, 400)
    assert row([faces], shown)["windows_kept"] == pytest.approx((0.2 + 0 + 0.5) / 3)


def test_each_picture_is_looked_at_alone(tmp_path: Path) -> None:
    """A film would keep the word's windows of the second picture too."""
    plain = np.full((216, 384, 3), 255, np.uint8)
    word = cv2.putText(plain.copy(), "EXIT", (20, 60), cv2.FONT_HERSHEY_SIMPLEX, 1.5, (0, 0, 0), 4)
    for name, picture in (("a", word), ("b", plain)):
        cv2.imwrite(str(tmp_path / f"{name}.jpg"), picture)
    first, second = asyncio.run(looked_at("text", sorted(tmp_path.iterdir()), GEOMETRIES["mini"]))
    assert {0, 1} <= first.windows < frozenset(range(15))
    assert first.seconds > 0
    assert not second.windows
