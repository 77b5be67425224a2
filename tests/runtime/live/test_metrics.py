"""The edge's metrics as Prometheus reads them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from runtime.live.metrics import MetricsOptions, serve_metrics
from runtime.objects.prompts import Prompt, Prompts
from stages.bundle import Bundle
from stages.errors import InputError
from tests.support.keys import keys_for
from tests.support.live import BOARD, FakeLive
from tests.support.live_runs import counted_sites, live_run

pytestmark = pytest.mark.anyio


async def scraped(line: str) -> dict[tuple[str, str], float]:
    """(name, values of labels: site, operator) -> value."""
    async with aiohttp.ClientSession() as session, session.get(line.split()[-1]) as response:
        assert response.status == 200
        assert response.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        text = await response.text()
    samples = (sample for family in text_string_to_metric_families(text) for sample in family.samples)
    return {
        (sample.name, " ".join(v for _, v in sorted(sample.labels.items(), reverse=True))): sample.value
        for sample in samples
    }


async def test_what_a_run_did_can_be_scraped(mini_bundle: Bundle, tmp_path: Path) -> None:
    prompts = Prompts((Prompt("cup", (150, 60, 450, 300)),))
    async with (
        counted_sites(mini_bundle, tmp_path) as sites,
        live_run(mini_bundle, sites.file, prompts) as run,
        serve_metrics(run.live, MetricsOptions(port=0)) as line,
    ):
        for _ in range(3):
            await run.frame()
        found = await scraped(line)
        status = run.live.status()
    assert found["pedsam_frames_total", ""] == 3
    assert found["pedsam_windows_sent_total", ""] == 45
    assert found["pedsam_frames_lost_total", ""] == found["pedsam_paused", ""] == 0
    assert found["pedsam_latency_seconds", ""] == pytest.approx(status.latency_ms / 1e3)
    for site in status.sites:
        labels = f"{site.name} {site.operator}"
        assert found["pedsam_site_tiles_total", labels] == 15
        assert found["pedsam_site_bytes_up_total", labels] == site.bytes_up > 0
        assert found["pedsam_site_head_bytes_up_total", labels] == site.head_bytes_up > 0
        assert found["pedsam_site_head_bytes_down_total", labels] == site.head_bytes_down > 0
        assert found["pedsam_site_up", labels] == 1
        assert found["pedsam_site_failures", labels] == 0
        assert found["pedsam_operator_windows_seen", site.operator] == 5
        assert found["pedsam_operator_picture_share", site.operator] == pytest.approx(1 / 3, abs=0.05)
        assert found["pedsam_site_checks_total", labels] == site.checks
    assert found["pedsam_frames_doubtful_total", ""] == 0
    assert found["pedsam_step_seconds", "global"] > 0


async def test_what_the_board_does_can_be_scraped() -> None:
    live = FakeLive()
    async with serve_metrics(live, MetricsOptions(port=0)) as line:
        assert not any(name.startswith("pedsam_board") for name, _ in await scraped(line))
        live.board = replace(BOARD, gpu_percent=None, memory_available_mb=None, board_power_mw=None)
        partly = await scraped(line)
        live.board = replace(BOARD, throttle_events={"average over-current": 3}, power_mw={"VDD_IN": -3})
        found = await scraped(line)
    board = {name: value for name, value in found.items() if name[0].startswith("pedsam_board")}
    assert board == {
        ("pedsam_board_gpu_load_percent", ""): 62,
        ("pedsam_board_memory_used_bytes", ""): 3650 * 2**20,
        ("pedsam_board_memory_total_bytes", ""): 7620 * 2**20,
        ("pedsam_board_memory_available_bytes", ""): 3790 * 2**20,
        ("pedsam_board_total_power_milliwatts", ""): 12479,
        ("pedsam_board_temperature_celsius", "cpu"): 53.9,
        ("pedsam_board_temperature_celsius", "gpu"): 53.3,
        ("pedsam_board_power_milliwatts", "VDD_IN"): -3,
        ("pedsam_board_throttle_events_total", "average over-current"): 3,
    }
    untold = {"gpu_load_percent", "memory_available_bytes", "total_power_milliwatts"}
    told = {name.removeprefix("pedsam_board_") for name, _ in partly}
    assert {name.removeprefix("pedsam_board_") for name, _ in board} - told == untold


async def test_a_site_that_fails_its_tiles_is_not_up_and_has_its_count() -> None:
    live = FakeLive()
    live.lose("b", "answered 500", state="failing", failures=3)
    async with serve_metrics(live, MetricsOptions(port=0)) as line:
        found = await scraped(line)
    (operator,) = (site.operator for site in live.status().sites if site.name == "b")
    assert found["pedsam_site_up", f"b {operator}"] == 0
    assert found["pedsam_site_failures", f"b {operator}"] == 3


async def test_off_loopback_keys_are_needed() -> None:
    with pytest.raises(InputError, match=r"0\.0\.0\.0 is not a loopback address: .* give --metrics-keys"):
        async with serve_metrics(FakeLive(), MetricsOptions(host="0.0.0.0", port=0)):  # noqa: S104
            pass


async def test_with_keys_a_request_needs_the_token(tmp_path: Path) -> None:
    keys = keys_for(tmp_path, host="192.0.2.7")
    token = (keys / "token").read_text().strip()
    options = MetricsOptions(host="0.0.0.0", port=0, keys=keys)  # noqa: S104
    async with (
        serve_metrics(FakeLive(), options) as line,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=False)) as session,
    ):
        url, _, where = line.removeprefix("metrics at ").partition(", ")
        assert url.startswith("https://192.0.2.7:")
        assert where == f"with the token in {keys / 'token'}"
        here = url.replace("192.0.2.7", "127.0.0.1")
        for sent, status in (
            ({}, 401),
            ({"Authorization": "Bearer wrong"}, 401),
            ({"Authorization": f"Basic {token}"}, 401),
            ({"Authorization": f"Bearer {token}"}, 200),
        ):
            async with session.get(here, headers=sent) as response:
                assert response.status == status
                assert ("pedsam_site_up" in await response.text()) == (status == 200)


async def test_names_of_others_do_not_lead_to_the_metrics() -> None:
    async with (
        serve_metrics(FakeLive(), MetricsOptions(port=0)) as line,
        aiohttp.ClientSession() as session,
        session.get(line.split()[-1], headers={"Host": "evil.example"}) as response,
    ):
        assert response.status == 421


async def test_a_port_that_is_taken_is_told_in_a_sentence(mini_bundle: Bundle) -> None:
    async with live_run(mini_bundle, None) as run, serve_metrics(run.live, MetricsOptions(port=0)) as line:
        port = int(line.rsplit(":", 1)[1].split("/")[0])
        with pytest.raises(InputError, match=f"cannot listen on 127.0.0.1:{port}"):
            async with serve_metrics(run.live, MetricsOptions(port=port)):
                pass
