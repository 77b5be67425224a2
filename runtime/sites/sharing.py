"""Windows that leave for one site at the same moment share a request.

A request costs both ends the same, however little it holds: processor time, and some hundred bytes of heads
and tensor names, where a coded window may be 1,150. k windows in one request save k - 1 times that. They save
nothing of the way and of the engine's time, and the first one's answer waits for the last: so a request takes
only as many as travel at once (REQUEST_BYTES of runtime.sites.client), and large windows go alone.

Only the request is shared. Each window has its own grant, its own wait, its own second site and its own way
on: when a request fails, each of its windows goes to its next site alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import anyio
from anyio.abc import TaskGroup
from anyio.lowlevel import checkpoint

from runtime.sites.health import Health, Site
from runtime.sites.ledger import Grant
from runtime.sites.routing import Route
from runtime.sites.sendable import SendableTile
from runtime.sites.traffic import even_parts
from stages.errors import SiteError, SiteUnavailable
from stages.tensors import Array


class SharedRequests:
    """Sends windows to sites, several in one request where they leave together. Requests run in `tasks`.

    While `paused` nothing leaves, not even what was about to.
    """

    def __init__(self, tasks: TaskGroup) -> None:
        self.paused = False
        self._tasks = tasks
        self._leaving: dict[Site, list[_Window]] = {}

    async def infer(self, route: Route, tile: SendableTile, *, alone: bool) -> Array:
        """The embedding [w, w, D] of a tile, which goes `alone` or with others that leave now.

        Raises SiteError as SiteClient.infer does.
        """
        site, window = route.site, _Window(route.grant, tile)
        if alone or site.client.most_windows == 1:
            await _Request(self, site, [window]).run()
            return window.answer()
        if site not in self._leaving:
            self._leaving[site] = []
            self._tasks.start_soon(self._send, site)
        self._leaving[site].append(window)
        await window.wait()
        return window.answer()

    async def _send(self, site: Site) -> None:
        """Send what leaves for a site in this moment."""
        await checkpoint()  # windows that can be hedged come a turn of the event loop later than others
        windows = [window for window in self._leaving.pop(site) if window.wanted]
        for part in even_parts(windows, site.client.most_windows):
            self._tasks.start_soon(_Request(self, site, part).run)


@dataclass(eq=False)
class _Window:
    """One window on its way; `wanted` until whoever waits for it is cancelled."""

    grant: Grant
    tile: SendableTile
    wanted: bool = True
    request: _Request | None = None
    done: anyio.Event = field(default_factory=anyio.Event)
    outcome: Array | SiteError | None = None

    async def wait(self) -> None:
        """Until the request has ended. When nobody waits for any of its windows, it is broken off."""
        try:
            await self.done.wait()
        except BaseException:
            self.wanted = False
            if self.request is not None:
                self.request.cancel_if_unwanted()
            raise

    def answer(self) -> Array:
        if isinstance(self.outcome, SiteError):
            raise self.outcome
        if self.outcome is None:
            raise RuntimeError("a request was broken off for which somebody waits")
        return self.outcome


class _Request:
    """One request about `windows`, in their order."""

    def __init__(self, shared: SharedRequests, site: Site, windows: Sequence[_Window]) -> None:
        self._shared = shared
        self._site = site
        self._windows = windows
        self._scope = anyio.CancelScope()
        for window in windows:
            window.request = self

    def cancel_if_unwanted(self) -> None:
        if not any(window.wanted for window in self._windows):
            self._scope.cancel()

    async def run(self) -> None:
        """Have the windows computed, and tell each what came of it."""
        try:
            with self._scope:
                await self._run()
        except SiteError as exc:
            for window in self._windows:
                window.outcome = exc
        finally:
            for window in self._windows:
                window.done.set()

    async def _run(self) -> None:
        await checkpoint()  # a scope that is cancelled already takes effect before anything is written
        if self._shared.paused:
            await anyio.sleep_forever()  # whoever waits is being cancelled
        if self._site.health is Health.EXCLUDED:
            raise SiteUnavailable(self._site.name, "was excluded meanwhile")
        windows = [window for window in self._windows if window.wanted]
        embeddings = await self._site.client.infer(
            [window.grant for window in windows], [window.tile for window in windows]
        )
        self._site.load.answered(len(windows))
        for window, embedding in zip(windows, embeddings, strict=True):
            window.outcome = embedding
