"""What each benchmark makes of its results for the page, from small ones."""

from __future__ import annotations

from typing import Any

from benchmarks import objects, overlays, site_requests, streaming, three_sites, throughput
from tests.support.documents import table_rows

MACHINE = {"cpu": "AMD EPYC 7", "cores": 2, "date": "2026-11-28", "commit": "abc"}
ON = "two cores of an AMD EPYC 7, 2026-11-28, commit abc"


def run(fps: float, ratio: float, p50_ms: float) -> dict[str, Any]:
    return {"fps": fps, "ratio": ratio, "latency_ms": {"end_to_end": {"p50": p50_ms}}}


def link(mbit: float, delay_ms: float, fps: float, link_fps: float) -> dict[str, Any]:
    bounds = {"link_bound_fps": link_fps, "bound_fps": 10.0, "ratio_to_lower_bound": 0.9}
    return run(fps, 0.8, 1.0) | {"mbit": mbit, "round_trip_added_ms": delay_ms, **bounds}


def test_throughput() -> None:
    def row(*runs: dict[str, Any]) -> dict[str, Any]:
        return {"machine": MACHINE, "runs": runs}

    text = throughput.markdown(
        {
            "fixed": row({"in_flight": 1, "ratio": 0.2}, {"in_flight": 3, "ratio": 0.988}),
            "loopback": row(run(12.34, 0.955, 280), run(15, 0.96, 300)),
            "live": row(run(10, 0.9, 130), run(10.04, 0.9, 130)),
            "link": row(
                *(link(4, 0, 4.8, 5.1), link(4, 0, 4.8, 5.1), link(20, 40.4, 8, 25), link(20, 40.6, 9, 25))
            ),
            "straggler": row(
                *({"hedging": late, "latency_ms": {"p95": ms}} for late, ms in ((False, 1140), (True, 390)))
            ),
            "failing": row(*({"failing_sites": n, "fps": 9.0 + n, "frames_lost": 0} for n in (0, 1))),
        }
    )
    assert [row[1:] for row in table_rows(text)] == [
        [
            "",
            "98 % or more of 1 / the slowest stage (global and decoder share a thread and count as one)",
            ON,
        ],
        ["12.3 to 15.0", "96 % of what the processor allows", ON],
        ["4.8", "90 % of 5.1, what the message bodies allow", ON],
        ["8.0 to 9.0", "80 % of what the processor allows", ON],
        ["10.0", "90 % of what the processor allows", ON],
    ]
    assert "| 20 Mbit/s and 41 ms to each site |" in text
    assert "it takes 0.13 s (medians of each run), a frame of a file 0.28 to 0.30 s" in text
    assert "was 1.14 s, and 0.39 s with a second site" in text
    assert "10.0 frames/s with it, 9.0 without it, in turn, and no frames lost" in text


def test_rows_that_were_not_measured_are_left_out() -> None:
    text = throughput.markdown({"loopback": {"machine": MACHINE, "runs": [run(12, 0.9, 100)]}})
    assert len(table_rows(text + "\n\n")) == 1
    assert "stalled" not in text


def sites(model: str, iou: float | None) -> dict[str, Any]:
    steps = {"windows": 150.0, "global": 61.0, "decode": 19.0}
    return {
        "machine": MACHINE,
        "model": f"{model} (untrained weights)",
        "source": "coffee.png (600, 400)",
        "command_s": 2.49,
        "edge_peak_mb": 195,
        "site_peak_mb": [101, 103, 99],
        "iou_with_unsplit": iou,
        "wire": "int8",
        "bytes_up": 625888,
        "bytes_down": 313953,
        "windows_sent_per_frame": 20.0,
        "windows_skipped_as_padding": 5.0,
        "latency_ms": {name: {"p50": ms} for name, ms in steps.items()},
    }


def test_three_sites_has_a_column_for_each_model() -> None:
    text = three_sites.markdown(sites("mini", None), sites("vit_b", 0.9999153))
    assert "| mini (untrained weights), 600 x 400 | vit_b (untrained weights), 600 x 400 |" in text
    rows = {row[0]: row[1:] for row in table_rows(text)}
    assert rows["windows sent (padding, not sent)"] == ["20 (5)"] * 2
    assert rows["global stage, edge"] == ["0.06 s"] * 2
    assert rows["peak memory, each site, at most"] == ["103 MB"] * 2
    assert rows["sent up / down, probes included"] == ["0.63 / 0.31 MB"] * 2
    assert rows["mask IoU with the unsplit model"] == ["", "0.99992"]
    assert text.endswith(f"- vit_b: {ON}")


