"""Both clients against a site, and the tables; tests/triton measures a real Triton."""

from __future__ import annotations

import asyncio
from functools import partial

import pytest

from benchmarks.site_requests import ServerProcess, idle_site
from benchmarks.triton import markdown
from benchmarks.triton.clients import IN_FLIGHT, counted, one_turn
from benchmarks.triton.report import CLIENTS, DIRECT, ENGINE, NOTHING, PEDSAM, TRITON, Turn, aims, in_short
from benchmarks.triton.servers import Server, Work, called_directly
from stages.bundle import Bundle, shipped_bundle


@pytest.fixture(scope="module")
def work() -> Work:
    return Work("mini", Bundle.load(shipped_bundle()), 8, 20)


def turn(seconds: float, requests: int = 10) -> Turn:
    return Turn(tiles=100, requests=requests, seconds=seconds, processor_s=0.5)


def test_as_many_requests_are_under_way_as_said_while_tiles_are_counted() -> None:
    """Each takes a hundredth of a second, so that eight at a time take an eighth of that each."""
    under_way: list[int] = []
    now = 0

    async def ask(count: int) -> None:
        nonlocal now
        now += 1
        under_way.append(now)
        await asyncio.sleep(0.01)
        now -= 1

    turn = asyncio.run(counted(ask, 3, 100, []))
    assert (turn.tiles, turn.requests) == (102, 34)
    assert turn.seconds >= 30 / IN_FLIGHT * 0.01
    assert set(under_way[IN_FLIGHT:]) <= {IN_FLIGHT - 1, IN_FLIGHT}


def test_both_clients_ask_a_site(work: Work) -> None:
    with ServerProcess(partial(idle_site, work.bundle.path)) as site:
        server = Server(PEDSAM, site.url, site.pid)
        edge, stock = (asyncio.run(one_turn(server, client, work, 20, probed=False)) for client in CLIENTS)
    assert (stock.tiles, stock.requests) == (20, 20)
    assert edge.tiles >= 20
    assert edge.requests < 20  # small windows share requests
    assert min(edge.seconds, stock.seconds) > 0


def test_the_engine_alone_has_turns_of_at_least_as_many_tiles(work: Work) -> None:
    turns = called_directly(work, threads=1)
    first, second = next(turns), next(turns)
    turns.close()
    assert first.tiles == second.tiles == 8
    assert first.processor_s > 0


def made_up() -> dict[str, dict[str, object]]:
    real = in_short(
        {
            f"{PEDSAM}, edge": [turn(1.0), turn(4.0), turn(1.0)],
            f"{TRITON}, edge": [turn(2.0), turn(8.0), turn(2.5)],
            DIRECT: [turn(0.9), turn(3.6), turn(0.9)],
        }
    )
    idle = in_short({f"{PEDSAM}, edge": [turn(1.0)], f"{TRITON}, edge": [turn(0.5, requests=100)]})
    return {"vit_b": {ENGINE: real, NOTHING: idle}}


def test_ratios_are_those_of_each_round() -> None:
    found = made_up()["vit_b"][ENGINE]
    assert found["rows"][DIRECT]["tiles_per_s"]["median"] == pytest.approx(111.1111)  # type: ignore[index]
    ratios = {name: each["median"] for name, each in found["ratios"].items()}  # type: ignore[index]
    assert ratios == pytest.approx(
        {
            f"{PEDSAM}, edge / {TRITON}, edge": 2.0,
            f"{PEDSAM}, edge / {DIRECT}": 0.9,
            f"{TRITON}, edge / {DIRECT}": 0.45,
        }
    )


def test_the_pages_tell_aims_and_leave_empty_what_was_not_measured() -> None:
    models = made_up()
    found = aims(models)
    assert [row["met"] for row in found] == [False, False]
    machine = {"cores": 2, "cpu": "some processor", "date": "2026-01-02"}
    text = markdown(
        {
            "machine": machine, "load": 0.1, "in_flight": 8, "threads": 1, "rounds": 3, "triton": "Triton",
            "models": models, "aims": found,
        }
    )  # fmt: skip
    lines = text.splitlines()
    assert (
        "| vit_b, an engine that does nothing | Triton, edge | 200 (200 to 200) | 200 (200 to 200) | 5,000 |"
        in lines
    )
    assert "| pedsam serve, edge | the engine, called directly | 0.9 (0.9 to 0.9) |  |" in lines
    aim = f"- Aim for vit_b, {ENGINE}: {PEDSAM}, edge / {DIRECT}: at least 0.95; measured 0.90, missed."
    assert lines[-2] == aim
