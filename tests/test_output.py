"""What happens to commands whose words nobody reads."""

from __future__ import annotations

import errno
import os
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from pedsam import LazyGroup
from stages.console import LastingOutput

ROOT = Path(__file__).parent.parent


def test_a_pipe_whose_reader_has_ended_is_no_error() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as stream:
        output = LastingOutput(stream)
        for _ in range(3):
            output.write("words" * 10_000)
            output.flush()
    assert output.error is None


def test_a_full_disk_is_kept_for_the_end() -> None:
    with Path("/dev/full").open("w") as stream:
        output = LastingOutput(stream)
        for _ in range(3):
            output.write("words")
            output.flush()
    assert output.error is not None
    assert output.error.errno == errno.ENOSPC


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_that_nothing_else_has_told_is_one_sentence(number: int) -> None:
    @click.command("x")
    def command() -> None:
        raise OSError(number, os.strerror(number), "results.json")

    group = LazyGroup("pedsam")
    group.get_command = lambda ctx, name: command  # type: ignore[method-assign]
    result = CliRunner().invoke(group, ["x"])
    assert result.exit_code == 1
    assert result.output == f"Error: results.json: {os.strerror(number)}\n"


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_a_stream_that_is_closed_is_no_error(tmp_path: Path, closed: str) -> None:
    """Nor does the next file that is opened get what is printed."""
    code = (
        "import os, sys; from pathlib import Path; import click\n"
        "from pedsam import LazyGroup\n"
        "@click.command('x')\n"
        "def command():\n"
        "    with open(sys.argv[-1] + '/result', 'w') as file:\n"
        "        click.echo('words'); print('words'); os.system('echo words; echo words >&2')\n"
        "        file.write('a result')\n"
        "group = LazyGroup('pedsam'); group.get_command = lambda ctx, name: command\n"
        "group.main(['x'])"
    )
    line = f"{shlex.join([sys.executable, '-c', code, str(tmp_path)])} {closed}"
    done = subprocess.run(["/bin/sh", "-c", line], check=False, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr.replace("words\n", "")) == (0, "")
    assert (tmp_path / "result").read_text() == "a result"
