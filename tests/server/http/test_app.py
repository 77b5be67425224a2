"""Every route of a site over real HTTP, around a fake engine."""

from __future__ import annotations

import gzip
import json
import logging
import tracemalloc
import zlib
from collections.abc import AsyncIterator

import pytest

from stages import wire
from stages.errors import EngineError
from tests.support.clients import INFER, connected, dial, raw_infer
from tests.support.fakes import FakeEngine, Gate, answers, tiles, tiny_bundle, until
from tests.support.messages import message, request
from tests.support.raw_http import exchange, http

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("unblocked_loop")]

MODELS = ("/v2/models/window", "/v2/models/window/versions/1")


SENT = wire.encode_request(tiles(1), ["embedding"])
DIGEST = tiny_bundle().site_digest

# Health and metadata


HEALTH = {
    "/v2/health/live": {"live": True},
    "/v2/health/ready": {"ready": True},
    **{f"{model}/ready": {"name": "window", "ready": True} for model in MODELS},
}


@pytest.mark.parametrize("path", HEALTH)
async def test_health(path: str) -> None:
    """In JSON, which KServe's client reads; others read the status alone."""
    async with connected() as client:
        response = await client.ask("GET", path)
        assert (response.status, response.json) == (200, HEALTH[path])
        assert response.headers["Content-Type"] == "application/json"
        assert (await client.ask("GET", "/v3")).headers["Content-Type"] == "application/json"


async def test_a_site_whose_batcher_has_crashed_needs_a_new_start() -> None:
    async with connected() as client:
        client.site.batcher.stop()
        assert (await client.ask("GET", "/v2/health/live")).status == 503
        assert (await client.ask("GET", "/v2/health/ready")).status == 503
        response = await client.infer(1)
        assert response.status == 503
        assert response.error == "this site is stopping; use another one"
        assert response.headers["Retry-After"] == "1"


@pytest.mark.parametrize("path", ["/v2", "/v2/"])
async def test_server_metadata(path: str) -> None:
    async with connected() as client:
        data = (await client.ask("GET", path)).json
    assert data["name"] == "pedsam"
    assert data["version"]
    assert "binary_tensor_data" in data["extensions"]


@pytest.mark.parametrize("path", MODELS)
async def test_model_metadata(path: str) -> None:
    async with connected() as client:
        data = (await client.ask("GET", path)).json
    assert data == {
        "name": "window",
        "versions": ["1"],
        "platform": "fake 1.0 on nothing",
        "inputs": [
            {"name": "tile", "datatype": "UINT8", "shape": [-1, 4, 4, 3]},
            {"name": "index", "datatype": "INT32", "shape": [-1, 1]},
            {"name": "extent", "datatype": "INT32", "shape": [-1, 2]},
        ],
        "outputs": [
            {"name": "embedding", "datatype": "FP16", "shape": [-1, 2, 2, 3]},
            {"name": "embedding_q8", "datatype": "INT8", "shape": [-1, 2, 2, 3]},
            {"name": "scale", "datatype": "FP16", "shape": [-1, 2, 2, 1]},
        ],
    }


@pytest.mark.parametrize("path", MODELS)
async def test_model_config_names_the_digest_and_the_code(path: str) -> None:
    async with connected() as client:
        data = (await client.ask("GET", f"{path}/config")).json
    assert data["name"] == "window"
    assert data["max_batch_size"] == 25
    assert data["input"][0] == {"name": "tile", "data_type": "TYPE_UINT8", "dims": [4, 4, 3]}
    assert data["output"][2] == {"name": "scale", "data_type": "TYPE_FP16", "dims": [2, 2, 1]}
    assert data["parameters"] == {
        "site_digest": {"string_value": tiny_bundle().site_digest},
        "code": {"string_value": tiny_bundle().code},
    }


@pytest.mark.parametrize(("queue", "taken"), [(1, 1), (7, 7), (64, 25)])
async def test_a_request_is_never_to_hold_more_than_may_wait(queue: int, taken: int) -> None:
    """Or a busy site would refuse it for ever."""
    async with connected(max_waiting=queue) as client:
        data = (await client.ask("GET", "/v2/models/window/config")).json
    assert data["max_batch_size"] == taken


# Inference


@pytest.mark.parametrize("model", MODELS)
async def test_infer(model: str) -> None:
    sent = wire.encode_request(tiles(3, 9), ["embedding"])
    async with connected() as client:
        response = await client.ask("POST", f"{model}/infer", data=sent.body, headers=sent.headers)
        assert response.holds(3, 9)
        assert response.headers["Content-Type"] == "application/octet-stream"
        assert "Content-Encoding" not in response.headers


async def test_a_batch_of_all_windows_fits() -> None:
    async with connected(max_batch=4) as client:
        assert (await client.infer(*range(25))).holds(*range(25))


