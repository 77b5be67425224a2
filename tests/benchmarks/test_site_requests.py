"""What a request costs a site: both servers answer both clients."""

from __future__ import annotations

from benchmarks.site_requests import measured
from stages.bundle import Bundle, shipped_bundle


def test_both_servers_answer_both_clients() -> None:
    found = measured(Bundle.load(shipped_bundle()), seconds=0.2, rounds=1)
    for client in ("raw", "aiohttp"):
        for server in ("site", "bare"):
            assert found[client][server]["requests_per_s"] > 10
        assert 0 < found[client]["requests_ratio"] < 1.5
