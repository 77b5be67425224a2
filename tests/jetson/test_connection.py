"""The connection to a board, against a real OpenSSH server."""

from __future__ import annotations

from pathlib import Path

import pytest

from jetson.connection import Board, BoardError, ConnectionLost
from stages.errors import InputError

pytestmark = pytest.mark.sshd


def test_a_script_gets_its_arguments_and_input(connected: Board) -> None:
    ran = connected.run('echo "$2:$1"; cat; echo wrong >&2; exit 7', "a b", "'$HOME'", stdin=b"given")
    assert (ran.status, ran.out, ran.err) == (7, "'$HOME':a b\ngiven", "wrong\n")
    assert ran.last_line == "wrong"


def test_a_script_without_input_reads_nothing(connected: Board) -> None:
    assert connected.run("cat", timeout_s=30).out == ""


def test_input_may_be_a_file_and_large(connected: Board, tmp_path: Path) -> None:
    path = tmp_path / "large"
    path.write_bytes(bytes(range(256)) * 40_000)
    with path.open("rb") as file:
        assert connected.run("wc -c", stdin=file).out.strip() == str(256 * 40_000)
    assert connected.run("wc -c", stdin=path.read_bytes()).out.strip() == str(256 * 40_000)


def test_lines_come_as_they_are_said_without_control_characters(connected: Board) -> None:
    lines: list[str] = []
    ran = connected.run(r"printf 'one\n\033[31mtwo\r\nthree'", on_line=lines.append)
    assert lines == ["one", "?[31mtwo", "three"]
    assert ran.out == "one\n\x1b[31mtwo\r\nthree"


def test_a_script_that_ends_before_it_read_its_input_says_why(connected: Board) -> None:
    ran = connected.run("echo no space left >&2; exit 1", stdin=b"x" * 5_000_000)
    assert (ran.status, ran.last_line) == (1, "no space left")


def test_a_connection_that_breaks_is_told_apart_from_a_failure(connected: Board) -> None:
    with pytest.raises(ConnectionLost, match="the connection to board was lost"):
        connected.run("kill -9 $PPID; sleep 5")
    connected.reconnect()
    assert connected.run("echo again").out == "again\n"


def test_a_board_that_does_not_answer_in_time(connected: Board) -> None:
    with pytest.raises(ConnectionLost, match="board did not answer within 1 s"):
        connected.run("echo begun; exec sleep 60", timeout_s=1)


def test_one_command_at_a_time_keeps_the_board(empty_board: Path, connected: Board) -> None:
    with Board("board", empty_board) as other:
        with connected.locked(), pytest.raises(BoardError, match="board is being flashed or rolled back by"):
            other.locked().__enter__()
        with other.locked():
            pass
        with other.locked(), pytest.raises(BoardError):
            connected.locked().__enter__()
        other.run("rm -r ~/pedsam; touch ~/pedsam")
        with pytest.raises(BoardError, match=r"~/pedsam on board cannot be used: mkdir: .*File exists"):
            other.locked().__enter__()


def test_a_lost_connection_gives_the_board_back(empty_board: Path, connected: Board) -> None:
    with pytest.raises(ConnectionLost), connected.locked():
        connected.run("kill -9 $PPID; sleep 5")
    with Board("board", empty_board) as other, other.locked():
        pass


def test_nothing_is_left_behind(empty_board: Path) -> None:
    with Board("board", empty_board) as board:
        folder = Path(board.socket).parent
        assert folder.is_dir()
    assert not folder.exists()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("IdentityFile", "#"), "Permission denied.*; put your key on the board with `ssh-copy-id board`"),
        (
            ("known_hosts", "other_key"),
            r"a board that was set up anew has another key: `ssh-keygen -R`",
        ),
        (("known_hosts", "none_known"), "Host key verification failed.*; connect once with `ssh board`"),
        (("127.0.0.1", "no-such-host.invalid"), "Could not resolve .*; check the name, or give its address"),
        (("Port ", "Port 1 #"), "refused; check that the board is on and that `ssh board` works"),
    ],
)
def test_why_there_is_no_connection(
    empty_board: Path, tmp_path: Path, change: tuple[str, str], says: str
) -> None:
    config = tmp_path / "other"
    port = empty_board.read_text().partition("Port ")[2].split()[0]
    other = (empty_board.parent / "user_key.pub").read_text()
    (empty_board.parent / "other_key").write_text(f"[127.0.0.1]:{port} {other}")
    # `ssh` asks nobody here: it has no terminal
    config.write_text(empty_board.read_text().replace(*change) + "\n    BatchMode yes\n")
    with pytest.raises(InputError, match=f"no connection to board: .*{says}"), Board("board", config):
        pass


@pytest.mark.parametrize("address", ["-oProxyCommand=touch /tmp/x", "", " "])
def test_an_address_is_never_an_option(address: str) -> None:
    with pytest.raises(InputError, match="is no board; expected like user@jetson"):
        Board(address)


@pytest.mark.parametrize("address", ["user:s3cret@board", "ssh://user:s3cret@board"])
def test_a_password_in_an_address_is_refused_and_not_repeated(address: str) -> None:
    with pytest.raises(InputError, match="expected like user@jetson") as caught:
        Board(address)
    assert "s3cret" not in str(caught.value)


def test_secrets_travel_on_no_command_line(connected: Board) -> None:
    ran = connected.run("cat > /dev/null; cat /proc/$$/cmdline /proc/$PPID/cmdline", stdin=b"a-secret-token")
    assert "a-secret-token" not in ran.out


def test_settings_of_a_user_are_no_hindrance(empty_board: Path, tmp_path: Path) -> None:
    config = tmp_path / "own"
    own = ("RemoteCommand date", "RequestTTY force", "LocalForward 1 127.0.0.1:1", "ControlMaster auto")
    config.write_text(empty_board.read_text() + "".join(f"    {line}\n" for line in own))
    with Board("board", config) as board:
        assert board.run("cat", stdin=b"\x00\r\n\x04as it is").out == "\x00\r\n\x04as it is"


def test_a_shell_that_talks_is_refused(empty_board: Path) -> None:
    (empty_board.parent.parent / "bin").mkdir()
    program = empty_board.parent.parent / "bin/env"
    program.write_text('#!/bin/sh\necho Welcome; exec /usr/bin/env "$@"\n')
    program.chmod(0o755)
    with pytest.raises(InputError, match="the shell of board prints 'Welcome' for every command"):
        Board("board", empty_board).__enter__()


def test_without_its_connection_no_other_is_opened(connected: Board) -> None:
    with pytest.raises(ConnectionLost):
        connected.run("kill -9 $PPID; sleep 5")
    with pytest.raises(ConnectionLost):
        connected.run("true")
