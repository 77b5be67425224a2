"""tritonclient, the stock client of the Open Inference Protocol, against a site: sync, then asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import pytest
import tritonclient.http as sync_client
import tritonclient.http.aio as aio_client
from tritonclient.utils import InferenceServerException

from server.serve import RunningSite, ServeOptions, running_site
from stages.bundle import Bundle
from stages.engines.backends import make_engine
from stages.tensors import Array
from tests.support.fakes import FakeEngine, Gate, answers, fake_site, tiles, until
from tests.support.noise import noise_windows
from tests.support.processes import serving

Client: TypeAlias = Any  # tritonclient has no types
DATATYPES = {"tile": "UINT8", "index": "INT32", "extent": "INT32"}
ALL_BINARY = dict.fromkeys(DATATYPES, True)
ALL_JSON = dict.fromkeys(DATATYPES, False)


@pytest.fixture(scope="module")
def tiles_of_mini(mini_bundle: Bundle) -> dict[str, Array]:
    """Three windows with picture in all, some and few of their pixels."""
    side = mini_bundle.geometry.tile_px
    return noise_windows(mini_bundle, {0: (side, side), 12: (side, 33), 24: (4, 5)}, seed=5)


@pytest.fixture(scope="module")
def expected(mini_bundle: Bundle, tiles_of_mini: dict[str, Array]) -> dict[str, Array]:
    """What an engine in this process makes of those tiles."""
    engine = make_engine(mini_bundle, "window", threads=1)
    engine.open()
    results = engine.infer(tiles_of_mini)
    engine.close()
    return results


def inputs(arrays: Mapping[str, Array], binary: Mapping[str, bool] = ALL_BINARY) -> list[Any]:
    result = []
    for name, array in arrays.items():
        each = sync_client.InferInput(name, list(array.shape), DATATYPES[name])
        each.set_data_from_numpy(array, binary_data=binary[name])
        result.append(each)
    return result


def outputs(names: Sequence[str], binary: bool = True) -> list[Any]:
    return [sync_client.InferRequestedOutput(name, binary_data=binary) for name in names]


def assert_same(result: Any, expected: Mapping[str, Array], names: Sequence[str]) -> None:
    assert [output["name"] for output in result.get_response()["outputs"]] == list(names)
    for name in names:
        assert result.as_numpy(name).dtype == expected[name].dtype
        assert result.as_numpy(name).shape == expected[name].shape
        # A site batches as it likes, and batches are computed by other kernels than single tiles.
        allowed = 1 if name == "embedding_q8" else 4e-3 * np.abs(expected[name]).max()
        difference = result.as_numpy(name).astype(np.float32) - expected[name].astype(np.float32)
        assert np.abs(difference).max() <= allowed


# The synchronous client, against a site in a process of its own


@pytest.fixture(scope="module")
def address(mini_bundle: Bundle) -> Iterator[str]:
    with serving(mini_bundle.path) as site:
        yield site.address
        site.process.terminate()
        assert site.wait() == (0, "")


@pytest.fixture
def client(address: str) -> Iterator[Client]:
    client = sync_client.InferenceServerClient(address)
    yield client
    client.close()


def test_health(client: Client) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("window")
    assert client.is_model_ready("window", "1")
    assert not client.is_model_ready("sam")
    assert not client.is_model_ready("window", "2")


def test_metadata(client: Client, mini_bundle: Bundle) -> None:
    assert client.get_server_metadata()["name"] == "pedsam"
    model = client.get_model_metadata("window", "1")
    assert model == client.get_model_metadata("window")
    assert [each["name"] for each in model["inputs"]] == list(DATATYPES)
    assert {each["name"]: each["datatype"] for each in model["inputs"]} == DATATYPES
    assert model["outputs"][0] == {"name": "embedding", "datatype": "FP16", "shape": [-1, 5, 5, 192]}
    config = client.get_model_config("window", "1")
    assert config["parameters"]["site_digest"]["string_value"] == mini_bundle.site_digest
    assert config["max_batch_size"] == 25


def test_every_output_is_sent_binary_when_none_is_named(
    client: Client, tiles_of_mini: dict[str, Array], expected: dict[str, Array]
) -> None:
    result = client.infer("window", inputs(tiles_of_mini), request_id="frame 7")
    assert_same(result, expected, ["embedding", "embedding_q8", "scale"])
    assert result.get_response()["id"] == "frame 7"
    assert result.get_response()["model_name"] == "window"


@pytest.mark.parametrize("names", [["embedding"], ["scale", "embedding_q8"]])
def test_outputs_asked_by_name_come_in_the_models_order(
    client: Client, tiles_of_mini: dict[str, Array], expected: dict[str, Array], names: list[str]
) -> None:
    result = client.infer("window", inputs(tiles_of_mini), "1", outputs(names))
    assert_same(result, expected, [name for name in expected if name in names])


@pytest.mark.parametrize(
    "binary",
    [ALL_JSON, {**ALL_JSON, "tile": True}, {**ALL_BINARY, "tile": False}, {**ALL_BINARY, "index": False}],
    ids=["all JSON", "tile binary", "tile JSON", "index JSON"],
)
def test_json_inputs(
    client: Client, tiles_of_mini: dict[str, Array], expected: dict[str, Array], binary: dict[str, bool]
) -> None:
    result = client.infer("window", inputs(tiles_of_mini, binary), outputs=outputs(["embedding"]))
    assert_same(result, expected, ["embedding"])


def test_json_outputs(client: Client, tiles_of_mini: dict[str, Array], expected: dict[str, Array]) -> None:
    result = client.infer("window", inputs(tiles_of_mini), outputs=outputs(["embedding_q8"], binary=False))
    assert_same(result, expected, ["embedding_q8"])
    assert "data" in result.get_output("embedding_q8")
    mixed = outputs(["embedding"]) + outputs(["embedding_q8"], binary=False)
    result = client.infer("window", inputs(tiles_of_mini), outputs=mixed)
    assert_same(result, expected, ["embedding", "embedding_q8"])


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_a_client_may_compress_and_the_site_does_not(
    client: Client, tiles_of_mini: dict[str, Array], expected: dict[str, Array], algorithm: str
) -> None:
    result = client.infer(
        "window",
        inputs(tiles_of_mini),
        outputs=outputs(["embedding"]),
        request_compression_algorithm=algorithm,
        response_compression_algorithm=algorithm,
    )
    assert_same(result, expected, ["embedding"])


def test_several_requests_under_way(
    address: str, tiles_of_mini: dict[str, Array], expected: dict[str, Array]
) -> None:
    client = sync_client.InferenceServerClient(address, concurrency=3)
    pending = []
    for row in range(3):
        one = {name: array[row : row + 1] for name, array in tiles_of_mini.items()}
        pending.append(client.async_infer("window", inputs(one), outputs=outputs(["scale", "embedding"])))
    for row, each in enumerate(pending):
        one = {name: array[row : row + 1] for name, array in expected.items()}
        assert_same(each.get_result(), one, ["embedding", "scale"])
    client.close()


@pytest.mark.parametrize(
    ("model", "change", "names", "status", "words"),
    [
        ("sam", {}, ["embedding"], "404", "this site has model window, version 1"),
        ("window", {}, ["masks"], "400", "unexpected output 'masks'; the model gives ['embedding', "),
        ("window", {"index": np.full((3, 1), 25, np.int32)}, ["scale"], "400", "index has values from 25"),
        ("window", {"index": np.array([[0]], np.int32)}, ["scale"], "400", "index has 1 along axis n"),
        ("window", {"tile": np.zeros((3, 9), np.uint8)}, ["scale"], "400", "tile has shape [3, 9], expected"),
    ],
)
def test_errors(
    client: Client,
    tiles_of_mini: dict[str, Array],
    model: str,
    change: dict[str, Array],
    names: list[str],
    status: str,
    words: str,
) -> None:
    with pytest.raises(InferenceServerException) as caught:
        client.infer(model, inputs({**tiles_of_mini, **change}), outputs=outputs(names))
    assert words in caught.value.message()
    assert caught.value.status() == status
    assert client.is_server_live()


def test_fp16_as_json_is_refused(client: Client, tiles_of_mini: dict[str, Array]) -> None:
    with pytest.raises(InferenceServerException, match="FP16, which has no JSON form"):
        client.infer("window", inputs(tiles_of_mini), outputs=outputs(["embedding"], binary=False))


def test_more_than_the_site_takes_is_refused(client: Client, mini_bundle: Bundle) -> None:
    specs = mini_bundle.stage("window").inputs
    many: dict[str, Array] = {s.name: np.zeros((26, *map(int, s.shape[1:])), s.dtype) for s in specs}
    with pytest.raises(InferenceServerException, match="tile has batch 26, expected at most 25"):
        client.infer("window", inputs(many))
    with pytest.raises(InferenceServerException, match="send fewer tiles a request") as caught:
        client.infer("window", inputs({name: np.concatenate([each] * 5) for name, each in many.items()}))
    assert caught.value.status() == "413"


# The asyncio client, against a site in this process


def aio(site: RunningSite) -> Client:
    return aio_client.InferenceServerClient(site.url.removeprefix("http://"))


@pytest.mark.anyio
async def test_aio_metadata_health_and_config(mini_bundle: Bundle) -> None:
    async with (
        running_site(mini_bundle, ServeOptions(port=0, threads=1)) as site,
        aio(site) as client,
    ):
        assert await client.is_server_live()
        assert await client.is_server_ready()
        assert await client.is_model_ready("window", "1")
        assert (await client.get_server_metadata())["name"] == "pedsam"
        assert (await client.get_model_metadata("window"))["versions"] == ["1"]
        config = await client.get_model_config("window")
        assert config["parameters"]["site_digest"]["string_value"] == mini_bundle.site_digest


@pytest.mark.anyio
@pytest.mark.parametrize("binary", [ALL_BINARY, ALL_JSON], ids=["binary", "JSON"])
async def test_aio_infer(
    mini_bundle: Bundle, tiles_of_mini: dict[str, Array], expected: dict[str, Array], binary: dict[str, bool]
) -> None:
    async with (
        running_site(mini_bundle, ServeOptions(port=0, threads=1)) as site,
        aio(site) as client,
    ):
        asked = inputs(tiles_of_mini, binary)
        assert_same(await client.infer("window", asked), expected, list(expected))
        result = await client.infer("window", asked, outputs=outputs(["embedding_q8"], binary=False))
        assert_same(result, expected, ["embedding_q8"])


@pytest.mark.anyio
async def test_aio_requests_wait_together_and_each_gets_its_own_tiles() -> None:
    gate = Gate()
    engine = FakeEngine(gate)
    async with fake_site(engine) as site, aio(site) as client:

        def begin(*windows: int) -> asyncio.Task[Any]:
            return asyncio.create_task(client.infer("window", inputs(tiles(*windows))))

        first = begin(0)
        await gate.entered.wait()
        others = [begin(window, window + 1) for window in (3, 9, 20)]
        await until(lambda: site.batcher.waiting == 6)
        gate.open()
        assert_same(await first, answers(tiles(0)), ["embedding", "embedding_q8", "scale"])
        for other, window in zip(others, (3, 9, 20), strict=True):
            expected = answers(tiles(window, window + 1))
            assert_same(await other, expected, ["embedding", "embedding_q8", "scale"])
    assert [len(batch) for batch in engine.batches] == [1, 6]


@pytest.mark.anyio
async def test_aio_errors() -> None:
    async with fake_site() as site, aio(site) as client:
        with pytest.raises(InferenceServerException, match="unexpected output 'masks'") as caught:
            await client.infer("window", inputs(tiles(1)), outputs=outputs(["masks"]))
        assert caught.value.status() == "400"
        site.batcher.stop()
        with pytest.raises(InferenceServerException, match="this site is stopping") as caught:
            await client.infer("window", inputs(tiles(1)))
        assert caught.value.status() == "503"
        assert not await client.is_server_ready()


@pytest.mark.anyio
async def test_the_synchronous_client_in_a_thread_beside_the_site() -> None:
    def ask(address: str) -> None:
        with sync_client.InferenceServerClient(address) as client:
            result = client.infer("window", inputs(tiles(3, 4)), outputs=outputs(["embedding"]))
            assert_same(result, answers(tiles(3, 4)), ["embedding"])

    async with fake_site() as site:
        await asyncio.to_thread(ask, site.url.removeprefix("http://"))
