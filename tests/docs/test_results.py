"""Numbers in the pages are those of benchmarks/results."""

from __future__ import annotations

import csv
import io
import json
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

import pytest
from rich.console import Console

from benchmarks.codes import against
from benchmarks.machine import where
from benchmarks.report import differing
from runtime.demo.next_steps import next_steps, own_command
from runtime.results.summary import print_summary
from stages.bundle import Bundle, shipped_bundle
from stages.geometry import GEOMETRIES
from tests.support.documents import README, ROOT, Document, table_rows

RESULTS = Document.read("docs/results.md")
CARD, SMALL = Document.read("stages/mini/README.md"), Document.read("assets/small/README.md")
FILES = ROOT / "benchmarks/results"
# Beginnings of a row of the pages' table, and the row of the file.
ACCURACY = {
    "original block order": "original block order",
    "the same weights, reordered": "the same weights, reordered",
    "reordered and distilled": "reordered and distilled",
    "the six trainings on the CPU": "the six trainings on the CPU",
    "the seven trainings without a code": "the seven trainings without a code",
    "**as shipped": "as shipped",
    "as shipped, fp16 wire": "as shipped, fp16 wire",
    "as shipped, input blurred, sigma 10": "as shipped, input blurred, sigma 10",
    "as shipped, input blurred, sigma 20": "as shipped, input blurred, sigma 20",
    "MobileSAM, 1024 pixels, unsplit": "MobileSAM, 1024 pixels, unsplit",
}


def measured(name: str) -> Any:
    return json.loads((FILES / name).read_text(encoding="utf-8"))


def rounded(value: float, digits: int) -> str:
    """As one rounds by hand: 0.435 is 0.44, whatever the nearest binary number is."""
    return str(Decimal(str(value)).quantize(Decimal(1).scaleb(-digits), ROUND_HALF_UP))


def lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.strip().splitlines()]


def test_sections_that_are_rendered_are_what_their_files_give() -> None:
    assert differing(RESULTS.text) == [], "run python -m benchmarks.report, and look at what it changed"


def test_the_demo_ends_as_the_page_shows() -> None:
    console = Console(file=io.StringIO(), width=80)
    print_summary(console, measured("demo_mini.json"))
    assert isinstance(console.file, io.StringIO)
    (shown,) = RESULTS.blocks("")[:1]
    following = next_steps().replace(own_command(), ".venv/bin/pedsam")
    assert lines(shown)[5:] == lines(console.file.getvalue()) + lines(following)


def test_the_figures_of_reading_a_camera_are_measured() -> None:
    found = measured("capture.json")
    units = {
        "frames/s": ("frames_per_s", 1, ""),
        "processor time of a frame": ("processor_ms_a_frame", 1, " ms"),
        "first picture after": ("first_picture_s", 2, " s"),
    }
    shown = {row[0]: row[1:] for row in table_rows(RESULTS.section("## Reading a camera"))}
    assert shown == {
        name: [rounded(found[way][key], digits) + unit for way in ("here", "process")]
        for name, (key, digits, unit) in units.items()
    }


def test_the_counts_of_stopped_runs_are_measured() -> None:
    found, text = measured("stops.json"), RESULTS.section("## Stopped runs")
    counted = {
        "while frames were under way": found["exit_codes_by_moment"]["frames under way"],
        "during imports and options": found["exit_codes_by_moment"]["imports and options"],
        "while camera, engines and sites were opened": found["exit_codes_by_moment"]["opening"],
        "after the end": found["exit_codes_by_moment"]["after the end"],
    }
    shown = dict(row for row in table_rows(text) if row[0] in counted)
    assert {name: sorted(counts.split(", ")) for name, counts in shown.items()} == {
        name: sorted(f"{code}: {count}" for code, count in counts.items()) for name, counts in counted.items()
    }
    assert found["with_faults"] == []
    assert f"{found['runs']} runs" in text
    assert f"{found['two_signals']} of them by a second" in text
    assert f"took {rounded(found['slowest_ending_s'], 1)} s to end" in text


