"""A value that is replaced again and again, for readers that need only the newest."""

from __future__ import annotations

from typing import Generic, TypeVar

import anyio

T = TypeVar("T")


class Newest(Generic[T]):
    """Hands its newest value to any number of readers, each at its own pace; older values are dropped."""

    def __init__(self) -> None:
        self.value: T | None = None
        self.version = 0
        self._replaced = anyio.Event()

    def put(self, value: T) -> None:
        """Replace the value and wake every reader that waits. Call it on the event loop."""
        self.value, self.version = value, self.version + 1
        self._replaced.set()
        self._replaced = anyio.Event()

    async def after(self, version: int) -> tuple[int, T]:
        """The newest value and its version, as soon as that is greater than `version`."""
        while self.value is None or self.version <= version:
            await self._replaced.wait()
        return self.version, self.value
