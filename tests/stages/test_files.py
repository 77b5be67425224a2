"""Files that are replaced whole or not at all."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from stages import files
from stages.errors import InputError
from stages.files import (
    check_folder,
    check_replaceable,
    check_writable,
    check_writable_in_place,
    remove_left_over,
    replace_file,
    replacing,
    temporary_path,
    writing,
)
from stages.locks import check_lockable
from tests.support.mounts import needs_mounts, python_with, read_only


@pytest.mark.parametrize(
    "data", ["nöw", "nöw".encode(), memoryview("nöw".encode())], ids=lambda d: type(d).__name__
)
@pytest.mark.parametrize("durable", [False, True])
def test_the_new_content_takes_the_place_of_the_old(
    tmp_path: Path, data: str | bytes | memoryview, durable: bool
) -> None:
    path = tmp_path / "file"
    path.write_text("then")
    replace_file(path, data, durable=durable)
    assert path.read_text(encoding="utf-8") == "nöw"
    assert list(tmp_path.iterdir()) == [path]


def test_a_block_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("then")

    def write_half() -> None:
        with replacing(path) as temporary:
            temporary.write_text("no")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_half()
    assert path.read_text() == "then"
    assert list(tmp_path.iterdir()) == [path]


def test_the_old_file_is_there_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("then")
    with replacing(path) as temporary:
        temporary.write_text("now")
        assert path.read_text() == "then"
    assert path.read_text() == "now"


def test_what_a_killed_process_left_is_no_hindrance(tmp_path: Path) -> None:
    path = tmp_path / "file"
    temporary_path(path).write_text("half of someth")
    replace_file(path, "now")
    assert path.read_text() == "now"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["n" * 251, "n" * 252, "n" * 255, "\u00f6" * 127, "n" * 249 + "\udce9.jpg"])
def test_a_name_as_long_as_can_be_is_replaced(tmp_path: Path, name: str) -> None:
    for text in ("then", "now"):
        with replacing(tmp_path / name) as first:
            replace_file(tmp_path / name, "by another writer")
            first.write_text(text)
        assert (tmp_path / name).read_text() == text
    assert list(tmp_path.iterdir()) == [tmp_path / name]


def test_a_private_file_is_never_readable_by_others(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("old")
    path.chmod(0o644)
    before = os.umask(0)
    try:
        replace_file(path, b"secret", mode=0o600)
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_folder_that_is_missing_is_an_oserror(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        replace_file(tmp_path / "missing/file", "now")


def test_writing_says_when_it_is_files_that_are_wanting() -> None:
    sentence = (
        r"cannot write a/b, as pedsam may open no more files \(Too many open files\); give it more with"
    )
    with pytest.raises(InputError, match=sentence), writing(Path("a/b")):
        raise OSError(errno.EMFILE, "Too many open files")


def test_writing_says_what_could_not_be_written_and_why() -> None:
    sentence = r"^cannot write a/b; check free space and permissions there \(why\)$"
    with pytest.raises(InputError, match=sentence), writing(Path("a/b")):
        raise OSError("why")


def test_a_file_keeps_its_permissions_and_its_owner(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("then")
    path.chmod(0o640)
    if os.geteuid() == 0:
        os.chown(path, 12345, 23456)
    before = path.stat()
    replace_file(path, "now")
    after = path.stat()
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)
    assert after.st_ino != before.st_ino


def test_a_file_that_nobody_may_write_is_replaced_and_stays_so(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("then")
    path.chmod(0o444)
    replace_file(path, "now")
    assert (path.read_text(), path.stat().st_mode & 0o777) == ("now", 0o444)


def test_a_new_file_has_what_the_umask_leaves(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        replace_file(tmp_path / "file", "now")
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640


def test_a_link_stays_and_what_it_leads_to_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    target, link = tmp_path / "there/file", tmp_path / "link"
    target.write_text("then")
    link.symlink_to("there/file")
    replace_file(link, "now", durable=True)
    assert link.is_symlink()
    assert target.read_text() == "now"
    assert list(target.parent.iterdir()) == [target]


def test_a_device_is_written_to_and_stays_one(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with ThreadPoolExecutor(1) as pool:
        read = pool.submit(pipe.read_text)
        replace_file(pipe, "now")
        assert read.result(timeout=60) == "now"
    assert pipe.is_fifo()


def test_two_writers_at_once_do_not_meet(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with replacing(path) as first, replacing(path) as second:
        first.write_text("one")
        second.write_text("two")
        assert first != second
    assert path.read_text() == "one"  # whose block ended last
    assert list(tmp_path.iterdir()) == [path]


def test_a_name_that_another_process_took_meanwhile_is_left_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, replace = tmp_path / "file", os.replace

    def replaced_and_taken(old: Path, new: Path) -> None:
        replace(old, new)
        old.write_text("another's")

    monkeypatch.setattr(os, "replace", replaced_and_taken)
    replace_file(path, "now")
    assert temporary_path(path).read_text() == "another's"


def test_many_writers_at_once_leave_one_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: replace_file(path, f"{number}" * 1000), range(10), timeout=60))
    assert len(path.read_text()) == 1000
    assert len(set(path.read_text())) == 1
    assert list(tmp_path.iterdir()) == [path]


def test_what_somebody_linked_in_the_way_is_not_written_through(tmp_path: Path) -> None:
    path, precious = tmp_path / "file", tmp_path / "precious"
    precious.write_text("mine")
    temporary_path(path).symlink_to(precious)
    replace_file(path, "now")
    assert (path.read_text(), precious.read_text()) == ("now", "mine")


def test_what_is_left_over_is_removed_unless_it_is_being_written(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with replacing(path) as temporary:
        remove_left_over(path)
        assert temporary.exists()
    temporary_path(path).write_text("half")
    remove_left_over(path)
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_synced_is_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some network file systems refuse it; there is no such one here."""
    sync = os.fsync

    def refused_for_folders(descriptor: int) -> None:
        if Path(os.readlink(f"/proc/self/fd/{descriptor}")).is_dir():
            raise OSError(errno.EINVAL, "Invalid argument")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", refused_for_folders)
    replace_file(tmp_path / "file", "now", durable=True)
    assert (tmp_path / "file").read_text() == "now"


