"""A second chance for an answer that is late."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio

T = TypeVar("T")
Ask = Callable[[], Awaitable[T | None]]


async def first_answer(first: Ask[T], second: Ask[T], after_s: float) -> T | None:
    """What comes first; `second` is asked when `first` has not answered after `after_s`. None from both is
    None.

    The one that is late is cancelled. When `first` fails in time, `second` is not asked.
    """
    answers: list[T] = []
    waiting = anyio.CancelScope()

    async def ask(which: Ask[T]) -> None:
        answer = await which()
        if answer is not None:
            answers.append(answer)
            tasks.cancel_scope.cancel()

    async def ask_first() -> None:
        await ask(first)
        waiting.cancel()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ask_first)
        with waiting:
            await anyio.sleep(after_s)
        if not waiting.cancelled_caught:
            tasks.start_soon(ask, second)
    return answers[0] if answers else None
