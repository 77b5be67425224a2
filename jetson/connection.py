"""One OpenSSH connection to a board, used for everything that `flash` and `board` do there.

OpenSSH's own client does it, with a control socket: ~/.ssh/config, keys, agents, jump hosts and known hosts
work as they do for `ssh`. No password is asked for here or stored.
"""

from __future__ import annotations

import contextlib
import shlex
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO

from stages.errors import InputError, PedsamError, printable

SCRIPTS = Path(__file__).parent / "scripts"
CONNECT_S = 15
BEAT_S = 10  # lock.sh waits a minute for the next
ALIVE_S = 10  # a connection that is silent for three times this is lost
_SSH_FAILED = 255  # of ssh itself; no script here ends with it

# What OpenSSH says when it cannot connect, and what helps; the first sign counts.
_ADVICE = (
    (
        "REMOTE HOST IDENTIFICATION HAS CHANGED",
        "a board that was set up anew has another key: `ssh-keygen -R` with its name, then connect once with "
        "`ssh {0}`, compare the key and accept it",
    ),
    ("Host key verification failed", "connect once with `ssh {0}`, compare the key and accept it"),
    ("Permission denied", "put your key on the board with `ssh-copy-id {0}`"),
    ("Could not resolve", "check the name, or give its address; a cabled board is at 192.168.55.1"),
    ("", "check that the board is on and that `ssh {0}` works"),
)
# Whatever ~/.ssh/config says: commands as they are given here, no terminal, nothing forwarded.
_PLAIN = ("RemoteCommand=none", "RequestTTY=no", "ClearAllForwardings=yes", "PermitLocalCommand=no")
_MASTER = (
    "ControlMaster=yes",
    "ControlPersist=600",  # what is left when this process is killed ends
    f"ConnectTimeout={CONNECT_S}",
    "PasswordAuthentication=no",
    "KbdInteractiveAuthentication=no",
    f"ServerAliveInterval={ALIVE_S}",
    "ServerAliveCountMax=3",
)
# Through the connection that is open, or not at all.
_CLIENT = ("ControlMaster=no", "ProxyCommand=false")


class ConnectionLost(PedsamError):
    """The connection to the board broke; what was done stays, and the same command goes on from there."""


class BoardError(PedsamError):
    """Something on the board failed; `tail` is all that it said."""

    def __init__(self, message: str, tail: str = "") -> None:
        super().__init__(message)
        self.tail = tail


@dataclass(frozen=True)
class Ran:
    """A command that ended on the board: its exit status and what it said."""

    status: int
    out: str
    err: str

    @property
    def last_line(self) -> str:
        """The last thing it said, for a person."""
        lines = (self.err.strip() or self.out.strip()).splitlines()
        return printable(lines[-1].strip()) if lines else "it said nothing"


