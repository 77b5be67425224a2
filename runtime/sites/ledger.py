"""The exposure ledger: the only thing that lets a tile leave the edge.

It remembers which window positions each operator has seen in this session and refuses what would take an
operator over its cap. Retries, hedges and takeovers ask like everything else. What it bounds is
*positions*, not content: when the camera pans, content moves through a position, and an operator that
holds one position for long enough may see all of a scene pass through it.

What is granted is in its file (runtime/sites/ledger_file.py) first. While that cannot be written, windows
that an operator has seen go on to it and new ones are refused.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import InitVar, dataclass
from itertools import chain, repeat
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from runtime.sites.ledger_file import Exposure, LedgerFile, look, now, why_unwritable
from stages.errors import InputError

RETRY_S = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0)  # waits between attempts to write; the last one repeats

_Value = TypeVar("_Value")
_LEDGER = object()  # who makes grants shows it


@dataclass(frozen=True)
class Grant:
    """Permission for the tile of one window to leave to one site, which `operator` runs.

    Only the ledger makes one: whatever sends tiles takes a Grant, so that nothing is sent without the
    ledger knowing. It covers that window of every frame until the session ends, where the frame does not keep
    it. Raises TypeError for anybody else who makes one, or a copy with other values.
    """

    site: str
    operator: str
    window: int
    made_by: InitVar[object] = None

    def __post_init__(self, made_by: object) -> None:
        if made_by is not _LEDGER:
            raise TypeError("only the exposure ledger makes grants")


class ExposureLedger:
    """Who has seen which windows, and who may see which; made by `ExposureLedger.open`, closed by `with`.

    Sites of one operator share one entry and one cap. `grant` and `grant_all` write the file before they
    return (a few milliseconds, at most once per operator and window in a session), so call them off the event
    loop; any number of threads may. Everything else returns at once.

    `unwritten` is None until it is closed, and then too unless its file does not hold what operators have
    seen: a sentence about that.
    """

    def __init__(
        self,
        file: LedgerFile | None,
        operators: Mapping[str, str],
        caps: Mapping[str, int],
        session: str,
        exposure: Mapping[str, frozenset[int]],
        on_message: Callable[[str], None] = lambda text: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.unwritten: str | None = None
        self._file = file
        self._operators = dict(operators)
        self._caps = dict(caps)
        self._session = session
        self._kept: frozenset[int] = frozenset()
        self._exposure: Exposure = {**dict.fromkeys(caps, frozenset[int]()), **exposure}
        self._granted = dict(self._exposure)  # less than the exposure where others wrote into the file
        self._on_message = on_message
        self._clock = clock
        self._granting = threading.Lock()
        self._why_stopped: str | None = None
        self._waits_s = _waits_s()
        self._next_try_s = -math.inf

    @classmethod
    def open(
        cls,
        path: Path | None,
        operators: Mapping[str, str],
        caps: Mapping[str, int],
        new_session: bool = False,
        on_message: Callable[[str], None] = lambda text: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> ExposureLedger:
        """Continue the session in the file at `path`, or start one if there is no file.

        `operators` maps each site to its operator, `caps` each operator to how many windows it may see.
        `new_session` forgets what the file holds. Without a path nothing outlives the process. Operators of
        the file that are not listed today keep their entry. A file that cannot be written is known before the
        first tile: a session that starts is written at once, for one that goes on it is tried.

        `on_message` gets sentences for a person, in the thread that asks for a grant, when the file cannot be
        written any more, when it can be again, and when somebody else has changed it. `clock` is in seconds.

        Raises InputError when another run has it open, the file cannot be read, understood or written, or a
        cap is missing or negative.
        """
        _check_caps(operators, caps)
        if path is None:
            return cls(None, operators, caps, now(), {})
        file, exposure = LedgerFile.open(path, caps, new_session, on_message)
        return cls(file, operators, caps, file.session, exposure, on_message, clock)

    @classmethod
    def looked_at(
        cls,
        path: Path,
        operators: Mapping[str, str],
        caps: Mapping[str, int],
        new_session: bool = False,
    ) -> ExposureLedger:
        """What `open` would open, in memory: nothing is written or made. Raises what `open` does."""
        _check_caps(operators, caps)
        session, exposure = look(path, new_session)
        return cls(None, operators, caps, session, exposure)

    def __enter__(self) -> ExposureLedger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self.unwritten = self._file.close(self._exposure)

    @property
    def kept(self) -> frozenset[int]:
        """The windows that are granted to nobody in this run, not even to who has seen them before."""
        return self._kept

    def keep(self, windows: Iterable[int]) -> None:
        """Grant these to nobody from here on. They are no exposure, so the file knows nothing of them."""
        self._kept = self._kept.union(windows)

    @property
    def session(self) -> str:
        """When the session started: ISO 8601, UTC, to the second."""
        return self._session

    @property
    def why_stopped(self) -> str | None:
        """Why windows that an operator has not seen are granted to nobody now; None while they are."""
        return self._why_stopped

    def grant(self, site: str, window: int) -> Grant | None:
        """Let one window go to one site, or None when its operator would see more than its cap.

        A window the operator has seen is always granted, even if its cap has been lowered since. The file
        holds a new exposure before this returns; while it cannot be written that is None too. Raises
        InputError for an unknown site and for a window below 0; then nothing is granted. A window that is
        kept is granted to nobody.
        """
        return self.grant_all([(site, window)])[0]

    def grant_all(self, pairs: Iterable[tuple[str, int]]) -> list[Grant | None]:
        """`grant` for many (site, window) pairs, in order, with at most one write of the file."""
        asked = list(pairs)
        with self._granting:
            exposure, grants = self._decide_all(asked)
            if self._file is None or not any(grant and self._is_new(grant) for grant in grants):
                return self._count(exposure, grants)
            return self._record(self._file, asked) or [self.grant_again(*pair) for pair in asked]

    def grant_again(self, site: str, window: int) -> Grant | None:
        """A grant for a window that the site's operator was granted before, else None. Writes nothing."""
        operator = _look_up(self._operators, "site", site)
        granted = window in self.granted(operator) and window not in self._kept
        return Grant(site, operator, window, _LEDGER) if granted else None

    def granted(self, operator: str) -> frozenset[int]:
        """The windows that need no write to be granted to an operator again; part of `exposure`."""
        return _look_up(self._granted, "operator", operator)

    def exposure(self, operator: str) -> frozenset[int]:
        """The windows an operator has seen in this session; InputError for one the ledger does not know."""
        return _look_up(self._exposure, "operator", operator)

    def cap(self, operator: str) -> int:
        """How many windows an operator may see; InputError for one that is not listed."""
        return _look_up(self._caps, "operator", operator)

    def room(self, operator: str) -> int:
        """How many more windows an operator may see, 0 or more; InputError for one that is not listed."""
        return max(0, self.cap(operator) - len(self.exposure(operator)))

    def exposed(self) -> dict[str, frozenset[int]]:
        """The windows each operator has seen, those included that are in the file but not listed today."""
        return dict(self._exposure)

    def _record(self, file: LedgerFile, asked: Sequence[tuple[str, int]]) -> list[Grant | None] | None:
        """What is granted and in the file now; None when it could not be written, or was not tried again yet.

        Write first, then count. The file comes before the decision: another may have written into it.
        """
        if self._clock() < self._next_try_s:
            return None
        try:
            self._exposure = file.united(self._exposure)
            exposure, grants = self._decide_all(asked)
            file.write(exposure)
        except OSError as exc:
            self._stop(file.path, why_unwritable(exc))
            return None
        self._go_on(file.path)
        return self._count(exposure, grants)

    def _is_new(self, grant: Grant) -> bool:
        return grant.window not in self._granted[grant.operator]

    def _count(self, exposure: Exposure, grants: list[Grant | None]) -> list[Grant | None]:
        self._exposure = exposure
        for grant in filter(None, grants):
            self._granted[grant.operator] |= {grant.window}
        return grants

    def _stop(self, path: Path, why: str) -> None:
        if self._why_stopped is None:
            self._on_message(
                f"the exposure ledger {path} cannot be written ({why}): until it can be, no operator is "
                "shown a window that it has not seen; such windows run here, and without a window stage here "
                "or with --when-sites-fail lose their frames are lost"
            )
        self._why_stopped = f"the exposure ledger {path} cannot be written ({why})"
        self._next_try_s = self._clock() + next(self._waits_s)

    def _go_on(self, path: Path) -> None:
        if self._why_stopped is not None:
            self._on_message(f"the exposure ledger {path} can be written again: new windows are sent")
        self._why_stopped = None
        self._waits_s = _waits_s()

    def _decide_all(self, asked: Sequence[tuple[str, int]]) -> tuple[Exposure, list[Grant | None]]:
        """What would have been seen with these windows, and the grants for them."""
        exposure = dict(self._exposure)
        return exposure, [self._decide(exposure, site, window) for site, window in asked]

    def _decide(self, exposure: Exposure, site: str, window: int) -> Grant | None:
        """Decide on one window and enter it into `exposure`.

        What others wrote into the file under this run counts, but is not known to be of this session: such a
        window is granted within the cap only.
        """
        if window < 0:
            raise InputError(f"window {window} was asked for site {site}; expected 0 or more")
        operator = _look_up(self._operators, "site", site)
        if window in self._kept:
            return None
        seen = exposure[operator] | {int(window)}
        if window not in self._granted[operator] and len(seen) > self._caps[operator]:
            return None
        exposure[operator] = seen
        return Grant(site, operator, int(window), _LEDGER)


def _waits_s() -> Iterator[float]:
    return chain(RETRY_S, repeat(RETRY_S[-1]))


def _look_up(table: Mapping[str, _Value], kind: str, name: str) -> _Value:
    if name not in table:
        known = ", ".join(sorted(table)) or "none"
        raise InputError(f"the exposure ledger knows no {kind} {name}; it knows {known}")
    return table[name]


def _check_caps(operators: Mapping[str, str], caps: Mapping[str, int]) -> None:
    for name in {*operators.values(), *caps}:
        cap = caps.get(name)
        if cap is None or cap < 0:
            raise InputError(f"the cap of operator {name} is {cap}; expected 0 windows or more")
