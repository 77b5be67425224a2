"""docs/first-run.md: its outputs are those of the commands on a board of files, its figures the code's."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from jetson.board.checks import LOAD_TIMES, check
from jetson.board.facts import look
from jetson.board.findings import Wanted, size
from jetson.board.releases import OFFERED
from jetson.flash import STEPS
from jetson.steps.bundle import SYSTEM_BYTES
from jetson.steps.image import BUILD_BYTES, IMAGE_BYTES
from jetson.steps.service import HEALTHY_S
from jetson.versions import KEY_FILES, KEY_FOLDERS, STATE_FILES
from runtime.edge_toml import TABLES
from stages.bundle import Bundle, shipped_bundle
from stages.geometry import GEOMETRIES
from stages.tile_code import RGB
from tests.support.boards import FakeBoard
from tests.support.documents import Document, table_rows
from tests.support.flashing import Flashing, flashing
from tests.support.sentences import DIFFERS, sentences

PAGE = Document.read("docs/first-run.md")
TEXT = " ".join(PAGE.text.split())
OUTPUTS = PAGE.blocks("text")
WINDOWS = 15  # of a 16:9 frame


def bare(output: str) -> list[str]:
    """Lines with one word for each number, ID and time, lines that a terminal wrapped put together."""
    joined = re.sub(r"\n(?=free, cameras)", " ", output)
    lines = (re.sub(r"\b[0-9a-f]{12}\b|\d+(\.\d+)?", "N", line).strip() for line in joined.splitlines())
    return [" ".join(line.split()) for line in lines if line.strip()]


@pytest.fixture
def board(tmp_path: Path) -> Iterator[Flashing]:
    """An Orin Nano Super with a desktop, never flashed."""
    sites = tmp_path / "sites.toml"
    tables = (
        f'[[site]]\nname = "{name}"\noperator = "{name}"\nurl = "https://127.0.0.1:{port}"'
        for port, name in enumerate("abc", start=1)
    )
    sites.write_text("\n".join(tables))
    with flashing(tmp_path, "orin-nano-super", sites, tmp_path) as made:
        made.board.with_desktop()
        made.options["image"] = None
        yield made


@pytest.mark.sshd
def test_the_dry_run_prints_what_the_page_shows(board: Flashing) -> None:
    (shown,) = (block for block in OUTPUTS if "nothing was changed: --dry-run" in block)
    said = board.flash(dry_run=True, power="MAXN_SUPER", headless=True)
    assert bare(said.replace("board, with your", "jetson, with your")) == bare(shown)


def test_the_flash_names_every_step_that_there_is() -> None:
    (shown,) = (block for block in OUTPUTS if "runs and is healthy" in block)
    found = re.findall(r"^(\w[\w ]{1,10}?) {2,}", shown, re.MULTILINE)
    assert found == ["connect", "look", *(step.name for step in STEPS)]


def is_said(text: str) -> bool:
    """Whether it is a sentence of the code, with something for each value that it fills in."""
    told = (each for each in sentences() if len(each.replace(DIFFERS, "")) > 5)
    return any(re.fullmatch(re.escape(each).replace(re.escape(DIFFERS), "[^;]+"), text) for each in told)


def test_the_flash_shows_what_steps_say_that_they_did() -> None:
    (shown,) = (block for block in OUTPUTS if "service     no version runs\n            version" in block)
    done = re.findall(r"^ {12}(.*) \(\d+ s\)$", shown, re.MULTILINE)
    assert len(done) == len(STEPS) - 1  # the smoke test's is cut off
    for text in done:
        assert is_said(text) or text.startswith("MAXN_SUPER, GPU"), text  # the power step's has many parts


@pytest.mark.parametrize(
    "beginning", ["stopped", "started", r"version \w+ runs again", "the flash of version", "Error: "]
)
def test_other_outputs_are_sentences_of_the_code(beginning: str) -> None:
    joined = "\n".join(OUTPUTS).replace("\nruns again", " runs again")
    lines = [line.strip() for line in joined.splitlines()]
    found = [line for line in lines if re.match(beginning, line)]
    assert found
    for line in found:
        assert is_said(re.sub(r"^Error: \w+: |; give the same command .*", "", line)), line


def test_the_check_shows_what_it_finds(tmp_path: Path) -> None:
    made = FakeBoard(tmp_path)
    made.with_desktop()
    wanted = Wanted(address="jetson", sources=("csi://0",))
    found = check(look(made.connection()), wanted)
    (shown,) = (block for block in OUTPUTS if "is fit to be flashed" in block)
    rows = [
        [cell.strip() for cell in line.strip("│").split("│")] for line in shown.splitlines() if "│" in line
    ]
    table = " ".join(word for row in rows for word in row)
    for finding in found:
        what = finding.what.replace(str(made.home), "/home/jetson")
        assert finding.level in table
        assert all(word in table for word in what.split()), what
    assert len([row for row in rows if row[0]]) == len(found)


def test_keys_of_edge_toml_that_a_board_has_of_its_own() -> None:
    section = PAGE.text.partition("On the board these keys are set by `flash`")[2]
    named = [key for row in table_rows(section) for key in re.findall(r"`(\w+)`", row[0])]
    ours = {"bundle", "sites", "ledger", "heartbeat", "source", "allow_undistilled", "prompts", "state"}
    assert set(named) == {*ours, *STATE_FILES, *KEY_FOLDERS, *KEY_FILES}
    assert set(named) <= {key for keys in TABLES.values() for key in keys}


def test_releases_and_limits() -> None:
    first, last = (".".join(map(str, each)) for each in (OFFERED[0].first, OFFERED[0].last))
    assert f"(L4T {first} to {last})" in TEXT
    assert OFFERED[0].jetpack in TEXT
    assert f"within {HEALTHY_S} s is taken back" in TEXT
    assert f"beside {SYSTEM_BYTES / 1e9:.0f} GB for the system" in TEXT
    for image_bytes in (IMAGE_BYTES, BUILD_BYTES):
        assert f"{size(LOAD_TIMES * image_bytes)} must be free" in TEXT
        assert f"twice {image_bytes / 1e9:.0f} GB" in TEXT


def test_the_camera_s_traffic() -> None:
    rows = {row[0]: row[1:] for row in table_rows(PAGE.text.partition("(computed):")[2])}
    shipped, vit_b = Bundle.load(shipped_bundle()), GEOMETRIES["vit_b"]
    travels = {  # bytes of a tile, and of what comes back for a token
        "mini as it comes, coded": (shipped.geometry, shipped.tiles, shipped.components + 2),
        "vit_b, uncoded, fp16": (vit_b, RGB, vit_b.dim * 2),
    }
    assert rows.keys() == travels.keys()
    for name, (model, tiles, token_bytes) in travels.items():
        up, down = WINDOWS * tiles.tile_bytes(model), WINDOWS * model.window**2 * token_bytes
        hour = 5 * 3600 / 1e9
        assert rows[name] == [
            f"{up / 1e6:.2f} MB",
            f"{down / 1e6:.2f} MB",
            f"{up * hour:.1f} GB",
            f"{down * hour:.1f} GB",
            f"{50e6 / 8 / up:.1f} frames/s",
        ]


def test_every_figure_says_how_it_is_known() -> None:
    for row in table_rows(PAGE.section("## What it takes")):
        assert re.match(r"(measured|computed|published elsewhere): |computed$|it has \[not been", row[-1]), (
            row
        )


def test_it_says_first_that_nothing_ran_on_a_jetson() -> None:
    assert "**Nothing on this page was run on a Jetson" in PAGE.text.partition("## ")[0]
