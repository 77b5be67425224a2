"""Replacing a file as a whole: a reader, a crash or a power cut finds the old content or the new.

A file is written beside its place under the name NAME.tmp, locked while its writer lives, and then renamed.
Two processes that replace one file take different names; what a killed one left is removed by the next. A
link stays: what it points to is replaced. A file that is there keeps its owner and its permissions.

Where a file cannot be renamed, as one that is mounted into a container by itself, `write_in_place` is left
for files whose readers cope with half of it. What grows little by little is a `DurableFile` of
stages/durable.py. The `check_...` functions try what would be written.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from stages.errors import InputError
from stages.problems import no_more_files

# A file or its folder refuses the temporary file, or the rename.
NOT_REPLACEABLE = (errno.EBUSY, errno.EXDEV, errno.EACCES, errno.EPERM, errno.EROFS)
# A folder of some network and container file systems cannot be synced.
_CANNOT_SYNC = (errno.EINVAL, errno.EBADF, errno.ENOTSUP, errno.ENOSYS, errno.EACCES)
MAX_NAME_BYTES = 255  # of a file, on all usual file systems
_HASH_CHARACTERS = 32
_NOBODYS_NAME = ".pedsam-new-file"  # of a file that is never made


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns an OSError inside the block into an InputError, one sentence about `path`."""
    try:
        yield
    except OSError as exc:
        if full := no_more_files(exc):
            raise InputError(f"cannot write {path}, as pedsam may open no more files {full}") from exc
        raise InputError(
            f"cannot write {path}; check free space and permissions there ({exc.strerror or exc})"
        ) from exc


def replace_file(
    path: Path, data: str | bytes | memoryview, *, durable: bool = False, mode: int = 0o666
) -> None:
    """Write `path` whole or not at all; text as UTF-8. Blocks. Raises OSError.

    A device or a pipe is written to. `durable` waits until file and name are on the disk, so that they last
    through a power cut. `mode` are the permissions of a new file, less what the umask takes away, and the
    most that a file that is there keeps.
    """
    if _is_stream(path):
        path.write_bytes(_bytes(data))
        return
    with replacing(path, mode) as temporary, temporary.open("r+b") as file:
        file.write(_bytes(data))
        if durable:
            file.flush()
            os.fsync(file.fileno())
    if durable:
        sync_folder(real_path(path).parent)


@contextmanager
def replacing(path: Path, mode: int = 0o666) -> Iterator[Path]:
    """The path of an empty temporary file beside `path`, for the block to write; it then takes the place of
    `path`.

    When the block fails, `path` stays as it was and the temporary file is removed.
    """
    target = real_path(path)
    now = _stat(target)
    kept = None if now is None else stat.S_IMODE(now.st_mode) & mode
    with _temporary(target, mode if kept is None else kept | 0o200) as temporary:
        yield temporary
        if now is not None and kept is not None:
            _keep_owner(temporary, now)
            temporary.chmod(kept)
        os.replace(temporary, target)


def write_in_place(path: Path, data: str | bytes) -> None:
    """Replace `path`, or where that is impossible write into the file that is there. Blocks; raises OSError.

    Only for a file whose readers cope with a damaged one: a crash while it is written in place leaves one
    that begins with a zero byte. What is written is on the disk when this returns.
    """
    try:
        replace_file(path, data, durable=True)
    except OSError as exc:
        if exc.errno not in NOT_REPLACEABLE or not path.is_file():
            raise
        _overwrite(path, _bytes(data))


def check_replaceable(path: Path) -> None:
    """Raise the OSError that `replace_file` would raise, as far as it can be known; leaves nothing behind."""
    target = real_path(path)
    with _temporary(target, 0o600) as temporary:
        with temporary.open("r+b") as file:
            file.write(bytes(4096))
            file.flush()
            os.fsync(file.fileno())
        if target.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(target))
        if _is_mount_point(target):
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), str(target))
        if _belongs_to_others(target):
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), str(target))


def check_writable(path: Path) -> None:
    """Raise the OSError that opening `path` to write would raise; changes nothing, leaves nothing behind."""
    if path.exists():
        os.close(os.open(path, os.O_WRONLY))
    else:
        check_replaceable(path)


def refuse_file(path: Path) -> None:
    """Raise InputError for a file that was given with --out as a folder."""
    if path.exists() and not path.is_dir():
        raise InputError(f"{path} is a file where a folder is needed; give another --out")


def check_folder(path: Path) -> None:
    """Raise the OSError that making a folder, those above it and files in it would raise; makes none."""
    there = path
    while not there.exists() and not there.is_symlink():
        there = there.parent
    if not there.is_dir():
        code = errno.EEXIST if there == path else errno.ENOTDIR
        raise OSError(code, os.strerror(code), str(there))
    check_replaceable(there / _NOBODYS_NAME)


def check_writable_in_place(path: Path) -> None:
    """Raise the OSError that `write_in_place` would raise, as far as it can be known; changes nothing."""
    try:
        check_replaceable(path)
    except OSError as exc:
        if exc.errno not in NOT_REPLACEABLE or not path.is_file():
            raise
        check_writable(path)


