"""Commands in the pages are those there are: commands, options, values, make targets, variables."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

import click
import pytest

from pedsam.command import COMMANDS, main
from stages.engines.plans import IMAGE_VARIABLE
from tests.support.documents import DOCUMENTS, README, ROOT, CodeLine, Document

pages = pytest.mark.parametrize("page", DOCUMENTS, ids=str)

PEDSAM = r"(?:\S*/)?pedsam|accelerate launch -m pedsam"
TARGETS = set(re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
OF_DOCKER = {"--build-arg", "--gpus", "--user"}


def commands() -> Mapping[str, click.Command]:
    context = click.Context(main)
    found = {name: main.get_command(context, name) for name in COMMANDS}
    return {name: command for name, command in found.items() if command is not None}


def commands_of(group: click.Group) -> Mapping[str, click.Command]:
    context = click.Context(group)
    found = {name: group.get_command(context, name) for name in group.list_commands(context)}
    return {name: command for name, command in found.items() if command is not None}


def options_of(command: click.Command) -> set[str]:
    parameters = command.get_params(click.Context(command))
    options = [each for each in parameters if isinstance(each, click.Option)]
    return {text for option in options for text in (*option.opts, *option.secondary_opts)}


def check(line: CodeLine, commands: Mapping[str, click.Command]) -> None:
    """Raise for a line that its command would refuse; files need not be there."""
    if not line.words or line.words[0].startswith("-"):
        assert set(line.words) <= options_of(main), line
        return
    check_words(line, line.words, commands)


def check_words(line: CodeLine, words: Sequence[str], commands: Mapping[str, click.Command]) -> None:
    """`words` are those of the line from the name of a command on."""
    name, *given = words
    command = commands[name]
    if isinstance(command, click.Group) and given and not given[0].startswith("-"):
        check_words(line, given, commands_of(command))
    elif line.whole and "--help" not in given:
        assert not isinstance(command, click.Group), f"{line}: which of {name}'s commands?"
        check_whole(line, name, command, given)
    else:
        named = {word.partition("=")[0] for word in given if word.startswith("-")}
        assert named <= options_of(command), line


def check_whole(line: CodeLine, name: str, command: click.Command, words: Sequence[str]) -> None:
    context = click.Context(command, info_name=name)
    values, rest, _ = command.make_parser(context).parse_args(list(words))
    assert not rest, f"{line}: {rest} belongs to no option or argument"
    for parameter in command.params:
        value = values.get(str(parameter.name))
        # the parser has a value of its own for an argument that is missing
        given = str(parameter.name) in values and (
            isinstance(parameter, click.Option) or isinstance(value, str)
        )
        if given and not isinstance(parameter.type, click.Path):
            parameter.type_cast_value(context, parameter.consume_value(context, values)[0])
        in_file = name in ("run", "check") and "config" in values
        assert given or in_file or not parameter.required, f"{line}: {parameter.opts[-1]} is missing"


@pages
def test_every_command_is_taken(page: Document) -> None:
    known = commands()
    for line in page.code_lines(PEDSAM):
        check(line, known)
    for name in known:  # as `serve --build`
        for line in page.code_lines(rf"{name}(?= --)"):
            check(CodeLine((name, *line.words), whole=False), known)


@pytest.mark.parametrize(
    "line",
    [
        "pedsam run --source 0 --no-such-option",
        "pedsam run --source 0 --rotate left",
        "pedsam run --source 0 --wire fp64",
        "pedsam run --source",
        "pedsam run --preview 8080",
        "pedsam run --source 0 photo.jpg",
        "pedsam flash --board orin",
        "pedsam flash --bundle b --sites sites.toml --config edge.toml",
        "pedsam flash jetson --bundle b --config edge.toml",
        "pedsam flash jetson nano --bundle b --sites sites.toml --config edge.toml",
        "pedsam board",
        "pedsam board --dry-run",
        "pedsam board reset jetson",
        "pedsam board check",
        "pedsam board check jetson nano",
        "pedsam board check jetson --power 25W",
        "pedsam board logs jetson --lines 0",
        "pedsam --loud",
    ],
)
def test_a_wrong_command_would_be_found(line: str) -> None:
    page = Document("made-up", f"```\n{line}\n```\n")
    (found,) = page.code_lines(PEDSAM)
    with pytest.raises((AssertionError, KeyError, click.UsageError)):
        check(found, commands())


@pytest.mark.parametrize(
    "span", ["pedsam board reset", "pedsam board check --power", "pedsam run --loud", "pedsam flush"]
)
def test_a_wrong_name_within_the_text_would_be_found(span: str) -> None:
    (found,) = Document("made-up", f"Give `{span}`.\n").code_lines(PEDSAM)
    with pytest.raises((AssertionError, KeyError)):
        check(found, commands())


def test_commands_are_found_in_the_pages() -> None:
    lines = {str(line) for line in README.code_lines(PEDSAM) if line.whole}
    assert "run --source photo.jpg --box 100,80,420,360 --out out/photo" in lines
    shown = [line.words for page in DOCUMENTS for line in page.code_lines(PEDSAM) if line.whole]
    assert {words[0] for words in shown} == set(COMMANDS)
    for name, command in commands().items():
        if isinstance(command, click.Group):
            assert {words[1] for words in shown if words[0] == name} == set(commands_of(command))


def every_command() -> Iterator[click.Command]:
    for command in commands().values():
        yield command
        if isinstance(command, click.Group):
            yield from commands_of(command).values()


@pages
def test_every_option_named_alone_exists(page: Document) -> None:
    known = {option for command in every_command() for option in options_of(command)} | OF_DOCKER
    named = {match[0] for span in page.spans if (match := re.match(r"--[a-z0-9-]+", span))}
    assert named <= known, sorted(named - known)


@pages
def test_every_make_target_exists(page: Document) -> None:
    named = {line.words[0] for line in page.code_lines("make") if line.words}
    assert named <= TARGETS, sorted(named - TARGETS)


def variables() -> Iterator[str]:
    for command in every_command():
        yield from (str(each.envvar) for each in command.params if isinstance(each, click.Option))


@pages
def test_every_variable_of_the_environment_is_read(page: Document) -> None:
    named = set(re.findall(r"\bPEDSAM_[A-Z_]+", page.text)) - {"PEDSAM_COMMAND_OPTION", IMAGE_VARIABLE}
    assert named <= set(variables()), sorted(named - set(variables()))


@pages
def test_every_benchmark_takes_its_options(page: Document) -> None:
    """By their sources: some of them import torch, which takes seconds."""
    for line in page.code_lines(r"python -m"):
        module, *rest = line.words
        path = ROOT / module.replace(".", "/")
        source = (path / "__main__.py" if path.is_dir() else path.with_suffix(".py")).read_text(
            encoding="utf-8"
        )
        for option in (word for word in rest if word.startswith("--")):
            assert f'"{option}"' in source, f"{line}: {module} has no {option}"


def test_the_readme_is_short() -> None:
    """As `make lint` holds it."""
    assert len(README.text.splitlines()) <= 200
