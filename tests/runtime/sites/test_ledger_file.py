"""A ledger whose file cannot be written any more, or that others delete, change or take under the run.

New windows wait for the file, granted ones go on, and nothing that was granted is ever forgotten.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from runtime.sites.ledger import RETRY_S, ExposureLedger
from runtime.sites.ledger_file import FORMAT, LedgerFile
from stages.errors import InputError
from tests.support.disks import limited_to, put_away
from tests.support.edge import granted
from tests.support.mounts import needs_mounts, python_with

OPERATORS = {"alpha-1": "alpha", "alpha-2": "alpha", "beta-1": "beta"}
CAPS = {"alpha": 2, "beta": 4}
LOCK = ".lock"
LONG_AGO = "2020-02-29T12:00:00+00:00"


@dataclass
class Book:
    """A ledger at `path`, what it has said, and its clock, which stands still until a test moves it."""

    path: Path
    said: list[str] = field(default_factory=list)
    now_s: float = 0.0

    def open(self, new_session: bool = False) -> ExposureLedger:
        return ExposureLedger.open(
            self.path, OPERATORS, CAPS, new_session, self.said.append, clock=lambda: self.now_s
        )

    @property
    def lock(self) -> Path:
        return self.path.with_name(self.path.name + LOCK)

    @property
    def on_disk(self) -> dict[str, set[int]]:
        exposure = json.loads(self.path.read_text())["exposure"]
        return {name: set(windows) for name, windows in exposure.items()}


@pytest.fixture
def book(tmp_path: Path) -> Book:
    (tmp_path / "state").mkdir()
    return Book(tmp_path / "state/run.ledger.json")


@pytest.fixture
def ledger(book: Book) -> Iterator[ExposureLedger]:
    """One that is open, with window 7 granted to beta."""
    with book.open() as opened:
        assert opened.grant("beta-1", 7)
        yield opened


def session_of(exposure: dict[str, list[int]]) -> str:
    return json.dumps({"format": FORMAT, "session": LONG_AGO, "exposure": exposure})


def folder_is_a_file(book: Book) -> Callable[[], object]:
    return put_away(book.path.parent)


def lock_is_a_folder(book: Book) -> Callable[[], object]:
    book.lock.unlink()
    book.lock.mkdir()
    return book.lock.rmdir


def disk_full(book: Book) -> Callable[[], object]:
    full = contextlib.ExitStack()
    full.enter_context(limited_to(10))
    return full.close


FAULTS = [folder_is_a_file, lock_is_a_folder, disk_full]
Fault = Callable[[Book], Callable[[], object]]


@pytest.mark.parametrize("fault", FAULTS)
def test_while_it_cannot_be_written_new_windows_wait_and_granted_ones_go_on(
    book: Book, ledger: ExposureLedger, fault: Fault
) -> None:
    mend = fault(book)
    try:
        for _ in range(3):
            assert ledger.grant("beta-1", 0) is None
        again = granted("beta-1", "beta", 7)
        assert ledger.grant("beta-1", 7) == ledger.grant_again("beta-1", 7) == again
        assert ledger.grant_all([("alpha-1", 7), ("beta-1", 7), ("beta-1", 0)]) == [None, again, None]
        assert ledger.exposed() == {"alpha": set(), "beta": {7}}
        assert ledger.why_stopped is not None
        assert len(book.said) == 1
        assert book.said[0].startswith(f"the exposure ledger {book.path} cannot be written (")
        assert "until it can be, no operator is shown a window that it has not seen;" in book.said[0]
    finally:
        mend()
    assert ledger.grant("beta-1", 0) is None  # not at every tile
    book.now_s += RETRY_S[0]
    assert ledger.grant("beta-1", 0) == granted("beta-1", "beta", 0)
    assert ledger.why_stopped is None
    assert book.said[-1] == f"the exposure ledger {book.path} can be written again: new windows are sent"
    assert sum("written again:" in line for line in book.said) == 1
    assert book.on_disk == {"alpha": set(), "beta": {0, 7}}
    assert not list(book.path.parent.glob("*.tmp"))


@pytest.mark.parametrize("failures", range(len(RETRY_S) + 2))
def test_it_is_tried_again_after_a_wait_that_grows(book: Book, ledger: ExposureLedger, failures: int) -> None:
    mend = folder_is_a_file(book)
    waits_s = [*RETRY_S, RETRY_S[-1], RETRY_S[-1]]
    assert ledger.grant("beta-1", 0) is None
    for wait_s in waits_s[:failures]:
        book.now_s += wait_s
        assert ledger.grant("beta-1", 0) is None
    mend()
    book.now_s += waits_s[failures] - 0.01
    assert ledger.grant("beta-1", 0) is None
    book.now_s += 0.02
    assert ledger.grant("beta-1", 0)
    assert len(book.said) == 2


def test_a_second_outage_begins_with_the_first_wait_and_is_told(book: Book, ledger: ExposureLedger) -> None:
    for window in range(2):
        mend = folder_is_a_file(book)
        assert ledger.grant("beta-1", window) is None
        mend()
        book.now_s += RETRY_S[0]
        assert ledger.grant("beta-1", window)
    assert ["cannot be written" in line for line in book.said] == [True, False, True, False]


def test_at_the_start_it_is_an_error(book: Book) -> None:
    with (
        book.open(),
        limited_to(10),
        pytest.raises(InputError, match=r"cannot be written .*File too large.*nothing is sent without it"),
    ):
        Book(book.path.with_name("another.json")).open()


@needs_mounts
def test_a_full_disk_and_a_read_only_one(book: Book) -> None:
    said = python_with(
        book.path.parent,
        'mount -t tmpfs -o size=64k none .; cd "$PWD"',
        """