def test_the_figures_of_the_long_run_are_measured() -> None:
    found, text = measured("soak_mini.json"), RESULTS.section("## A long run")
    names = {"edge": "the edge", "site_a": "a site"}
    units = {"mb": "memory, MB", "threads": "threads", "files": "open files"}
    shown = {row[0]: row[1:] for row in table_rows(text) if row[0]}
    assert shown == {
        f"{names[key.rpartition('_')[0]]}: {units[key.rpartition('_')[2]]}": [
            "{:g} to {:g}".format(*found["range_after_warm_up"][key]),
            f"{growth:g}",
        ]
        for key, growth in found["growth_per_hour"].items()
    }
    counts = found["disturbances"]
    flat = " ".join(text.split())
    assert f"{found['minutes']:g} minutes" in flat
    assert f"its stream {counts['camera_drops']} times" in flat
    assert f"killed {counts['sites_killed']} times and stopped {counts['sites_stopped']} times" in flat
    assert f"{counts['clicks']:,} clicks" in flat
    assert f"{found['frames']:,} frames, none lost, {found['frames_dropped']:,} dropped" in flat
    assert (found["frames_lost"], found["sites_wrong"], found["flat"]) == (0, [], True)


def test_the_counts_of_runs_with_faults_are_measured() -> None:
    found, text = measured("chaos.json"), RESULTS.section("## Runs with faults")
    shown = " ".join(row[1] for row in table_rows(text)).replace(",", "").split()
    assert dict(zip(shown[::2], map(int, shown[1::2]), strict=True)) == found["faults"]
    assert min(found["faults"].values()) > 0
    assert (found["runs_with_broken_invariants"], found["broken_seeds"]) == (0, {})
    assert f"{found['runs']} runs" in text
    assert f"({found['tiles_counted']:,} tiles" in text


def test_the_readme_says_what_the_demo_says() -> None:
    (whole,) = RESULTS.blocks("")[:1]
    assert "5 of 15 windows each" in whole
    assert "what each operator has seen: 5 of 15 windows each" in README.text


@pytest.mark.parametrize(("page", "heading"), [(RESULTS, "## Accuracy"), (CARD, "## Results")], ids=str)
def test_accuracy(page: Document, heading: str) -> None:
    file = measured("accuracy_mini.json")
    rows = {row[0]: [cell.replace("*", "") for cell in row[1:]] for row in table_rows(page.section(heading))}
    for begins, name in ACCURACY.items():
        row = file["rows"][name]
        (cells,) = [cells for label, cells in rows.items() if label.startswith(begins) and cells[1]][:1]
        for cell, prompt in zip(cells, ("box", "point"), strict=True):
            low, high = row["interval95"][prompt]
            assert cell == f"{row['miou'][prompt]:.3f} ({low:.3f} to {high:.3f})", (begins, prompt)
    row = file["rows"]["as shipped"]
    kept = Bundle.load(shipped_bundle()).measured
    assert (kept["pictures"], kept["data"], kept["wire"]) == (177, "heldout", row["wire"])
    for prompt, miou in kept["miou"].items():
        assert miou == pytest.approx(row["miou"][prompt], abs=0.001)
    assert rows["floor: the box itself as mask"][0] == f"{row['floors']['box']:.3f}"
    assert rows["floor: the ellipse inscribed in it"][0] == f"{row['floors']['ellipse']:.3f}"
    assert f"{row['pictures']} held-out pictures with {row['instances']} instances" in page.text


def test_accuracy_by_size() -> None:
    with (FILES / "accuracy_mini_instances.csv").open(encoding="utf-8", newline="") as file:
        large = [row for row in csv.DictReader(file) if float(row["area_share"]) >= 0.02]
    box, ellipse = (
        sum(float(row[key]) for row in large) / len(large) for key in ("iou_box", "floor_ellipse")
    )
    assert f"On the {len(large)} instances above 2 % of the picture mini has {box:.2f}" in RESULTS.text
    assert f"against the ellipse's {ellipse:.2f};" in RESULTS.text


def small_rows() -> dict[str, list[str]]:
    """Rows of small's accuracy as its pages have to show them, those beside it from mini's file."""
    small, mini = measured("accuracy_small.json")["rows"], measured("accuracy_mini.json")["rows"]
    rows = {
        "as shipped": small["as shipped"],
        "as shipped, fp16 wire": small["as shipped, fp16 wire"],
        "mini, as shipped": mini["as shipped"],
        "MobileSAM, 1024 pixels, unsplit": mini["MobileSAM, 1024 pixels, unsplit"],
    }
    return {name: [interval(row, kind) for kind in ("box", "point")] for name, row in rows.items()}


