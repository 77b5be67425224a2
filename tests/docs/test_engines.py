"""docs/engines.md: what a place gets, what is built where and what fits into memory are the code's."""

from __future__ import annotations

import json
import re

from export.engines.build import CHOICES
from export.engines.ladder import RUNGS
from export.engines.memory import LEAST_WORKSPACE, LIBRARY_BYTES, MOST_WORKSPACE
from jetson.budget import (
    HEADLESS_SAVES,
    ORIN_NANO_8GB,
    SYSTEM_BYTES,
    BoardMemory,
    model_budget,
    models_table,
    terms_table,
)
from stages.bundle import EDGE_FOLDER
from stages.geometry import GEOMETRIES
from stages.hidden import HEAD
from stages.places import PLACES, Part
from stages.tile_code import TileCode
from tests.support.documents import ROOT, Document, table_rows

PAGE = Document.read("docs/engines.md")
SITES = Document.read("docs/sites.md")
PARTS = PAGE.section("## What each place gets of a bundle")


def named(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def stages_of(place: str, part: Part) -> list[str]:
    """All that a place can get: an edge the head of a bundle that has one."""
    return [*([HEAD] if place == "edge" else []), *part.needed, *part.optional]


def test_each_place_gets_what_the_page_says() -> None:
    found = {row[0]: (named(row[1]), named(row[2])) for row in table_rows(PARTS)}
    assert found == {place: (stages_of(place, part), list(part.files)) for place, part in PLACES.items()}


def test_what_is_copied_to_a_site_is_what_it_gets() -> None:
    (block,) = (block for block in SITES.blocks("") if "scp -r bundles" in block)
    copied = set(re.findall(r"bundles/vit_b/(\S+)", block.partition("# 3.")[0]))
    site = PLACES["site"]
    assert copied == {"bundle.json", *site.needed, *site.files}
    sentence = SITES.section("## What a site needs of the bundle").partition(".\n")[0]
    assert all(f"`{name}" in sentence for name in copied)
    assert {name.partition("/")[0] for name in site.files} == {EDGE_FOLDER}


def test_what_is_built_for_each_choice() -> None:
    second = PAGE.section("## Build").partition("| `--for` | builds |")
    rows = {row[0].strip("`"): row[1] for row in table_rows("".join(second[1:]))}
    for place, part in PLACES.items():
        assert named(rows[place]) == stages_of(place, part)
    assert named(rows["not given"]) == list(CHOICES["available"])
    assert set(CHOICES["all"]) - set(CHOICES["available"]) == {named(rows["all"])[0]}


def test_what_codes_of_tiles_cost_and_lose() -> None:
    path = ROOT / "benchmarks/results/tile_code.json"
    measured = {row["code"]: row for row in json.loads(path.read_text(encoding="utf-8"))["codes"]}
    rows = {row[0].strip("`"): row[1:] for row in table_rows(PAGE.section("## What a tile is sent as"))}
    assert list(rows) == list(measured)
    for name, (vit_b, mini, error, milliseconds) in rows.items():
        code, found = TileCode.parse(name), measured[name]
        assert vit_b == f"{code.tile_bytes(GEOMETRIES['vit_b']):,}"
        assert mini == f"{code.tile_bytes(GEOMETRIES['mini']):,}"
        assert error == ("none" if name == "rgb" else f"{found['vit_b']['psnr_db']:.1f} dB")
        assert milliseconds == f"{found['encode_ms']:.1f} ms"
        assert found["encode_ms"] <= 6


def test_memory_of_a_build() -> None:
    text = " ".join(PAGE.section("### When memory is short").split())
    assert f"beside {LIBRARY_BYTES / 1e9:.1f} GB for TensorRT and twice the stage's weights" in text
    assert f"at least {LEAST_WORKSPACE >> 20} MiB, at most {MOST_WORKSPACE >> 30} GiB" in text
    levels = [str(rung.level) for rung in RUNGS if rung.level is not None]
    assert f"then at builder optimisation levels {' and '.join(levels)}" in text
    assert [rung.share for rung in RUNGS if rung.level is None] == [1, 0.5, 0.25]


def test_the_tables_of_memory_are_those_of_the_code() -> None:
    section = PAGE.section("## Memory of an 8 GB board")
    assert models_table() in section
    assert terms_table(model_budget(GEOMETRIES["vit_b"], "fp16")) in section


def test_what_is_left_of_an_8_gb_board() -> None:
    text = " ".join(PAGE.section("## Memory of an 8 GB board").split())
    board = BoardMemory(ORIN_NANO_8GB)
    left = [f"{each.for_programs / 1e9:.2f} GB" for each in (board, board.headless())]
    assert f"JetPack takes {SYSTEM_BYTES / 1e9:.2f} GB of it" in text
    assert f"{HEADLESS_SAVES // 10**6} MB less without, so {' or '.join(left)} are left" in text
    assert f"({ORIN_NANO_8GB >> 20} MiB seen by Linux)" in text
    assert f"({SYSTEM_BYTES >> 20} MiB; others" in text