async def test_json_both_ways_and_the_id_comes_back() -> None:
    inputs = {name: array.tolist() for name, array in tiles(3).items()}
    head = {
        "id": "frame 7",
        "inputs": [
            {"name": "tile", "datatype": "UINT8", "shape": [1, 4, 4, 3], "data": inputs["tile"]},
            {"name": "index", "datatype": "INT32", "shape": [1, 1], "data": inputs["index"]},
            {"name": "extent", "datatype": "INT32", "shape": [1, 2], "data": inputs["extent"]},
        ],
        "outputs": [{"name": "embedding_q8"}],
    }
    async with connected() as client:
        response = await client.ask("POST", INFER, json=head)
        assert wire.HEADER_LENGTH not in response.headers
        data = response.json
    assert (data["id"], data["model_name"], data["model_version"]) == ("frame 7", "window", "1")
    (output,) = data["outputs"]
    assert output["data"] == answers(tiles(3))["embedding_q8"].ravel().tolist()


async def test_bodies_are_never_compressed_by_the_site() -> None:
    async with connected() as client:
        response = await client.ask("GET", MODELS[0], headers={"Accept-Encoding": "gzip, deflate"})
        assert "Content-Encoding" not in response.headers


async def test_many_requests_at_once_share_engine_calls_and_each_gets_its_own_answer() -> None:
    gate = Gate()
    engine = FakeEngine(gate)
    async with connected(engine, max_batch=8) as client:
        first = client.begin(0)
        await gate.entered.wait()
        others = [client.begin(window) for window in range(1, 17)]
        await until(lambda: client.site.batcher.waiting == 16)
        gate.open()
        assert (await first).holds(0)
        for window, other in enumerate(others, start=1):
            assert (await other).holds(window)
    assert [len(batch) for batch in engine.batches] == [1, 8, 8]


# Errors


@pytest.mark.parametrize(
    ("method", "path", "headers"),
    [
        ("GET", INFER, {"Allow": "POST"}),
        ("DELETE", MODELS[0], {"Allow": "GET,HEAD"}),
        ("POST", INFER, {"Accept-Encoding": "gzip, deflate"}),
    ],
)
async def test_refusals_say_what_would_be_taken(method: str, path: str, headers: dict[str, str]) -> None:
    async with connected() as client:
        response = await client.ask(method, path, data=b"x", headers={"Content-Encoding": "zip"})
        assert response.error
        assert headers.items() <= dict(response.headers).items()


@pytest.mark.parametrize("path", ["/%0d%0a\x00", "/%1b%5b2J"])
async def test_a_path_is_shown_without_what_steers_a_terminal(path: str) -> None:
    async with connected() as client:
        response = await client.ask("GET", path)
        assert response.status == 404
        assert "is not here" in response.error


async def test_a_malformed_request_gets_its_sentence_and_the_connection_goes_on() -> None:
    engine = FakeEngine()
    body, length = request(lambda head: head["inputs"][0].update(datatype="FP32"))
    async with connected(engine) as client:
        response = await client.ask("POST", INFER, data=body, headers={wire.HEADER_LENGTH: length})
        assert response.status == 400
        assert response.error == "tile is float32, expected uint8"
        assert (await client.infer(1)).holds(1)
    assert engine.batches == [(1,)]


@pytest.mark.parametrize(
    ("if_match", "status"),
    [
        ([f'"{DIGEST}"'], 200),
        ([f'"other", "{DIGEST}"'], 200),
        (['"other"', f'"{DIGEST}"'], 200),
        (["*"], 200),
        (['"other"'], 412),
        (['"*"'], 412),
        ([f'W/"{DIGEST}"'], 412),  # a weak tag matches nothing
        ([DIGEST], 400),
        ([f"'{DIGEST}'"], 400),
        ([f'"{DIGEST}'], 400),
        (["other"], 400),
        ([""], 400),
        ([","], 400),
        ([f'"{DIGEST}" "other"'], 400),
        ([f'"{DIGEST}"', "other"], 400),
        ([" ," * 2000 + "x"], 400),
    ],
)
async def test_a_precondition_that_cannot_be_read_is_refused(if_match: list[str], status: int) -> None:
    headers = [*SENT.headers.items(), *(("If-Match", text) for text in if_match)]
    async with connected() as client:
        answer = await client.ask("POST", INFER, data=SENT.body, headers=headers)
        assert answer.status == status
        assert status != 400 or "expected the site digest in double quotes" in answer.error


@pytest.mark.parametrize("other", [str(SENT.header_length), "5", "", "many"])
async def test_two_lengths_of_the_header_are_refused(other: str) -> None:
    async with connected() as client:
        headers = [*SENT.headers.items(), (wire.HEADER_LENGTH, other)]
        answer = await client.ask("POST", INFER, data=SENT.body, headers=headers)
        assert (answer.status, answer.error) == (400, f"{wire.HEADER_LENGTH} is given 2 times; send it once")
        assert (await client.infer(3)).holds(3)


async def test_a_body_larger_than_the_largest_batch_is_refused() -> None:
    async with connected() as client:
        response = await client.ask("POST", INFER, data=bytes(100_000))
        assert response.status == 413
        assert "send fewer tiles a request" in response.error
        assert (await client.infer(1)).holds(1)


