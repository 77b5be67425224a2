"""One site as the edge sees it: connection, probe, tiles out, embeddings in.

The only module that puts a tile on a socket. A tile of a picture goes by `SiteClient.infer` alone, with a
Grant from the ledger and as a SendableTile; all else that is sent is a Probe, or noise. What comes back is
read by `runtime.sites.answers`. Whatever goes wrong with a site, foreseen or not, is a SiteError here.
"""

from __future__ import annotations

import contextlib
import functools
import secrets
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, TypeAlias, TypeVar

import aiohttp
import anyio
import numpy as np

from runtime.sites.answers import SITE_LOG_HINT as SITE_LOG_HINT
from runtime.sites.answers import Answer, Answers, Busy, NotHere
from runtime.sites.config import SiteConfig
from runtime.sites.ledger import Grant
from runtime.sites.reasons import reason, unforeseen
from runtime.sites.sendable import SendableTile
from runtime.sites.traffic import Traffic, most_windows
from stages import wire
from stages.body_parts import BodyParts
from stages.bundle import Bundle, Probe
from stages.errors import InputError, SiteError, SiteUnavailable, SiteUntrusted, ungrouped
from stages.probe import difference
from stages.tensors import Array

WIRE_OUTPUTS = {
    "fp16": ("embedding",),
    "fp32": ("embedding",),
    "int8": ("embedding_q8", "scale"),
}
CONNECTIONS = 8  # kept-alive connections a site; tiles beyond that wait for one
SPEED_PROBES = 3
# Windows share a request up to so many bytes of it or of its answer: with its head that is what TCP sends at
# once on an idle connection (10 segments, RFC 6928). More would wait for another round trip.
REQUEST_BYTES = 14_000
_MODEL_PATH = f"/v2/models/{wire.MODEL}"

P = ParamSpec("P")
T = TypeVar("T")
# Told the grants and inputs (n = their number, in their order) of each request with tiles, before it leaves.
OnSent: TypeAlias = Callable[[Sequence[Grant], Mapping[str, Array]], None]


@dataclass(frozen=True)
class Timeouts:
    """How long to wait for a site: to take a connection, to answer what needs no engine, a probe, a tile.

    A tile is late after `tile_factor` times what the probes let expect, and not before `tile_s`. A slow site
    gets `probe_s` more than is expected at most, for the time it is given is by its own answers.
    """

    connect_s: float = 5.0
    answer_s: float = 10.0
    probe_s: float = 60.0  # the first call of an engine may warm it up
    tile_s: float = 5.0
    tile_factor: float = 10.0


TIMEOUTS = Timeouts()


def wire_formats(bundle: Bundle) -> tuple[str, ...]:
    """The wire formats a bundle's window stage offers; the first is the default.

    That is int8 where the bundle is coded: what it loses is little beside what the code loses.
    """
    plain = "fp32" if bundle.embedding_dtype == "float32" else "fp16"
    return ("int8", plain) if bundle.is_coded else (plain, "int8")


def choose_wire(bundle: Bundle, wanted: str | None) -> str:
    """The wire format wanted, or the default one. Raises InputError when the bundle does not offer it."""
    offered = wire_formats(bundle)
    if wanted is not None and wanted not in offered:
        raise InputError(f"this bundle does not offer --wire {wanted}, only {' and '.join(offered)}")
    return wanted or offered[0]


