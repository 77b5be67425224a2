"""The exposure ledger: the only thing that lets a tile leave the edge.

It remembers which window positions each operator has seen in this session and refuses what would take an
operator over its cap. Retries, hedges and takeovers ask like everything else. What it bounds is
*positions*, not content: when the camera pans, content moves through a position, and an operator that
holds one position for long enough may see all of a scene pass through it.

The file is JSON and holds no part of any picture:

    {"format": 1, "session": "2025-01-31T12:00:00+00:00", "exposure": {"operator": [0, 7, 14]}}

One process at a time uses a ledger file; two at once would each forget what the other showed. An open ledger
holds a lock on a file beside it. The file is replaced, never written into: a crash must leave the old
exposure or the new one.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from types import TracebackType
from typing import IO, Any, TypeAlias, TypeVar

from stages.errors import InputError
from stages.files import NOT_REPLACEABLE, check_replaceable, real_path, replace_file
from stages.json_values import no_key_twice
from stages.locks import check_lockable, lock_file
from stages.text_files import read_bytes

FORMAT = 1
_BEGINNING = b'{"format": '  # of every ledger, by which a damaged one is told from somebody's own file

_Session: TypeAlias = tuple[str, dict[str, frozenset[int]]]  # start time, operator -> windows seen
_Value = TypeVar("_Value")


@dataclass(frozen=True)
class Grant:
    """Permission for the tile of one window to leave to one site, which `operator` runs.

    Only the ledger makes one: whatever sends tiles takes a Grant, so that nothing is sent without the
    ledger knowing. It covers that window of every frame until the session ends.
    """

    site: str
    operator: str
    window: int


class ExposureLedger:
    """Who has seen which windows, and who may see which; made by `ExposureLedger.open`, closed by `with`.

    Sites of one operator share one entry and one cap. `grant` and `grant_all` write the file before they
    return (a few milliseconds, at most once per operator and window in a session), so call them off the event
    loop; any number of threads may. Everything else returns at once.
    """

    def __init__(
        self,
        path: Path | None,
        operators: Mapping[str, str],
        caps: Mapping[str, int],
        session: str,
        exposure: Mapping[str, frozenset[int]],
        lock: IO[bytes] | None = None,
    ) -> None:
        self._path = path
        self._operators = dict(operators)
        self._caps = dict(caps)
        self._session = session
        self._exposure = {**dict.fromkeys(caps, frozenset[int]()), **exposure}
        self._lock = lock
        self._granting = threading.Lock()

    @classmethod
    def open(
        cls,
        path: Path | None,
        operators: Mapping[str, str],
        caps: Mapping[str, int],
        new_session: bool = False,
    ) -> ExposureLedger:
        """Continue the session in the file at `path`, or start one if there is no file.

        `operators` maps each site to its operator, `caps` each operator to how many windows it may see.
        `new_session` forgets what the file holds. Without a path nothing outlives the process. Operators of
        the file that are not listed today keep their entry. A file that cannot be written is known before the
        first tile: a session that starts is written at once, for one that goes on it is tried.

        Raises InputError when another run has it open, the file cannot be read, understood or written, or a
        cap is missing or negative.
        """
        _check_caps(operators, caps)
        if path is None:
            return cls(None, operators, caps, _now(), {})
        path = real_path(path)
        with _lock_errors(path):
            lock = lock_file(_lock_path(path), required=True)
        try:
            found = _read(path, new_session)
            session, exposure = found or (_now(), {})
            ledger = cls(path, operators, caps, session, exposure, lock)
            if found is None:
                ledger._commit(ledger._exposure)
            else:
                _check_writable(path)
        except BaseException:
            lock.close()
            raise
        return ledger

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
        path = real_path(path)
        with _lock_errors(path):
            check_lockable(_lock_path(path))
        session, exposure = _read(path, new_session) or (_now(), {})
        _check_writable(path)
        return cls(None, operators, caps, session, exposure)

    def __enter__(self) -> ExposureLedger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._lock is not None:
            self._lock.close()

    @property
    def session(self) -> str:
        """When the session started: ISO 8601, UTC, to the second."""
        return self._session

    def grant(self, site: str, window: int) -> Grant | None:
        """Let one window go to one site, or None when its operator would see more than its cap.

        A window the operator has seen is always granted, even if its cap has been lowered since. The file
        holds a new exposure before this returns. Raises InputError for an unknown site, for a window
        below 0, and when the file cannot be written; then nothing is granted.
        """
        return self.grant_all([(site, window)])[0]

    def grant_all(self, pairs: Iterable[tuple[str, int]]) -> list[Grant | None]:
        """`grant` for many (site, window) pairs, in order, with at most one write of the file."""
        with self._granting:
            exposure = dict(self._exposure)
            grants = [self._decide(exposure, site, window) for site, window in pairs]
            if exposure != self._exposure:
                self._commit(exposure)
            return grants

    def grant_again(self, site: str, window: int) -> Grant | None:
        """A grant for a window that the site's operator has seen before, else None. Writes nothing."""
        operator = _look_up(self._operators, "site", site)
        return Grant(site, operator, window) if window in self._exposure[operator] else None

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

    def _decide(self, exposure: dict[str, frozenset[int]], site: str, window: int) -> Grant | None:
        """Decide on one window and enter it into `exposure`."""
        if window < 0:
            raise InputError(f"window {window} was asked for site {site}; expected 0 or more")
        operator = _look_up(self._operators, "site", site)
        seen = exposure[operator] | {int(window)}
        if len(seen) > max(self._caps[operator], len(exposure[operator])):
            return None
        exposure[operator] = seen
        return Grant(site, operator, int(window))

    def _commit(self, exposure: dict[str, frozenset[int]]) -> None:
        """Write first, then count: an exposure that could not be written is not granted."""
        if self._path is not None:
            _write(self._path, self._session, exposure)
        self._exposure = exposure


