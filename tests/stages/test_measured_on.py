"""What a file of figures says of its machine."""

from __future__ import annotations

import json
from pathlib import Path

from stages.measured_on import describe


def test_this_machine_is_told_as_json_can_hold_it() -> None:
    found = describe()
    assert json.loads(json.dumps(found)) == found
    assert found["cores"] >= 1
    assert found["cpu"]
    assert found["memory"].endswith(" kB")
    assert {"date", "system", "python", "numpy", "aiohttp", "onnxruntime"} <= found.keys()


def test_a_board_has_a_name(tmp_path: Path) -> None:
    (tmp_path / "proc/device-tree").mkdir(parents=True)
    (tmp_path / "proc/device-tree/model").write_text("NVIDIA Jetson Orin Nano\0", encoding="utf-8")
    (tmp_path / "proc/cpuinfo").write_text("processor\t: 0\nBogoMIPS\t: 62.50\n", encoding="utf-8")
    found = describe(tmp_path)
    assert found["board"] == "NVIDIA Jetson Orin Nano"
    assert found["cpu"]  # the kind of processor, where its model has no name
    assert found["memory"] == ""


def test_a_machine_that_is_no_board_has_none() -> None:
    assert "board" not in describe(Path("/nothing"))
