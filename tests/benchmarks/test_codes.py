"""The table of codes: what is compared with what."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import click
import pytest

from benchmarks.codes import Row, add_row, against, facts, frame_bytes, markdown, read_instances, read_result
from stages.bundle import Bundle


def rows(*values: tuple[str, float, float]) -> list[Row]:
    return [{"picture": name, "iou_box": str(box), "iou_point": str(point)} for name, box, point in values]


FIRST = rows(("a", 0.5, 0.25), ("a", 0.75, 0.5), ("b", 1.0, 1.0))


def test_rows_are_compared_instance_by_instance() -> None:
    """Differences of one picture are alike, and its interval is that of two pictures drawn."""
    found = against(FIRST, rows(("a", 0.4, 0.25), ("a", 0.65, 0.5), ("b", 1.0, 1.0)))
    assert found["box"]["mean"] == pytest.approx(-0.2 / 3)
    assert found["box"]["interval95"] == pytest.approx((-0.1, 0.0))
    assert found["point"]["mean"] == 0


def test_other_instances_are_not_compared() -> None:
    with pytest.raises(ValueError, match="different instances"):
        against(FIRST, rows(("a", 0.4, 0.25), ("b", 1.0, 1.0)))


def test_instances_are_those_of_the_evaluation(tmp_path: Path) -> None:
    with (tmp_path / "instances.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["picture", "iou_box", "iou_point"])
        writer.writeheader()
        writer.writerows(FIRST)
    assert read_instances(tmp_path / "instances.csv") == FIRST


def test_a_pair_measured_again_takes_its_own_place() -> None:
    kept = [{"tiles": "rgb", "components": 64, "n": 1}, {"tiles": "rgb", "components": 96, "n": 2}]
    add_row(kept, {"tiles": "rgb", "components": 64, "n": 3})
    add_row(kept, {"tiles": "rgb", "components": 48, "n": 4})
    assert [row["n"] for row in kept] == [3, 2, 4]


def call(tmp_path: Path, **other: Any) -> dict[str, Any]:
    checkpoint = tmp_path / "weights"
    checkpoint.write_bytes(b"numbers")
    options = {"checkpoint": checkpoint, "data": Path("x/heldout"), "limit": 9} | other
    return facts(options, "rgb", 192)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"limit": None}, "holds rows with limit 9, this call has None; give another --out"),
        ({"data": Path("train")}, "rows with data 'heldout', this call has 'train'"),
        ({"sha256": "0"}, "rows with sha256"),
        ({"first": ["rgb", 64]}, r"rows with first \['rgb', 192\]"),
    ],
)
def test_rows_of_another_call_are_not_added_to(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    out, before = tmp_path / "codes.json", call(tmp_path)
    kept = read_result(out, before)
    assert kept == {**before, "rows": []}
    out.write_text(json.dumps(kept))
    assert read_result(out, before) == kept
    other = {name: change[name] for name in change.keys() & {"data", "limit"}}
    with pytest.raises(click.UsageError, match=words):
        read_result(out, call(tmp_path, **other) | (change if not other else {}))


def test_rows_of_before_calls_were_kept_are_not_added_to(tmp_path: Path) -> None:
    (tmp_path / "codes.json").write_text('{"rows": []}')
    with pytest.raises(click.UsageError, match="rows with checkpoint None"):
        read_result(tmp_path / "codes.json", call(tmp_path))


def test_bytes_are_those_of_all_windows_of_a_frame(mini_bundle: Bundle) -> None:
    """15 windows of 80 x 80 pixels, and of 5 x 5 tokens of 192 channels."""
    found = frame_bytes(mini_bundle, "fp16")
    assert 15 * 80 * 80 * 3 < found["up"] < 1.05 * 15 * 80 * 80 * 3
    assert 15 * 25 * 192 * 2 < found["down"] < 1.05 * 15 * 25 * 192 * 2


def test_the_table_has_a_line_a_row() -> None:
    bounds = {"box": (0.7, 0.72), "point": None}
    row = {
        "tiles": "dct:10/3",
        "components": 64,
        "wire": "int8",
        "bytes_a_frame": {"up": 17250, "down": 24750},
        "miou": {"box": 0.711, "point": 0.475},
        "interval95": bounds,
        "against_first": {kind: {"mean": -0.001, "interval95": each} for kind, each in bounds.items()},
    }
    line = markdown([row])[2]
    assert line.startswith(
        "| dct:10/3 | 64, int8 | 17.2 | 24.8 | 0.711 (0.700 to 0.720) | 0.475 (one picture) |"
    )
    assert line.endswith("| -0.0010 (+0.7000 to +0.7200) | -0.0010 (one picture) |")