def _lock_path(ledger: Path) -> Path:
    return ledger.with_name(ledger.name + ".lock")


@contextlib.contextmanager
def _lock_errors(ledger: Path) -> Iterator[None]:
    """What goes wrong with the file beside the ledger, in a sentence."""
    try:
        yield
    except BlockingIOError as exc:
        raise InputError(f"another run uses the exposure ledger {ledger}; wait until it has ended") from exc
    except OSError as exc:
        raise InputError(
            f"cannot write {_lock_path(ledger)} ({exc.strerror}); the exposure ledger lies beside the sites "
            "file or where --ledger says, in a folder that is there and can be written"
        ) from exc


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


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def _read(path: Path, new_session: bool) -> _Session | None:
    """The session that goes on, None if there is no file or it is to be forgotten.

    InputError for a file that cannot be used, and for one that is no ledger, which is never written to.
    """
    try:
        content = read_bytes(path)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as exc:
        said = exc.strerror if isinstance(exc, OSError) else exc
        raise InputError(
            f"the exposure ledger {path} cannot be read ({said}); make it readable, or give another --ledger"
        ) from exc
    try:
        session = _parse(json.loads(content, object_pairs_hook=no_key_twice))
    except (ValueError, RecursionError) as exc:
        if content.strip(b"\0") and content[: len(_BEGINNING)] != _BEGINNING[: len(content)]:
            raise InputError(
                f"{path} is no exposure ledger, so it is not written to; give another --ledger"
            ) from exc
        if new_session:
            return None
        raise InputError(
            f"the exposure ledger {path} is damaged ({exc}); repair it, or start over with --new-session"
        ) from exc
    return None if new_session else session


def _parse(data: Any) -> _Session:
    """The session in a ledger file's JSON; ValueError says what is wrong with it."""
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise ValueError(f"it is not a ledger of format {FORMAT}")
    session, exposure = data.get("session"), data.get("exposure")
    if not isinstance(session, str) or not isinstance(exposure, dict):
        raise ValueError("its session or exposure is missing")
    return session, {name: _parse_windows(name, windows) for name, windows in exposure.items()}


def _parse_windows(name: str, windows: Any) -> frozenset[int]:
    if not isinstance(windows, list) or not all(type(w) is int and w >= 0 for w in windows):
        raise ValueError(f"the exposure of {name} is not a list of window indices")
    return frozenset(windows)


def _write(path: Path, session: str, exposure: Mapping[str, frozenset[int]]) -> None:
    """Replace the file as a whole: after a crash or a power cut it holds the old or the new exposure."""
    data = {"format": FORMAT, "session": session, "exposure": {k: sorted(v) for k, v in exposure.items()}}
    with _write_errors(path):
        replace_file(path, json.dumps(data) + "\n", durable=True)


def _check_writable(path: Path) -> None:
    with _write_errors(path):
        check_replaceable(path)


@contextlib.contextmanager
def _write_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        advice = "free space, or give --ledger FILE in another folder"
        if exc.errno in NOT_REPLACEABLE:
            advice = (
                "mount the folder it lies in, not the file alone, or give --ledger FILE in a folder of yours"
            )
        raise InputError(
            f"the exposure ledger {path} cannot be written ({exc.strerror}); nothing is sent without it: "
            f"{advice}"
        ) from exc
