"""Which Jetson it is, from every device tree and part number known."""

from __future__ import annotations

import re

import pytest

from jetson.board.hardware import MODULES, Hardware, hardware
from tests.support.boards import rows, sample

TREES = {row["board"]: row for row in rows("device-tree-model-compatible.tsv")}
GB = 10**9


def from_tree(board: str, total_bytes: int | None = None) -> Hardware:
    row = {name.partition(" ")[0]: value for name, value in TREES[board].items()}
    compatible = () if row["compatible"] == "-" else tuple(row["compatible"].split())
    return hardware(row["model"], compatible, "", "", total_bytes)


NAMES = {
    "Orin Nano 8GB devkit, super firmware (P3767-0005)": "Jetson Orin Nano 8GB Super",
    "Orin Nano 8GB module (P3767-0003), non-super firmware": "Jetson Orin Nano 8GB",
    "Orin NX 16GB (P3767-0000), non-super": "Jetson Orin NX 16GB",
    "Orin NX 16GB (P3767-0000), super": "Jetson Orin NX 16GB Super",
    "AGX Orin devkit": "Jetson AGX Orin 64GB",
    "AGX Thor devkit (R38)": "Jetson AGX Thor 128GB",
    "vendor carrier example": "Jetson Orin NX",
}


@pytest.mark.parametrize("board", TREES)
def test_name(board: str) -> None:
    assert from_tree(board).name == NAMES[board]


@pytest.mark.parametrize("board", TREES)
def test_chip(board: str) -> None:
    chip = {"AGX Thor devkit (R38)": "tegra264", "vendor carrier example": None}.get(board, "tegra234")
    assert from_tree(board).chip == chip


# What Linux has of each module's memory, as tegrastats shows it, in MiB.
@pytest.mark.parametrize(
    ("board", "total_mib", "size"),
    [
        ("AGX Orin devkit", 30697, 32),
        ("AGX Orin devkit", 62841, 64),
        ("Orin Nano 8GB devkit, super firmware (P3767-0005)", 7620, 8),
        ("Orin Nano 8GB devkit, super firmware (P3767-0005)", 7486, 8),
        ("Orin Nano 8GB module (P3767-0003), non-super firmware", 3602, 4),
        ("Orin NX 16GB (P3767-0000), non-super", 15656, 16),
        ("vendor carrier example", 15656, 16),
    ],
)
def test_memory_tells_the_size_of_the_module(board: str, total_mib: int, size: int) -> None:
    assert from_tree(board, total_mib * 1024**2).memory_gb == size


def test_every_part_number_is_known() -> None:
    for row in rows("p-numbers.tsv"):
        family, memory_gb = MODULES[row["p-number"]]
        assert family in row["module"]
        if size := re.search(r"(\d+)GB", row["module"]):
            assert memory_gb == int(size[1])


def test_vendor_that_names_no_family_is_known_by_the_part_number() -> None:
    found = hardware("Acme Vision Box", ("acme,box", "nvidia,p3767-0001", "nvidia,tegra234"), "", "", None)
    assert (found.name, found.chip) == ("Jetson Orin NX 8GB", "tegra234")


def test_vendor_that_names_neither_is_called_by_its_own_name() -> None:
    found = hardware("Acme Vision Box", ("acme,box", "nvidia,tegra234"), "", "", None)
    assert (found.name, found.chip) == ("Acme Vision Box", "tegra234")


def test_part_number_is_believed_before_a_name() -> None:
    found = hardware("Acme carrier for Orin NX", ("acme,box+p3767-0003", "nvidia,tegra234"), "", "", None)
    assert found.name == "Jetson Orin Nano 8GB"


def test_family_in_any_case() -> None:
    assert hardware("ACME jetson ORIN nano", ("nvidia,tegra234",), "", "", None).family == "Orin Nano"


def test_ids_of_the_device_tree_name_the_module() -> None:
    ids = re.findall(r"chosen/ids: (.*)", sample("device-tree-chosen-orin-nx16.txt"))[0]
    assert hardware("", ("nvidia,tegra234",), ids, "", None).module == "p3767-0000"


@pytest.mark.parametrize(
    ("line", "module"),
    list(zip(sample("nv_boot_control-tnspec.txt").splitlines(), ("p3767-0003", "p3767-0000"), strict=True)),
)
def test_boot_control_names_the_module(line: str, module: str) -> None:
    assert (
        hardware("", ("nvidia,tegra234",), "", f"# comment\n{line}\nTEGRA_CHIPID 0x23\n", None).module
        == module
    )


def test_no_jetson() -> None:
    found = hardware("", (), "", "", 16 * GB)
    assert (found.chip, found.family, found.super_mode) == (None, None, False)
