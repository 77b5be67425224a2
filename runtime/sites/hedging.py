"""Request hedging: a second request for an answer that is late, and the first answer of both counts."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

import anyio

T = TypeVar("T")
Call = Callable[[], Awaitable[T | None]]


class Request(Generic[T]):
    """A call whose `run` is a task of its own, so that it can go on after nobody needs its answer.

    `given_up` says that the answer came from somewhere else.
    """

    def __init__(self) -> None:
        self.given_up = False
        self._answer: T | None = None
        self._scope = anyio.CancelScope()
        self._ended = anyio.Event()

    @property
    def ended(self) -> bool:
        return self._ended.is_set()

    async def run(self, call: Call[T]) -> None:
        try:
            with self._scope:
                self._answer = await call()
        finally:
            self._ended.set()

    async def answer(self) -> T | None:
        """The answer once it is there; None when there is none. Cancelling this does not cancel `run`."""
        await self._ended.wait()
        return self._answer

    def cancel(self) -> None:
        self._scope.cancel()


async def first_answer(first: Call[T], second: Call[T], after_s: float) -> T | None:
    """What comes first; `second` is called when `first` has not answered after `after_s`. None from both is
    None.

    The one that is late is cancelled. When `first` fails in time, `second` is not called.
    """
    answers: list[T] = []
    waiting = anyio.CancelScope()

    async def infer(call: Call[T]) -> None:
        answer = await call()
        if answer is not None:
            answers.append(answer)
            tasks.cancel_scope.cancel()

    async def infer_first() -> None:
        await infer(first)
        waiting.cancel()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(infer_first)
        with waiting:
            await anyio.sleep(after_s)
        if not waiting.cancelled_caught:
            tasks.start_soon(infer, second)
    return answers[0] if answers else None
