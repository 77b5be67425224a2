"""What a run needs of its machine: each thing is tried, told as a run tells it, and left as it was."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from runtime.check.local import LocalOptions, check_ports, local_problems
from stages.address import Address
from stages.errors import InputError
from tests.support.keys import keys_for

pytestmark = pytest.mark.anyio


def contents(folder: Path) -> dict[str, tuple[int, float] | None]:
    """Everything by its path, and of files what shows that they were written."""
    return {
        str(path.relative_to(folder)): (path.stat().st_ino, path.stat().st_mtime) if path.is_file() else None
        for path in folder.rglob("*")
    }


def everything(folder: Path) -> LocalOptions:
    """A run that writes all that one can, and finds it all in order."""
    (folder / "prompts.json").write_text('{"objects": [{"box": [1, 1, 5, 5]}]}')
    return LocalOptions(
        prompts=folder / "prompts.json",
        state=folder / "state/objects.json",
        out=folder / "out/of/it",
        trace=folder / "traces/t.json",
        heartbeat=folder / "heartbeat",
        preview=0,
        metrics_port=0,
        mjpeg=0,
        mqtt=Address("mqtt://127.0.0.1"),
    )


async def test_nothing_is_wrong_and_nothing_is_changed(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    options = everything(tmp_path)
    before = contents(tmp_path)
    assert await local_problems(options) == []
    assert contents(tmp_path) == before
    (tmp_path / "heartbeat").write_text("77\n")
    (tmp_path / "state/objects.json").touch()
    before = contents(tmp_path)
    assert await local_problems(options) == []
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (lambda here: LocalOptions(prompts=here / "no"), "prompts file HERE/no cannot be read"),
        (
            lambda here: LocalOptions(state=here / "no/x"),
            "state file HERE/no/x cannot be written (No such file or directory); give --state a file in",
        ),
        (lambda here: LocalOptions(state=here / "file"), "HERE/file is no state file of a run"),
        (
            lambda here: LocalOptions(out=here / "file"),
            "HERE/file is a file where a folder is needed; give another --out",
        ),
        (lambda here: LocalOptions(out=here / "file/out"), "cannot write HERE/file/out;"),
        (lambda here: LocalOptions(trace=here / "file/t.json"), "cannot write HERE/file/t.json;"),
        (lambda here: LocalOptions(trace=here), "cannot write HERE; check free space and permissions there"),
        (
            lambda here: LocalOptions(heartbeat=here / "no/beat"),
            "the heartbeat file HERE/no/beat cannot be written (No such file or directory);",
        ),
        (lambda here: LocalOptions(preview=0, preview_keys=here), "HERE holds no server.pem"),
        (lambda here: LocalOptions(preview=0, preview_host="192.0.2.1"), "is not a loopback address"),
        (lambda here: LocalOptions(metrics_port=0, metrics_keys=here), "HERE holds no server.pem"),
        (lambda here: LocalOptions(mjpeg=0, mjpeg_keys=here), "HERE holds no server.pem"),
        (lambda here: LocalOptions(mjpeg=0, mjpeg_host="192.0.2.1"), "is not a loopback address"),
        (
            lambda here: LocalOptions(mqtt=Address("mqtt://me@192.0.2.1")),
            "mqtt://192.0.2.1/… is plain MQTT to another machine",
        ),
        (
            lambda here: LocalOptions(mqtt=Address("mqtt://me@127.0.0.1"), mqtt_password_file=here / "no"),
            "file of --mqtt-password-file HERE/no cannot be read",
        ),
    ],
)
async def test_each_problem_is_told(
    tmp_path: Path, options: Callable[[Path], LocalOptions], words: str
) -> None:
    (tmp_path / "file").write_text("mine")
    problems = await local_problems(options(tmp_path))
    assert words.replace("HERE", str(tmp_path)) in problems[0]
    assert (tmp_path / "file").read_text() == "mine"
    assert list(contents(tmp_path)) == ["file"]


async def test_a_port_in_use_is_told(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        (problem,) = await local_problems(LocalOptions(preview=port))
    assert problem == (
        f"the preview cannot listen on 127.0.0.1:{port} (Address already in use); another process has port "
        f"{port}, perhaps another pedsam: stop it, or choose another port or host"
    )
    assert await local_problems(LocalOptions(preview=port)) == []


HERE, ANYWHERE = "127.0.0.1", "0.0.0.0"  # noqa: S104


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (LocalOptions(preview=8081, mjpeg=8081), "--preview and --mjpeg"),
        (LocalOptions(preview=8081, metrics_port=8081), "--preview and --metrics-port"),
        (LocalOptions(metrics_port=8081, mjpeg=8081, mjpeg_host="localhost"), "--metrics-port and --mjpeg"),
        (
            LocalOptions(preview=8081, preview_host="::", mjpeg=8081, mjpeg_host="::1"),
            "--preview and --mjpeg",
        ),
        (LocalOptions(preview=8081, preview_host=ANYWHERE, mjpeg=8081), "--preview and --mjpeg"),
        (LocalOptions(preview=8081, preview_host="::1", mjpeg=8081), None),
        (LocalOptions(preview=8081, preview_host="127.0.0.2", mjpeg=8081), None),
        (LocalOptions(preview=8081, preview_host="::1", mjpeg=8081, mjpeg_host=ANYWHERE), None),
        (LocalOptions(preview=0, metrics_port=0, mjpeg=0), None),
        (LocalOptions(preview=8080, metrics_port=9090, mjpeg=8081), None),
    ],
)
def test_one_port_for_two_things_is_told(options: LocalOptions, named: str | None) -> None:
    if named is None:
        check_ports(options)
    else:
        with pytest.raises(InputError, match=f"^{named} have the same port 8081; give each its own$"):
            check_ports(options)


async def test_one_port_for_two_things_is_one_problem() -> None:
    with socket.create_server((HERE, 0)) as server:
        port = server.getsockname()[1]
    found = await local_problems(LocalOptions(preview=port, metrics_port=port))
    assert found == [f"--preview and --metrics-port have the same port {port}; give each its own"]


async def test_keys_that_are_in_order_are_no_problem(tmp_path: Path) -> None:
    keys = keys_for(tmp_path, "a")
    assert await local_problems(LocalOptions(metrics_port=0, metrics_keys=keys)) == []
