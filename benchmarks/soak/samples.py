"""What a process takes, sampled, and whether it grew: a straight line through the samples after the start."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

WARM_UP_SHARE = 0.3  # of the run, before growth is looked at
FLAT_SHARE = 0.05  # of its mean that a series may rise over what is looked at
FLAT_LEAST = {"mb": 6.0, "threads": 1.5, "files": 3.0}  # that it may rise in any case: what comes and goes

Sample = Mapping[str, float]


def take(pid: int | str, name: str) -> dict[str, float]:
    """Resident MiB, threads and open files of a process now (Linux), nothing of one that is gone."""
    try:
        files = len(list(Path(f"/proc/{pid}/fd").iterdir()))
        text = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except OSError:
        return {}
    fields = dict(line.split(":", 1) for line in text.splitlines())
    if "VmRSS" not in fields:  # it has ended and is not waited for yet
        return {}
    return {
        f"{name}_mb": round(int(fields["VmRSS"].split()[0]) / 1024, 1),
        f"{name}_threads": int(fields["Threads"]),
        f"{name}_files": files,
    }


def late(samples: Sequence[Sample], name: str) -> list[tuple[float, float]]:
    """Time in seconds and value of a series after the start."""
    return [(each["s"], each[name]) for each in samples[int(len(samples) * WARM_UP_SHARE) :] if name in each]


def growth_per_hour(samples: Sequence[Sample], name: str) -> float:
    """Slope of the line."""
    points = late(samples, name)
    if len(points) < 2:
        return 0.0
    times, values = np.array(points).T
    return round(float(np.polyfit(times, values, 1)[0]) * 3600, 2)


def is_flat(samples: Sequence[Sample], name: str) -> bool:
    """Whether the line rises by no more than may be over the time that is looked at."""
    points = late(samples, name)
    if len(points) < 2:
        return True
    hours = (points[-1][0] - points[0][0]) / 3600
    allowed = FLAT_SHARE * float(np.mean([value for _, value in points]))
    return growth_per_hour(samples, name) * hours <= max(allowed, FLAT_LEAST[name.rpartition("_")[2]])


def value_range(samples: Sequence[Sample], name: str) -> list[float]:
    values = [value for _, value in late(samples, name)]
    return [min(values), max(values)] if values else []
