"""Quotas, what one request holds of them, and whom an address counts for."""

from __future__ import annotations

import pytest

from server.limits import MIB, Busy, Limits, Quota, Reservation, client_key
from stages.errors import InputError


def test_a_quota_is_full_for_all_or_for_one() -> None:
    quota = Quota(total=3, share=2)
    quota.take("a", 2)
    assert quota.is_full_for("a")
    assert not quota.is_full_for("b")
    assert not quota.is_full()
    quota.take("b")
    assert quota.is_full()
    quota.release("a", 2)
    assert not quota.is_full_for("a", 2)
    assert quota.is_full(3)


def test_a_request_holds_nothing_until_it_enters_and_nothing_after_its_release() -> None:
    requests, memory = Quota(2, 2), Quota(100, 100)
    hold = Reservation("a", requests, memory)
    hold.release()
    assert (requests.taken, memory.taken) == (0, 0)
    hold.enter(60)
    assert (requests.taken, memory.taken) == (1, 60)
    hold.resize(20)
    assert memory.taken == 20
    for _ in range(2):
        hold.release()
        assert (requests.taken, memory.taken) == (0, 0)


def test_who_finds_no_room_takes_nothing() -> None:
    requests, memory = Quota(2, 1), Quota(100, 60)
    first = Reservation("a", requests, memory)
    first.enter(50)
    for owner, n_bytes, words in (("a", 1, "requests"), ("b", 61, "bytes"), ("c", 51, "bytes")):
        with pytest.raises(Busy, match=f"as many {words} .* try again in 1 s"):
            Reservation(owner, requests, memory).enter(n_bytes)
    with pytest.raises(Busy):
        first.resize(61)
    assert (requests.taken, memory.taken, first.n_bytes) == (1, 50, 50)


@pytest.mark.parametrize(
    ("address", "owner"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::1", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
    ],
)
def test_an_ipv6_network_counts_as_one_address(address: str, owner: str) -> None:
    assert client_key(address) == owner


def test_too_little_memory_for_one_request_is_told_with_what_is_enough() -> None:
    with pytest.raises(InputError, match=r"half of --max-memory 2; give at least 3") as refused:
        Limits(memory_mib=2).check_room_for(MIB + 1)
    assert str(MIB + 1) in str(refused.value)
    Limits(memory_mib=3).check_room_for(MIB + 1)
