"""Warnings about sites that may be one party: pure functions on what was seen, and one real pair of sites."""

from __future__ import annotations

import shutil
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from pathlib import Path

import pytest

from runtime.check.check import CheckOptions, check_sites
from runtime.check.reachability import Certificate
from runtime.check.warnings import (
    SiteFacts,
    clock,
    expiring,
    proxies,
    shared_addresses,
    shared_certificates,
    shared_secrets,
    warnings,
)
from runtime.sites.config import SiteConfig
from stages.bundle import Bundle
from tests.support.edge import Impostor, config
from tests.support.failing_sites import WAITS
from tests.support.keys import keys_for, now, site_at
from tests.support.tls import answering, nothing

NOON = datetime(2026, 6, 1, 12, tzinfo=timezone.utc)


def at(name: str, *addresses: str, operator: str = "") -> SiteFacts:
    return SiteFacts(config(name, operator=operator), addresses)


def certificate(key: str = "k", days: float = 365) -> Certificate:
    return Certificate("site", "authority", NOON + timedelta(days=days), "f", key)


ASK = "ask the operators where they run, or use another site"


@pytest.mark.parametrize(
    ("sites", "expected"),
    [
        ([at("a", "203.0.113.7"), at("b", "198.51.100.7")], []),
        (
            [at("a", "203.0.113.7"), at("b", "203.0.113.7")],
            [
                "sites a (operator-a) and b (operator-b) answer at the same address 203.0.113.7: one machine "
                f"or one proxy may see the windows of all of them; {ASK}"
            ],
        ),
        (
            [at("a", "203.0.113.7"), at("b", "203.0.113.250"), at("c", "203.0.114.7")],
            [
                "sites a (operator-a) and b (operator-b) are in one address range 203.0.113.0/24: one "
                f"provider may run them all; {ASK}"
            ],
        ),
        (
            [at("a", "2001:db8:7::1"), at("b", "2001:db8:7:ffff::2"), at("c", "2001:db8:8::1")],
            [
                "sites a (operator-a) and b (operator-b) are in one address range 2001:db8:7::/48: one "
                f"provider may run them all; {ASK}"
            ],
        ),
        ([at("a", "203.0.113.7", operator="x"), at("b", "203.0.113.7", operator="x")], []),
        ([at("a", "203.0.113.7"), at("b")], []),
        (
            [at("a", "127.0.0.1"), at("b", "203.0.113.7")],
            [
                "site a is on this machine (loopback): good for a trial, but whoever runs the machine sees "
                "the whole picture"
            ],
        ),
        (
            [at("a", "127.0.0.1"), at("b", "::1")],
            [
                "sites a, b are on this machine (loopback): good for a trial, but whoever runs the machine "
                "sees the whole picture"
            ],
        ),
    ],
)
def test_addresses(sites: list[SiteFacts], expected: list[str]) -> None:
    assert shared_addresses(sites) == expected


def test_a_third_site_in_the_range_of_two_at_one_address_is_told_too() -> None:
    found = shared_addresses([at("a", "203.0.113.7"), at("b", "203.0.113.7"), at("c", "203.0.113.8")])
    assert ["the same address" in line for line in found] == [True, False]
    assert "c (operator-c) are in one address range" in found[1]


def test_one_key_behind_two_operators() -> None:
    def seen(name: str, key: str, operator: str = "") -> SiteFacts:
        return SiteFacts(config(name, operator=operator), certificate=certificate(key))

    (line,) = shared_certificates([seen("a", "k" * 64), seen("b", "k" * 64), seen("c", "m" * 64)])
    assert line.startswith(
        "sites a (operator-a) and b (operator-b) show the same certificate key (SHA-256 kkkkkkkkkkkkkkkk)"
    )
    assert line.endswith("make keys for each with `pedsam keys`, and copy each its own folder")
    assert shared_certificates([seen("a", "k", "x"), seen("b", "k", "x")]) == []
    assert shared_certificates([at("a"), at("b")]) == []


@pytest.mark.parametrize("what", ["token", "client certificate", "ca"])
def test_the_same_secret_for_two_operators(tmp_path: Path, what: str) -> None:
    """Files count by what they hold: a copy is the same certificate."""
    first, second = (
        replace(site_at("", keys_for(tmp_path / name, name)), operator=f"operator-{name}") for name in "ab"
    )
    assert shared_secrets([SiteFacts(first), SiteFacts(second)]) == []
    (line,) = shared_secrets([SiteFacts(first), SiteFacts(same(first, second, what, tmp_path / "copy.pem"))])
    assert line == (
        f"sites a (operator-a) and b (operator-b) have the same {what} in sites.toml, so that they can tell "
        "that they work for one edge; make keys for each with `pedsam keys`"
    )
    assert str(first.token) not in line


