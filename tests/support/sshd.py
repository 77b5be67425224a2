"""A real OpenSSH server on loopback, for a pretended board."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SSHD = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")

_SERVER = """
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host_key
PidFile none
AuthorizedKeysFile {folder}/user_key.pub
AuthenticationMethods publickey
PermitRootLogin yes
StrictModes no
UsePAM no
SetEnv {environment}
"""
_CLIENT = """
Host board
    HostName 127.0.0.1
    Port {port}
    User {user}
    IdentityFile {folder}/user_key
    IdentitiesOnly yes
    UserKnownHostsFile {folder}/known_hosts
"""


@contextmanager
def sshd(root: Path) -> Iterator[Path]:
    """A server whose sessions see `root` as a board; gives a client's configuration that names it `board`."""
    if SSHD is None:
        raise RuntimeError("this needs OpenSSH's server; on Debian: apt-get install openssh-server")
    folder = root / "ssh"
    folder.mkdir()
    for key in ("host_key", "user_key"):
        line = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / key)]
        subprocess.run(line, check=True)
    port = _free_port()
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # privilege separation wants it
    programs = f"{root}/bin:{Path(sys.executable).parent}:/usr/bin:/bin"
    environment = f'PATH={programs} HOME={root}/home PEDSAM_BOARD_ROOT={root} CUDA_VISIBLE_DEVICES=""'
    server, client = folder / "sshd_config", folder / "ssh_config"
    server.write_text(_SERVER.format(port=port, folder=folder, environment=environment))
    client.write_text(_CLIENT.format(port=port, folder=folder, user=getpass.getuser()))
    host_key = (folder / "host_key.pub").read_text()
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {host_key}")
    line = [SSHD, "-D", "-f", str(server), "-E", str(folder / "log")]
    with subprocess.Popen(line) as process:
        try:
            _wait_for(port, process, folder / "log")
            yield client
        finally:
            process.kill()


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def _wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    while process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            time.sleep(0.02)
        else:
            return
    raise RuntimeError(f"sshd did not start: {log.read_text()}")
