"""Tables of docs/privacy.md are those of the audits in benchmarks/results."""

from __future__ import annotations

import json
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import pytest

from runtime.objects.kept_objects import MARGIN
from runtime.pipeline import PipelineOptions
from tests.support.documents import README, ROOT, Document

PAGE = Document.read("docs/privacy.md")
FILES = ROOT / "benchmarks/results"
PEOPLE = ("faces_found", "faces_recognised", "words_read")
HELD_OUT = ("objects_held", "words_read", "psnr_membrane", "psnr_mean_colour", "psnr_given")
SETTINGS = ("area", "objects_held", "words_read", "psnr_membrane", "psnr_mean_colour")
VIDEOS = ("dog", "blackswan", "breakdance", "bedroom_nomask")
COUNTS = (1, 10, 50)
IN_FLIGHT = PipelineOptions.in_flight


def audit(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FILES / f"audit_{name}.json").read_text(encoding="utf-8"))
    return found


def cell(result: dict[str, Any], figure: str) -> str:
    """Mean and interval, as the page writes them."""
    found = result["figures"].get(figure)
    if found is None:
        return ""
    if found["mean"] is None:
        return "exact"
    digits = 1 if figure.startswith("psnr") else 2
    low, high = found["interval95"]
    return f"{found['mean']:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def row(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"


def rows_of(name: str, *figures: str) -> Iterator[str]:
    report = audit(name)
    for result in report["results"]:
        cells = (cell(result, figure) for figure in figures)
        setting = result["setting"]
        if report.get("keep") and setting != "undivided":
            setting += f", `--keep {','.join(report['keep'])}`"
        yield row(f"{report['canvas_px']}", f"`{result['code']}`", setting, *cells)


def mosaic_rows() -> Iterator[str]:
    for name in VIDEOS:
        report = audit(f"video_{name}")
        for operators in (3, 6):
            found = {each["frames"]: each for each in report["mosaic"] if each["operators"] == operators}
            shares = (
                f"{found[count]['covered_most']:.2f}, {found[count]['recovered_most']:.2f}"
                for count in COUNTS
            )
            yield row(name.removesuffix("_nomask"), f"{operators} operators", *shares)


def percent(share: float) -> str:
    """With two digits, but never 0 for what is more."""
    return "< 0.01 %" if 0 < share < 1e-4 else f"{100 * share:.2f} %"


def kept_objects_rows() -> Iterator[str]:
    """Of each clip with the margin of a run, and of all of them with each setting."""
    found = json.loads((FILES / "kept_objects.json").read_text(encoding="utf-8"))
    clips = {each["clip"] for each in found["rows"]}
    of_a_run = [each for each in found["rows"] if (each["margin"], each["in_flight"]) == (MARGIN, IN_FLIGHT)]
    assert len(of_a_run) == len(clips)
    for each in (*of_a_run, *found["together"]):
        sent = (
            f"{percent(each[f'{whose}_pixels_sent'])}, in {each[f'frames_with_{whose}_pixels_sent']}"
            for whose in ("true", "own")
        )
        yield row(
            each.get("clip", f"all {len(clips)}"),
            str(Fraction(each["margin"])),
            str(each["in_flight"]),
            str(each["frames"]),
            *sent,
            f"{100 * each['windows_kept']:.0f} %",
        )


def rows() -> list[str]:
    """All rows that the page's tables of results have."""
    return [
        *rows_of("people_vit_b", *PEOPLE),
        *rows_of("people_vit_b_keep", *PEOPLE),
        *rows_of("people_mini", *PEOPLE),
        *rows_of("people_mini_keep", *PEOPLE),
        *rows_of("heldout_vit_b", *HELD_OUT),
        *rows_of("heldout_mini", *HELD_OUT),
        *rows_of("settings_mini", *SETTINGS),
        *mosaic_rows(),
        *kept_objects_rows(),
    ]


@pytest.mark.parametrize("expected", rows())
def test_a_row_of_the_page_is_measured(expected: str) -> None:
    assert expected in PAGE.text


def test_the_page_says_how_many_pictures_there_were() -> None:
    for name in ("people_vit_b", "heldout_vit_b", "heldout_mini", "settings_mini"):
        assert f"{audit(name)['pictures']} pictures" in PAGE.text
    found = audit("heldout_mini")["embeddings"]
    assert f"{found['psnr']['mean']:.1f} dB and SSIM {found['ssim']['mean']:.2f}" in PAGE.text


@pytest.mark.parametrize(
    ("name", "said"),
    [("people_vit_b_keep", "{} % of the windows that"), ("people_mini_keep", "at 384 pixels {} %;")],
)
def test_the_page_says_how_many_windows_of_people_were_kept(name: str, said: str) -> None:
    _, operators = audit(name)["results"]
    sent = operators["sent"]
    share = sent["kept"] / (sent["kept"] + sent["windows"])
    assert said.format(f"{100 * share:.0f}") in PAGE.text


def readme_rows() -> Iterator[str]:
    """Those of the table of README.md."""
    plain, kept = (
        {(each["setting"], each["code"]): each for each in audit(name)["results"]}
        for name in ("people_vit_b", "people_vit_b_keep")
    )
    for name, result in (
        ("who has the whole picture", plain["undivided", "rgb"]),
        ("some operator of three", plain["3 operators", "rgb"]),
        ("the same with `--keep faces,text`", kept["3 operators", "rgb"]),
    ):
        means = {figure: found["mean"] for figure, found in result["figures"].items()}
        shares = (f"{means[figure]:.2f}" for figure in ("area", *PEOPLE))
        rebuilt = [means.get(figure) for figure in ("psnr_membrane", "psnr_mean_colour")]
        yield row(name, *shares, " against ".join(f"{each:.1f}" for each in rebuilt if each) or "")


@pytest.mark.parametrize("expected", list(readme_rows()))
def test_a_row_of_the_readme_is_measured(expected: str) -> None:
    assert expected in README.text
