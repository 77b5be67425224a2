"""A file that is touched while a run moves, for whoever starts the run again when it does not.

A container's health check, or a service manager, looks at the file's age, and whoever starts a service at
the number in it: frames finished so far. A run moves when its event loop runs, and frames are finished or
none is due. A loop that hangs touches nothing; one that runs while a camera's driver, a GPU or a disk hangs
below it is found out by its frames. Whenever the file is touched, systemd's watchdog hears of it too.
"""

from __future__ import annotations

import contextlib
import enum
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import anyio
from anyio import to_thread

from runtime.live.systemd import pet_watchdog
from runtime.pipeline import Pipeline
from stages.errors import InputError, ungrouped
from stages.files import check_writable

STUCK_FRAMES = 3  # what these take at --max-fps is never too long without a frame


@dataclass(frozen=True)
class HeartbeatOptions:
    """`path` is touched every `every_s`. A run may be without a change for so long: `stuck_s` while frames
    are due, `opening_s` in one attempt to open a camera again, which is where drivers hang, and `grace_s`
    until the first frame and from the last one to the end."""

    path: Path
    every_s: float = 2.0
    stuck_s: float = 30.0
    opening_s: float = 120.0
    grace_s: float = 300.0


class Doing(enum.Enum):
    """What a run does, and how long nothing may change meanwhile."""

    STARTING = "no frame was finished since the start"  # engines are loaded, sites probed
    FRAMES = "no frame was finished, though frames are due"
    OPENING = "an attempt to open the camera again has not come back"
    NOTHING = "nothing is due"  # sending is paused, or --max-fps or --max-mbit say wait
    ENDING = "the run does not end"


@dataclass(frozen=True)
class Activity:
    """What a run does now. `frames` were finished, and the camera tried to be opened `openings` times, so
    far."""

    doing: Doing
    frames: int = 0
    openings: int = 0


class Watchdog:
    """Decides, look by look, whether a run moves.

    Time is counted in looks, `every_s` apart: a loop or a machine that was stopped in between is no run
    whose frames do not come.
    """

    def __init__(self, options: HeartbeatOptions, max_fps: float | None = None) -> None:
        self._options = options
        self._stuck_s = max(options.stuck_s, STUCK_FRAMES / max_fps if max_fps else 0.0)
        self._last: Activity | None = None
        self.idle_s = 0.0  # since something changed

    def moves(self, now: Activity) -> bool:
        if now == self._last and now.doing is not Doing.NOTHING:
            self.idle_s += self._options.every_s
        else:
            self.idle_s = 0.0
        self._last = now
        return self.idle_s <= self._limit_s(now.doing)

    def _limit_s(self, doing: Doing) -> float:
        if doing in (Doing.STARTING, Doing.ENDING):
            return self._options.grace_s
        return self._options.opening_s if doing is Doing.OPENING else self._stuck_s


class Heartbeat:
    """What is to be looked at. `pipeline` is set once there is one."""

    def __init__(self) -> None:
        self.pipeline: Pipeline | None = None

    def activity(self) -> Activity:
        if self.pipeline is None or self.pipeline.source is None:
            return Activity(Doing.STARTING)
        source = self.pipeline.source
        return Activity(_doing(self.pipeline), self.pipeline.measured.frames, source.openings)


def _doing(pipeline: Pipeline) -> Doing:
    if pipeline.ended:
        return Doing.ENDING
    if pipeline.source is not None and pipeline.source.standing:
        return Doing.NOTHING
    if not pipeline.measured.frames:
        return Doing.STARTING
    if pipeline.source is not None and pipeline.source.trouble is not None:
        return Doing.OPENING
    return Doing.NOTHING if pipeline.paused or pipeline.pacing else Doing.FRAMES


@contextlib.asynccontextmanager
async def beating(
    options: HeartbeatOptions | None,
    say: Callable[[str], None],
    max_fps: float | None = None,
    sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
) -> AsyncIterator[Heartbeat]:
    """Touches the file again and again while the block runs and moves; without options nothing.

    `say` gets a sentence when the touching stops or the file cannot be written, and when it goes on. Raises
    InputError when the file cannot be touched at the start.
    """
    heartbeat = Heartbeat()
    if options is None:
        yield heartbeat
        return
    await _first_touch(options.path)
    with ungrouped():
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_beat, options, heartbeat, Watchdog(options, max_fps), say, sleep)
            try:
                yield heartbeat
            finally:
                tasks.cancel_scope.cancel()


async def _first_touch(path: Path) -> None:
    with _touch_errors(path):
        await to_thread.run_sync(_touch, path, 0)


def check_heartbeat(path: Path) -> None:
    """Raise the InputError that the first touch would raise; touches nothing."""
    with _touch_errors(path):
        check_writable(path)


@contextlib.contextmanager
def _touch_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise InputError(
            f"the heartbeat file {path} cannot be written ({exc.strerror}); name a file in a folder that is "
            "there and can be written"
        ) from exc


def _touch(path: Path, frames: int) -> None:
    path.write_text(f"{frames}\n", encoding="ascii")


async def _beat(
    options: HeartbeatOptions,
    heartbeat: Heartbeat,
    watchdog: Watchdog,
    say: Callable[[str], None],
    sleep: Callable[[float], Awaitable[None]],
) -> None:
    beats, touched = True, True
    while True:
        await sleep(options.every_s)
        activity = heartbeat.activity()
        moves = watchdog.moves(activity)
        if moves:
            touched = await _touch_or_tell(options.path, activity.frames, touched, say)
            pet_watchdog()
        if moves != beats:
            say(_told(options.path, moves, activity.doing, watchdog.idle_s))
        beats = moves


async def _touch_or_tell(path: Path, frames: int, touched: bool, say: Callable[[str], None]) -> bool:
    """Touch the file; False where it cannot be. What differs from the last time, `touched`, is told."""
    try:
        await to_thread.run_sync(_touch, path, frames)
    except OSError as exc:
        if touched:
            say(
                f"heartbeat {path} cannot be written ({exc.strerror}): whoever watches it will take this run "
                "for one that hangs"
            )
        return False
    if not touched:
        say(f"heartbeat {path} is written again")
    return True


def _told(path: Path, moves: bool, doing: Doing, idle_s: float) -> str:
    if moves:
        return f"the run moves again; heartbeat {path} goes on"
    return f"heartbeat {path} stops: {doing.value} for {idle_s:.0f} s"