def _alone(
    method: Callable[Concatenate[SiteClient, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[SiteClient, P], Coroutine[Any, Any, T]]:
    """A method that raises SiteError alone, whatever goes wrong in it; a cancellation passes."""

    @functools.wraps(method)
    async def guarded(client: SiteClient, /, *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            with ungrouped():
                return await method(client, *args, **kwargs)
        except (SiteError, Misused):
            raise
        except Exception as exc:
            raise SiteUnavailable(client.name, unforeseen(exc)) from exc

    return guarded


class SiteClient:
    """Talks to one site. Open with `async with`; nothing is sent before `connect`.

    Its methods raise SiteError for whatever goes wrong with the site, foreseen or not, and nothing else;
    Misused when the fault is the caller's.

    Counts `traffic` and `tiles` answered; `sent` are the window positions this site was sent; `tile_s` is the
    time a tile takes, by the probes until whoever sends tiles knows better; `max_batch` windows is what the
    site takes in one request. `on_busy` gets every answer that the site is busy, after which it is asked
    again, and the seconds that its request may take in all. `on_sent` gets every request with tiles.
    """

    def __init__(
        self,
        config: SiteConfig,
        bundle: Bundle,
        wire_format: str,
        timeouts: Timeouts = TIMEOUTS,
        request_bytes: int = REQUEST_BYTES,
        on_busy: Callable[[Busy, float], None] = lambda busy, patience_s: None,
        on_sent: OnSent | None = None,
    ) -> None:
        self.config = config
        self.traffic = Traffic()
        self.tiles = 0
        self.sent: set[int] = set()
        self.tile_s = 1.0
        self.in_flight = 0
        self._bundle = bundle
        self._timeouts = timeouts
        self._wire = wire_format
        self._outputs = WIRE_OUTPUTS[wire_format]
        self._fitting = most_windows(bundle.stage("window"), self._outputs, request_bytes)
        self.max_batch = 1
        self._answers = Answers(config.name, bundle, self._outputs)
        self._path = _MODEL_PATH
        self._answered = False
        self._on_busy = on_busy
        self._on_sent = on_sent
        self._http: aiohttp.ClientSession | None = None

    @property
    def name(self) -> str:
        return self.config.name

    @property
    def most_windows(self) -> int:
        """How many may share a request: by their bytes, and by what the site takes."""
        return min(self._fitting, self.max_batch)

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
            trace_configs=[self.traffic.counting_requests()],
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._http is not None:
            await self._http.close()

    @_alone
    async def connect(self, probe: Probe) -> None:
        """Find this bundle's weights there by their digest, have the probe reproduced and measure the speed.

        Raises SiteUntrusted for other weights or a wrong answer, SiteUnavailable for no answer.
        """
        await self.check_digest()
        await self.check_probe(probe)
        self.tile_s = await self._measure_tile_s(probe)

    async def _measure_tile_s(self, probe: Probe) -> float:
        """Seconds a tile takes with several under way. Raises the SiteError of one that fails."""
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

    async def infer(self, grants: Sequence[Grant], tiles: Sequence[SendableTile]) -> Array:
        """The embeddings [n, w, w, r] of n tiles, checked: shape, dtype, finite. They travel in one request.

        `grants` are those of the tiles, in their order. Raises SiteUnavailable when no good answer comes
        before the deadline, SiteUntrusted when the answer is wrong.
        """
        windows = [tile.window for tile in tiles]
        covered = [(grant.site, grant.window) for grant in grants]
        if not windows or covered != [(self.name, window) for window in windows]:
            raise Misused(f"{list(grants)} are not the grants of these tiles")
        inputs = _together(tiles)
        expected_s = self.tile_s * (self.in_flight + len(windows))
        patience_s = min(self._timeouts.tile_factor * expected_s, expected_s + self._timeouts.probe_s)
        deadline_s = max(self._timeouts.tile_s, patience_s)
        self.sent.update(windows)
        if self._on_sent is not None:
            self._on_sent(grants, inputs)
        self.in_flight += len(windows)
        try:
            embeddings = await self._post(inputs, deadline_s)
        finally:
            self.in_flight -= len(windows)
        self.tiles += len(windows)
        return embeddings

    @_alone
    async def check_digest(self) -> None:
        """Find the version with this bundle's weights: the first part of `connect`.

        That is what the site serves by default, or another version it lists.
        """
        self._path = await self._find_version()

    async def _find_version(self) -> str:
        """The path of the version with this bundle's weights."""
        own = self._bundle.site_digest
        found = [await self._served(_MODEL_PATH)]
        if found[0][0] == own:
            return _MODEL_PATH
        for version in await self._versions():
            path = f"{_MODEL_PATH}/versions/{version}"
            found.append(await self._served(path))
            if found[-1][0] == own:
                return path
        raise SiteUntrusted(self.name, self._other_weights(dict(found)))

    async def _served(self, path: str) -> tuple[str, str | None]:
        """Digest and code of a version."""
        answer = await self._get(f"{path}/config")
        self.max_batch = self._answers.max_batch(answer)
        return self._answers.site_digest(answer), self._answers.code(answer)

    def _other_weights(self, found: Mapping[str, str | None]) -> str:
        """Why none of these digests will do; `found` maps them to their codes, where the site names these."""
        own, codes = self._bundle, set(found.values())
        if None not in codes and own.code not in codes:
            return (
                f"serves another code: {' or '.join(sorted(map(str, codes)))}, and this bundle's is "
                f"{own.code}; give both the same bundle"
            )
        named = "digest is" if len(found) == 1 else "digests are"
        return (
            f"serves other weights: its site {named} {', '.join(found)}, this bundle's is {own.site_digest}; "
            "give both the same bundle"
        )

    async def _versions(self) -> list[str]:
        try:
            return self._answers.versions(await self._get(_MODEL_PATH))
        except NotHere:
            return []

    async def _get(self, path: str) -> Answer:
        with self._within(self._timeouts.answer_s):
            return await self._request("GET", path, None)

    @_alone
    async def check_probe(self, probe: Probe) -> float:
        """Have the site reproduce the probe: the second part of `connect`.

        Returns the difference, as `stages.probe.difference` measures it.
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

    async def probe_embedding(self, probe: Probe) -> Array:
        """The site's answer to a synthetic tile, [1, w, w, D], as `infer` checks it."""
        return await self._post(probe.inputs, self._timeouts.probe_s)

    def tolerance(self, probe: Probe) -> float:
        """The largest difference that `check_probe` lets pass."""
        return probe.tolerance[{"fp16": "float16", "fp32": "float32"}.get(self._wire, self._wire)]

    @_alone
    async def ping(self) -> Mapping[str, str]:
        """Headers of the answer to the smallest question there is, fit to be shown; it takes no engine."""
        return self._answers.headers(await self._get("/v2/health/live"))

    @_alone
    async def platform(self) -> str:
        """Backend and device, as the site words them in the metadata of its model."""
        return self._answers.platform(await self._get(self._path))

    @_alone
    async def run_probe(self, probe: Probe, outputs: Sequence[str] = (), copies: int = 1) -> None:
        """Have the site run the probe `copies` times in one request and answer `outputs`, for timing it.

        Without `outputs` it answers what it answers for a tile. The answer's values are not looked at.
        """
        inputs = {name: np.repeat(array, copies, axis=0) for name, array in probe.inputs.items()}
        message = wire.encode_request(inputs, outputs or self._outputs)
        await self._infer(message, self._timeouts.probe_s, copies)

    @_alone
    async def send_noise(self, size: int) -> None:
        """Have the site read `size` bytes that hold no tile and refuse them, for timing the way there."""
        noise = np.frombuffer(secrets.token_bytes(size), np.uint8)
        message = wire.encode_request({"noise": noise}, self._outputs)  # no model has such an input
        with self._within(self._timeouts.probe_s):
            await self._request("POST", f"{self._path}/infer", message, expected=400)

    @_alone
    async def _post(self, inputs: Mapping[str, Array], timeout_s: float) -> Array:
        """Embeddings of these tiles. A site that says "busy" is asked again until the time is up."""
        message = wire.encode_request(inputs, self._outputs)
        tiles = len(inputs["index"])
        return self._answers.embedding(await self._infer(message, timeout_s, tiles), tiles)

    async def _infer(self, message: wire.Message, timeout_s: float, tiles: int) -> Answer:
        said: str | None = None
        try:
            with self._within(timeout_s):
                while True:
                    try:
                        return await self._request("POST", f"{self._path}/infer", message, tiles)
                    except Busy as busy:
                        said = busy.text
                        self._on_busy(busy, timeout_s)
                        await anyio.sleep(busy.retry_after_s)
        except SiteTimeout as exc:
            raise SiteTimeout(self.name, timeout_s, said) from exc

    @contextlib.contextmanager
    def _within(self, timeout_s: float) -> Iterator[None]:
        try:
            with anyio.fail_after(timeout_s):
                yield
        except TimeoutError as exc:
            raise SiteTimeout(self.name, timeout_s) from exc

    async def _request(
        self, method: str, path: str, message: wire.Message | None, tiles: int = 1, expected: int = 200
    ) -> Answer:
        """The answer, which has the status `expected`; `tiles` bounds how large it may be."""
        if self._http is None:
            raise Misused("SiteClient is used outside `async with`")
        try:
            async with self._http.request(
                method,
                self.config.url + path,
                data=message.body if message else None,
                headers={**message.headers, "If-Match": f'"{self._bundle.site_digest}"'} if message else None,
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(sock_connect=self._timeouts.connect_s),
            ) as response:
                self.traffic.count_head(response)
                body = await self._read(response, self._answers.largest_body(tiles))
                answer = Answer(method, response.status, response.headers, body)
        except (aiohttp.ClientError, OSError) as exc:
            raise SiteUnavailable(self.name, reason(exc, self.config, self._answered)) from exc
        self._answered = True
        self._answers.check_status(answer, expected)
        return answer

    async def _read(self, response: aiohttp.ClientResponse, limit: int) -> bytes:
        """The body, given up once it is larger than any good answer."""
        parts = BodyParts()
        async for chunk in response.content.iter_any():
            parts.add(chunk)
            self.traffic.body_down += len(chunk)
            if parts.size > limit:
                raise SiteUntrusted(self.name, f"sent more than {limit} bytes, which no good answer has")
        return parts.whole()


def _together(tiles: Sequence[SendableTile]) -> Mapping[str, Array]:
    """The inputs of all tiles, those of one alone without a copy."""
    if len(tiles) == 1:
        return tiles[0].inputs
    return {name: np.concatenate([tile.inputs[name] for tile in tiles]) for name in tiles[0].inputs}


class Misused(ValueError):
    """A SiteClient was asked for what it must not do."""


class SiteTimeout(SiteUnavailable):
    """The site gave no answer within `timeout_s`, or none but that it is busy; `said` are its words then."""

    def __init__(self, site: str, timeout_s: float, said: str | None = None) -> None:
        busy = "" if said is None else f", only that it does not serve this now: {said}"
        super().__init__(site, f"gave no answer within {timeout_s:.1f} s{busy}; {SITE_LOG_HINT}")
        self.timeout_s = timeout_s
