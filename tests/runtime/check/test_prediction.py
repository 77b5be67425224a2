"""What the loop will do, in numbers that were worked out by hand."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from runtime.check.edge_speed import measure_edge
from runtime.check.plan import coded_stage
from runtime.check.prediction import (
    EdgeTimes,
    FrameBytes,
    Shares,
    bytes_of_frame,
    cost_of_keeping,
    plan_frame,
    predict,
    windows_kept,
)
from runtime.check.site_speed import Together
from runtime.detectors.network import DetectorOptions
from runtime.keeper import KeepOptions
from runtime.sites.client import SiteClient
from stages.bundle import Bundle
from stages.errors import EngineError, InputError
from stages.geometry import GEOMETRIES
from stages.tensors import Pixels
from tests.support.edge import Impostor, config
from tests.support.failing_sites import WAITS

WIDE = (1080, 1920)  # 15 of 25 windows hold picture
SITES = [config(name) for name in "abc"]
EQUAL = dict.fromkeys("abc", 10.0)
MINI = GEOMETRIES["mini"]
EDGE = EdgeTimes(0.01, 0.05, 0.02, 0.03, window_s=0.004, processor_s=0.1, cores=4)
PLAN = Shares({"a": 5, "b": 5, "c": 5}, at_edge=0)
SIZES = FrameBytes({"fp16": (300_000, 150_000), "int8": (300_000, 75_000)})


def test_three_operators_share_a_wide_frame() -> None:
    plan = plan_frame(MINI, WIDE, SITES, EQUAL)
    assert plan == Shares({"a": 5, "b": 5, "c": 5}, at_edge=0)
    assert plan.sent == 15


def test_it_says_what_each_operator_may_see() -> None:
    seen = plan_frame(MINI, WIDE, SITES, EQUAL).may_see
    assert list(seen) == ["operator-a", "operator-b", "operator-c"]
    assert sum(each.share for each in seen.values()) == pytest.approx(1.0)
    assert max(each.share for each in seen.values()) <= 1 / 3 + 0.03
    assert all(each.windows == 5 and each.most == each.share for each in seen.values())  # caps are full


def test_caps_with_room_let_operators_see_more_when_others_fail() -> None:
    seen = plan_frame(MINI, WIDE, [replace(site, cap=15) for site in SITES], EQUAL).may_see
    assert all(each.share < 0.4 and each.most == pytest.approx(1.0) for each in seen.values())


def test_a_square_frame_has_all_windows() -> None:
    plan = plan_frame(MINI, (500, 500), SITES, EQUAL)
    assert sorted(plan.sites.values()) == [8, 8, 9]


def test_windows_of_a_failed_operator_stay_at_the_edge_when_the_caps_are_full() -> None:
    assert plan_frame(MINI, WIDE, SITES, {"a": 10, "b": 10}) == Shares({"a": 5, "b": 5}, at_edge=5)


def test_windows_of_a_failed_operator_go_where_caps_have_room() -> None:
    sites = [replace(site, cap=7) for site in SITES]
    plan = plan_frame(MINI, WIDE, sites, {"a": 10, "b": 10})
    assert plan == Shares({"a": 7, "b": 7}, at_edge=1)


def test_a_spare_gets_windows_only_when_another_operator_failed() -> None:
    sites = [*SITES, config("d", spare=True)]
    assert plan_frame(MINI, WIDE, sites, EQUAL | {"d": 10}).sites["d"] == 0
    plan = plan_frame(MINI, WIDE, sites, {"a": 10, "b": 10, "d": 10})
    assert plan == Shares({"a": 5, "b": 5, "d": 5}, at_edge=0)


def test_only_a_spare_is_left() -> None:
    sites = [*SITES, config("d", spare=True)]
    assert plan_frame(MINI, WIDE, sites, {"d": 10}) == Shares({"d": 5}, at_edge=10)


def test_sites_of_one_operator_share_by_their_speed() -> None:
    sites = [
        config("a", operator="x"),
        config("b", operator="x"),
        config("c", operator="y"),
        config("d", operator="z"),
    ]
    plan = plan_frame(MINI, WIDE, sites, {"a": 30, "b": 10, "c": 10, "d": 10})
    assert plan == Shares({"a": 4, "b": 1, "c": 5, "d": 5}, at_edge=0)


def test_the_slowest_site_limits() -> None:
    found = predict(PLAN, Together({"a": 0.05, "b": 0.2, "c": 0.1}, 0.01), EDGE, SIZES)
    assert found.limited_by == "the window stage at site b"
    assert found.fps == pytest.approx(5.0)  # 1 / 0.2
    # 5 frames a second are 18,000 an hour
    assert found.gigabytes_an_hour["fp16"] == pytest.approx((5.4, 2.7))
    assert found.gigabytes_an_hour["int8"] == pytest.approx((5.4, 1.35))


def test_engines_of_the_edge_add_up_because_one_thread_runs_them() -> None:
    found = predict(PLAN, Together({"a": 0.06}, 0.01), EDGE, SIZES)
    assert found.limited_by == "the engines at the edge (global + decoder)"
    assert found.fps == pytest.approx(1 / 0.07)


def test_windows_that_run_at_the_edge_add_to_its_engines() -> None:
    plan = Shares({"a": 5, "b": 5}, at_edge=5)
    found = predict(plan, Together({"a": 0.06, "b": 0.06}, 0.01), EDGE, SIZES)
    assert found.limited_by == "the engines at the edge (global + decoder + 5 windows)"
    assert found.fps == pytest.approx(1 / 0.09)  # 0.05 + 0.02 + 5 x 0.004


def test_windows_that_fit_nowhere_have_no_prediction() -> None:
    with pytest.raises(ValueError, match="5 windows of every frame fit nowhere"):
        predict(Shares({"a": 5}, at_edge=5), Together({"a": 0.1}, 0.0), replace(EDGE, window_s=None), SIZES)


@pytest.mark.parametrize(
    ("edge", "limit", "fps"),
    [
        (replace(EDGE, read_s=0.25), "resizing frames", 4.0),
        (replace(EDGE, write_s=0.5), "drawing and writing results", 2.0),
        (replace(EDGE, processor_s=0.3), "the edge's processor (4 cores)", 10.0),  # (0.3 + 0.04 + 0.06) / 4
    ],
)
def test_other_steps_can_limit(edge: EdgeTimes, limit: str, fps: float) -> None:
    found = predict(PLAN, Together({"a": 0.01}, processor_s=0.04), edge, SIZES, shared_s=0.06)
    assert found.limited_by == limit
    assert found.fps == pytest.approx(fps)


@pytest.mark.anyio
@pytest.mark.parametrize("wire", ["fp16"])
async def test_bytes_of_a_tile_are_those_of_a_real_exchange(mini_bundle: Bundle, wire: str) -> None:
    found = bytes_of_frame(mini_bundle, Shares({"a": 1}, 14), {"a": 1}, (300.0, 200.0))
    sizes = found.bodies
    assert found.heads == {"fp16": (300, 200), "int8": (300, 200)}
    assert sizes["fp16"][1] > sizes["int8"][1] > sizes["fp16"][1] / 2
    async with (
        Impostor(mini_bundle).running() as url,
        SiteClient(config("a", url), mini_bundle, wire, WAITS) as client,
    ):
        await client.check_probe(mini_bundle.probe())
        assert (client.traffic.body_up, client.traffic.body_down) == sizes[wire]


def test_heads_count_by_request_and_are_part_of_an_hour(mini_bundle: Bundle) -> None:
    stage = coded_stage(mini_bundle.stage("window"), mini_bundle.geometry, "dct:10/3", 192)
    coded = replace(mini_bundle, stages={**mini_bundle.stages, "window": stage})
    sizes = bytes_of_frame(coded, Shares({"a": 5, "b": 3}, 7), {"a": 25, "b": 1}, (300.0, 200.0))
    # Two answers of 4,850 bytes fit together, of 9,600 none: 2 + 2 + 1 windows, and 1 + 1 + 1.
    assert sizes.heads == {"int8": (6 * 300, 6 * 200), "fp16": (8 * 300, 8 * 200)}
    assert sizes.bodies["int8"][0] < sizes.bodies["fp16"][0]
    heads = {"fp16": (50_000, 20_000), "int8": (30_000, 15_000)}
    with_heads = predict(PLAN, Together({"a": 0.2}, 0.0), EDGE, replace(SIZES, heads=heads))
    assert with_heads.heads_an_hour["fp16"] == pytest.approx((0.9, 0.36))
    assert with_heads.heads_an_hour["int8"] == pytest.approx((0.54, 0.27))
    assert with_heads.gigabytes_an_hour["int8"] == pytest.approx((5.94, 1.62))


@pytest.mark.anyio
async def test_the_steps_of_this_machine(mini_bundle: Bundle) -> None:
    edge = await measure_edge(mini_bundle, (360, 640), "auto", threads=1)
    assert edge.window_s is not None
    assert min(edge.read_s, edge.global_s, edge.decode_s, edge.write_s, edge.window_s) > 0
    assert edge.processor_s > 0
    assert edge.cores >= 1
    assert edge.detect_s == edge.detect_processor_s == 0


def find_slowly(picture: Pixels) -> list[tuple[float, float, float, float]]:
    time.sleep(0.05)
    return []


def find_nothing_on_grey(picture: Pixels) -> list[tuple[float, float, float, float]]:
    raise SystemExit("no colour")


@pytest.mark.anyio
async def test_detectors_are_timed_one_after_another(mini_bundle: Bundle) -> None:
    keep = KeepOptions(kinds=(f"{__name__}:find_slowly", "faces"), detectors=DetectorOptions(64, 1))
    edge = await measure_edge(mini_bundle, (360, 640), "onnxruntime-cpu", 1, keep)
    assert edge.detect_s > 0.05
    assert 0 < edge.detect_processor_s < edge.processor_s


@pytest.mark.anyio
async def test_a_detector_that_fails_is_told(mini_bundle: Bundle) -> None:
    keep = KeepOptions(kinds=(f"{__name__}:find_nothing_on_grey",))
    with pytest.raises(EngineError, match=r"find_nothing_on_grey failed \(SystemExit: no colour\)"):
        await measure_edge(mini_bundle, (360, 640), "onnxruntime-cpu", 1, keep)


def test_detectors_can_be_what_limits() -> None:
    together = Together(dict.fromkeys("abc", 0.02), 0.0)
    looking = replace(EDGE, detect_s=0.5, detect_processor_s=0.04, processor_s=EDGE.processor_s + 0.04)
    found = predict(PLAN, together, looking, SIZES)
    assert found.fps == pytest.approx(1 / 0.5)
    assert found.limited_by == "the detectors of --keep"
    assert predict(PLAN, together, looking.without_detectors(), SIZES) == predict(PLAN, together, EDGE, SIZES)


def test_kept_windows_are_shared_among_no_sites() -> None:
    plan = plan_frame(MINI, WIDE, SITES, EQUAL, kept={0, 7, 24})  # the last one holds no picture
    assert (plan.sent, plan.at_edge, plan.kept) == (13, 0, 2)
    assert max(plan.sites.values()) == 5
    assert sum(each.windows for each in plan.may_see.values()) == 13
    assert plan.least_cap == 5


def test_which_windows_are_kept_of_a_number_and_of_boxes() -> None:
    assert windows_kept(MINI, WIDE, 3) == {0, 1, 2}
    assert windows_kept(MINI, WIDE, 2, boxed={1, 24}) == {0, 1, 2}
    with pytest.raises(InputError, match=r"15 windows of .* are kept, and it has 15; keep at most 14"):
        windows_kept(MINI, WIDE, 14, boxed={1})


def test_what_it_costs_to_keep_windows_and_what_it_saves() -> None:
    """6 of 15 here, so each site has 3 instead of 5; 0.05 s for a window, 0.1 s for those of a site."""
    edge = replace(EDGE, window_s=0.05, processor_s=0.0)
    kept, together = Shares({"a": 3, "b": 3, "c": 3}, at_edge=0, kept=6), Together({"a": 0.12, "b": 0.1}, 0.0)
    assert predict(kept, together, edge, SIZES).fps == pytest.approx(1 / (0.05 + 0.02 + 6 * 0.05))
    sizes, every = FrameBytes({"fp16": (90.0, 45.0)}, {"fp16": (9.0, 3.0)}), SIZES.bodies["fp16"]
    found = cost_of_keeping(kept, PLAN, together, edge, sizes, FrameBytes({"fp16": every}), "fp16")
    assert found.windows == 6
    assert found.edge_s == pytest.approx(0.3)
    assert found.fps_without == pytest.approx(1 / 0.2)  # 0.12 s for 3 windows are 0.2 s for 5
    assert found.bytes_saved == (every[0] - 99.0, every[1] - 48.0)


def test_kept_windows_need_the_window_stage() -> None:
    with pytest.raises(ValueError, match="2 windows"):
        predict(Shares({"a": 13}, 0, kept=2), Together({"a": 0.1}, 0.0), replace(EDGE, window_s=None), SIZES)
