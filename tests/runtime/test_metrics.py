"""The edge's metrics as Prometheus reads them."""

from __future__ import annotations

from pathlib import Path

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from runtime.metrics import serve_metrics
from runtime.prompts import Prompt, Prompts
from stages.bundle import Bundle
from stages.errors import InputError
from tests.live_runs import counted_sites, live_run

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
        serve_metrics(run.live, "127.0.0.1", 0) as line,
    ):
        for _ in range(3):
            await run.frame()
        found = await scraped(line)
        status = run.live.status()
    assert found["pedsam_frames_total", ""] == 3
    assert found["pedsam_windows_sent_total", ""] == 45
    assert found["pedsam_frames_lost_total", ""] == found["pedsam_paused", ""] == 0
    assert found["pedsam_latency_seconds", ""] == pytest.approx(status["latency_ms"] / 1e3)
    for site in status["sites"]:
        labels = f"{site['name']} {site['operator']}"
        assert found["pedsam_site_tiles_total", labels] == 15
        assert found["pedsam_site_bytes_up_total", labels] == site["bytes_up"] > 0
        assert found["pedsam_site_up", labels] == 1
        assert found["pedsam_operator_windows_seen", site["operator"]] == 5
    assert found["pedsam_step_seconds", "global"] > 0


async def test_a_port_that_is_taken_is_told_in_a_sentence(mini_bundle: Bundle) -> None:
    async with live_run(mini_bundle, None) as run, serve_metrics(run.live, "127.0.0.1", 0) as line:
        port = int(line.rsplit(":", 1)[1].split("/")[0])
        with pytest.raises(InputError, match=f"cannot be served on 127.0.0.1:{port}"):
            async with serve_metrics(run.live, "127.0.0.1", port):
                pass
