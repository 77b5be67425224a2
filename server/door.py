"""One address of a site: its socket, within the limits, and the HTTP server behind it."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import anyio
from aiohttp import web

from server.app import HttpLog
from server.connections import Listener, Tls
from server.limits import Quota
from server.state import SiteState
from stages.errors import InputError

FAREWELL_S = 1.0  # after the grace of a shutdown: time to send "this site is stopping"
LINGER_S = 1.0  # after a refusal, for the rest of its body: a connection closed before that loses the answer


@dataclass(frozen=True)
class Address:
    """Where to listen; `options` are those of the command line that choose it."""

    host: str
    port: int
    options: str
    tls: Tls | None = None


class Door:
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
        self._runner: web.AppRunner | None = web.AppRunner(
            app,
            access_log=None,
            logger=HttpLog(state.refusals),
            handler_cancellation=True,  # a sender that disconnects frees its place in the queue
            shutdown_timeout=FAREWELL_S,
            lingering_time=LINGER_S,
            auto_decompress=False,  # the body reader does it, within the limits
        )

    async def open(self) -> str:
        """Listen, and say at what URL. Raises InputError when the address cannot be bound."""
        if self._runner is None:
            raise RuntimeError("this door was closed")
        await self._runner.setup()
        if self._runner.server is None:
            raise RuntimeError("the runner is not set up")
        self._listener = Listener(
            self._runner.server,
            self._state.limits,
            self._quota,
            self._message_bytes,
            self._state.refusals.refused,
            self._address.tls,
        )
        await _listen(self._listener, self._address)
        return self._listener.url

    async def close(self, drain: Callable[[], Awaitable[None]] | None = None) -> None:
        """Accept no more, wait for `drain`, then cut off who is left, whoever cancels meanwhile.

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
                await runner.cleanup()  # cancels, after FAREWELL_S, what neither sends nor reads
                if self._listener is not None:
                    await self._listener.cut_off()


async def _listen(listener: Listener, address: Address) -> None:
    try:
        await listener.listen(address.host, address.port)
    except (OSError, UnicodeError) as exc:  # UnicodeError: a host that cannot be a name
        where = f"{address.host}:{address.port}"
        raise InputError(
            f"cannot listen on {where} ({_reason(exc)}); choose another {address.options}"
        ) from exc


def _reason(exc: OSError | UnicodeError) -> str:
    if isinstance(exc, OSError) and exc.errno and exc.errno > 0:  # asyncio's own text repeats the address
        return os.strerror(exc.errno)
    return getattr(exc, "strerror", None) or str(exc)