class Board:
    """An open connection to `address`, which is what `ssh` takes: user@host or a name of ~/.ssh/config.

    `ssh_config` is another configuration file for OpenSSH (its -F). Use it inside `with`; entering raises
    InputError when OpenSSH cannot connect.
    """

    def __init__(self, address: str, ssh_config: Path | None = None) -> None:
        if address.startswith("-") or not address.strip():
            raise InputError(f"{address!r} is no board; expected like user@jetson")
        user, _, _ = address.removeprefix("ssh://").rpartition("@")
        if ":" in user:
            raise InputError(
                "the board is given with a password, which ssh asks for; expected like user@jetson"
            )
        self.address = address
        self._config = ["-F", str(ssh_config)] if ssh_config else []

    def __enter__(self) -> Board:
        with contextlib.ExitStack() as stack:
            # a short path without blanks, whatever TMPDIR says: a socket takes no long one
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="pedsam-", dir="/tmp"))
            self.socket = f"{folder}/control"
            stack.callback(self._ssh_control, "exit")
            self._connect()
            self._opened = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._opened.close()

    def reconnect(self) -> None:
        """Open the connection again, after a reboot or for new groups. Raises InputError as entering does."""
        self._ssh_control("exit")
        self._connect()

    def run(
        self,
        script: str,
        *arguments: str,
        name: str = "sh",
        stdin: IO[bytes] | bytes | None = None,
        on_line: Callable[[str], None] | None = None,
        timeout_s: float | None = None,
    ) -> Ran:
        """Run a shell script on the board with these arguments, and wait until it ends.

        `name` is what the shell calls it in its messages. `stdin` is what the script reads, None for
        nothing. `on_line` gets each line of its output as it comes. Raises ConnectionLost when the connection
        breaks or `timeout_s` passes; the script's own failure is in the result's status.
        """
        with self._started(_remote(script, name, *arguments), stdin) as (process, errors):
            with _ended_after(process, timeout_s) as overdue:
                out = _lines_of(process, on_line)
                status = process.wait()
            errors.seek(0)
            ran = Ran(status, out, errors.read().decode(errors="replace"))
        if overdue.is_set():
            raise ConnectionLost(f"{self.address} did not answer within {timeout_s:.0f} s")
        if status == _SSH_FAILED:
            raise ConnectionLost(f"the connection to {self.address} was lost ({ran.last_line})")
        return ran

    def script(
        self,
        name: str,
        *arguments: str,
        stdin: IO[bytes] | bytes | None = None,
        on_line: Callable[[str], None] | None = None,
        timeout_s: float | None = None,
    ) -> Ran:
        """`run` for a file of jetson/scripts/."""
        text = (SCRIPTS / name).read_text(encoding="utf-8")
        return self.run(text, *arguments, name=name, stdin=stdin, on_line=on_line, timeout_s=timeout_s)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep everybody else from changing the board while the block runs.

        Raises BoardError when somebody else is at it, or ~/pedsam cannot be made. A reboot ends it.
        """
        remote = _remote((SCRIPTS / "lock.sh").read_text(encoding="utf-8"), "lock.sh")
        with self._started(remote, subprocess.PIPE) as (process, errors):
            if process.stdout is None or process.stdin is None:
                raise RuntimeError("the process was started without pipes")
            if process.stdout.readline().strip() != b"locked":
                process.stdin.close()
                status = process.wait()
                errors.seek(0)
                said = Ran(status, "", errors.read().decode(errors="replace"))
                raise BoardError(
                    f"{self.address} is being flashed or rolled back by somebody else; wait until that ends"
                    if status == 1 and not said.err
                    else f"~/pedsam on {self.address} cannot be used: {said.last_line}"
                )
            try:
                with _beating(process.stdin):
                    yield
            finally:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(CONNECT_S)  # its input has ended

    @contextlib.contextmanager
    def _started(
        self, remote: str, stdin: IO[bytes] | bytes | int | None
    ) -> Iterator[tuple[subprocess.Popen[bytes], IO[bytes]]]:
        """ssh with a remote command; ended with the block. What it says of errors goes to a file."""
        given = (
            subprocess.PIPE if isinstance(stdin, bytes) else subprocess.DEVNULL if stdin is None else stdin
        )
        with tempfile.TemporaryFile() as errors:
            line = [*self._ssh(*_CLIENT), self.address, remote]
            with subprocess.Popen(line, stdin=given, stdout=subprocess.PIPE, stderr=errors) as process:
                try:
                    if isinstance(stdin, bytes):
                        _feed(process, stdin)
                    yield process, errors
                finally:
                    process.kill()

    def _connect(self) -> None:
        Path(self.socket).unlink(missing_ok=True)  # of a connection that was lost
        # Questions of OpenSSH, such as for an unknown host key, go to the terminal, not through these.
        with tempfile.TemporaryFile() as errors:
            try:
                done = subprocess.run(
                    [*self._ssh(*_MASTER), "-fN", self.address],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=errors,
                    check=False,
                )
            except FileNotFoundError as exc:
                raise InputError(
                    "OpenSSH's client is missing; install it (apt install openssh-client)"
                ) from exc
            errors.seek(0)
            said = errors.read().decode(errors="replace")
        if done.returncode:
            advice = next(text for sign, text in _ADVICE if sign in said).format(self.address)
            last = (said.strip().splitlines() or ["ssh failed"])[-1].strip()
            raise InputError(f"no connection to {self.address}: {last}; {advice}")
        self._check_shell()

    def _check_shell(self) -> None:
        """Raise InputError when the shell says something by itself, which would be taken for answers."""
        ran = self.run("true", timeout_s=CONNECT_S)
        if ran.out:
            raise InputError(
                f"the shell of {self.address} prints {ran.out.strip()[:60]!r} for every command; "
                "let ~/.bashrc there print only when it is interactive"
            )

    def _ssh(self, *settings: str) -> list[str]:
        options = [f"ControlPath={self.socket}", *_PLAIN, *settings]
        return ["ssh", *self._config, "-T", *(word for option in options for word in ("-o", option))]

    def _ssh_control(self, command: str) -> None:
        line = [*self._ssh(), "-O", command, self.address]
        subprocess.run(line, stdin=subprocess.DEVNULL, capture_output=True, check=False)


def _remote(script: str, name: str, *arguments: str) -> str:
    """The command that OpenSSH hands to the shell of the board's user."""
    return shlex.join(["env", "LC_ALL=C", "sh", "-c", script, name, *arguments])


@contextlib.contextmanager
def _ended_after(process: subprocess.Popen[bytes], seconds: float | None) -> Iterator[threading.Event]:
    """Kills the process when the block takes longer; the event says that it was."""
    overdue = threading.Event()

    def end() -> None:
        overdue.set()
        process.kill()

    timer = threading.Timer(seconds or 0, end)
    if seconds is not None:
        timer.start()
    try:
        yield overdue
    finally:
        timer.cancel()


@contextlib.contextmanager
def _beating(pipe: IO[bytes]) -> Iterator[None]:
    """Says something every few seconds while the block runs."""
    ended = threading.Event()

    def beat() -> None:
        with contextlib.suppress(OSError):  # the connection was lost
            while not ended.wait(BEAT_S):
                pipe.write(b".")
                pipe.flush()

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        with contextlib.suppress(OSError):
            pipe.close()


def _feed(process: subprocess.Popen[bytes], data: bytes) -> None:
    if process.stdin is None:
        raise RuntimeError("the process was started without a pipe")
    with contextlib.suppress(BrokenPipeError):  # its status says why it ended early
        process.stdin.write(data)
        process.stdin.close()


def _lines_of(process: subprocess.Popen[bytes], on_line: Callable[[str], None] | None) -> str:
    if process.stdout is None:
        raise RuntimeError("the process was started without a pipe")
    lines = []
    for raw in process.stdout:
        line = raw.decode(errors="replace")
        lines.append(line)
        if on_line is not None:
            on_line(printable(line.rstrip("\r\n")))
    return "".join(lines)