def interval(row: Any, kind: str) -> str:
    low, high = row["interval95"][kind]
    return f"{row['miou'][kind]:.3f} ({low:.3f} to {high:.3f})"


@pytest.mark.parametrize(("page", "heading"), [(RESULTS, "### small"), (SMALL, "## Results")], ids=str)
def test_accuracy_of_small(page: Document, heading: str) -> None:
    found = measured("accuracy_small.json")["rows"]
    assert found["as shipped"]["subject"]["model"] == "small"
    for row, wire in zip(found.values(), ("int8", "fp16"), strict=False):
        assert (row["pictures"], row["instances"], row["how"], row["wire"]) == (177, 745, "sites", wire)
    rows = {
        row[0].replace("*", "").replace(", coded", "").replace(", int8 wire", ""): [
            cell.replace("*", "") for cell in row[1:]
        ]
        for row in table_rows(page.section(heading))
    }
    assert rows == {name: cells for name, cells in small_rows().items() if name in rows}
    assert list(rows)[:2] == ["as shipped", "as shipped, fp16 wire"]


SHARES = {
    "under 0.5 %": (0, 0.005),
    "0.5 to 2 %": (0.005, 0.02),
    "2 to 10 %": (0.02, 0.1),
    "over 10 %": (0.1, 2),
}


