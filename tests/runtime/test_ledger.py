"""The exposure ledger: caps hold in any order of grants, and nothing granted is ever forgotten."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from dataclasses import FrozenInstanceError
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.ledger import FORMAT, ExposureLedger, Grant
from stages.errors import InputError

OPERATORS = {"alpha-1": "alpha", "alpha-2": "alpha", "beta-1": "beta", "gamma-1": "gamma"}
CAPS = {"alpha": 2, "beta": 3, "gamma": 0}
LONG_AGO = "2020-02-29T12:00:00+00:00"

asked = st.lists(st.tuples(st.sampled_from(sorted(OPERATORS)), st.integers(0, 24)), max_size=60)
caps_of_all = st.fixed_dictionaries({name: st.integers(0, 25) for name in CAPS})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run.ledger.json"


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
        assert grant == (Grant(site, operator, window) if may else None)
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
            ledger = ExposureLedger.open(Path(folder, "ledger.json"), OPERATORS, caps)
            assert ledger.exposed() == left
            grants = ledger.grant_all(pairs) if as_plan else [ledger.grant(*pair) for pair in pairs]
            for grant in grants:
                if grant is not None:
                    left[grant.operator].add(grant.window)
            highest = {name: max(highest[name], cap) for name, cap in caps.items()}
            assert all(len(left[name]) <= highest[name] for name in left)


def test_sites_of_one_operator_share_its_entry_and_cap() -> None:
    ledger = in_memory()
    assert ledger.grant("alpha-1", 0) == Grant("alpha-1", "alpha", 0)
    assert ledger.grant("alpha-2", 1) == Grant("alpha-2", "alpha", 1)
    assert ledger.grant("alpha-2", 2) is None
    assert ledger.grant("alpha-2", 0) == Grant("alpha-2", "alpha", 0)
    assert ledger.exposure("alpha") == {0, 1}


def test_a_refused_window_leaves_no_trace(path: Path) -> None:
    ledger = ExposureLedger.open(path, OPERATORS, CAPS)
    before = path.read_bytes()
    assert ledger.grant("gamma-1", 5) is None
    assert ledger.exposure("gamma") == frozenset()
    assert path.read_bytes() == before


def test_the_file_is_as_documented(path: Path) -> None:
    ledger = ExposureLedger.open(path, OPERATORS, CAPS)
    ledger.grant_all([("beta-1", 14), ("beta-1", 0), ("alpha-2", 7)])
    assert json.loads(path.read_text()) == {
        "format": 1,
        "session": ledger.session,
        "exposure": {"alpha": [7], "beta": [0, 14], "gamma": []},
    }
    assert datetime.fromisoformat(ledger.session).utcoffset() == timedelta(0)


def test_a_new_session_is_on_disk_before_the_first_grant(path: Path) -> None:
    session = ExposureLedger.open(path, OPERATORS, CAPS).session
    assert json.loads(path.read_text())["session"] == session


def test_a_grant_is_on_disk_when_it_is_returned(path: Path) -> None:
    ledger = ExposureLedger.open(path, OPERATORS, CAPS)
    for window in (3, 1, 2):
        assert ledger.grant("beta-1", window)
        assert set(on_disk(path)["beta"]) == ledger.exposure("beta")


def test_a_plan_is_written_once_and_after_it_is_decided(path: Path) -> None:
    ledger = ExposureLedger.open(path, OPERATORS, CAPS)
    states = {path.read_bytes()}

    def plan() -> Iterator[tuple[str, int]]:
        for window in range(3):
            yield "beta-1", window
            states.add(path.read_bytes())

    assert all(ledger.grant_all(plan()))
    assert len(states) == 1
    assert on_disk(path)["beta"] == [0, 1, 2]


def test_nothing_is_written_when_nothing_is_new(path: Path) -> None:
    ledger = ExposureLedger.open(path, OPERATORS, CAPS)
    ledger.grant("alpha-1", 4)
    path.write_text("as it was")
    assert ledger.grant("alpha-2", 4)
    assert ledger.grant("gamma-1", 4) is None
    assert ledger.grant_all([("alpha-1", 4)] * 3)
    assert path.read_text() == "as it was"


def test_opening_a_session_again_does_not_write(path: Path) -> None:
    write_session(path, {"alpha": [4]})
    before = path.read_bytes()
    ExposureLedger.open(path, OPERATORS, CAPS)
    assert path.read_bytes() == before


def test_a_reopened_ledger_keeps_session_and_exposure(path: Path) -> None:
    write_session(path, {"alpha": [4]})
    ExposureLedger.open(path, OPERATORS, CAPS).grant("alpha-1", 9)
    again = ExposureLedger.open(path, OPERATORS, CAPS)
    assert again.session == LONG_AGO
    assert again.exposure("alpha") == {4, 9}
    assert again.room("alpha") == 0
    assert again.grant("alpha-2", 5) is None


def test_a_new_session_forgets_on_purpose(path: Path) -> None:
    write_session(path, {"alpha": [0, 1], "retired": [7]})
    ledger = ExposureLedger.open(path, OPERATORS, CAPS, new_session=True)
    assert ledger.session > LONG_AGO
    assert ledger.exposed() == {name: frozenset() for name in CAPS}
    assert on_disk(path) == {name: [] for name in CAPS}


def test_a_lowered_cap_stops_new_windows_only(path: Path) -> None:
    write_session(path, {"beta": [0, 1, 2]})
    ledger = ExposureLedger.open(path, OPERATORS, {**CAPS, "beta": 1})
    assert [ledger.grant("beta-1", window) is not None for window in range(4)] == [True, True, True, False]
    assert ledger.room("beta") == 0
    assert ledger.cap("beta") == 1


def test_operators_not_listed_today_stay_in_the_file(path: Path) -> None:
    write_session(path, {"retired": [7, 8]})
    ledger = ExposureLedger.open(path, OPERATORS, CAPS)
    ledger.grant("alpha-1", 0)
    assert on_disk(path)["retired"] == [7, 8]
    assert ledger.exposure("retired") == {7, 8}
    assert ledger.exposed()["retired"] == {7, 8}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe\x00broken",
        b"[]",
        b"null",
        b"{}",
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
        b"[" * 100_000,
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
    assert ExposureLedger.open(path, OPERATORS, CAPS, new_session=True).exposure("alpha") == frozenset()


def test_an_unreadable_file_is_not_taken_for_a_new_session(path: Path) -> None:
    path.mkdir()
    with pytest.raises(InputError, match=r"run\.ledger\.json cannot be read .* --new-session"):
        ExposureLedger.open(path, OPERATORS, CAPS)


def test_a_file_that_cannot_be_written_is_known_at_once(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"missing/ledger\.json cannot be written"):
        ExposureLedger.open(tmp_path / "missing" / "ledger.json", OPERATORS, CAPS)


def test_nothing_is_granted_when_it_cannot_be_written(path: Path) -> None:
    ledger = ExposureLedger.open(path, OPERATORS, CAPS)
    path.unlink()
    path.mkdir()
    for _ in range(2):
        with pytest.raises(InputError, match="cannot be written"):
            ledger.grant("beta-1", 0)
    assert ledger.exposure("beta") == frozenset()
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_no_temporary_file_is_left_behind(path: Path) -> None:
    leftover = path.with_name(path.name + ".tmp")
    leftover.write_text("from a crash in the middle of a write")
    ledger = ExposureLedger.open(path, OPERATORS, CAPS)
    ledger.grant_all([("alpha-1", 0), ("beta-1", 1)])
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("caps", [{"alpha": 1, "beta": 1}, {**CAPS, "beta": -1}])
def test_every_operator_needs_a_cap(caps: dict[str, int]) -> None:
    with pytest.raises(InputError, match="cap of operator"):
        in_memory(caps)


def test_unknown_names_and_windows_are_refused(path: Path) -> None:
    ledger = ExposureLedger.open(path, OPERATORS, CAPS)
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
