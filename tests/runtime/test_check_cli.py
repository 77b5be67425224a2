"""`pedsam check` as it is typed."""

from __future__ import annotations

import json
import subprocess
from contextlib import ExitStack
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from pedsam import main
from stages.bundle import Bundle
from tests.edge import sites_file
from tests.keys import keys_for
from tests.processes import MODULE, serving


def pedsam_check(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["check", *map(str, arguments)])


def test_three_sites_with_keys_as_processes(mini_bundle: Bundle, tmp_path: Path) -> None:
    """`keys`, three `serve --keys` and `check`, each as a person starts it."""
    toml, found = tmp_path / "sites.toml", tmp_path / "found.json"
    with ExitStack() as stack:
        tables = []
        for name in "abc":
            keys = keys_for(tmp_path / name, name)
            site = stack.enter_context(serving(mini_bundle.path, "--keys", str(keys)))
            tables.append(
                (tmp_path / name / "sites.toml")
                .read_text()
                .replace("https://127.0.0.1:8443", site.url)
                .replace('"edge/', f'"{name}/edge/')
            )
        toml.write_text("\n".join(tables))
        line = [*MODULE, "check", "--bundle", str(mini_bundle.path), "--sites", str(toml)]
        line += ["--frame", "640x360", "--json", str(found), "--threads", "1"]
        done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "3 of 3 sites can be used"
    assert "predicted: " in done.stdout
    assert all(len(text) <= 80 for text in done.stdout.splitlines())
    written = json.loads(found.read_text())
    assert written["usable"] is True
    assert {name: site["windows"] for name, site in written["sites"].items()} == {"a": 5, "b": 5, "c": 5}
    assert written["prediction"]["fps"] > 0
    assert written["frame"] == {"height": 360, "width": 640}


def test_a_site_that_fails_ends_with_1(mini_bundle: Bundle, tmp_path: Path) -> None:
    sites = sites_file(tmp_path / "sites.toml", ("a", "http://127.0.0.1:1"), ("b", "http://127.0.0.1:2"))
    found = tmp_path / "found.json"
    result = pedsam_check("--bundle", mini_bundle.path, "--sites", sites, "--json", found)
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit)
    assert "site a: cannot be reached at 127.0.0.1:1" in " ".join(result.output.split())
    assert result.output.splitlines()[-1] == "0 of 2 sites can be used"
    assert json.loads(found.read_text())["sites"]["b"]["steps"]["tcp"]["state"] == "failed"


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--frame", "big"], "'big' is no size in pixels, expected like 1920x1080"),
        (["--frame", "0x9"], "'0x9' is no size in pixels"),
        (["--frame", "9x"], "'9x' is no size in pixels"),
        (["--frame", "99999x2"], "'99999x2' is no size in pixels"),
        (["--wire", "fp32"], "does not offer --wire fp32"),
        (["--sites", "absent.toml"], "sites file absent.toml cannot be read"),
        (["--bundle", "absent"], "absent is no bundle"),
        (["--json", "absent/found.json"], "cannot write absent/found.json"),
    ],
)
def test_a_mistake_is_told_in_one_sentence(
    mini_bundle: Bundle, tmp_path: Path, more: list[str], words: str
) -> None:
    sites = sites_file(tmp_path / "sites.toml", ("a", "http://127.0.0.1:1"), ("b", "http://127.0.0.1:2"))
    result = pedsam_check("--bundle", mini_bundle.path, "--sites", sites, *more)
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code in (1, 2)
    assert words in result.output.splitlines()[-1]