# Where a file cannot be renamed


@needs_mounts
def test_a_file_that_is_mounted_by_itself_is_written_in_place(tmp_path: Path) -> None:
    (tmp_path / "a b").write_text("what was there before, which is longer")
    said = python_with(
        tmp_path,
        'cp "a b" host; mount --bind host "a b"',
        """
from pathlib import Path
from stages.files import *
path = Path("a b")
for trial in (lambda: replace_file(path, "now"), lambda: check_replaceable(path)):
    try:
        trial()
    except OSError as exc:
        print(exc.errno)
check_writable_in_place(path)
write_in_place(path, "now")
""",
    )
    assert said.split() == [str(errno.EBUSY)] * 2
    assert (tmp_path / "host").read_text() == "now"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a b", "host"]


@needs_mounts
def test_a_writable_file_in_a_read_only_folder_is_written_in_place(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/file").write_text("then")
    said = python_with(
        tmp_path,
        f"touch host; {read_only('folder')}; mount --bind host folder/file",
        """
from pathlib import Path
from stages.files import *
check_writable_in_place(Path("folder/file"))
write_in_place(Path("folder/file"), "now")
for trial in (write_in_place, lambda path, text: check_writable_in_place(path)):
    try:
        trial(Path("folder/other"), "now")
    except OSError as exc:
        print(exc.errno)
""",
    )
    assert said.split() == [str(errno.EROFS)] * 2
    assert (tmp_path / "host").read_text() == "now"


@pytest.mark.parametrize("stopped_after", [1, 2, 3])
def test_a_write_in_place_that_is_cut_off_leaves_a_file_that_shows_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stopped_after: int
) -> None:
    """The process is killed at one of the moments at which the disk is waited for."""
    path, syncs = tmp_path / "file", iter(range(1, 4))
    path.write_text('{"then": 1}')

    class Killed(BaseException):
        pass

    def sync(descriptor: int) -> None:
        if next(syncs) == stopped_after:
            raise Killed

    monkeypatch.setattr(os, "fsync", sync)
    with pytest.raises(Killed):
        files._overwrite(path, b'{"now": 22}')
    assert path.read_bytes()[:1] == (b"{" if stopped_after == 3 else b"\0")


@needs_mounts
def test_a_full_disk_is_known_before_anything_is_lost(tmp_path: Path) -> None:
    for name in ("folder", "disk"):
        (tmp_path / name).mkdir()
    (tmp_path / "folder/file").touch()
    said = python_with(
        tmp_path,
        f"""mount -t tmpfs -o size=16k none disk; printf then > disk/file
head -c 8k /dev/zero > disk/filling; {read_only("folder")}; mount --bind disk/file folder/file""",
        """
from pathlib import Path
from stages.files import write_in_place
try:
    write_in_place(Path("folder/file"), 12000 * "x")
except OSError as exc:
    print(exc.errno)
print(Path("folder/file").read_text())
""",
    )
    assert said.split() == [str(errno.ENOSPC), "then"]


# Trials


@pytest.mark.parametrize(
    "trial", [check_replaceable, check_writable, check_writable_in_place, check_lockable, check_folder]
)
def test_a_trial_leaves_nothing_behind(tmp_path: Path, trial: Callable[[Path], None]) -> None:
    trial(tmp_path / "file")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "trial", [check_replaceable, check_writable, check_writable_in_place, check_lockable]
)
def test_a_trial_changes_nothing(tmp_path: Path, trial: Callable[[Path], None]) -> None:
    path = tmp_path / "file"
    path.write_text("then")
    before = path.stat()
    trial(path)
    assert path.stat() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "trial", [check_replaceable, check_writable, check_writable_in_place, check_lockable]
)
def test_a_trial_finds_a_folder_that_is_missing(tmp_path: Path, trial: Callable[[Path], None]) -> None:
    with pytest.raises(FileNotFoundError):
        trial(tmp_path / "missing/file")


@pytest.mark.parametrize("trial", [check_replaceable, check_writable, check_writable_in_place])
def test_a_trial_finds_a_folder_in_the_place_of_a_file(tmp_path: Path, trial: Callable[[Path], None]) -> None:
    with pytest.raises(IsADirectoryError):
        trial(tmp_path)


def test_folders_to_be_made_are_tried_where_they_would_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    check_folder(tmp_path / "a/b/c")
    (tmp_path / "clone/pedsam").mkdir(parents=True)
    check_folder(tmp_path / "clone/out")
    check_folder(tmp_path / "clone")
    shutil.rmtree(tmp_path / "clone")
    with pytest.raises(FileExistsError):
        check_folder(tmp_path / "file")
    with pytest.raises(NotADirectoryError):
        check_folder(tmp_path / "file/b/c")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@needs_mounts
def test_a_read_only_folder_is_found_by_every_trial(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    said = python_with(
        tmp_path,
        read_only("folder"),
        """
from pathlib import Path
from stages.files import *
from stages.locks import check_lockable
for trial in (check_replaceable, check_writable, check_writable_in_place, check_lockable, check_folder):
    try:
        trial(Path("folder/file"))
    except OSError as exc:
        print(exc.errno)
""",
    )
    assert said.split() == [str(errno.EROFS)] * 5
