"""Who may talk to the preview and read metrics."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from runtime.live.access import Access, RateLimit, load_identity
from stages.errors import InputError
from tests.support.keys import LONG_AGO, keys_for, now

LOCAL = Access("127.0.0.1", "secret")
WIDE = Access("0.0.0.0", "secret", names=("edge.local",), tls=True)  # noqa: S104


@pytest.mark.parametrize("host", ["127.0.0.1:8080", "localhost:9000", "LOCALHOST", "[::1]:8080", "127.0.0.2"])
def test_on_loopback_its_own_names_are_answered(host: str) -> None:
    assert LOCAL.allows_host(host)


@pytest.mark.parametrize(
    "host",
    [None, "", "evil.example", "evil.example:8080", "192.168.1.5:8080", "127.0.0.1.evil.example", "[::1"],
)
def test_on_loopback_no_other_name_is(host: str | None) -> None:
    assert not LOCAL.allows_host(host)


def test_off_loopback_addresses_and_the_names_of_the_certificate_are() -> None:
    assert all(map(WIDE.allows_host, ["192.168.1.5:8080", "[fe80::1]:8080", "edge.local:8080", "EDGE.local"]))
    assert not any(map(WIDE.allows_host, ["evil.example:8080", "edge.local.evil.example", "localhost"]))


def test_only_its_own_page_or_a_program_connects() -> None:
    assert LOCAL.allows_origin(None, "127.0.0.1:8080")
    assert LOCAL.allows_origin("http://127.0.0.1:8080", "127.0.0.1:8080")
    assert WIDE.allows_origin("https://edge.local:8080", "Edge.local:8080")
    for origin in ("http://evil.example", "null", "https://127.0.0.1:8080", "http://127.0.0.1:81", ""):
        assert not LOCAL.allows_origin(origin, "127.0.0.1:8080")


def test_the_token_is_the_whole_of_it() -> None:
    assert LOCAL.accepts("secret")
    assert not any(map(LOCAL.accepts, ["", "secre", "secret ", "Secret", "sécret", "\ud800"]))
    assert "secret" not in repr(LOCAL)


def test_a_rate_allows_twice_its_second_at_once_and_then_its_rate() -> None:
    time_s = 0.0
    rate = RateLimit(10, clock=lambda: time_s)
    assert [rate.allows() for _ in range(21)] == [True] * 20 + [False]
    time_s = 0.25
    assert [rate.allows() for _ in range(3)] == [True, False, False]
    time_s = 1000.0
    assert [rate.allows() for _ in range(21)] == [True] * 20 + [False]


def test_keys_are_read(tmp_path: Path) -> None:
    keys = keys_for(tmp_path, host="edge.local")
    identity = load_identity(keys)
    assert identity.names == ("edge.local",)
    assert identity.token == (keys / "token").read_text().strip()
    assert len(identity.fingerprint.split(":")) == 32
    assert identity.token not in repr(identity)


def test_keys_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    keys = keys_for(tmp_path)
    with pytest.raises(InputError, match=r"server\.pem expired on .*renew it with `pedsam keys --preview`"):
        load_identity(keys, now() + LONG_AGO)
    with pytest.raises(InputError, match="check this machine's clock"):
        load_identity(keys, now() - timedelta(days=100))
    (keys / "server.key").write_text("no key")
    with pytest.raises(InputError, match=r"server\.pem with server\.key in .* cannot be used"):
        load_identity(keys)
    (keys / "token").unlink()
    with pytest.raises(InputError, match=r"holds no token; give the folder that `pedsam keys --preview"):
        load_identity(keys)
