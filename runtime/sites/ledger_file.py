"""The file of an exposure ledger: its format, its lock, and what others may do to it under a run.

The file is JSON and holds no part of any picture:

    {"format": 1, "session": "2025-01-31T12:00:00+00:00", "exposure": {"operator": [0, 7, 14]}}

One process at a time uses it; two at once would each forget what the other showed. So a lock is held on a
file beside it. The file is replaced, never written into: a crash must leave the old exposure or the new one.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import IO, Any, TypeAlias

from stages.errors import InputError
from stages.files import NOT_REPLACEABLE, check_replaceable, real_path, replace_file
from stages.json_values import no_key_twice
from stages.locks import check_lockable, lock_file
from stages.text_files import read_bytes

FORMAT = 1
_BEGINNING = b'{"format": '  # of every ledger, by which a damaged one is told from somebody's own file
_NONE: frozenset[int] = frozenset()

Exposure: TypeAlias = dict[str, frozenset[int]]  # operator -> windows seen
Session: TypeAlias = tuple[str, Exposure]  # when it started (ISO 8601, UTC), and what was seen since


class LedgerFile:
    """The file of one session, locked until `close`; made by `LedgerFile.open`, used by one thread at a time.

    The run's memory and the file are one: what others put in its place is united with what the run knows by
    `united`, which is to be asked before each `write`; nothing that either of them says is forgotten. What
    was found goes to `on_message`, once it is written.
    """

    def __init__(self, path: Path, session: str, lock: IO[bytes], on_message: Callable[[str], None]) -> None:
        self.path = path
        self.session = session
        self._lock = lock
        self._on_message = on_message
        self._own: set[bytes] = set()  # what this run wrote last, or has tried to write since
        self._found: str | None = None  # what happened to the file, to be told

    @classmethod
    def open(
        cls,
        path: Path,
        operators: Iterable[str],
        new_session: bool = False,
        on_message: Callable[[str], None] = lambda text: None,
    ) -> tuple[LedgerFile, Exposure]:
        """The file at `path` with what it says. A session of `operators` that starts is written at once, for
        one that goes on it is tried.

        Raises InputError when another run has it open, or it cannot be read, understood or written.
        """
        path = real_path(path)
        with _lock_errors(path):
            lock = lock_file(_lock_path(path), required=True)
        try:
            session, exposure = _read(path, new_session) or (now(), None)
            file = cls(path, session, lock, on_message)
            with _write_errors(path):
                if exposure is None:
                    exposure = dict.fromkeys(operators, _NONE)
                    file.write(exposure)
                else:
                    check_replaceable(path)
        except BaseException:
            lock.close()
            raise
        return file, exposure

    def united(self, exposure: Exposure) -> Exposure:
        """`exposure`, which the run knows, and what somebody else may have written into the file.

        A damaged file is copied to NAME.damaged-TIME. A lock whose file is gone is taken again. Raises
        OSError when another run has it by now, or the file cannot be read or kept.
        """
        self._make_room()
        self._keep_lock()
        content = self._content()
        if content in self._own:
            return exposure
        if content is None:
            return self._find("was deleted under this run", exposure)
        try:
            _, found = _parse(content)
        except (ValueError, RecursionError):
            kept = self._keep_damaged(content)
            return self._find(f"was damaged under this run, and is kept as {kept.name}", exposure)
        united = {name: exposure.get(name, _NONE) | found.get(name, _NONE) for name in {**exposure, **found}}
        if all(found.get(name, _NONE) == exposure.get(name, _NONE) for name in united):
            return exposure
        return self._find("was changed under this run by something else, which counts too", united)

    def write(self, exposure: Exposure) -> None:
        """Replace the file as a whole: after a crash or a power cut it holds the old or the new exposure.

        Raises OSError; then the file may hold the new one nonetheless.
        """
        data = {
            "format": FORMAT,
            "session": self.session,
            "exposure": {name: sorted(windows) for name, windows in exposure.items()},
        }
        content = f"{json.dumps(data)}\n".encode()
        self._own.add(content)
        replace_file(self.path, content, durable=True)
        if not self._is_locked():  # a run that began meanwhile may have read the file as it was
            raise OSError(errno.ENOLCK, "its lock was removed")
        self._own = {content}
        if self._found is not None:
            self._on_message(
                f"the exposure ledger {self.path} {self._found}; it is written again with all that operators "
                "have seen in this session"
            )
            self._found = None

    def close(self, exposure: Exposure) -> str | None:
        """Let the file go, which holds `exposure` then. If it does not, `on_message` is told the sentence
        about it that is returned."""
        try:
            self._make_room()
            if not self._holds(exposure):
                self.write(self.united(exposure))
            return None
        except OSError as exc:
            unwritten = (
                f"the exposure ledger {self.path} is not what this run has written, and cannot be written "
                f"again ({why_unwritable(exc)}); the next run does not know what operators have seen in this "
                "one"
            )
            self._on_message(unwritten)
            return unwritten
        finally:
            self._lock.close()

    def _holds(self, exposure: Exposure) -> bool:
        try:
            _, found = _parse(self._content() or b"")
        except (ValueError, RecursionError):
            return False
        return all(windows <= found.get(name, _NONE) for name, windows in exposure.items())

    def _content(self) -> bytes | None:
        """None where there is no file. Raises OSError."""
        try:
            return read_bytes(self.path)
        except FileNotFoundError:
            return None
        except ValueError as exc:
            raise OSError(errno.EINVAL, str(exc)) from exc

    def _find(self, what: str, exposure: Exposure) -> Exposure:
        self._found = self._found or what
        return exposure

    def _make_room(self) -> None:
        """Make a folder again that is gone; what is no file in the place of one becomes NAME.damaged-TIME."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if os.path.lexists(self.path) and not self.path.is_file():
            kept = self._name_of_damaged()
            self.path.rename(kept)
            self._found = f"was replaced under this run by what is no file, which is kept as {kept.name}"

    def _keep_damaged(self, content: bytes) -> Path:
        """A copy, so that there is never no ledger; of the same file it is made once."""
        kept = self._name_of_damaged()
        if not kept.exists():
            replace_file(kept, content, durable=True)
        return kept

    def _name_of_damaged(self) -> Path:
        return self.path.with_name(f"{self.path.name}.damaged-{self.path.lstat().st_mtime_ns}")

    def _keep_lock(self) -> None:
        if not self._is_locked():
            lock = lock_file(_lock_path(self.path), required=True)
            self._lock.close()
            self._lock = lock

    def _is_locked(self) -> bool:
        """Whether what this run has locked is still what others would lock."""
        try:
            return os.path.samestat(os.fstat(self._lock.fileno()), _lock_path(self.path).stat())
        except FileNotFoundError:
            return False


def look(path: Path, new_session: bool) -> Session:
    """The session that `LedgerFile.open` would begin with; changes nothing. Raises what that does."""
    path = real_path(path)
    with _lock_errors(path):
        check_lockable(_lock_path(path))
    session = _read(path, new_session) or (now(), {})
    with _write_errors(path):
        check_replaceable(path)
    return session


def now() -> str:
    """When a session starts that starts now: ISO 8601, UTC, to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def why_unwritable(exc: OSError) -> str:
    """Why a file cannot be written, in few words."""
    if isinstance(exc, BlockingIOError):
        return "another run uses it now"
    return exc.strerror or str(exc)


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


def _read(path: Path, new_session: bool) -> Session | None:
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
        session = _parse(content)
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


def _parse(content: bytes) -> Session:
    """The session in a ledger file; ValueError or RecursionError say what is wrong with it."""
    data = json.loads(content, object_pairs_hook=no_key_twice)
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
