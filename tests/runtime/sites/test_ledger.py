"""The exposure ledger: caps hold in any order of grants, and nothing granted is ever forgotten."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import FrozenInstanceError
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.sites.ledger import ExposureLedger
from runtime.sites.ledger_file import FORMAT
from stages.errors import InputError
from tests.support.edge import granted
from tests.support.mounts import mounted_file, needs_mounts, python_with, read_only

OPERATORS = {"alpha-1": "alpha", "alpha-2": "alpha", "beta-1": "beta", "gamma-1": "gamma"}
CAPS = {"alpha": 2, "beta": 3, "gamma": 0}
FILES = ["run.ledger.json", "run.ledger.json.lock"]
LONG_AGO = "2020-02-29T12:00:00+00:00"

asked = st.lists(st.tuples(st.sampled_from(sorted(OPERATORS)), st.integers(0, 24)), max_size=60)
caps_of_all = st.fixed_dictionaries({name: st.integers(0, 25) for name in CAPS})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run.ledger.json"


@pytest.fixture
def ledger(path: Path) -> Iterator[ExposureLedger]:
    """A new one, open at `path`."""
    with ExposureLedger.open(path, OPERATORS, CAPS) as opened:
        yield opened


def in_memory(caps: dict[str, int] | None = None) -> ExposureLedger:
    return ExposureLedger.open(None, OPERATORS, CAPS if caps is None else caps)


def on_disk(path: Path) -> dict[str, list[int]]:
    exposure: dict[str, list[int]] = json.loads(path.read_text())["exposure"]
    return exposure


def write_session(path: Path, exposure: dict[str, list[int]]) -> None:
    path.write_text(json.dumps({"format": FORMAT, "session": LONG_AGO, "exposure": exposure}))


@given(caps=caps_of_all, pairs=asked)
def test_no_sequence_of_grants_takes_an_operator_over_its_cap(
    caps: dict[str, int], pairs: list[tuple[str, int]]
) -> None:
    ledger = in_memory(caps)
    left: dict[str, set[int]] = {name: set() for name in caps}
    for site, window in pairs:
        operator = OPERATORS[site]
        may = window in left[operator] or len(left[operator]) < caps[operator]
        grant = ledger.grant(site, window)
        assert grant == (granted(site, operator, window) if may else None)
        if grant is not None:
            left[operator].add(window)
        assert ledger.exposed() == left
        assert all(len(left[name]) <= cap for name, cap in caps.items())
        assert all(ledger.room(name) == cap - len(left[name]) for name, cap in caps.items())


@given(caps=caps_of_all, pairs=asked)
def test_a_plan_is_granted_as_its_windows_one_by_one(
    caps: dict[str, int], pairs: list[tuple[str, int]]
) -> None:
    together, singly = in_memory(caps), in_memory(caps)
    assert together.grant_all(pairs) == [singly.grant(site, window) for site, window in pairs]
    assert together.exposed() == singly.exposed()


@settings(max_examples=25, deadline=None)
@given(runs=st.lists(st.tuples(caps_of_all, asked, st.booleans()), min_size=1, max_size=4))
def test_the_caps_hold_over_all_runs_of_a_session(
    runs: list[tuple[dict[str, int], list[tuple[str, int]], bool]],
) -> None:
    left: dict[str, set[int]] = {name: set() for name in CAPS}
    highest = dict.fromkeys(CAPS, 0)
    with tempfile.TemporaryDirectory() as folder:
        for caps, pairs, as_plan in runs:
            with ExposureLedger.open(Path(folder, "ledger.json"), OPERATORS, caps) as ledger:
                assert ledger.exposed() == left
                grants = ledger.grant_all(pairs) if as_plan else [ledger.grant(*pair) for pair in pairs]
            for grant in grants:
                if grant is not None:
                    left[grant.operator].add(grant.window)
            highest = {name: max(highest[name], cap) for name, cap in caps.items()}
            assert all(len(left[name]) <= highest[name] for name in left)


def test_sites_of_one_operator_share_its_entry_and_cap() -> None:
    ledger = in_memory()
    assert ledger.grant("alpha-1", 0) == granted("alpha-1", "alpha", 0)
    assert ledger.grant("alpha-2", 1) == granted("alpha-2", "alpha", 1)
    assert ledger.grant("alpha-2", 2) is None
    assert ledger.grant("alpha-2", 0) == granted("alpha-2", "alpha", 0)
    assert ledger.exposure("alpha") == {0, 1}


def test_a_refused_window_leaves_no_trace(path: Path, ledger: ExposureLedger) -> None:
    before = path.read_bytes()
    assert ledger.grant("gamma-1", 5) is None
    assert ledger.exposure("gamma") == frozenset()
    assert path.read_bytes() == before


def test_the_file_is_as_documented(path: Path, ledger: ExposureLedger) -> None:
    ledger.grant_all([("beta-1", 14), ("beta-1", 0), ("alpha-2", 7)])
    assert json.loads(path.read_text()) == {
        "format": 1,
        "session": ledger.session,
        "exposure": {"alpha": [7], "beta": [0, 14], "gamma": []},
    }
    assert datetime.fromisoformat(ledger.session).utcoffset() == timedelta(0)


def test_a_new_session_is_on_disk_before_the_first_grant(path: Path, ledger: ExposureLedger) -> None:
    assert json.loads(path.read_text())["session"] == ledger.session


def test_a_grant_is_on_disk_when_it_is_returned(path: Path, ledger: ExposureLedger) -> None:
    for window in (3, 1, 2):
        assert ledger.grant("beta-1", window)
        assert set(on_disk(path)["beta"]) == ledger.exposure("beta")


def test_a_plan_is_written_once_and_after_it_is_decided(path: Path, ledger: ExposureLedger) -> None:
    states = {path.read_bytes()}

    def plan() -> Iterator[tuple[str, int]]:
        for window in range(3):
            yield "beta-1", window
            states.add(path.read_bytes())

    assert all(ledger.grant_all(plan()))
    assert len(states) == 1
    assert on_disk(path)["beta"] == [0, 1, 2]


def test_nothing_is_written_when_nothing_is_new(path: Path, ledger: ExposureLedger) -> None:
    ledger.grant("alpha-1", 4)
    path.write_text("as it was")
    assert ledger.grant("alpha-2", 4)
    assert ledger.grant("gamma-1", 4) is None
    assert ledger.grant_all([("alpha-1", 4)] * 3)
    assert path.read_text() == "as it was"


def test_opening_a_session_again_does_not_write(path: Path) -> None:
    write_session(path, {"alpha": [4]})
    before = path.read_bytes()
    with ExposureLedger.open(path, OPERATORS, CAPS):
        assert path.read_bytes() == before


def test_a_reopened_ledger_keeps_session_and_exposure(path: Path) -> None:
    write_session(path, {"alpha": [4]})
    with ExposureLedger.open(path, OPERATORS, CAPS) as first:
        first.grant("alpha-1", 9)
    with ExposureLedger.open(path, OPERATORS, CAPS) as again:
        assert again.session == LONG_AGO
        assert again.exposure("alpha") == {4, 9}
        assert again.room("alpha") == 0
        assert again.grant("alpha-2", 5) is None


def test_a_new_session_forgets_on_purpose(path: Path) -> None:
    write_session(path, {"alpha": [0, 1], "retired": [7]})
    with ExposureLedger.open(path, OPERATORS, CAPS, new_session=True) as ledger:
        assert ledger.session > LONG_AGO
        assert ledger.exposed() == {name: frozenset() for name in CAPS}
        assert on_disk(path) == {name: [] for name in CAPS}


def test_a_lowered_cap_stops_new_windows_only(path: Path) -> None:
    write_session(path, {"beta": [0, 1, 2]})
    with ExposureLedger.open(path, OPERATORS, {**CAPS, "beta": 1}) as ledger:
        assert [ledger.grant("beta-1", window) is not None for window in range(4)] == [
            True,
            True,
            True,
            False,
        ]
        assert ledger.room("beta") == 0
        assert ledger.cap("beta") == 1


def test_operators_not_listed_today_stay_in_the_file(path: Path) -> None:
    write_session(path, {"retired": [7, 8]})
    with ExposureLedger.open(path, OPERATORS, CAPS) as ledger:
        ledger.grant("alpha-1", 0)
        assert on_disk(path)["retired"] == [7, 8]
        assert ledger.exposure("retired") == {7, 8}
        assert ledger.exposed()["retired"] == {7, 8}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        bytes(100),
        b'{"format": 2, "session": "s", "exposure": {}}',
        b'{"format": 1, "exposure": {}}',
        b'{"format": 1, "session": 5, "exposure": {}}',
        b'{"format": 1, "session": "s"}',
        b'{"format": 1, "session": "s", "exposure": []}',
        b'{"format": 1, "session": "s", "exposure": {"alpha": 3}}',
        b'{"format": 1, "session": "s", "exposure": {"alpha": ["3"]}}',
        b'{"format": 1, "session": "s", "exposure": {"alpha": [3.0]}}',
        b'{"format": 1, "session": "s", "exposure": {"alpha": [true]}}',
        b'{"format": 1, "session": "s", "exposure": {"alpha": [-1]}}',
        b'{"format": 1, "session": "s", "exposure": {"alpha": [3], "alpha": []}}',
        b'{"format": 1, "session": "s", "exposure": {"alpha": [3]}} and more',
    ],
)
def test_a_damaged_file_stops_the_run_and_is_left_alone(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        ExposureLedger.open(path, OPERATORS, CAPS)
    sentence = str(caught.value)
    assert str(path) in sentence
    assert "repair it, or start over with --new-session" in sentence
    assert "\n" not in sentence
    assert path.read_bytes() == content
    with ExposureLedger.open(path, OPERATORS, CAPS, new_session=True) as ledger:
        assert ledger.exposure("alpha") == frozenset()


@pytest.mark.parametrize("content", [b"\xff\xfe\x00broken", b"[]", b'{"objects": []}', b"[" * 100_000])
@pytest.mark.parametrize("new_session", [False, True])
def test_a_file_that_is_no_ledger_is_never_written_to(path: Path, content: bytes, new_session: bool) -> None:
    path.write_bytes(content)
    for start in (ExposureLedger.open, ExposureLedger.looked_at):
        with pytest.raises(InputError, match=r"run\.ledger\.json is no exposure ledger, so it is not"):
            start(path, OPERATORS, CAPS, new_session)
    assert path.read_bytes() == content


@pytest.mark.parametrize("new_session", [False, True])
def test_an_unreadable_file_is_not_taken_for_a_new_session(path: Path, new_session: bool) -> None:
    path.mkdir()
    with pytest.raises(InputError, match=r"run\.ledger\.json cannot be read .* another --ledger"):
        ExposureLedger.open(path, OPERATORS, CAPS, new_session)


def test_ledgers_of_one_name_have_their_own_locks(tmp_path: Path) -> None:
    """a.json and a.txt, and one that is called like a lock."""
    with (
        ExposureLedger.open(tmp_path / "a.json", OPERATORS, CAPS) as first,
        ExposureLedger.open(tmp_path / "a.lock", OPERATORS, CAPS) as second,
    ):
        assert first.grant("alpha-1", 1)
        assert second.grant("alpha-1", 1)


def test_a_file_that_cannot_be_written_is_known_at_once(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"cannot write .*ledger\.json\.lock .*a folder that is there and can be written"
    ):
        ExposureLedger.open(tmp_path / "missing" / "ledger.json", OPERATORS, CAPS)


def test_no_temporary_file_is_left_behind(path: Path) -> None:
    leftover = path.with_name(path.name + ".tmp")
    leftover.write_text("from a crash in the middle of a write")
    with ExposureLedger.open(path, OPERATORS, CAPS) as ledger:
        ledger.grant_all([("alpha-1", 0), ("beta-1", 1)])
        assert sorted(entry.name for entry in path.parent.iterdir()) == FILES


@pytest.mark.parametrize("caps", [{"alpha": 1, "beta": 1}, {**CAPS, "beta": -1}])
def test_every_operator_needs_a_cap(caps: dict[str, int]) -> None:
    with pytest.raises(InputError, match="cap of operator"):
        in_memory(caps)


def test_unknown_names_and_windows_are_refused(path: Path, ledger: ExposureLedger) -> None:
    before = path.read_bytes()
    with pytest.raises(InputError, match="no site delta-1; it knows alpha-1, alpha-2"):
        ledger.grant_all([("alpha-1", 0), ("delta-1", 0)])
    with pytest.raises(InputError, match="window -1"):
        ledger.grant("alpha-1", -1)
    for ask in (ledger.exposure, ledger.room, ledger.cap):
        with pytest.raises(InputError, match="no operator delta; it knows alpha, beta, gamma"):
            ask("delta")
    assert ledger.exposed() == {name: frozenset() for name in CAPS}
    assert path.read_bytes() == before


def test_what_the_ledger_hands_out_cannot_change_it() -> None:
    ledger = in_memory()
    grant = ledger.grant("alpha-1", 0)
    with pytest.raises(FrozenInstanceError):
        grant.window = 1  # type: ignore[misc, union-attr]
    ledger.exposed().clear()
    assert ledger.exposed()["alpha"] == {0}


def test_a_ledger_is_open_once_at_a_time(path: Path) -> None:
    with ExposureLedger.open(path, OPERATORS, CAPS) as first:
        before = path.read_bytes()
        for new_session in (False, True):
            with pytest.raises(InputError, match=r"another run uses .*run\.ledger\.json; wait until"):
                ExposureLedger.open(path, OPERATORS, CAPS, new_session)
        assert path.read_bytes() == before
        assert first.grant("alpha-1", 3)
    with ExposureLedger.open(path, OPERATORS, CAPS) as again:
        assert again.exposure("alpha") == {3}


def test_threads_that_ask_at_once_forget_nothing_of_each_other(path: Path) -> None:
    with ExposureLedger.open(path, OPERATORS, {**CAPS, "beta": 20}) as ledger:
        with ThreadPoolExecutor(8) as pool:
            grants = list(pool.map(partial(ledger.grant, "beta-1"), range(25)))
        assert sum(grant is not None for grant in grants) == 20
        assert len(ledger.exposure("beta")) == 20
        assert set(on_disk(path)["beta"]) == ledger.exposure("beta")


def test_a_grant_again_writes_nothing_and_adds_nothing(path: Path, ledger: ExposureLedger) -> None:
    assert ledger.grant_again("alpha-1", 4) is None
    ledger.grant("alpha-1", 4)
    path.write_text("as it was")
    assert ledger.grant_again("alpha-2", 4) == granted("alpha-2", "alpha", 4)
    assert ledger.grant_again("beta-1", 4) is None
    assert path.read_text() == "as it was"
    with pytest.raises(InputError, match="no site delta-1"):
        ledger.grant_again("delta-1", 4)


# Where it cannot be replaced


def test_a_look_finds_what_open_would_and_changes_nothing(path: Path) -> None:
    with pytest.raises(InputError) as opened:
        ExposureLedger.open(path / "missing/run.ledger.json", OPERATORS, CAPS)
    with pytest.raises(InputError) as looked:
        ExposureLedger.looked_at(path / "missing/run.ledger.json", OPERATORS, CAPS)
    assert str(looked.value) == str(opened.value)
    assert ExposureLedger.looked_at(path, OPERATORS, CAPS).exposure("alpha") == frozenset()
    assert list(path.parent.iterdir()) == []
    write_session(path, {"alpha": [4]})
    before = path.stat()
    assert ExposureLedger.looked_at(path, OPERATORS, CAPS).exposure("alpha") == {4}
    assert ExposureLedger.looked_at(path, OPERATORS, CAPS, new_session=True).exposure("alpha") == frozenset()
    assert path.stat() == before
    assert list(path.parent.iterdir()) == [path]
    with ExposureLedger.open(path, OPERATORS, CAPS), pytest.raises(InputError, match="another run uses"):
        ExposureLedger.looked_at(path, OPERATORS, CAPS)
    path.write_text("{")
    with pytest.raises(InputError, match="is damaged"):
        ExposureLedger.looked_at(path, OPERATORS, CAPS)


def test_a_ledger_behind_a_link_has_one_lock_whatever_its_name(path: Path, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    path.symlink_to("there/ledger.json")
    with ExposureLedger.open(path, OPERATORS, CAPS) as ledger:
        ledger.grant("alpha-1", 3)
        with pytest.raises(InputError, match="another run uses"):
            ExposureLedger.open(tmp_path / "there/ledger.json", OPERATORS, CAPS)
    assert path.is_symlink()
    assert on_disk(tmp_path / "there/ledger.json")["alpha"] == [3]


@needs_mounts
@pytest.mark.parametrize("way", ["open", "looked_at"])
@pytest.mark.parametrize(
    ("mounts", "words"),
    [
        (
            mounted_file("run.ledger.json"),
            "the exposure ledger run.ledger.json cannot be written (Device or resource busy); nothing is "
            "sent without it: mount the folder it lies in, not the file alone, or give --ledger FILE",
        ),
        (
            read_only("."),
            "cannot write run.ledger.json.lock (Read-only file system); the exposure ledger lies beside the "
            "sites file or where --ledger says",
        ),
    ],
    ids=["file mounted by itself", "read-only folder"],
)
def test_a_ledger_that_cannot_be_replaced_is_known_before_the_first_grant(
    path: Path, mounts: str, words: str, way: str
) -> None:
    write_session(path, {"alpha": [4]})
    content = path.read_bytes()
    said = python_with(
        path.parent,
        f'{mounts}; cd "$PWD"',
        f"""
from pathlib import Path
from runtime.sites.ledger import ExposureLedger
from stages.errors import InputError
try:
    ExposureLedger.{way}(Path("run.ledger.json"), {{"a": "alpha"}}, {{"alpha": 2}})
except InputError as exc:
    print(exc)
""",
    )
    assert words in said
    assert path.read_bytes() == content
