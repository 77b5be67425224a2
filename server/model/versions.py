"""Versions of the window model: bundles served side by side, so that weights are rolled without a gap.

Bundles are numbered from 1 in the order they were given, so the old one keeps its number when a new one is
added after it. Requests that name no version go to the last, as with Triton's default policy.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from server.http.admission import reserve_answer
from server.http.codec import Codec, answer_bytes
from server.logs import facts
from server.model.batcher import STALL_S, Batcher, ServiceUnavailable, Turns
from server.model.statistics import Statistics
from stages import wire
from stages.bundle import PROBE_FILE, Bundle, Stage
from stages.engines.engine import Engine
from stages.engines.thread import BACKGROUND, EngineThread
from stages.errors import EngineError, InputError
from stages.probe import difference, has_probe
from stages.tensors import Array, TensorSpec

log = logging.getLogger("pedsam.site")

STAGE = "window"


@dataclass(frozen=True, eq=False)
class Version:
    """One bundle that is served: `number` is the protocol's, `check` says what its engine showed at first."""

    number: str
    bundle: Bundle
    backend: str
    batcher: Batcher
    check: str

    @property
    def stage(self) -> Stage:
        return self.bundle.stage(STAGE)

    @property
    def statistics(self) -> Statistics:
        return self.batcher.statistics

    @property
    def description(self) -> str:
        return f"version {self.number}, {self.bundle.description}, {self.backend}, {self.check}"

    def metadata(self, versions: Sequence[str]) -> dict[str, Any]:
        """Model metadata of the protocol."""

        def tensors(specs: Sequence[TensorSpec]) -> list[dict[str, Any]]:
            return [
                {"name": s.name, "datatype": wire.OIP_NAME[s.dtype], "shape": [-1, *s.shape[1:]]}
                for s in specs
            ]

        return {
            "name": wire.MODEL,
            "versions": list(versions),
            "platform": self.backend,
            "inputs": tensors(self.stage.inputs),
            "outputs": tensors(self.stage.outputs),
        }

    def config(self) -> dict[str, Any]:
        """Triton's model configuration; its type names are the protocol's with TYPE_ before them."""

        def tensors(specs: Sequence[TensorSpec]) -> list[dict[str, Any]]:
            return [
                {"name": s.name, "data_type": f"TYPE_{wire.OIP_NAME[s.dtype]}", "dims": list(s.shape[1:])}
                for s in specs
            ]

        return {
            "name": wire.MODEL,
            "backend": self.backend,
            "max_batch_size": min(self.bundle.geometry.windows, self.batcher.max_waiting),
            "input": tensors(self.stage.inputs),
            "output": tensors(self.stage.outputs),
            "parameters": {
                "site_digest": {"string_value": self.bundle.site_digest},
                "code": {"string_value": self.bundle.code},
            },
        }

    async def infer(self, codec: Codec, body: bytes, header_length: str | None) -> wire.Message:
        """The answer to a request, counted; its memory is reserved before its tiles run.

        Raises WireError, ServiceUnavailable, or what the engine raised.
        """
        with self._counted():
            started = time.perf_counter()
            inputs, known = self.stage.inputs, self.stage.outputs
            request = await codec.decode(body, header_length, inputs, known, self.bundle.geometry.windows)
            reserve_answer(answer_bytes(request, known))
            self.statistics.input_s += time.perf_counter() - started
            outputs = await self.batcher.submit(request.inputs, list(request.outputs))
            done = time.perf_counter()
            message = await codec.encode(outputs, request.outputs, request.id, self.number)
            self.statistics.output_s += time.perf_counter() - done
            return message

    @contextlib.contextmanager
    def _counted(self) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        except BaseException as exc:
            self.statistics.failures[_failure(exc)] += 1
            raise
        self.statistics.requests += 1
        self.statistics.request_s += time.perf_counter() - started


FAILURES = ("REJECTED", "CANCELED", "BACKEND", "OTHER")  # Triton's reasons of nv_inference_request_failure


