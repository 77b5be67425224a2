"""One address of a site: its socket, within the limits, and the HTTP server behind it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import anyio
from aiohttp import web

from server.http.app import HttpLog
from server.http.connections import Listener, Tls
from server.http.protocol import SiteProtocol
from server.limits import Quota
from server.state import SiteState
from stages.errors import InputError
from stages.network import listen_problem

SHUTDOWN_TIMEOUT_S = 1.0  # after the grace period: to send the last responses, "this site is stopping"
LINGER_S = 1.0  # to read the rest of a refused body: closing earlier could lose the response


@dataclass(frozen=True)
class Address:
    """Where to listen; `options` are those of the command line that choose it."""

    host: str
    port: int
    options: str
    tls: Tls | None = None


class Endpoint:
    """Listens from `open` to `close` and serves `app` there; each connection counts in `quota`.

    `message_bytes` bounds what a connection may send for one request.
    """

    def __init__(
        self, app: web.Application, address: Address, state: SiteState, quota: Quota, message_bytes: int
    ) -> None:
        self._address = address
        self._state = state
        self._quota = quota
        self._message_bytes = message_bytes
        self._listener: Listener | None = None
        self._of_protocol: dict[str, Any] = {
            "access_log": None,
            "logger": HttpLog(state.refusals),
            "lingering_time": LINGER_S,
            "auto_decompress": False,  # the body reader does that, within the limits
        }
        self._runner: web.AppRunner | None = web.AppRunner(
            app,
            handler_cancellation=True,  # a client that disconnects frees its place in the queue
            shutdown_timeout=SHUTDOWN_TIMEOUT_S,
            **self._of_protocol,
        )

    async def open(self) -> str:
        """Listen, and say at what URL. Raises InputError when the address cannot be bound."""
        if self._runner is None:
            raise RuntimeError("this endpoint was closed")
        await self._runner.setup()
        if self._runner.server is None:
            raise RuntimeError("the runner is not set up")
        self._listener = Listener(
            partial(SiteProtocol, self._runner.server, loop=asyncio.get_running_loop(), **self._of_protocol),
            self._state.limits,
            self._quota,
            self._message_bytes,
            self._state.refusals.refused,
            self._address.tls,
        )
        await _listen(self._listener, self._address)
        return self._listener.url

    async def close(self, drain: Callable[[], Awaitable[None]] | None = None) -> None:
        """Stop accepting, wait for `drain`, then abort what is still open; shielded from cancellation.

        Closing again does nothing.
        """
        runner, self._runner = self._runner, None
        if runner is None:
            return
        with anyio.CancelScope(shield=True):
            if self._listener is not None:
                self._listener.close()
            try:
                if drain is not None:
                    await drain()  # before cleanup, which drops what still arrives of a body
            finally:
                await runner.cleanup()  # cancels what is not done after SHUTDOWN_TIMEOUT_S
                if self._listener is not None:
                    await self._listener.abort_all()


async def _listen(listener: Listener, address: Address) -> None:
    try:
        await listener.listen(address.host, address.port)
    except (OSError, UnicodeError) as exc:  # UnicodeError: a host that cannot be a name
        where = f"{address.host}:{address.port}"
        problem = listen_problem(exc, address.port, address.options)
        raise InputError(f"cannot listen on {where} {problem}") from exc
