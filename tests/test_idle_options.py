"""Each command tells which options were given and do nothing. Of `run`: tests/runtime/test_cli.py."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

import pedsam


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("evaluate --data absent --out o --new-session", "--new-session does nothing without --sites"),
        ("evaluate --data absent --out o --insecure", "--insecure does nothing without --sites"),
        (
            "evaluate --data absent --out o --accept-exposure",
            "--accept-exposure does nothing without --sites",
        ),
        (
            "evaluate --data absent --out o --threads 2 --backend tensorrt",
            "--threads does nothing with --backend tensorrt",
        ),
        (
            "check --bundle absent --sites absent.toml --threads 2 --backend tensorrt",
            "--threads does nothing with --backend tensorrt",
        ),
        (
            "serve --bundle absent --threads 2 --backend tensorrt",
            "--threads does nothing with --backend tensorrt",
        ),
        (
            "serve --bundle absent --build --backend onnxruntime-cpu",
            "--build does nothing with --backend onnxruntime-cpu",
        ),
        ("audit --data absent --out o --keep-px 300", "--keep-px does nothing without --keep"),
        ("demo --bundle absent --frames 4 --preview 0", "--frames does nothing with --preview 0"),
        (
            "flash user@absent --bundle absent --sites absent --config absent --reboot",
            "--reboot does nothing without --power",
        ),
        ("build --bundle absent --target sm_89", "--target does nothing without --parse-only"),
        ("train --model mini --data absent --out w --taught 0.5", "--taught does nothing without --teacher"),
        (
            "train --model mini --data absent --out w --teacher-enlarges 2",
            "--teacher-enlarges does nothing without --teacher",
        ),
    ],
)
def test_an_option_that_does_nothing_is_told(
    line: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(pedsam.main, line.split())
    assert result.exit_code == 1, result.output  # nothing is there
    assert f"warning: {told}" in result.output.splitlines()
    assert "absent" in result.output.splitlines()[-1]
