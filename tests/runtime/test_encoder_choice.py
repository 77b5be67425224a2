"""Whether the global stage runs whole or row by row: measured, pinned, refused; and the same masks."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from pedsam.command import main
from runtime.encoder_choice import STREAMING, WHOLE, Measured, make_global
from runtime.objects.masks import decode_mask
from stages.bundle import SHIPPED, Bundle
from stages.engines.onnxruntime_engine import OnnxRuntimeEngine
from stages.engines.streaming_engine import StreamingEngine
from tests.runtime.test_session import Film, mask_lines, options, real_sites, run
from tests.support.edge import write_photo

CPU = "onnxruntime-cpu"


@pytest.mark.parametrize(
    ("whole_s", "work_s", "left_s", "chosen", "words"),
    [
        (
            3.0,
            2.9,
            2.6,
            STREAMING,
            "2600.0 ms of it are left when the last window has come, whole it takes 3000.0",
        ),
        (3.0, 3.05, 2.6, STREAMING, "in all it takes 3050.0 ms (--encoder whole runs it whole)"),
        (3.0, 2.95, 2.9, WHOLE, "row by row 2900.0 ms would be left"),
        (
            3.0,
            3.10,
            2.6,
            WHOLE,
            "row by row it takes 3100.0 ms in all (--encoder streaming runs it row by row)",
        ),
    ],
)
def test_streaming_is_chosen_where_it_leaves_less_and_costs_no_more(
    whole_s: float, work_s: float, left_s: float, chosen: str, words: str
) -> None:
    measured = Measured(whole_s, work_s, left_s)
    assert measured.chosen == chosen
    assert words in measured.text


def test_what_is_measured_is_told_and_taken(mini_streaming_bundle: Bundle) -> None:
    said: list[str] = []
    engine = make_global(mini_streaming_bundle, None, CPU, 1, range(15), said.append)
    kind = StreamingEngine if "runs row by row" in said[0] else OnnxRuntimeEngine
    assert type(engine) is kind
    assert len(said) == 1


def test_a_form_that_is_pinned_is_not_measured(mini_streaming_bundle: Bundle) -> None:
    said: list[str] = []
    for form, kind in ((STREAMING, StreamingEngine), (WHOLE, OnnxRuntimeEngine)):
        assert type(make_global(mini_streaming_bundle, form, CPU, 1, range(15), said.append)) is kind
    assert type(make_global(Bundle.load(SHIPPED), None, CPU, 1, range(15), said.append)) is OnnxRuntimeEngine
    assert said == []


def test_a_bundle_without_the_parts_cannot_stream(tmp_path: Path) -> None:
    picture = write_photo(tmp_path / "photo.png")
    given = ["run", "--source", str(picture), "--point", "1,1", "--out", str(tmp_path / "out"), "--dry-run"]
    assert CliRunner().invoke(main, [*given, "--encoder", "whole"]).exit_code == 0
    refused = CliRunner().invoke(main, [*given, "--encoder", "streaming"])
    assert refused.exit_code == 1
    said = " ".join(refused.output.split())
    assert re.search(r"--encoder streaming needs the parts.*--recode \S+ --streaming", said), said


@pytest.mark.anyio
async def test_a_run_row_by_row_gives_the_masks_of_a_whole_one(
    mini_streaming_bundle: Bundle, tmp_path: Path
) -> None:
    async with real_sites(mini_streaming_bundle, tmp_path) as sites:
        summaries = {
            form: await run(
                mini_streaming_bundle,
                Film(3),
                options(tmp_path / form, sites=sites, encoder=form, trace=trace),
            )
            for form, trace in ((STREAMING, tmp_path / "trace.json"), (WHOLE, None))
        }
    lines = [mask_lines(tmp_path / form) for form in (STREAMING, WHOLE)]
    for mine, theirs in zip(*lines, strict=True):
        one, other = (decode_mask(line["segmentation"]) for line in (mine, theirs))
        assert (one & other).sum() >= 0.999 * (one | other).sum() > 0
    assert "ahead" in summaries[STREAMING]["latency_ms"]
    assert "ahead" not in summaries[WHOLE]["latency_ms"]
    assert '"global, ahead"' in (tmp_path / "trace.json").read_text()