def _failure(exc: BaseException) -> str:
    if isinstance(exc, ServiceUnavailable):
        return "REJECTED"
    if isinstance(exc, asyncio.CancelledError):
        return "CANCELED"
    return "BACKEND" if isinstance(exc, EngineError) else "OTHER"


def numbered(bundles: Sequence[Bundle]) -> dict[str, Bundle]:
    """Bundles by version. Raises InputError for too many, and for one that is given twice."""
    if len(bundles) > wire.MAX_VERSIONS:
        raise InputError(
            f"{len(bundles)} bundles are too many; a site serves {wire.MAX_VERSIONS} versions at most"
        )
    paths: dict[str, Path] = {}
    for bundle in bundles:
        if first := paths.get(bundle.site_digest):
            raise InputError(f"{first} and {bundle.path} have the same weights; give --bundle one of them")
        paths[bundle.site_digest] = bundle.path
    return {str(number): bundle for number, bundle in enumerate(bundles, start=1)}


@contextlib.asynccontextmanager
async def loaded(
    bundles: Mapping[str, Bundle],
    make: Callable[[Bundle], Engine],
    max_batch: int | None,
    max_waiting: int,
    stall_s: float = STALL_S,
) -> AsyncIterator[dict[str, Version]]:
    """Every bundle with an engine that passed its check, all on one thread, for as long as the block runs.

    Raises BundleError or EngineError when one of them cannot be served.
    """
    factories = {number: partial(make, bundle) for number, bundle in bundles.items()}
    turns = Turns(stall_s)
    async with EngineThread(factories) as engines, contextlib.AsyncExitStack() as stack:
        versions = {}
        for number, bundle in bundles.items():
            check = await _checked(engines, number, bundle)
            engine = engines.engine(number)
            most = (max_batch, 0) if max_batch else (engine.preferred_batch, engine.largest_batch)
            batcher = Batcher(engines, number, most[0], max_waiting, turns, max_alone=most[1])
            await stack.enter_async_context(batcher)
            versions[number] = Version(number, bundle, engine.backend, batcher, check)
            log.info(
                "%s",
                versions[number].description,
                extra=facts("version_loaded", version=number, digest=bundle.site_digest),
            )
        yield versions


async def _checked(engines: EngineThread, number: str, bundle: Bundle) -> str:
    """What the engine showed: that it reproduces the probe, or, in a copy without it, that it runs."""
    if has_probe(bundle):
        return await _reproduced(engines, number, bundle)
    embedding = await _embedding(engines, number, _blank_window(bundle))
    if not np.isfinite(embedding).all():
        raise EngineError(
            f"the engine of {bundle.path} answers a blank window with values that are not finite; this "
            "backend cannot serve it: choose another --backend"
        )
    return f"runs, probe not checked: this copy holds no {PROBE_FILE}"


async def _reproduced(engines: EngineThread, number: str, bundle: Bundle) -> str:
    probe = bundle.probe()
    found = difference(probe, await _embedding(engines, number, probe.inputs))
    tolerance = probe.tolerance[bundle.embedding_dtype]
    if not found <= tolerance:
        raise EngineError(
            f"the engine of {bundle.path} answers the probe with a difference of {found:.3f}, allowed "
            f"{tolerance}: this backend computes something else, and every edge would refuse it; choose "
            "another --backend"
        )
    return "probe reproduced"


async def _embedding(engines: EngineThread, number: str, inputs: Mapping[str, Array]) -> Array:
    outputs = await engines.infer(number, inputs, ["embedding"], order=BACKGROUND)
    return outputs["embedding"]


def _blank_window(bundle: Bundle) -> dict[str, Array]:
    """Inputs of the window stage for one window that is all padding."""
    return {
        spec.name: np.zeros([1, *map(int, spec.shape[1:])], spec.dtype) for spec in bundle.stage(STAGE).inputs
    }
