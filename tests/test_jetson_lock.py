"""requirements-jetson.txt: what the edge needs, as wheels for a Jetson, and nothing else."""

from __future__ import annotations

import re
import sys
from dataclasses import replace

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from benchmarks.jetson_lock import (
    LEFT_OUT,
    LOCK,
    PYTHONS,
    Locked,
    LockError,
    applies,
    merged,
    parse,
    pinned_version,
    problems,
    runs_on_a_jetson,
    text,
)
from tests.test_isolation import closure, requirements

WRITTEN = LOCK.read_text(encoding="utf-8")
ENTRIES = parse(WRITTEN)
HERE = f"{sys.version_info[0]}.{sys.version_info[1]}"
WHEEL = "segno-1.6.6-py3-none-any.whl"


def named(name: str) -> Locked:
    return next(entry for entry in ENTRIES if entry.name == name)


def without(name: str) -> list[Locked]:
    return [entry for entry in ENTRIES if entry.name != name]


def test_it_fits_what_it_comes_from() -> None:
    assert list(problems(ENTRIES)) == []


@pytest.mark.skipif(HERE not in PYTHONS, reason=f"the lock is not for Python {HERE}")
def test_it_holds_all_that_the_edge_has_installed_here() -> None:
    """By the metadata of what is installed, which a changed requirement of a requirement shows in."""
    installed = set(closure(each for each in requirements("edge") if each.name not in LEFT_OUT))
    assert installed <= {entry.name for entry in ENTRIES if HERE in entry.pythons}


def test_nothing_of_it_stands_in_the_way_of_nvidias() -> None:
    names = {entry.name for entry in ENTRIES}
    assert not [name for name in names if re.match("opencv|tensorrt|torch|nvidia|pycuda", name)]
    assert named("numpy").version.startswith("1.")


def test_it_is_read_as_it_is_written() -> None:
    assert text(ENTRIES) == WRITTEN
    lines = [line for line in WRITTEN.splitlines() if line and not line.startswith("#")]
    pin, digest = r"[a-z0-9-]+==[^ ]+(; .+)? \\", r"    --hash=sha256:[0-9a-f]{64}( \\)?"
    assert [line for line in lines if not re.fullmatch(f"{pin}|{digest}", line)] == []


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("--hash=sha256:", "--hash=sha512:", "segno has 1 wheels and 0 hashes"),
        ("segno==1.6.6 ", "segno==1.6.6  ", "edited by hand"),
        ("# via pedsam[edge]", "# via pedsam[edge], aiohttp, ", "edited by hand"),
    ],
)
def test_an_edited_file_is_refused(old: str, new: str, said: str) -> None:
    entry = text([named("segno")])
    assert old in entry
    with pytest.raises(LockError, match=said):
        parse(entry.replace(old, new))


def test_a_requirement_that_is_not_locked_is_told() -> None:
    assert "Python 3.10: segno>=1.6 of pedsam[edge] is not in it" in list(problems(without("segno")))
    assert "Python 3.12: setuptools of pycuda is not in it" in list(problems(without("setuptools")))


def test_a_requirement_locked_for_somebody_else_is_told() -> None:
    entry = replace(named("segno"), via=frozenset({"pycuda"}))
    found = list(problems([*without("segno"), entry]))
    assert "segno is locked for pycuda, which does not ask for it" in found
    assert "Python 3.11: segno>=1.6 of pedsam[edge] is not in it" in found


def test_another_version_than_is_pinned_is_told() -> None:
    found = list(problems([*without("segno"), replace(named("segno"), version="1.5.0")]))
    assert "Python 3.10: segno is locked at 1.5.0 and pinned at 1.6.6" in found
    assert "Python 3.10: segno>=1.6 is asked for and 1.5.0 locked" in found


def test_what_nothing_asks_for_is_told() -> None:
    stray = replace(named("segno"), name="six", via=frozenset({"attrs-of-nobody"}))
    assert "Python 3.10: nothing asks for six" in list(problems([*ENTRIES, stray]))


def test_a_version_without_a_wheel_is_told() -> None:
    entry = named("onnxruntime")
    lacking = {name: digest for name, digest in entry.wheels.items() if "cp310" not in name}
    found = list(problems([*without("onnxruntime"), replace(entry, wheels=lacking)]))
    assert found == ["Python 3.10: onnxruntime 1.23.2 has no wheel for aarch64"]


@pytest.mark.parametrize(
    ("wheel", "python", "runs"),
    [
        ("segno-1.6.6-py3-none-any.whl", "3.10", True),
        ("flatbuffers-25.12.19-py2.py3-none-any.whl", "3.12", True),
        ("numpy-1.26.4-cp310-cp310-manylinux_2_17_aarch64.manylinux2014_aarch64.whl", "3.10", True),
        ("numpy-1.26.4-cp310-cp310-manylinux_2_17_aarch64.manylinux2014_aarch64.whl", "3.12", False),
        ("numpy-1.26.4-cp310-cp310-manylinux_2_17_x86_64.manylinux2014_x86_64.whl", "3.10", False),
        ("numpy-1.26.4-cp310-cp310-musllinux_1_2_aarch64.whl", "3.10", False),
        ("numpy-1.26.4-cp310-cp310-manylinux_2_36_aarch64.whl", "3.10", False),
        ("protobuf-7.36.2-cp310-abi3-manylinux2014_aarch64.whl", "3.12", True),
        ("cryptography-50.0.2-cp311-abi3-manylinux_2_28_aarch64.whl", "3.10", False),
    ],
)
def test_which_wheels_run_on_a_jetson(wheel: str, python: str, runs: bool) -> None:
    assert runs_on_a_jetson(wheel, python) is runs


def test_entries_of_one_version_are_one() -> None:
    one = Locked("segno", "1.6.6", ("3.10",), {WHEEL: "a" * 64}, frozenset({"pedsam[edge]"}))
    other = replace(one, pythons=("3.11",), via=frozenset({"rich"}))
    newer = replace(one, version="1.7.0", pythons=("3.12",))
    both, alone = merged([{"segno": one}, {"segno": other}, {"segno": newer}])
    assert both.pythons == ("3.10", "3.11")
    assert both.via == {"pedsam[edge]", "rich"}
    assert 'segno==1.6.6; python_version == "3.10" or python_version == "3.11" \\' in text([both])
    assert alone.version == "1.7.0"


def test_a_pin_that_does_not_fit_is_told() -> None:
    with pytest.raises(LockError, match=r"numpy>=2 is asked for and 1\.26\.4 is pinned"):
        pinned_version(Requirement("numpy>=2"), {"numpy": "1.26.4"}, "3.10")
    with pytest.raises(LockError, match="segno is asked for and no version is pinned"):
        pinned_version(Requirement("segno"), {}, "3.10")


def test_markers_are_those_of_the_board() -> None:
    """Whatever Python and machine this runs on."""
    assert applies(Requirement("tomli; python_version < '3.11'"), "3.10")
    assert not applies(Requirement("tomli; python_version < '3.11'"), "3.12")
    assert applies(Requirement("x; platform_machine == 'aarch64' and sys_platform == 'linux'"), "3.10")
    assert not applies(Requirement("x; extra == 'test'"), "3.10")
    assert canonicalize_name("Pygments") in {entry.name for entry in ENTRIES}
