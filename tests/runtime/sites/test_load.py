"""Several sites of one operator share its windows by their speed; time is virtual."""

from __future__ import annotations

import heapq
from contextlib import ExitStack

import pytest

from runtime.sites.client import SiteClient
from runtime.sites.load import UNKNOWN_AFTER_S, Load, next_of
from stages.bundle import Bundle
from tests.support.edge import config


class Queueing:
    """Sites that answer one tile after the other, each tile after `really_s` of its site."""

    def __init__(self, bundle: Bundle, measured_s: list[float], really_s: list[float]) -> None:
        self.now_s = 0.0
        self.really_s = really_s
        self.given = [0] * len(really_s)
        self.clients = [SiteClient(config(str(n)), bundle, "fp16") for n in range(len(really_s))]
        self.loads = [Load(client, lambda: self.now_s) for client in self.clients]
        self._free_s = [0.0] * len(really_s)
        self._answers: list[tuple[float, int, int, int, ExitStack]] = []
        for client, load, tile_s in zip(self.clients, self.loads, measured_s, strict=True):
            client.tile_s = tile_s
            load.connected()

    def frames(self, number: int, tiles: int, ahead: int) -> list[int]:
        """Tiles that each site was given; `ahead` frames are under way at once."""
        self.given = [0] * len(self.given)
        left = dict.fromkeys(range(number), tiles)
        for frame in range(ahead):
            self._send(frame, tiles)
        while self._answers:
            frame = self._answer()
            left[frame] -= 1
            if left[frame] == 0 and frame + ahead < number:
                self._send(frame + ahead, tiles)
        return self.given

    def _send(self, frame: int, tiles: int) -> None:
        """Route a whole frame before anything of it is under way."""
        for _ in range(tiles):
            site = self.loads.index(next_of(self.loads))  # type: ignore[arg-type]
            self.given[site] += 1
            held = ExitStack()
            held.enter_context(self.loads[site].holding())
            self._free_s[site] = max(self._free_s[site], self.now_s) + self.really_s[site]
            heapq.heappush(self._answers, (self._free_s[site], len(self._answers), site, frame, held))

    def _answer(self) -> int:
        self.now_s, _, site, frame, held = heapq.heappop(self._answers)
        self.loads[site].answered()
        held.close()
        return frame


@pytest.mark.parametrize("slower", [1.0, 1.3, 2.0, 4.0])
@pytest.mark.parametrize("tiles", [3, 5, 15, 25])
@pytest.mark.parametrize("ahead", [1, 2])
def test_each_gets_its_share_by_speed(mini_bundle: Bundle, slower: float, tiles: int, ahead: int) -> None:
    really_s = [0.01, 0.01 * slower]
    given = Queueing(mini_bundle, really_s, really_s).frames(200, tiles, ahead)
    speeds = [1 / each for each in really_s]
    for count, speed in zip(given, speeds, strict=True):
        assert count / sum(given) == pytest.approx(speed / sum(speeds), rel=0.2)


def test_three_sites_share_too(mini_bundle: Bundle) -> None:
    given = Queueing(mini_bundle, [0.01, 0.01, 0.02], [0.01, 0.01, 0.02]).frames(100, 15, 2)
    assert [count / sum(given) for count in given] == pytest.approx([0.4, 0.4, 0.2], rel=0.2)


@pytest.mark.parametrize("measured_s", [[0.02, 0.01], [0.3, 0.01], [0.001, 0.01]])
def test_what_tiles_show_takes_the_place_of_what_probes_showed(
    mini_bundle: Bundle, measured_s: list[float]
) -> None:
    sites = Queueing(mini_bundle, measured_s, [0.01, 0.02])
    sites.frames(2000, 5, 2)
    assert [client.tile_s for client in sites.clients] == pytest.approx([0.01, 0.02], rel=0.1)
    given = sites.frames(200, 5, 2)
    assert [count / sum(given) for count in given] == pytest.approx([2 / 3, 1 / 3], rel=0.2)


def test_a_site_that_does_not_answer_gets_no_more_while_it_keeps_silent(mini_bundle: Bundle) -> None:
    sites = Queueing(mini_bundle, [0.01, 0.01], [0.01, 0.01])
    silent, other = sites.loads
    with silent.holding(), other.holding(), other.holding(), other.holding():
        assert next_of(sites.loads) is silent  # it has less to do
        sites.now_s = 5.0
        other.answered()
        assert next_of(sites.loads) is other
        silent.answered()
        assert silent.expected_s < 0.03  # one long answer is no verdict


def test_a_site_that_was_not_asked_for_long_is_asked_once(mini_bundle: Bundle) -> None:
    """However slow it was; it may hang, or be fast again."""
    sites = Queueing(mini_bundle, [0.01, 10.0], [0.01, 0.01])
    fast, slow = sites.loads
    assert next_of(sites.loads) is fast
    sites.now_s = 2 * UNKNOWN_AFTER_S
    fast.answered()
    assert next_of(sites.loads) is slow
    with slow.holding():
        assert next_of(sites.loads) is fast


def test_tiles_that_are_answered_together_show_what_one_takes(mini_bundle: Bundle) -> None:
    sites = Queueing(mini_bundle, [0.03], [0.01])
    (load,), (client,) = sites.loads, sites.clients
    client.max_batch = 25
    for _ in range(100):
        with ExitStack() as held:
            for _ in range(5):
                held.enter_context(load.holding())
            sites.now_s += 0.05
            load.answered(5)
    assert client.tile_s == pytest.approx(0.01, rel=0.01)


def test_a_site_is_not_overdue_before_tiles_that_share_a_request_can_be_done(mini_bundle: Bundle) -> None:
    now_s = 0.0
    client = SiteClient(config("a"), mini_bundle, "fp16", request_bytes=1 << 20)
    client.tile_s, client.max_batch = 1.0, 25
    load = Load(client, lambda: now_s)
    load.connected()
    with ExitStack() as held:
        for _ in range(5):
            held.enter_context(load.holding())
        now_s = 5.0
        assert load.expected_s == 6.0
        client.max_batch = 1
        assert load.expected_s == 10.0  # an answer was due after each second


def test_of_no_sites_none_is_next() -> None:
    assert next_of([]) is None
