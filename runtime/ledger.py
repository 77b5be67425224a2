"""The exposure ledger: the only thing that lets a tile leave the edge.

It remembers which window positions each operator has seen in this session and refuses what would take an
operator over its cap. Retries, hedges and takeovers ask like everything else. What it bounds is
*positions*, not content: when the camera pans, content moves through a position, and an operator that
holds one position for long enough may see all of a scene pass through it.

The file is JSON and holds no part of any picture:

    {"format": 1, "session": "2025-01-31T12:00:00+00:00", "exposure": {"operator": [0, 7, 14]}}

One process at a time uses a ledger file; two at once would forget each other's exposures.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from stages.errors import InputError

FORMAT = 1

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
    """Who has seen which windows, and who may see which; made by `ExposureLedger.open`.

    Sites of one operator share one entry and one cap. Calls write the file before they return (a few
    milliseconds, at most once per operator and window in a session), and belong on one thread.
    """

    def __init__(
        self,
        path: Path | None,
        operators: Mapping[str, str],
        caps: Mapping[str, int],
        session: str,
        exposure: Mapping[str, frozenset[int]],
    ) -> None:
        self._path = path
        self._operators = dict(operators)
        self._caps = dict(caps)
        self._session = session
        self._exposure = {**dict.fromkeys(caps, frozenset[int]()), **exposure}

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
        the file that are not listed today keep their entry. A session that starts is written at once, so
        that a file that cannot be written is known before the first tile.

        Raises InputError when the file cannot be read, understood or written, or a cap is missing or
        negative.
        """
        _check_caps(operators, caps)
        found = None if path is None or new_session else _read(path)
        session, exposure = found or (_now(), {})
        ledger = cls(path, operators, caps, session, exposure)
        if found is None:
            ledger._commit(ledger._exposure)
        return ledger

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
        exposure = dict(self._exposure)
        grants = [self._consider(exposure, site, window) for site, window in pairs]
        if exposure != self._exposure:
            self._commit(exposure)
        return grants

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

    def _consider(self, exposure: dict[str, frozenset[int]], site: str, window: int) -> Grant | None:
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
        """Write first, then remember: an exposure that could not be written is not granted."""
        if self._path is not None:
            _write(self._path, self._session, exposure)
        self._exposure = exposure


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


def _read(path: Path) -> _Session | None:
    """The session in a ledger file, None if there is no file; InputError for any other it cannot use."""
    try:
        return _parse(json.loads(path.read_bytes(), object_pairs_hook=_unique))
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise InputError(
            f"the exposure ledger {path} cannot be read ({exc.strerror}); make it readable, or start "
            "over with --new-session"
        ) from exc
    except (ValueError, RecursionError) as exc:
        raise InputError(
            f"the exposure ledger {path} is damaged ({exc}); repair it, or start over with --new-session"
        ) from exc


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object, refused if a name is there twice: the later one would hide the earlier exposure."""
    data = dict(pairs)
    if len(data) < len(pairs):
        raise ValueError("a name is there twice")
    return data


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
    temporary = path.parent / f"{path.name}.tmp"
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(json.dumps(data) + "\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as exc:
        raise InputError(
            f"the exposure ledger {path} cannot be written ({exc.strerror}); nothing is sent without it: "
            "free space, or choose another file"
        ) from exc
    finally:
        with suppress(OSError):
            temporary.unlink()


def _sync_folder(folder: Path) -> None:
    """Make a rename in `folder` last through a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