import contextlib, os
from pathlib import Path
from runtime.sites.ledger import ExposureLedger
now = [0.0]
path = Path.cwd() / "ledger.json"
with ExposureLedger.open(
    path, {"a": "A"}, {"A": 9}, on_message=print, clock=lambda: now[0]
) as ledger:
    print(ledger.grant("a", 0))
    with open("filler", "wb", buffering=0) as filler, contextlib.suppress(OSError):
        while filler.write(bytes(4096)):
            pass
    print(ledger.grant("a", 1), ledger.grant("a", 0), path.stat().st_size > 0)
    os.unlink("filler")
    now[0] += 1
    print(ledger.grant("a", 1))
    assert os.system(f"mount -t tmpfs -o ro none {path.parent}") == 0
    print(ledger.grant("a", 2), ledger.grant("a", 1))
    assert os.system(f"umount {path.parent}") == 0
    now[0] += 1
    print(ledger.grant("a", 2))
print(path.read_text().strip(), end="")
""",
    ).split("\n")
    a, b, c = (f"Grant(site='a', operator='A', window={window})" for window in range(3))
    told = [line for line in said if line.startswith("the exposure ledger")]
    assert [line.partition(":")[0].partition(".json ")[2] for line in told] == [
        "cannot be written (No space left on device)",
        "can be written again",
        "cannot be written (Read-only file system)",
        "can be written again",
    ]
    others = [line for line in said if line not in told]
    assert others[:-1] == [a, f"None {a} True", b, f"None {b}", c]
    assert json.loads(others[-1])["exposure"] == {"A": [0, 1, 2]}


def deleted(book: Book) -> None:
    book.path.unlink()


def folder_gone(book: Book) -> None:
    shutil.rmtree(book.path.parent)


def folder_replaced(book: Book) -> None:
    folder_gone(book)
    book.path.parent.mkdir()


@pytest.mark.parametrize("tamper", [deleted, folder_gone, folder_replaced])
def test_a_ledger_that_was_deleted_is_written_again_at_the_next_new_window(
    book: Book, ledger: ExposureLedger, tamper: Callable[[Book], None]
) -> None:
    tamper(book)
    assert ledger.grant("beta-1", 7)
    assert not book.path.exists()
    assert ledger.grant("alpha-1", 1)
    assert ledger.grant("alpha-1", 2)
    assert book.on_disk == {"alpha": {1, 2}, "beta": {7}}
    assert book.said == [
        f"the exposure ledger {book.path} was deleted under this run; it is written again with all that "
        "operators have seen in this session"
    ]
    with pytest.raises(InputError, match="another run uses"):
        book.open()


PLACERS: list[Callable[[Path], object]] = [
    Path.mkdir,
    os.mkfifo,
    lambda path: path.symlink_to("/dev/zero"),
]


@pytest.mark.parametrize("place", PLACERS, ids=["folder", "pipe", "device"])
@pytest.mark.parametrize("at_the_end", [True, False])
def test_what_is_no_file_in_its_place_is_put_aside(
    book: Book, place: Callable[[Path], object], at_the_end: bool
) -> None:
    with book.open() as ledger:
        assert ledger.grant("beta-1", 7)
        book.path.unlink()
        place(book.path)
        if not at_the_end:
            assert ledger.grant("alpha-1", 1)
    assert book.on_disk == {"alpha": set() if at_the_end else {1}, "beta": {7}}
    (aside,) = book.path.parent.glob("*.damaged-*")
    assert not aside.is_file()
    assert book.said == [
        f"the exposure ledger {book.path} was replaced under this run by what is no file, which is kept as "
        f"{aside.name}; it is written again with all that operators have seen in this session"
    ]


@pytest.mark.parametrize("in_place", [True, False])
def test_what_a_replaced_ledger_says_counts_too(book: Book, ledger: ExposureLedger, in_place: bool) -> None:
    """Also one of the same length, at the same moment."""
    other = session_of({"alpha": [3, 4], "beta": [8], "retired": [9]})
    if not in_place:
        book.path.unlink()
    book.path.write_text(other)
    assert ledger.grant("alpha-1", 5) is None
    assert ledger.grant("beta-1", 1)
    assert ledger.exposed() == {"alpha": {3, 4}, "beta": {1, 7, 8}, "retired": {9}}
    assert book.on_disk == ledger.exposed()
    assert ledger.room("beta") == 1
    assert len(book.said) == 1
    assert f"{book.path} was changed under this run by something else, which counts too" in book.said[0]
    assert json.loads(book.path.read_text())["session"] == ledger.session


def test_what_others_wrote_is_granted_within_the_cap_only(book: Book, ledger: ExposureLedger) -> None:
    """It may be of another session: this one's operators have not seen it."""
    assert ledger.grant("alpha-1", 1)
    book.path.write_text(session_of({"alpha": [2, 3], "beta": [8]}))
    assert ledger.grant("beta-1", 0)
    assert ledger.exposed() == {"alpha": {1, 2, 3}, "beta": {0, 7, 8}}
    assert [ledger.grant("alpha-1", window) is not None for window in (1, 2, 3)] == [True, False, False]
    assert ledger.grant_again("beta-1", 8) is None
    book.path.unlink()
    with limited_to(10):
        assert ledger.grant("beta-1", 8) is None
    book.now_s += RETRY_S[0]
    assert ledger.grant("beta-1", 8)
    assert ledger.grant_again("beta-1", 8)
    assert book.on_disk == ledger.exposed()