def streamed(model: str, hidden: float) -> dict[str, Any]:
    share = {"median": 1.14, "low": 1.106, "high": 1.17}
    engine = {"whole": {"processor_ms": 67.9}, "streaming_of_whole": share, "left_of_whole": share}
    frame = {"round_trip": "5 ms", "computed": {"hidden_ms": hidden}}
    facts = {"machine": MACHINE, "weights": "untrained", "kept_of_padding_ms": 5.2}
    return {**facts, "model": model, "engine": engine, "frames": [frame]}


def test_streaming_has_two_tables() -> None:
    timed = streamed("vit_b", 287.4)
    timed["frames"][0]["measured"] = {"hidden_ms": 50.2, "hidden_ms_quartiles": [-129.1, 174.7]}
    text = streaming.markdown(timed, streamed("vit_h", -473.2))
    first, second = text.split("| round trip")
    assert "| | vit_b | vit_h |" in first
    rows = {row[0]: row[1:] for row in table_rows(first)}
    assert rows["the whole stage, processor ms"] == ["68", "68"]
    assert rows["row by row, of that"] == ["1.14 (1.11 to 1.17)"] * 2
    assert rows["kept of rows without picture, ms"] == ["5", "5"]
    assert table_rows("| round trip" + second) == [
        ["5 ms", "287 computed, 50 timed (-129 to 175)", "-473 computed"]
    ]
    assert f"- vit_h, untrained weights: {ON}" in second


def test_requests_before_and_now() -> None:
    def found(site_us: float) -> dict[str, Any]:
        each = {
            "site": {"cpu_us": site_us, "requests_per_s": 1442.9},
            "bare": {"cpu_us": 92.0, "requests_per_s": 8974.0},
            "cpu_ratio": 0.139,
            "requests_ratio": 0.151,
        }
        return {"machine": MACHINE, "bundles": {"mini": {"raw": each, "aiohttp": each}}}

    rows = table_rows(site_requests.markdown(found(661.7), found(356.2)))
    assert rows[0] == ["raw", "before", "662", "92", "0.14", "1,443", "8,974", "0.15"]
    assert [row[:3] for row in rows[1:]] == [
        ["raw", "now", "356"],
        ["aiohttp", "before", "662"],
        ["aiohttp", "now", "356"],
    ]


def test_objects() -> None:
    def row(ms: float, plain_ms: float) -> dict[str, float]:
        return {"ms": ms, "plain_ms": plain_ms, "ratio": ms / plain_ms}

    result = {
        "machine": MACHINE,
        "model": "mini",
        "matching": {str(count): row(5, 5 * count) for count in objects.OBJECTS},
        "decoder": {str(count): row(8 * count, 10 * count) for count in objects.OBJECTS},
        "tinting": row(1.1, 12.9),
    }
    text = objects.markdown(result)
    assert table_rows(text)[1:3] == [
        ["2", "10.0", "5.0", "0.50", "20.0", "16.0", "0.80"],
        ["4", "20.0", "5.0", "0.25", "40.0", "32.0", "0.80"],
    ]
    assert f"mini; {ON}" in text
    assert "12.9 before, 1.1 now" in text


def test_two_ways_in_turns_are_compared_turn_by_turn() -> None:
    """A machine that gets slower between turns changes no ratio."""
    seconds = iter([9.0, 9.0, 0.1, 0.2, 0.3, 0.6, 0.5, 1.0])
    measured = objects.paired(lambda: None, lambda: None, 3, processor_s=lambda step: next(seconds))
    assert measured == {"ms": 300.0, "plain_ms": 600.0, "ratio": 0.5}


def test_overlays_has_a_row_for_each_number_of_objects() -> None:
    row = {"ms": 2.64, "plain_ms": 1.96, "ratio": 1.5, "first_ms": 4.9}
    text = overlays.markdown({"machine": MACHINE, "overlays": {"1": row, "8": row | {"ms": 16.8}}})
    assert table_rows(text) == [["1", "2.0", "2.6", "1.50", "4.9"], ["8", "2.0", "16.8", "1.50", "4.9"]]
    assert text.endswith(f"{ON}.")
