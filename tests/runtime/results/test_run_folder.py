"""A folder that holds one run: what is taken away, what stays, and who may write."""

from __future__ import annotations

import errno
import fcntl
import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from runtime.results.run_folder import MARKER, RunFolder, run_folder
from stages.errors import InputError, SiteUntrusted

NAMES = ("masks.jsonl", "overlay/*.jpg", "summary.json")
ROOT = Path(__file__).parents[3]


def run(out: Path, files: Sequence[str], content: str = "of this run") -> bool:
    """Write files as a run does; whether an earlier one's were taken away."""
    with run_folder(out, NAMES) as folder:
        found = folder.begin()
        for name in files:
            folder.note(out / name)
            (out / name).parent.mkdir(exist_ok=True)
            (out / name).write_text(content)
    return found


def held(out: Path) -> set[str]:
    files = (file for file in out.rglob("*") if file.is_file() and file.name != MARKER)
    return {file.relative_to(out).as_posix() for file in files}


def test_results_of_an_earlier_run_make_way(tmp_path: Path) -> None:
    assert not run(tmp_path / "out", ["masks.jsonl", "overlay/a.jpg", "overlay/b\n\udce9.jpg", "overlay.mp4"])
    assert run(tmp_path / "out", ["masks.jsonl", "overlay/c.jpg"])
    assert held(tmp_path / "out") == {"masks.jsonl", "overlay/c.jpg"}
    assert run(tmp_path / "out", [])
    assert not (tmp_path / "out/overlay").exists()
    assert not run(tmp_path / "out", [])


def test_what_no_run_has_written_stays(tmp_path: Path) -> None:
    run(tmp_path, ["masks.jsonl", "overlay/a.jpg"])
    for name in ("notes.txt", "overlay.mp4", "overlay/Thumbs.db"):
        (tmp_path / name).write_text("of a person")
    run(tmp_path, ["summary.json"])
    assert held(tmp_path) == {"notes.txt", "overlay.mp4", "overlay/Thumbs.db", "summary.json"}


@pytest.mark.parametrize("name", ["masks.jsonl", "overlay/x.jpg", "summary.json"])
def test_what_would_be_replaced_and_is_of_no_run_is_refused(tmp_path: Path, name: str) -> None:
    run(tmp_path, ["masks.jsonl"])
    (tmp_path / MARKER).unlink()
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("of a person")
    with pytest.raises(InputError, match=r"would be replaced, and no earlier run .*; move it away, or give"):
        run(tmp_path, ["masks.jsonl"])
    assert (tmp_path / name).read_text() == "of a person"
    assert not (tmp_path / MARKER).exists()


def test_what_is_empty_can_be_replaced(tmp_path: Path) -> None:
    (tmp_path / "masks.jsonl").touch()
    (tmp_path / "summary.json").symlink_to("/dev/full")
    (tmp_path / "overlay").mkdir()
    run(tmp_path, ["masks.jsonl"])


@pytest.mark.parametrize(
    "line", ['"../a"', '"/etc/passwd"', "[]", "{", '"a\\u0000b"', '""', '"."', "\xff", '"sub/../../a"']
)
def test_a_marker_that_names_anything_else_is_not_followed(tmp_path: Path, line: str) -> None:
    (tmp_path / "a").write_text("of a person")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / MARKER).write_bytes(line.encode("latin-1") + b"\n")
    run(tmp_path / "out", ["masks.jsonl"])
    assert held(tmp_path) == {"a", "out/masks.jsonl"}


def test_files_to_be_replaced_whole_stay_until_then(tmp_path: Path) -> None:
    run(tmp_path, ["masks.jsonl", "summary.json"])
    with run_folder(tmp_path, NAMES) as folder:
        folder.begin(["summary.json"])
    assert held(tmp_path) == {"summary.json"}


def test_a_link_that_a_person_has_made_stays(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").touch()
    (tmp_path / "out").mkdir()
    (tmp_path / "out/masks.jsonl").symlink_to(tmp_path / "elsewhere")
    for _ in range(2):
        run(tmp_path / "out", ["masks.jsonl"])
        assert (tmp_path / "out/masks.jsonl").is_symlink()


def test_two_at_once_are_refused_and_the_first_goes_on(tmp_path: Path) -> None:
    run(tmp_path, ["masks.jsonl"])
    second = pytest.raises(InputError, match=r"another run writes into .*; wait until it has ended, or give")
    with run_folder(tmp_path, NAMES), second, run_folder(tmp_path, NAMES):
        pass
    assert held(tmp_path) == {"masks.jsonl"}
    run(tmp_path, [])


def test_a_run_that_was_killed_leaves_the_folder_free(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path\n"
        "from runtime.results.run_folder import run_folder\n"
        "with run_folder(Path(sys.argv[1]), ('masks.jsonl',)) as folder:\n"
        "    folder.begin(); folder.note(folder.path / 'masks.jsonl')\n"
        "    (folder.path / 'masks.jsonl').write_text('half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False, cwd=ROOT)
    assert done.returncode == -signal.SIGKILL
    assert run(tmp_path, ["summary.json"])
    assert held(tmp_path) == {"summary.json"}


def test_a_file_system_without_locks_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(file: object, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    run(tmp_path, ["masks.jsonl"])
    assert json.loads((tmp_path / MARKER).read_text()) == "masks.jsonl"


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("file", "is a file where a folder is needed"),
        ("file/out", "cannot write"),
        ("/proc/out", "cannot write"),
    ],
)
def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path: Path, place: str, words: str) -> None:
    (tmp_path / "file").write_text("of a person")
    with pytest.raises(InputError, match=words):
        run(tmp_path / place, [])
    assert (tmp_path / "file").read_text() == "of a person"


@pytest.mark.parametrize("name", ["notes.txt", "overlay/notes.txt", "sub/overlay/a.jpg", "a.jpg"])
def test_what_is_named_unlike_a_result_is_never_taken_away(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text("of a person")
    (tmp_path / MARKER).write_text(json.dumps(name) + "\n")
    assert not run(tmp_path, ["masks.jsonl"])
    assert held(tmp_path) == {name, "masks.jsonl"}


def test_an_error_says_that_earlier_results_are_there_still(tmp_path: Path) -> None:
    run(tmp_path, ["summary.json"])
    error = SiteUntrusted("a", "other weights")
    with pytest.raises(SiteUntrusted) as told, run_folder(tmp_path, NAMES):
        raise error
    assert told.value is error
    assert str(error) == f"site a: other weights; {tmp_path} still holds the results of an earlier run"
    with pytest.raises(SiteUntrusted, match=r"weights$"), run_folder(tmp_path, NAMES) as folder:
        _begin_and_fail(folder)


def _begin_and_fail(folder: RunFolder) -> None:
    folder.begin()
    raise SiteUntrusted("a", "other weights")