def test_one_window_for_another_is_noticed(book: Book, ledger: ExposureLedger) -> None:
    """Of the same file, length and time."""
    before, content = book.path.stat(), book.path.read_text()
    book.path.write_text(content.replace("[7]", "[6]"))
    os.utime(book.path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert ledger.grant("beta-1", 1)
    assert book.on_disk["beta"] == {1, 6, 7}


def test_a_copy_of_the_ledger_in_its_place_is_no_change(book: Book, ledger: ExposureLedger) -> None:
    shutil.copy(book.path, book.path.with_name("copy"))
    book.path.with_name("copy").replace(book.path)
    assert ledger.grant("beta-1", 1)
    book.path.write_text(json.dumps(json.loads(book.path.read_text()), indent=4))
    assert ledger.grant("beta-1", 2)
    assert book.said == []


@pytest.mark.parametrize("content", [b"", b"{", b"somebody's own file", b"[" * 100_000], ids=len)
def test_a_damaged_ledger_is_kept_aside(book: Book, ledger: ExposureLedger, content: bytes) -> None:
    book.path.write_bytes(content)
    for window in range(2):
        assert ledger.grant("beta-1", window)
    assert book.on_disk["beta"] == {0, 1, 7}
    (kept,) = book.path.parent.glob("run.ledger.json.damaged-*")
    assert kept.read_bytes() == content
    assert len(book.said) == 1
    assert f"was damaged under this run, and is kept as {kept.name}; it is" in book.said[0]


def test_a_damaged_ledger_is_kept_once_though_the_disk_is_full_meanwhile(
    book: Book, ledger: ExposureLedger
) -> None:
    assert ledger.grant_all([("alpha-1", window) for window in (1, 2)])
    book.path.write_text("{")
    with limited_to(10):
        for _ in range(3):
            assert ledger.grant("beta-1", 0) is None
            book.now_s += RETRY_S[-1]
        assert book.path.read_text() == "{"
    assert ledger.grant("beta-1", 0)
    assert len(list(book.path.parent.glob("*.damaged-*"))) == 1
    assert book.on_disk == {"alpha": {1, 2}, "beta": {0, 7}}


# The lock beside it


def test_a_lock_that_was_deleted_is_taken_again(book: Book, ledger: ExposureLedger) -> None:
    book.lock.unlink()
    assert ledger.grant("beta-1", 1)
    with pytest.raises(InputError, match="another run uses"):
        book.open()
    assert book.said == []


def test_a_run_that_lost_its_lock_to_another_shows_nothing_new(book: Book, ledger: ExposureLedger) -> None:
    book.lock.unlink()
    with Book(book.path).open() as other:
        assert other.exposure("beta") == {7}
        assert other.grant("beta-1", 1)
        assert ledger.grant("beta-1", 2) is None
        assert ledger.grant("beta-1", 7)
        assert f"{book.path} cannot be written (another run uses it now)" in book.said[0]
        assert other.grant("beta-1", 3)
    book.now_s += RETRY_S[0]
    assert ledger.grant("beta-1", 4)
    assert ledger.grant("beta-1", 5) is None
    assert book.on_disk["beta"] == ledger.exposure("beta") == {1, 3, 4, 7}


def test_a_lock_that_is_deleted_during_a_write_is_noticed_after_it(book: Book) -> None:
    """Between the two a run may have begun that read the file as it was. What stands there is no surprise."""
    file, exposure = LedgerFile.open(book.path, CAPS, on_message=book.said.append)
    written = {**exposure, "alpha": frozenset({1})}
    assert file.united(exposure) == exposure
    book.lock.unlink()
    with pytest.raises(OSError, match="its lock was removed"):
        file.write(written)
    assert book.on_disk["alpha"] == {1}
    assert file.united(exposure) == exposure
    assert book.lock.exists()
    file.write(written)
    file.close(written)
    assert book.said == []


# The end of a run


def test_a_ledger_that_is_gone_at_the_end_is_written_again(book: Book) -> None:
    with book.open() as ledger:
        ledger.grant("beta-1", 7)
        session = ledger.session
        book.path.unlink()
    assert book.on_disk["beta"] == {7}
    with book.open() as ledger:
        assert ledger.session == session
        assert ledger.exposure("beta") == {7}


def test_one_that_cannot_be_written_at_the_end_is_told(book: Book) -> None:
    with book.open() as ledger:
        ledger.grant("beta-1", 7)
        mend = folder_is_a_file(book)
        assert ledger.unwritten is None
    assert book.said == [ledger.unwritten]
    assert book.said == [
        f"the exposure ledger {book.path} is not what this run has written, and cannot be written again "
        "(File exists); the next run does not know what operators have seen in this one"
    ]
    mend()
    with book.open() as ledger:  # its lock was let go
        assert ledger.exposure("beta") == {7}
    assert ledger.unwritten is None


def test_an_end_without_a_change_writes_nothing(book: Book) -> None:
    with book.open() as ledger:
        ledger.grant("beta-1", 7)
        before = book.path.stat()
        with limited_to(10):
            ledger.grant("beta-1", 8)
    assert book.path.stat().st_ino == before.st_ino
    assert len(book.said) == 1


# Any sequence of faults

windows = st.integers(0, 6)
pairs = st.tuples(st.sampled_from(sorted(OPERATORS)), windows)


class FaultyDisk(RuleBasedStateMachine):
    """Runs with one ledger file, and whatever is done to it meanwhile.

    `sent` is what operators were granted by any run of the session, as nobody but this test knows; `begun` is
    what the file said when runs began, which they take for true. A run that has ended can restore nothing, so
    the file is left alone until one that goes on knows what it has sent.
    """

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        (self.folder / "state").mkdir()
        self.book = Book(self.folder / "state/ledger.json")
        self.sent: dict[str, set[int]] = {name: set() for name in CAPS}
        self.begun: dict[str, set[int]] = {name: set() for name in CAPS}
        self.claimed: dict[str, set[int]] = {}  # what was written into the file and is still there
        self.mend: Callable[[], object] | None = None
        self.runs: list[ExposureLedger] = []
        self.lock_deleted = False

    @initialize()
    def start(self) -> None:
        self._open()

    @rule(asked=st.lists(pairs, min_size=1, max_size=4), first=st.booleans())
    def grant(self, asked: list[tuple[str, int]], first: bool) -> None:
        run = self.runs[0 if first else -1]
        known, new = run.exposed(), set()
        for (site, window), grant in zip(asked, run.grant_all(asked), strict=True):
            if grant is not None:
                assert (grant.site, grant.window) == (site, window)
                new |= {(grant.operator, window)} - {(grant.operator, seen) for seen in known[grant.operator]}
                self.sent[grant.operator].add(window)
        assert all(window in self.book.on_disk[operator] for operator, window in new)
        if new and run.why_stopped is None:
            assert self._holds(self.sent)
            assert self._holds(self.claimed)

    @rule(seconds=st.sampled_from([0.1, 1.0, 60.0]))
    def time_passes(self, seconds: float) -> None:
        self.book.now_s += seconds

    @precondition(lambda self: self.mend is None)
    @rule(fault=st.sampled_from(FAULTS))
    def break_it(self, fault: Fault) -> None:
        if self.book.path.is_file() and self.book.lock.is_file():
            self.mend = fault(self.book)
            self.claimed = {}
            self.lock_deleted |= fault is lock_is_a_folder

    @precondition(lambda self: self.mend is not None)
    @rule()
    def mend_it(self) -> None:
        assert self.mend is not None
        self.mend()
        self.mend = None

    @precondition(lambda self: self._can_be_restored())
    @rule()
    def delete(self) -> None:
        self.book.path.unlink(missing_ok=True)
        self.claimed = {}

    @precondition(lambda self: self._can_be_restored())
    @rule(content=st.sampled_from([b"", b"{", b"no ledger"]))
    def damage(self, content: bytes) -> None:
        self.book.path.write_bytes(content)
        self.claimed = {}

    @precondition(lambda self: self._can_be_restored())
    @rule(alpha=st.lists(windows, max_size=2), beta=st.lists(windows, max_size=4))
    def replace(self, alpha: list[int], beta: list[int]) -> None:
        self.book.path.write_text(session_of({"alpha": alpha, "beta": beta}))
        self.claimed = {"alpha": set(alpha), "beta": set(beta)}

    @precondition(lambda self: self.mend is None and len(self.runs) == 1)
    @rule()
    def delete_lock(self) -> None:
        self.book.lock.unlink(missing_ok=True)
        self.lock_deleted = True

    @precondition(lambda self: self.mend is None and len(self.runs) < 3)
    @rule()
    def start_another(self) -> None:
        """It is refused, unless the lock was deleted. Who deletes both files has begun a new session."""
        if not self._holds(self.sent):
            return
        if not self.lock_deleted:
            with pytest.raises(InputError, match="another run uses"):
                self.book.open()
            return
        with contextlib.suppress(InputError):
            self._open()

    @precondition(lambda self: self.mend is None)
    @rule(last=st.booleans())
    def restart(self, last: bool) -> None:
        run = self.runs.pop(-1 if last else 0)
        run.__exit__(None, None, None)
        if not self.runs:
            assert self._holds(self.sent)
            assert self._holds(self.claimed)
            self._open()

    @invariant()
    def no_operator_is_over_its_cap(self) -> None:
        for name, cap in CAPS.items():
            assert len(self.sent[name] | self.begun[name]) <= max(cap, len(self.begun[name]))

    def teardown(self) -> None:
        if self.mend is not None:
            self.mend()
        for run in self.runs:
            run.__exit__(None, None, None)
        shutil.rmtree(self.folder)

    def _open(self) -> None:
        self.runs.append(self.book.open())
        for name, begun in self.begun.items():
            begun |= self.runs[-1].exposure(name)

    def _can_be_restored(self) -> bool:
        return self.mend is None and any(
            all(seen <= run.exposure(name) for name, seen in self.sent.items()) for run in self.runs
        )

    def _holds(self, exposure: dict[str, set[int]]) -> bool:
        with contextlib.suppress(OSError, ValueError):
            return all(seen <= self.book.on_disk.get(name, set()) for name, seen in exposure.items())
        return False


TestFaultyDisk = FaultyDisk.TestCase
TestFaultyDisk.settings = settings(max_examples=20, stateful_step_count=25, deadline=None)
