"""One site as the edge sees it: connection, probe, tiles out, embeddings in.

The only module that puts a tile on a socket, and it does so only for a Grant from the ledger.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, TypeAlias

import aiohttp
import anyio
import numpy as np
from multidict import MultiMapping

from runtime.sites.config import SiteConfig
from runtime.sites.ledger import Grant
from runtime.sites.reasons import reason
from stages import wire
from stages.bundle import Bundle, Probe
from stages.errors import InputError, SiteError, SiteUnavailable, SiteUntrusted, WireError
from stages.probe import difference
from stages.tensors import Array

WIRE_OUTPUTS = {
    "fp16": ("embedding",),
    "fp32": ("embedding",),
    "int8": ("embedding_q8", "scale"),
}
CONNECTIONS = 8  # kept-alive connections a site; tiles beyond that wait for one
SPEED_PROBES = 3
_MAX_CONFIG_BYTES = 1 << 20
_MODEL_PATH = f"/v2/models/{wire.MODEL}"
_VERSION = re.compile("[1-9][0-9]{0,17}")  # it becomes part of a path
_SECONDS = re.compile("[0-9]{1,3}")
SITE_LOG_HINT = "see the site's log, and check url in sites.toml"

_Answer: TypeAlias = tuple[bytes, MultiMapping[str]]  # a body and the headers with it


@dataclass(frozen=True)
class Timeouts:
    """How long to wait for a site: to take a connection, to answer what needs no engine, a probe, a tile.

    A tile is late after `tile_factor` times what the probes let expect, and not before `tile_s`.
    """

    connect_s: float = 5.0
    answer_s: float = 10.0
    probe_s: float = 60.0  # the first call of an engine may warm it up
    tile_s: float = 5.0
    tile_factor: float = 10.0


TIMEOUTS = Timeouts()


def wire_formats(bundle: Bundle) -> tuple[str, ...]:
    """The wire formats a bundle's window stage offers; the first is the default."""
    return ("fp32" if bundle.embedding_dtype == "float32" else "fp16", "int8")


def choose_wire(bundle: Bundle, wanted: str | None) -> str:
    """The wire format wanted, or the default one. Raises InputError when the bundle does not offer it."""
    offered = wire_formats(bundle)
    if wanted is not None and wanted not in offered:
        raise InputError(f"this bundle does not offer --wire {wanted}, only {' and '.join(offered)}")
    return wanted or offered[0]


def to_embedding(outputs: Mapping[str, Array], dtype: str) -> Array:
    """Window stage outputs as embeddings [n, w, w, D] of `dtype`, dequantised when they came as int8."""
    if "embedding" in outputs:
        return outputs["embedding"]
    values = outputs["embedding_q8"].astype(np.float32) * outputs["scale"].astype(np.float32)
    return values.astype(dtype)


