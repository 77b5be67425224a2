"""jetson/files/alive.sh as a container runs it: on the processes of a PID namespace of its own alone."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.runtime.test_service import long_film
from tests.support.bundles import ROOT
from tests.support.processes import MODULE

ALIVE = ROOT / "jetson/files/alive.sh"
CONTAINER = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc", "sh", "-euc"]
# The first process, as `docker run --init` has one: it starts the edge, waits for it and tells how it ended.
INIT = """
{edge} & edge=$!
alive() {{ "{alive}" && echo healthy || echo unhealthy; }}
{steps}
kill $edge 2> /dev/null || true
wait $edge || echo "ended with $?"
"""
ALIVE_AT_THE_END = "ended with 143"  # by the line above


def namespaces() -> bool:
    """Whether this machine makes PID namespaces."""
    if shutil.which("unshare") is None:
        return False
    return subprocess.run([*CONTAINER, "true"], capture_output=True, check=False).returncode == 0


pytestmark = pytest.mark.skipif(
    not namespaces(), reason="alive.sh NOT TESTED: no PID namespaces here (unshare)"
)


def in_container(tmp_path: Path, steps: str, limit_s: str = "0", edge: str = "sleep 300") -> list[str]:
    """What a container says whose first process does `steps`, `$file` being the heartbeat."""
    file = tmp_path / "heartbeat"
    environment = {
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "file": str(file),
        "PEDSAM_RUN_HEARTBEAT": str(file),
        "PEDSAM_HEARTBEAT_LIMIT_S": limit_s,
        "PYTHONPATH": str(ROOT),
    }
    line = [*CONTAINER, INIT.format(alive=ALIVE, steps=steps, edge=edge)]
    done = subprocess.run(line, capture_output=True, text=True, check=True, env=environment, timeout=60)
    return done.stdout.splitlines()


def test_a_container_without_the_file_is_left_alone(tmp_path: Path) -> None:
    assert in_container(tmp_path, "alive") == ["healthy", ALIVE_AT_THE_END]


def test_a_file_touched_lately_is_healthy(tmp_path: Path) -> None:
    assert in_container(tmp_path, 'touch "$file"; alive', "30") == ["healthy", ALIVE_AT_THE_END]


def test_a_file_that_is_no_more_touched_ends_the_edge(tmp_path: Path) -> None:
    """Looked at again and again, until the file is a second older than allowed."""
    steps = 'touch "$file"; while answer=$("$(command -v sh)" "{alive}"); do :; done; echo "$answer"'
    said = in_container(tmp_path, steps.format(alive=ALIVE))
    assert said[-1] == "ended with 137"  # killed: 128 + 9
    assert said[0].startswith("the edge last moved ")
    assert said[0].endswith(" s ago, more than the 0 s allowed: its processes are killed")


def test_a_run_whose_loop_stands_still_is_ended(tmp_path: Path) -> None:
    """A real one: healthy while it moves, then nothing in it goes on and it is found out by its heartbeat."""
    film = str(long_film(tmp_path / "film.mp4"))
    edge = shlex.join([*MODULE, "run", "--source", film, "--realtime", "--preview", "0", "--threads", "1"])
    steps = f"""
        until [ "$(cat "$file" 2> /dev/null || echo 0)" -ge 3 ]; do sleep 0.2; done
        alive
        kill -STOP $edge
        while answer=$("$(command -v sh)" "{ALIVE}"); do sleep 0.2; done
        echo "$answer"
    """
    said = in_container(tmp_path, steps, "5", f'{edge} --heartbeat "$file" > /dev/null')
    assert said[0] == "healthy"
    assert said[1].startswith("the edge last moved ")
    assert said[2] == "ended with 137"


def test_a_file_from_before_the_start_is_none(tmp_path: Path) -> None:
    """What a restarted container finds, or a clock that was set: 1970 became today."""
    for when in ("10 seconds ago", "1970-01-02"):
        steps = f'touch --date "{when}" "$file"; alive'
        assert in_container(tmp_path, steps) == ["healthy", ALIVE_AT_THE_END]


def test_a_limit_that_is_no_number_ends_nothing(tmp_path: Path) -> None:
    steps = 'touch --date "10 seconds ago" "$file"; alive'
    said = in_container(tmp_path, steps, "30s")
    assert said == [
        'PEDSAM_HEARTBEAT_LIMIT_S is "30s", expected whole seconds like 30',
        "unhealthy",
        ALIVE_AT_THE_END,
    ]


def test_the_script_may_be_executed() -> None:
    assert ALIVE.stat().st_mode & 0o111