async def test_a_body_that_says_it_is_too_large_is_refused_unread() -> None:
    async with connected() as client:
        reader, writer = await dial(client.site)
        writer.write(
            raw_infer(1).partition(b"\r\n\r\n")[0].replace(b"Length: ", b"Length: 9999") + b"\r\n\r\n"
        )
        assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 413")
        writer.close()
        await writer.wait_closed()


async def test_a_body_that_does_not_tell_its_size_is_refused_once_it_is_too_large() -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield bytes(1000)

    async with connected() as client:
        response = await client.ask("POST", INFER, data=chunks())
        assert response.status == 413
        assert "send fewer tiles a request" in response.error


BOMB = bytes(1 << 26)  # 1000 times the largest batch, in 64 KiB: as much as is not refused unread


@pytest.mark.parametrize(
    ("encoding", "bomb"), [("gzip", gzip.compress(BOMB)), ("deflate", zlib.compress(BOMB))]
)
async def test_a_compressed_body_is_unpacked_no_further_than_the_largest_batch(
    encoding: str, bomb: bytes
) -> None:
    async with connected() as client:
        assert (await client.infer(1)).holds(1)  # what a request needs anyway is there now
        tracemalloc.start()
        try:
            reply = await exchange(client.site.url, http("POST", INFER, bomb, {"Content-Encoding": encoding}))
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert reply is not None
        assert reply.status == 413
        assert peak < len(BOMB) / 32
        await until(lambda: client.site.state.quotas.memory.taken == 0)
        assert (await client.infer(1)).holds(1)


async def test_a_full_queue_says_when_to_come_back() -> None:
    gate = Gate()
    async with connected(FakeEngine(gate), max_waiting=2) as client:
        running = client.begin(1)
        await gate.entered.wait()
        waiting = client.begin(2, 3)
        await until(lambda: client.site.batcher.waiting == 2)
        refused = await client.infer(4)
        assert refused.status == 503
        assert refused.headers["Retry-After"] == "1"
        assert "the queue is full" in refused.error
        assert client.site.batcher.statistics.refused == 1
        gate.open()
        assert (await running).holds(1)
        assert (await waiting).holds(2, 3)
        assert (await client.infer(4)).holds(4)


async def test_an_engine_that_fails_is_a_500_without_details_and_the_next_request_is_served(
    caplog: pytest.LogCaptureFixture,
) -> None:
    engine = FakeEngine(failures={"infer": EngineError("the device is on fire")})
    async with connected(engine) as client:
        response = await client.infer(1)
        assert response.status == 500
        assert response.error == "the site failed to serve this request; its log says why"
        assert "the device is on fire" in caplog.text
        engine.failures.clear()
        assert (await client.infer(2)).holds(2)


async def test_an_error_nobody_foresaw_is_a_500_too(caplog: pytest.LogCaptureFixture) -> None:
    engine = FakeEngine(failures={"infer": ZeroDivisionError("by zero")})
    async with connected(engine) as client:
        response = await client.infer(1)
        assert response.status == 500
        assert "the site failed" in response.error
    assert "ZeroDivisionError: by zero" in caplog.text


# Senders that go away


async def test_tiles_of_a_sender_that_disconnects_leave_the_queue() -> None:
    gate = Gate()
    engine = FakeEngine(gate)
    async with connected(engine) as client:
        running = client.begin(1)
        await gate.entered.wait()
        _, writer = await dial(client.site)
        writer.write(raw_infer(2, 3))
        await until(lambda: client.site.batcher.waiting == 2)
        writer.close()
        await writer.wait_closed()
        await until(lambda: client.site.batcher.waiting == 0)
        gate.open()
        assert (await running).holds(1)
    assert engine.batches == [(1,)]


async def test_a_sender_that_disconnects_in_the_middle_of_a_body_leaves_nothing_behind() -> None:
    async with connected() as client:
        for _ in range(3):
            _, writer = await dial(client.site)
            writer.write(raw_infer(1)[:-10])
            await writer.drain()
            writer.close()
            await writer.wait_closed()
        assert (await client.infer(2)).holds(2)
        done = client.site.batcher.statistics
        assert (done.tiles, done.batches, done.refused) == (1, 1, 0)


async def test_pixels_are_never_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    pixels = b"PIXELS\x00\xffPIXELS"
    bad = {"inputs": [{"name": "tile", "datatype": "UINT8", "shape": [1, 4, 4, 3], "data": ["PIXELS"]}]}
    async with connected() as client:
        reader, writer = await dial(client.site)
        writer.write(b"GET /v2 HTTP/1.1\r\nHost: site\r\n\r\n")
        await reader.readuntil(b"}")
        writer.write(pixels + b"\r\n\r\n")  # what follows a body sent with too small a Content-Length
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
        assert answer.startswith(b"HTTP/1.0 400")
        body, length = message(bad, pixels)
        response = await client.ask("POST", INFER, data=body, headers={wire.HEADER_LENGTH: str(length)})
        assert response.status == 400
        assert client.site.state.refusals.counts["no_http"] == 1
    assert "PIXELS" not in caplog.text
    assert "PIXELS" not in json.dumps([str(record.args) for record in caplog.records])
