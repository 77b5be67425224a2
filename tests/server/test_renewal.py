"""Keys renewed while a site runs, and a certificate that ends while it does."""

from __future__ import annotations

import asyncio
import logging
import shutil
import signal
import ssl
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import pytest

from runtime.credentials.keys import make_keys, parse_sites
from server.keys import load_keys, renew
from server.periodic import CertificateCheck, periodic_checks
from server.refusals import Refusals
from server.state import SiteState
from stages.bundle import Bundle
from stages.errors import InputError
from tests.support.fakes import tiny_bundle, until
from tests.support.keys import keys_for, site_at
from tests.support.processes import serving

NOW = datetime.now(timezone.utc)


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    return keys_for(tmp_path, days=40)


def renew_folder(keys: Path, rotate_token: bool = False) -> None:
    """As `pedsam keys` run again at the edge and copied to the site."""
    make_keys(parse_sites(["a=https://127.0.0.1:8443"], []), keys.parent, 100, NOW, rotate_token)


# Renewing


def test_renewed_keys_keep_the_tls_settings_in_use(keys: Path) -> None:
    before = load_keys(keys)
    renew_folder(keys, rotate_token=True)
    after = renew(before)
    assert after.context is before.context
    assert after.until > before.until
    assert after.token != before.token


def test_an_unusable_folder_changes_nothing(keys: Path) -> None:
    before = load_keys(keys)
    (keys / "server.pem").write_text("nothing")
    with pytest.raises(InputError, match=r"server\.pem with server\.key in .* cannot be used"):
        renew(before)


def test_another_authority_needs_a_restart(keys: Path, tmp_path: Path) -> None:
    before = load_keys(keys)
    shutil.rmtree(keys)
    shutil.copytree(keys_for(tmp_path / "other"), keys)
    with pytest.raises(InputError, match=r"client_ca\.pem is of another authority; restart the site"):
        renew(before)


async def served_certificate(url: str, context: ssl.SSLContext) -> bytes:
    """The certificate a new connection is shown, in DER."""
    address = urlsplit(url)
    _, writer = await asyncio.open_connection(address.hostname, address.port, ssl=context)
    shown: bytes = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    with suppress(ConnectionError, ssl.SSLError):
        await writer.wait_closed()
    return shown


@pytest.mark.anyio
async def test_sighup_renews_the_keys_of_a_site_that_runs(mini_bundle: Bundle, keys: Path) -> None:
    with serving(mini_bundle.path, "--keys", str(keys)) as site:
        old = site_at(site.url, keys)
        context = old.ssl_context()
        assert context is not None
        before = await served_certificate(site.url, context)
        renew_folder(keys, rotate_token=True)
        site.process.send_signal(signal.SIGHUP)
        errors = site.process.stderr
        assert errors is not None
        while "keys_renewed" not in (line := await asyncio.to_thread(errors.readline)):
            assert line
        after = await served_certificate(site.url, context)
        new = site_at(site.url, keys)
        async with aiohttp.ClientSession() as session:
            statuses = []
            for token in (old.token, new.token):
                headers = {"Authorization": f"Bearer {token}"}
                async with session.get(site.url + "/v2", ssl=context, headers=headers) as answer:
                    statuses.append(answer.status)
        site.process.terminate()
        assert site.wait()[0] == 0
    assert after != before
    assert after == ssl.PEM_cert_to_DER_cert((keys / "server.pem").read_text())
    assert statuses == [401, 200]


@pytest.mark.anyio
async def test_a_folder_that_cannot_be_used_is_told_and_the_site_goes_on(
    mini_bundle: Bundle, keys: Path
) -> None:
    with serving(mini_bundle.path, "--keys", str(keys), "--log", "text") as site:
        context = site_at(site.url, keys).ssl_context()
        assert context is not None
        before = await served_certificate(site.url, context)
        (keys / "token").unlink()
        site.process.send_signal(signal.SIGHUP)
        errors = site.process.stderr
        assert errors is not None
        line = await asyncio.to_thread(errors.readline)
        assert f"error: the keys in use stay: {keys} holds no token" in line
        assert await served_certificate(site.url, context) == before


# A certificate that ends


@pytest.mark.parametrize(
    ("left", "event"),
    [
        (timedelta(days=31), None),
        (timedelta(days=29), "certificate_expires"),
        (timedelta(days=-1), "certificate_expired"),
    ],
)
def test_the_end_is_looked_at_once_a_day(
    keys: Path, caplog: pytest.LogCaptureFixture, left: timedelta, event: str | None
) -> None:
    state = SiteState({"1": tiny_bundle()}, load_keys(keys))
    assert state.keys is not None
    now = state.keys.until - left
    check = CertificateCheck(state, now - timedelta(days=1))
    for minute in range(100):
        check.run(now + timedelta(minutes=minute))
    assert [record.__dict__["event"] for record in caplog.records] == [event] * (event is not None)
    check.run(now + timedelta(days=1))
    assert len(caplog.records) == 2 * (event is not None)


def test_a_site_without_keys_has_nothing_that_ends(caplog: pytest.LogCaptureFixture) -> None:
    check = CertificateCheck(SiteState({"1": tiny_bundle()}), NOW)
    check.run(NOW + timedelta(days=9999))
    assert caplog.records == []


@pytest.mark.anyio
async def test_while_a_site_runs_refusals_are_told_and_the_rest_at_its_end(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "pedsam")
    clock = [0.0]
    state = SiteState({"1": tiny_bundle()}, refusals=Refusals(60, lambda: clock[0]))
    async with periodic_checks(state, every_s=0.001):
        state.refusals.refused("token")
        state.refusals.refused("token")
        clock[0] = 60.0
        await until(lambda: len(caplog.records) == 2)
        state.refusals.refused("token", 7)
    assert [record.__dict__["facts"]["count"] for record in caplog.records] == [1, 1, 7]