class SiteClient:
    """Talks to one site. Open with `async with`; nothing is sent before `connect`.

    Counts `bytes_up` and `bytes_down` of message bodies and `tiles` answered; `sent` are the window positions
    this site was sent; `tile_s` is the time a tile takes, as the probes showed or, later, tiles.
    """

    def __init__(
        self, config: SiteConfig, bundle: Bundle, wire_format: str, timeouts: Timeouts = TIMEOUTS
    ) -> None:
        self.config = config
        self.bytes_up = 0
        self.bytes_down = 0
        self.tiles = 0
        self.sent: set[int] = set()
        self.tile_s = 1.0
        self.in_flight = 0
        self._bundle = bundle
        self._timeouts = timeouts
        self._wire = wire_format
        self._outputs = WIRE_OUTPUTS[wire_format]
        self._specs = [s for s in bundle.stage("window").outputs if s.name in self._outputs]
        self._path = _MODEL_PATH
        self._http: aiohttp.ClientSession | None = None

    @property
    def name(self) -> str:
        return self.config.name

    @property
    def speed(self) -> float:
        """Tiles per second."""
        return 1 / self.tile_s

    async def __aenter__(self) -> SiteClient:
        context = self.config.ssl_context()
        headers = {"Accept-Encoding": "identity"}  # gzip would cost the site more than the network gains
        if self.config.token:
            headers["Authorization"] = f"Bearer {self.config.token}"
        self._http = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=CONNECTIONS, ssl=context if context else True),
            headers=headers,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,  # a small compressed body could fill the memory
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._http is not None:
            await self._http.close()

    async def connect(self, probe: Probe) -> None:
        """Find this bundle's weights there by their digest, have the probe reproduced and measure the speed.

        Raises SiteUntrusted for other weights or a wrong answer, SiteUnavailable for no answer.
        """
        await self.check_digest()
        await self.check_probe(probe)
        self.tile_s = await self._measure_tile_s(probe)

    async def _measure_tile_s(self, probe: Probe) -> float:
        """Seconds a tile takes with several under way; what fails here fails again with the first tile."""
        failures: list[SiteError] = []

        async def post() -> None:
            try:
                await self._post(probe.inputs, self._timeouts.probe_s)
            except SiteError as exc:
                failures.append(exc)

        started = time.perf_counter()
        async with anyio.create_task_group() as tasks:
            for _ in range(SPEED_PROBES):
                tasks.start_soon(post)
        if failures:
            raise failures[0]
        return (time.perf_counter() - started) / SPEED_PROBES

    async def infer(self, grant: Grant, inputs: Mapping[str, Array]) -> Array:
        """The embedding [w, w, D] of one tile, checked: shape, dtype, finite.

        Raises SiteUnavailable when no good answer comes before the deadline, SiteUntrusted when the answer
        is wrong.
        """
        if grant.site != self.name or [[grant.window]] != inputs["index"].tolist():
            raise ValueError(f"{grant} does not cover this tile")
        expected_s = self.tile_s * (self.in_flight + 1)
        deadline_s = max(self._timeouts.tile_s, self._timeouts.tile_factor * expected_s)
        self.sent.add(grant.window)
        self.in_flight += 1
        try:
            embedding = await self._post(inputs, deadline_s)
        finally:
            self.in_flight -= 1
        self.tiles += 1
        row: Array = embedding[0]
        return row

    async def check_digest(self) -> None:
        """Find the version with this bundle's weights: the first part of `connect`.

        That is what the site serves by default, or another version it lists.
        """
        self._path = await self._find_version()

    async def _find_version(self) -> str:
        """The path of the version with this bundle's weights."""
        own = self._bundle.site_digest
        default = await self._digest(_MODEL_PATH)
        if default == own:
            return _MODEL_PATH
        found = [default]
        for version in await self._versions():
            path = f"{_MODEL_PATH}/versions/{version}"
            found.append(await self._digest(path))
            if found[-1] == own:
                return path
        digests = list(dict.fromkeys(f"{digest!s:.80}" for digest in found))
        named = "digest is" if len(digests) == 1 else "digests are"
        raise SiteUntrusted(
            self.name,
            f"serves other weights: its site {named} {', '.join(digests)}, this bundle's is {own}; give both "
            "the same bundle",
        )

    async def _digest(self, path: str) -> object:
        """The site digest that the config of a version names; anything that JSON can hold."""
        try:
            return (await self._json(f"{path}/config"))["parameters"]["site_digest"]["string_value"]
        except (ValueError, KeyError, TypeError, RecursionError) as exc:
            raise SiteUntrusted(
                self.name,
                "its model config names no site digest; check url in sites.toml, and that `pedsam serve` "
                "answers there",
            ) from exc

    async def _versions(self) -> list[str]:
        """Versions the site lists, newest first, wire.MAX_VERSIONS at most; none when it lists none."""
        try:
            listed = (await self._json(_MODEL_PATH))["versions"]
            numbers = {number for number in listed if _VERSION.fullmatch(number)}
        except (_NotHere, ValueError, KeyError, TypeError, RecursionError):
            return []
        return sorted(numbers, key=int, reverse=True)[: wire.MAX_VERSIONS]

    async def _json(self, path: str) -> Any:
        with self._within(self._timeouts.answer_s):
            body, _ = await self._request("GET", path, None)
        return json.loads(body)

    async def check_probe(self, probe: Probe) -> float:
        """Have the site reproduce the probe: the second part of `connect`.

        Returns the largest difference as a fraction of the embedding's own largest value.
        """
        answer = await self._post(probe.inputs, self._timeouts.probe_s)
        found = difference(probe, answer)
        tolerance = self.tolerance(probe)
        if not found <= tolerance:
            raise SiteUntrusted(
                self.name,
                f"names digest {self._bundle.site_digest}, as this bundle does, but answers the probe with a "
                f"difference of {found:.3f}, allowed {tolerance}; its engine computes something else: "
                "start the site with another --backend, or leave it out",
            )
        return found

    def tolerance(self, probe: Probe) -> float:
        """The largest difference that `check_probe` lets pass."""
        return probe.tolerance[{"fp16": "float16", "fp32": "float32"}.get(self._wire, self._wire)]

    async def ping(self) -> Mapping[str, str]:
        """Headers of the answer to the smallest question there is; it takes no engine."""
        with self._within(self._timeouts.answer_s):
            _, headers = await self._request("GET", "/v2/health/live", None)
        return headers

    async def metadata(self) -> bytes:
        """The site's own description of its model, as it words it."""
        with self._within(self._timeouts.answer_s):
            body, _ = await self._request("GET", self._path, None)
        return body

    async def run_probe(self, probe: Probe, outputs: Sequence[str] = (), copies: int = 1) -> None:
        """Have the site run the probe `copies` times in one request and answer `outputs`, for timing it.

        Without `outputs` it answers what it answers for a tile. The answer's values are not looked at.
        """
        inputs = {name: np.repeat(array, copies, axis=0) for name, array in probe.inputs.items()}
        message = wire.encode_request(inputs, outputs or self._outputs)
        await self._infer(message, self._timeouts.probe_s, copies)

    async def send_noise(self, size: int) -> None:
        """Have the site read `size` bytes that hold no tile and refuse them, for timing the way there."""
        noise = np.frombuffer(secrets.token_bytes(size), np.uint8)
        message = wire.encode_request({"noise": noise}, self._outputs)  # no model has such an input
        with self._within(self._timeouts.probe_s):
            await self._request("POST", f"{self._path}/infer", message, expected=400)

    async def _post(self, inputs: Mapping[str, Array], timeout_s: float) -> Array:
        """Embeddings of these tiles. A site that says "busy" is asked again until the time is up."""
        message = wire.encode_request(inputs, self._outputs)
        body, headers = await self._infer(message, timeout_s)
        return self._decode(body, headers.getall(wire.HEADER_LENGTH, []), len(inputs["index"]))

    async def _infer(self, message: wire.Message, timeout_s: float, tiles: int = 1) -> _Answer:
        with self._within(timeout_s):
            while True:
                try:
                    return await self._request("POST", f"{self._path}/infer", message, tiles)
                except _Busy as busy:
                    await anyio.sleep(busy.retry_after_s)

    @contextlib.contextmanager
    def _within(self, timeout_s: float) -> Iterator[None]:
        try:
            with anyio.fail_after(timeout_s):
                yield
        except TimeoutError as exc:
            raise SiteTimeout(self.name, timeout_s) from exc

    def _decode(self, body: bytes, header_lengths: Sequence[str], batch: int) -> Array:
        try:
            outputs = wire.decode_response(body, wire.only_length(header_lengths), self._specs, batch)
        except WireError as exc:
            raise SiteUntrusted(self.name, f"sent a malformed answer: {exc}; {SITE_LOG_HINT}") from exc
        # The scale carries every infinity and NaN an int8 embedding can have.
        floats = outputs.get("embedding", outputs.get("scale"))
        if floats is None or not np.isfinite(floats).all():
            raise SiteUntrusted(self.name, f"sent an embedding that is not finite; {SITE_LOG_HINT}")
        return to_embedding(outputs, self._bundle.embedding_dtype)

    async def _request(
        self, method: str, path: str, message: wire.Message | None, tiles: int = 1, expected: int = 200
    ) -> _Answer:
        """Body and headers of an answer with status `expected`; `tiles` bounds how large it may be."""
        if self._http is None:
            raise RuntimeError("SiteClient is used outside `async with`")
        try:
            async with self._http.request(
                method,
                self.config.url + path,
                data=message.body if message else None,
                headers={**message.headers, "If-Match": f'"{self._bundle.site_digest}"'} if message else None,
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(sock_connect=self._timeouts.connect_s),
            ) as response:
                body = await self._read(response, tiles)
                self.bytes_up += len(message.body) if message else 0
                self.bytes_down += len(body)
                if response.status != expected:
                    self._check_status(response, body)
                return body, response.headers
        except (aiohttp.ClientError, OSError) as exc:
            raise SiteUnavailable(self.name, reason(exc, self.config, self.bytes_down > 0)) from exc

    async def _read(self, response: aiohttp.ClientResponse, tiles: int) -> bytes:
        """The body, given up once it is larger than any good answer."""
        limit = _MAX_CONFIG_BYTES + tiles * sum(
            math.prod(map(int, spec.shape[1:])) * np.dtype(spec.dtype).itemsize
            for spec in self._bundle.stage("window").outputs
        )
        body = bytearray()
        async for chunk in response.content.iter_any():
            body += chunk
            if len(body) > limit:
                raise SiteUntrusted(self.name, f"sent more than {limit} bytes for one tile")
        return bytes(body)

    def _check_status(self, response: aiohttp.ClientResponse, body: bytes) -> None:
        status = response.status
        if status == 200:
            return
        text = wire.error_text(body)
        if status in (429, 503):
            raise _Busy(self.name, text, response.headers.get("Retry-After"))
        if status == 412:  # If-Match: the site was started again with other bundles
            raise SiteUnavailable(
                self.name, "no longer serves these weights under this version; it is looked at again soon"
            )
        if status in (400, 404) and response.method == "GET":
            raise _NotHere(self.name, f"answered {status}: {text}; {SITE_LOG_HINT}")
        if 300 <= status < 400:
            raise SiteUnavailable(
                self.name, "redirects, which is not followed; put the final url into sites.toml"
            )
        if status in (401, 403):
            raise SiteUnavailable(
                self.name, f"refuses this edge ({status}: {text}); check token_file in sites.toml"
            )
        raise SiteUnavailable(self.name, f"answered {status}: {text}; {SITE_LOG_HINT}")


class SiteTimeout(SiteUnavailable):
    """The site gave no answer within `timeout_s`."""

    def __init__(self, site: str, timeout_s: float) -> None:
        super().__init__(site, f"gave no answer within {timeout_s:.1f} s; {SITE_LOG_HINT}")
        self.timeout_s = timeout_s


class _NotHere(SiteUnavailable):
    """The site does not know what was asked for."""


class _Busy(SiteUnavailable):
    """The site does not serve this now; ask again after `retry_after_s`."""

    def __init__(self, site: str, text: str, retry_after: str | None) -> None:
        super().__init__(site, f"does not serve this now: {text}; try again later")
        seconds = int(retry_after) if retry_after and _SECONDS.fullmatch(retry_after) else 1
        self.retry_after_s = min(max(float(seconds), 0.1), 10.0)
