"""Options that were given and do nothing are known by how they were given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from stages.bundle import shipped_bundle
from stages.options import PATH, bundle_option, given_options, warn_of_idle_options

NEEDS = {"host": "port", "fast": "port"}
BESIDE = {"threads": ("backend", ("gpu",)), "port": ("offline", (True,))}


@click.command("try")
@click.option("--port", type=int)
@click.option("--host", default="here", envvar="TRY_HOST")
@click.option("--fast/--slow", default=None)
@click.option("--threads", type=int)
@click.option("--backend", default="cpu")
@click.option("--offline", is_flag=True)
@click.option("--name", "names", multiple=True)
def attempt(**values: Any) -> None:
    warn_of_idle_options(NEEDS, BESIDE)
    click.echo(",".join(given_options(click.get_current_context())))


def run(*arguments: str, **more: Any) -> Result:
    result = CliRunner().invoke(attempt, arguments, **more)
    assert result.exit_code == 0, result.output
    return result


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((), []),
        (("--host", "there"), ["--host does nothing without --port"]),
        (("--host", "there", "--port", "0"), []),  # 0 is a port
        (("--host", "here"), []),  # as it is anyway
        (("--slow",), ["--slow does nothing without --port"]),
        (("--fast",), ["--fast does nothing without --port"]),
        (("--threads", "2", "--backend", "gpu"), ["--threads does nothing with --backend gpu"]),
        (("--threads", "2"), []),
        (("--port", "1", "--offline"), ["--port does nothing with --offline"]),
    ],
)
def test_an_option_that_does_nothing_is_told(arguments: tuple[str, ...], told: list[str]) -> None:
    *lines, _ = run(*arguments).output.splitlines()
    assert lines == [f"warning: {sentence}" for sentence in told]


def test_it_is_told_as_it_was_given() -> None:
    assert run(env={"TRY_HOST": "there"}).output.startswith("warning: TRY_HOST does nothing")
    from_file = run(default_map={"host": "there", "offline": False, "names": ()})
    assert from_file.output.splitlines() == ["warning: host in edge.toml does nothing without --port", "host"]
    assert run("--name", "a", "--port", "1").output == "port,names\n"


@pytest.mark.parametrize("arguments", [["--out", ""], ["--out="]])
def test_an_empty_path_is_not_the_current_folder(arguments: list[str]) -> None:
    @click.command("try")
    @click.option("--out", type=PATH)
    def attempt(out: Path | None) -> None:
        click.echo(out)

    result = CliRunner().invoke(attempt, arguments)
    assert result.exit_code == 2
    assert "it is empty; name a file or folder, or leave the option out" in result.output
    assert CliRunner().invoke(attempt, ["--out", "a"]).output == "a\n"


@pytest.mark.parametrize("text", ["https://me:s3cret@host/x", "me:s3cret@host:/x"])
def test_an_address_is_no_path_and_is_not_repeated(text: str) -> None:
    with pytest.raises(click.BadParameter, match="it is an address, expected a file or folder") as caught:
        PATH.convert(text, None, None)
    assert "s3cret" not in str(caught.value)


def test_a_path_may_look_like_an_address_where_it_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a:b@c").mkdir()
    assert PATH.convert("a:b@c", None, None) == Path("a:b@c")
    assert PATH.convert("out/a@b", None, None) == Path("out/a@b")


def test_mini_is_the_bundle_that_comes_with_pedsam(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    kind = bundle_option("Bundle").type
    assert kind.convert("mini", None, None) == shipped_bundle()
    assert kind.convert("bundles/mini", None, None) == Path("bundles/mini")
    Path("mini").mkdir()
    assert kind.convert("mini", None, None) == Path("mini")  # one of that name that is here