def instances(model: str) -> list[dict[str, str]]:
    with (FILES / f"accuracy_{model}_instances.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_accuracy_of_small_by_size() -> None:
    models = {model: instances(model) for model in ("small", "mini")}
    shown = {row[0]: row[1:] for row in table_rows(SMALL.section("## Results").partition("By the share")[2])}
    for name, (least, most) in SHARES.items():
        here = {
            model: [row for row in rows if least <= float(row["area_share"]) < most]
            for model, rows in models.items()
        }
        means = [
            sum(float(row[f"iou_{kind}"]) for row in here[model]) / len(here[model])
            for model in ("small", "mini")
            for kind in ("point", "box")
        ]
        assert shown[name] == [str(len(here["mini"])), *(f"{mean:.2f}" for mean in means)]


def test_small_beside_mini_instance_by_instance() -> None:
    mini, small = instances("mini"), instances("small")
    said = " ".join(RESULTS.section("### small").split())
    card = " ".join(SMALL.section("## Small or mini").split())
    of_size = {
        "all": (0.0, "{box} more than mini by a box and {point} by one point"),
        "under": (0.02, "under 2 % of the picture {box} and {point},"),
        "over": (0.02, "on the larger ones {box} and {point} "),
    }
    for name, (bound, sentence) in of_size.items():
        chosen = [
            [row for row in rows if name == "all" or (float(row["area_share"]) < bound) == (name == "under")]
            for rows in (mini, small)
        ]
        shown = {
            kind: "{:.3f} ({:.3f} to {:.3f})".format(each["mean"], *each["interval95"])
            for kind, each in against(*chosen).items()
        }
        assert sentence.format(**shown) in said
        if name == "under":
            assert f"on the {len(chosen[0])} instances under" in said
            assert f"{shown['point'].replace(' (', ' more by one point (')} and " in card
            assert f"{shown['box'].replace(' (', ' by a box (')};" in card
    ahead = measured("accuracy_mini.json")["rows"]["MobileSAM, 1024 pixels, unsplit"]["miou"]
    shipped = measured("accuracy_small.json")["rows"]["as shipped"]["miou"]
    behind = [f"{ahead[kind] - shipped[kind]:.3f}" for kind in ("box", "point")]
    assert f"stays ahead by {behind[0]} and {behind[1]}:" in said


def test_what_small_costs_beside_mini() -> None:
    models = measured("model_costs.json")["models"]
    rows = {row[0]: row[1:] for row in table_rows(SMALL.section("## Small or mini"))}
    parts = {"window": "window stage, 15 windows, ms", "global": "global stage, ms"}
    for stage, label in {**parts, "decoder": "mask decoder, one object, ms"}.items():
        assert rows[label] == [rounded(models[name]["ms"][stage], 0) for name in ("mini", "small")]
    for way, label in {"up": "a frame of 16:9 to sites, KB", "down": "and back, KB"}.items():
        assert rows[label] == [f"{models[name]['frame_bytes'][way] / 1e3:.1f}" for name in ("mini", "small")]
    small = GEOMETRIES["small"]
    sent = 15 * small.window**2 * (4 * 15 + 2 * 6)  # dct:15/6 of 15 windows, and heads of messages
    assert sent < models["small"]["frame_bytes"]["up"] < 1.1 * sent


def test_tracking() -> None:
    file = measured("tracking_mini.json")
    for row, key in zip(
        table_rows(RESULTS.section("## Tracking")), ("tracked", "last_masks_box", "true_box"), strict=True
    ):
        expected = [rounded(each[key], 2) for each in (*file["sequences"].values(), file["mean"])]
        assert [cell.strip("*") for cell in row[1:]] == expected


def test_what_a_code_costs() -> None:
    found, section = measured("codes_mini.json"), RESULTS.section("## What a code costs")
    assert "\n".join(found["table"]) in section
    first = found["rows"][0]
    assert (first["tiles"], first["components"]) == ("rgb", 192)
    assert f"{first['pictures']} held-out pictures with {first['instances']} instances" in section
    assert {row["how"] for row in found["rows"]} == {first["how"]}
    (thin,) = [row for row in found["rows"] if (row["tiles"], row["components"]) == ("dct:15/6", 64)]
    lost = {kind: rounded(-thin["against_first"][kind]["mean"], 3) for kind in ("box", "point")}
    said = (
        f"`dct:15/6` with 64 components {lost['box']} of mean IoU by a box and {lost['point']} by one point"
    )
    assert said in " ".join(Document.read("docs/what-travels.md").text.split())


def by_line(found: dict[str, Any]) -> dict[str, dict[str, Any]]:
    lines: dict[str, dict[str, Any]] = {}
    for row in found["rows"]:
        lines.setdefault(row["link"], {})[row["bundle"]] = row
    return lines


def rows_of_lines(found: dict[str, Any]) -> list[list[str]]:
    first, *others = found["bundles"]
    return [
        [
            line,
            f"{each[first]['fps']:.2f}",
            *(f"{each[n]['fps']:.1f} ({each[n]['times_first_fps']['median']:.1f})" for n in others),
            " / ".join(f"{each[name]['latency_ms']['p50']:.0f}" for name in found["bundles"]),
        ]
        for line, each in by_line(found).items()
    ]


def test_frames_of_mini_over_a_line() -> None:
    section = RESULTS.section("## mini over a line")
    assert table_rows(section) == rows_of_lines(measured("links_mini.json"))


def test_frames_over_a_line() -> None:
    found, section = measured("links_vit_b.json"), RESULTS.section("## Over a line")
    assert table_rows(section) == rows_of_lines(found)
    again = [row["fps_of_runs"] for row in measured("links_vit_b_again.json")["rows"][1:]]
    least, most = min(map(min, again)), max(map(max, again))
    assert f"gave {least:.1f} to {most:.1f} in all six" in " ".join(section.split())
    home = [each["fps"] for each in by_line(found)["20/100 Mbit/s, 20 ms"].values()]
    said = f"that is {home[-1]:.1f} frames a second instead of {home[0]:.1f}"
    assert said in " ".join(Document.read("docs/what-travels.md").text.split())


def test_the_readme_repeats_numbers_of_the_page() -> None:
    rows = table_rows(README.section("## Results in short"))
    shipped, small = (
        measured(f"accuracy_{model}.json")["rows"]["as shipped"]["miou"] for model in ("mini", "small")
    )
    fps = [run["fps"] for run in measured("throughput_mini.json")["loopback"]["runs"]]
    assert [row[1] for row in rows] == [
        f"mean IoU {shipped['box']:.3f} by a box, {shipped['point']:.3f} by one point",
        f"mean IoU {small['box']:.3f} by a box, {small['point']:.3f} by one point",
        f"mean IoU {measured('tracking_mini.json')['mean']['tracked']:.2f}",
        f"{min(fps):.1f} to {max(fps):.1f} frames/s",
    ]
    machine = where(measured("throughput_mini.json")["loopback"]["machine"]).partition(",")[0]
    assert machine.partition("@")[0].strip() in rows[-1][0]


def test_precision_and_memory() -> None:
    rows = table_rows(RESULTS.section("## Precision"))
    for row, run in zip(rows, measured("precision.json")["rounding"], strict=True):
        assert row[:3] == [run["model"], run["weights"], run["precision"]]
        iou = (rounded(run[key], 3) for key in ("masks_iou_mean", "masks_iou_min"))
        assert row[3:] == [str(run["prompts"]), *iou]
    stages = measured("engine_memory.json")["stages"]
    by_stage = {(row[0], row[1]): row[2:] for row in table_rows(RESULTS.section("## Memory of engines"))}
    for each in stages:
        same = each["stage"] == "decoder" and each["model"].startswith("vit")
        cells = by_stage["each vit" if same else each["model"], each["stage"]]
        weights = "" if each["weights_mb"] is None else f"{each['weights_mb']} MB"
        column = 0 if each["precision"] == "fp16" else 2
        assert cells[column : column + 2] == [weights, f"{each['activations_mb']} MB"], each


def test_gpu() -> None:
    """Every row of onnxruntime's, what the sentence below says of its speed, and how the tests went."""
    pieces = measured("gpu_stages.json")["pieces"]
    runs = pieces["mini fp16 onnxruntime-cuda"]["rows"]
    expected = []
    for run in runs:
        stage, size = run["what"].split(" x ")
        tiles = f"{run['tiles_per_s']:.0f}" if "tiles_per_s" in run else ""
        name = "decoder, objects" if stage == "decoder" else stage
        expected.append([name, size, rounded(run["ms"], 2), tiles])
    section = RESULTS.section("## GPU")
    assert table_rows(section) == expected
    most = max(run.get("tflops", 0) for run in runs)
    assert f"At most it came to {most:.1f} TFLOP/s" in section
    assert f"product reaches {pieces['ceiling']['rows'][0]['tflops']:.0f}." in section
    ended = (FILES / "gpu_tests.log").read_text(encoding="utf-8").splitlines()[-1]
    assert ended.startswith("4 passed, 11 skipped")
    assert "4 passed, 11 skipped" in section


def test_the_time_of_a_training_step() -> None:
    run = measured("training_mini/machine.json")["runs"][-1]
    section = RESULTS.section("## Training")
    assert [row[1] for row in table_rows(section)] == [f"{ms:.0f}" for ms in run["ms_a_step"].values()]
    assert f"{run['steps']:,} steps" in section
    assert f"{run['images_per_s']:.0f} images/s and {run['peak_memory_gb']} GB" in section


def test_accuracy_of_the_card_by_size() -> None:
    with (FILES / "accuracy_mini_instances.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    shown = table_rows(CARD.section("## Results").partition("By the share of the\n")[2])
    ranges = ((0, 0.005), (0.005, 0.02), (0.02, 0.1), (0.1, 1))
    for cells, (least, most) in zip(shown, ranges, strict=True):
        part = [row for row in rows if least <= float(row["area_share"]) < most]
        means = [
            sum(float(row[key]) for row in part) / len(part)
            for key in ("iou_point", "iou_box", "floor_ellipse")
        ]
        assert cells[1:] == [str(len(part)), *(f"{mean:.2f}" for mean in means)]


def test_attention_on_a_gpu() -> None:
    rows = measured("gpu_stages_h200.json")["pieces"]["mini fp16 attention"]["rows"]
    section = RESULTS.section("## Attention on a GPU")
    times = [rounded(row["ms"], 2) for row in rows]
    first, _, second = section.partition("| stage of vit_b |")
    assert [row[1:] for row in table_rows(first)] == [times[:4], times[4:]]
    large = measured("gpu_stages_h200_vit_b.json")["pieces"]["vit_b fp16 attention"]["rows"]
    times = [rounded(row["ms"], 2) for row in large]
    assert [row[1:] for row in table_rows(f"| stage of vit_b |{second}")] == [times[:4], times[4:]]
    faster = [large[0]["ms"] / large[n]["ms"] for n in (2, 3)]
    assert f"{faster[0]:.1f} times as fast as the exported one" in section
    assert f"{faster[1]:.1f} times with padded values" in section
    saved = [round(100 * (1 - rows[n + 1]["ms"] / rows[n]["ms"])) for n in (0, 4)]
    assert f"Masked saves {saved[0]} and {saved[1]} % of a stage here" in section


def test_attention_as_engines_build_it() -> None:
    """Both forms that are exported and three more; which of them TensorRT fuses, and what that moves."""
    found, section = measured("attention_builds.json"), RESULTS.section("## Attention as engines build it")
    forms = [(stage, row) for stage in ("global", "window") for row in found[stage]]
    expected = []
    for stage, row in forms:
        built = row["sm_86"]
        megabytes = [f"{built[key]:.0f} MB" for key in ("moved_mb", "largest_mb", "activations_mb")]
        kernels = [str(built[key]) for key in ("kernels", "fused_attention")]
        if row["form"] != "as exported":
            expected.append([stage, *kernels, *megabytes, f"{row['cpu_ms']:.0f} ms"])
    assert [[row[0], *row[2:]] for row in table_rows(section)] == expected
    assert ("the same figures" in section) == all(row["sm_86"] == row["sm_89"] for _, row in forms)
    built = {row["form"]: row["sm_86"] for row in found["global"]}
    assert built["as exported"] == built["in product"]
    less = built["added"]["moved_mb"] / built["in product"]["moved_mb"]
    assert f"that moves {less:.1f} times less" in section
    cores = {row["core"]: row["cpu_ms_of_4096_queries"] for row in found["cores"]}
    shown = table_rows("| products" + section.partition("| products")[2])
    assert shown == [[name, f"{milliseconds} ms"] for name, milliseconds in cores.items()]
    assert f"take {cores['no positions'] / cores['positions added']:.0%} of their time" in section


def test_what_codes_cost_mobile_sam() -> None:
    found, text = (
        measured("tile_codes_mobile_sam.json"),
        RESULTS.text.partition("### MobileSAM at 1024 pixels")[2],
    )

    def shown(value: dict[str, Any], sign: str) -> str:
        low, high = value["interval95"]
        return f"{value['mean']:{sign}.3f} ({low:{sign}.3f} to {high:{sign}.3f})"

    assert table_rows(text.partition("## Tracking")[0]) == [
        [
            name,
            *(shown(row[kind], "") for kind in ("box", "point")),
            *(shown(row[f"{kind}_difference"], "+") for kind in ("box", "point")),
        ]
        for name, row in found["rows"].items()
    ]
    assert f"{found['pictures']} of the held-out pictures with {found['instances']} instances" in text


def test_the_steps_of_the_exposure_machine_are_measured() -> None:
    found, text = measured("exposure_machine.json"), RESULTS.section("## Exposure under faults")
    flat = " ".join(text.split())
    assert found["violations"] == 0
    assert f"{found['steps']:,} steps" in flat
    assert f"the runs of {found['sessions']:,} sessions" in flat
    assert f"{found['tiles sent']:,} tiles left in {found['runs']:,} runs" in flat
    assert f"{found['second requests for late tiles']:,} of them second requests" in flat
    assert f"{found['copies for a trial']:,} copies for a site on trial" in flat
    assert f"{found['seconds'] // 60} minutes" in flat


def test_what_detectors_cost_is_measured() -> None:
    found = measured("detectors.json")["rows"]
    table = table_rows(RESULTS.section("## Detectors"))
    assert len(table) * 4 == len(found)
    for px, *cells in table:
        expected = [
            f"{row['ms']:.0f} ms, {row['frames_per_second']:.0f}"
            for kind in ("faces", "text")
            for threads in (1, 2)
            for row in found
            if (row["kind"], row["threads"], row["px"]) == (kind, threads, int(px))
        ]
        assert cells == expected


def test_how_many_windows_are_kept_is_measured() -> None:
    found, text = measured("kept_windows.json"), RESULTS.section("## How many windows are kept")
    assert table_rows(text) == [
        [
            str(row["canvas_px"]),
            f"`--keep {','.join(row['keep'])}`",
            "{:.0f} % ({:.0f} to {:.0f})".format(
                *(100 * share for share in (row["windows_kept"], *row["interval95"]))
            ),
            f"{100 * row['pictures_with_any']:.0f} %",
            f"{100 * row['pictures_with_all']:.0f} %",
            f"{row['processor_ms']:.0f} ms",
        ]
        for row in found["rows"]
    ]
    assert {row["pictures"] for row in found["rows"]} == {177}
    assert "177 held-out pictures" in text
    assert f"at {found['keep_px']} pixels" in text