def real_path(path: Path) -> Path:
    """What a link leads to; other paths stay as they are."""
    return Path(os.path.realpath(path)) if path.is_symlink() else path


def temporary_path(path: Path, number: int = 0) -> Path:
    """Where `path` is written before it is renamed; by the second process at once with `number` 1.

    A name that is too long with its ending has its hash in its place.
    """
    name, ending = path.name, f".{number}.tmp" if number else ".tmp"
    if len(os.fsencode(name + ending)) > MAX_NAME_BYTES:
        name = hashlib.sha256(os.fsencode(name)).hexdigest()[:_HASH_CHARACTERS]
    return path.with_name(name + ending)


def remove_left_over(path: Path) -> None:
    """Remove what a process that was killed left of its writing of `path`. Raises OSError."""
    _remove_unused(temporary_path(real_path(path)))


def _bytes(data: str | bytes | memoryview) -> bytes | memoryview:
    return data.encode() if isinstance(data, str) else data


def _stat(path: Path) -> os.stat_result | None:
    """None where there is nothing."""
    try:
        return path.stat()
    except FileNotFoundError:
        return None


def _is_stream(path: Path) -> bool:
    """Whether it is something like /dev/null or /dev/stdout, whose place nothing may take."""
    now = _stat(path)
    return now is not None and (stat.S_ISCHR(now.st_mode) or stat.S_ISFIFO(now.st_mode))


@contextmanager
def _temporary(target: Path, mode: int) -> Iterator[Path]:
    """An empty file beside `target`, locked; removed with the block unless it was renamed."""
    temporary, descriptor = _make_temporary(target, mode)
    try:
        yield temporary
    finally:
        with suppress(OSError):  # once it was renamed, the name may be another process's
            if os.path.samestat(temporary.lstat(), os.fstat(descriptor)):
                temporary.unlink()
        os.close(descriptor)


def _make_temporary(target: Path, mode: int) -> tuple[Path, int]:
    number = 0
    while True:
        temporary = temporary_path(target, number)
        try:
            descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, mode)
        except FileExistsError:
            number += not _remove_unused(temporary)
            continue
        if _lock_made(descriptor):
            return temporary, descriptor


def _lock_made(descriptor: int) -> bool:
    """Lock a file that was just made; False if another process took it for one that was left over."""
    with suppress(OSError):  # a file system without locks: there nobody removes what is left over
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    if os.fstat(descriptor).st_nlink:
        return True
    os.close(descriptor)
    return False


def _remove_unused(temporary: Path) -> bool:
    """Whether the name is free now: a temporary file that no living process has locked is removed."""
    try:
        descriptor = os.open(temporary, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return True
    except OSError:  # a link, or another user's
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # only whoever has it locked removes it: it is still the one that was opened, or gone
        if os.path.samestat(temporary.lstat(), os.fstat(descriptor)):
            temporary.unlink()
    except FileNotFoundError:
        return True
    except IsADirectoryError:
        raise
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


def _keep_owner(temporary: Path, now: os.stat_result) -> None:
    """Only root gives files away; others may choose among their groups."""
    for owner in (now.st_uid, -1):
        with suppress(PermissionError):
            os.chown(temporary, owner, now.st_gid)
            return


def _overwrite(path: Path, data: bytes | memoryview) -> None:
    """Write into a file. Its first byte comes last, so that a file that was cut off is known by it."""
    descriptor = os.open(path, os.O_WRONLY)
    with os.fdopen(descriptor, "wb") as file:
        _make_room(descriptor, len(data))
        for part, start in ((b"\0", 0), (data[1:], 1), (data[:1], 0)):
            file.seek(start)
            file.write(part)
            file.flush()
            if start:
                file.truncate()
            os.fsync(descriptor)


def _make_room(descriptor: int, size: int) -> None:
    """Raise OSError for a full disk before anything is lost, where the file system can tell."""
    before = os.fstat(descriptor).st_size
    try:
        os.posix_fallocate(descriptor, 0, size)
    except OSError as exc:
        if exc.errno in (errno.ENOSPC, errno.EDQUOT):
            os.ftruncate(descriptor, before)
            raise


def _is_mount_point(path: Path) -> bool:
    """Whether a file is mounted by itself; on Linux alone this can be known."""
    try:
        mounts = Path("/proc/self/mountinfo").read_bytes().splitlines()
    except OSError:
        return False
    wanted = os.fsencode(os.path.realpath(path))
    return any(_unescaped(line.split()[4]) == wanted for line in mounts)


def _unescaped(name: bytes) -> bytes:
    r"""A path of mountinfo, in which spaces and the like are written as \040."""
    return re.sub(rb"\\([0-7]{3})", lambda code: bytes([int(code[1], 8)]), name)


def _belongs_to_others(path: Path) -> bool:
    """Whether a folder like /tmp lets only the file's owner rename it, and this is somebody else's."""
    folder = path.parent.stat()
    if not folder.st_mode & stat.S_ISVTX or not path.exists():
        return False
    return os.geteuid() not in (0, folder.st_uid, path.stat().st_uid)


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk, where its file system can. Raises OSError."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as exc:
        if exc.errno not in _CANNOT_SYNC:
            raise