def same(first: SiteConfig, second: SiteConfig, what: str, copy: Path) -> SiteConfig:
    """The second site with one of the first one's secrets."""
    if what == "token":
        return replace(second, token=first.token)
    assert first.ca is not None
    assert first.cert is not None
    shutil.copy(first.ca if what == "ca" else first.cert, copy)
    return replace(second, ca=copy) if what == "ca" else replace(second, cert=copy)


def test_a_secret_that_is_gone_is_not_the_same_as_another(tmp_path: Path) -> None:
    gone = tmp_path / "gone.pem"
    assert shared_secrets([SiteFacts(replace(config(name), ca=gone)) for name in "ab"]) == []


@pytest.mark.parametrize("header", ["Via", "X-Forwarded-For", "CF-Ray", "x-cache"])
def test_a_proxy_that_names_itself(header: str) -> None:
    (line,) = proxies(SiteFacts(config("a"), headers={header: "1.1 somewhere", "Server": "x"}))
    assert line == (
        f"site a: answers through a proxy ({header.lower()}: 1.1 somewhere); if TLS ends there, whoever runs "
        "it sees the tiles too; reach the site directly, or count that party as its operator"
    )
    assert proxies(SiteFacts(config("a"), headers={"Server": "Python aiohttp"})) == []
    assert proxies(at("a")) == []


@pytest.mark.parametrize(("days", "warned"), [(31, False), (29, True), (0.5, True), (-1, False)])
def test_a_certificate_near_its_end(days: float, warned: bool) -> None:
    """One that has expired is no warning: connecting fails."""
    found = expiring(SiteFacts(config("a"), certificate=certificate(days=days)), NOON)
    assert bool(found) is warned
    if found:
        assert found[0] == (
            f"site a: its certificate is good until {NOON + timedelta(days=days):%Y-%m-%d}; renew it with "
            "`pedsam keys` and copy its folder to the site again"
        )


def test_a_client_certificate_near_its_end(tmp_path: Path) -> None:
    site = site_at("", keys_for(tmp_path, days=10))
    (line,) = expiring(SiteFacts(site), now())
    assert line.startswith(f"site a: this edge's certificate {site.cert} is good until ")


@pytest.mark.parametrize(
    ("ahead_minutes", "words"),
    [(0, None), (4, None), (-4, None), (12, "12 minutes ahead of"), (-90, "90 minutes behind")],
)
def test_clocks_that_differ(ahead_minutes: int, words: str | None) -> None:
    date = format_datetime(NOON + timedelta(minutes=ahead_minutes), usegmt=True)
    found = clock(SiteFacts(config("a"), headers={"Date": date}, at=NOON))
    if words is None:
        assert found == []
    else:
        assert found == [
            f"site a: its clock is {words} this machine's; set both clocks (timedatectl set-ntp true), or "
            "certificates will seem expired or not valid yet"
        ]


@pytest.mark.parametrize(
    "date", ["", "yesterday", "Mon, 01 Jun 2026 12:00:00", "Mon, 01 Jun 2026 12:00:00 +9999999999999"]
)
def test_a_date_that_tells_nothing(date: str) -> None:
    assert clock(SiteFacts(config("a"), headers={"Date": date}, at=NOON)) == []
    assert clock(at("a")) == []


def test_all_of_them_together() -> None:
    seen = [replace(at(name, "203.0.113.7"), certificate=certificate(days=3)) for name in "ab"]
    assert len(warnings(seen, NOON)) == 4  # an address, a key, and two certificates near their end


@pytest.mark.anyio
async def test_two_operators_behind_one_real_server(mini_bundle: Bundle, tmp_path: Path) -> None:
    """One key and one proxy in front of both; that neither answers well does not hide it."""
    keys = keys_for(tmp_path)
    async with answering(nothing, keys) as url, Impostor(mini_bundle).running():
        first = site_at(url, keys)
        second = replace(first, name="b", operator="beta")
        report = await check_sites(mini_bundle, [first, second], CheckOptions(timeouts=WAITS))
    found = "\n".join(report.warnings)
    assert "sites a (a) and b (beta) show the same certificate key" in found
    assert "have the same token" in found
    assert "have the same client certificate" in found
    assert "have the same ca" in found
