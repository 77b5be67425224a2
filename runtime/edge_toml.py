"""`edge.toml`: the options of `pedsam run` in a file, for an edge that runs as a service.

Every key is an option of the command line without its dashes; an option that is given as well wins. Paths are
relative to the file. All keys are optional. docs/edge-toml.md explains each, docs/edge.toml is an example.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from runtime.options import CONFIG, NOT_IN_FILE
from runtime.options import TABLES as OPTIONS
from stages.bundle import SHIPPED
from stages.errors import InputError
from stages.json_values import brief
from stages.options import PATH, BundleType
from stages.text_files import TYPE_NAMES, Mistake, line_of, parse_toml, read_text

TABLES: Mapping[str, tuple[str, ...]] = {
    name: tuple(str(option.name) for option in options if option not in NOT_IN_FILE)
    for name, options in OPTIONS.items()
}
_ADDRESSES = ("source", "camera_proxy", "mqtt")  # what may hold a password


def config_option(text: str) -> click.Option:
    """The option `--config`; `text` ends its help. Values of the file become the defaults of the call.

    Keys that the command has no option for are checked all the same.
    """
    options = {str(option.name): option for table in OPTIONS.values() for option in table}

    def read(ctx: click.Context, param: click.Parameter, path: Path | None) -> None:
        if path is not None:
            ctx.default_map = read_edge(path, options)
            ctx.meta[CONFIG] = path

    return click.Option(
        ["--config"], type=PATH, is_eager=True, expose_value=False, callback=read, help=f"edge.toml {text}"
    )


def read_edge(path: Path, options: Mapping[str, click.Parameter]) -> dict[str, Any]:
    """Values by option name. `options` are those of the command: they say which type a key has.

    Raises InputError in one sentence for whatever is wrong with the file.
    """
    text = read_text(path, "edge file")
    values: dict[str, Any] = {}
    for name, table in parse_toml(text, path, "edge file").items():
        try:
            values |= _table(name, table, options)
        except Mistake as exc:
            line = line_of(text, name, key=exc.key)
            raise InputError(f"edge file {path}{f', line {line}' if line else ''}: {exc}") from exc
    return {key: _resolved(path.parent, key, value, options[key]) for key, value in values.items()}


def _table(name: str, table: Any, options: Mapping[str, click.Parameter]) -> dict[str, Any]:
    if name not in TABLES:
        raise Mistake(f"it has the unknown table [{name}]; known are {', '.join(TABLES)}")
    if not isinstance(table, dict):
        raise Mistake(f"{name} is a table: write [{name}] above its keys")
    for key, value in table.items():
        if key not in TABLES[name]:
            known = ", ".join(TABLES[name])
            raise Mistake(f"[{name}] has the unknown key {key!r}; known are {known}", key)
        if not options[key].multiple:
            _check_value(name, key, value, options[key])
            continue
        if type(value) is not list:
            raise Mistake(f"{key} in [{name}] is {brief(value)}, expected a list of texts", key)
        for each in value:
            _check_value(name, key, each, options[key])
    return table


def _check_value(name: str, key: str, value: Any, option: click.Parameter) -> None:
    """Raise Mistake for a value of table `name` that the option does not take."""
    expected = _type_of(option)
    if type(value) is not expected and not (expected is float and type(value) is int):
        wanted = TYPE_NAMES[expected]
        hidden = key in _ADDRESSES and isinstance(value, (list, dict))
        shown = "a list or a table" if hidden else brief(value)
        raise Mistake(f"{key} in [{name}] is {shown}, expected {wanted}", key)
    try:
        option.type.convert(value, option, None)
    except click.BadParameter as exc:
        raise Mistake(f"{key} in [{name}]: {exc.message.rstrip('.')}", key) from exc


def _type_of(option: click.Parameter) -> type:
    """What TOML has to hold for an option."""
    if isinstance(option.type, click.types.BoolParamType):
        return bool
    if isinstance(option.type, click.types.IntParamType):
        return int
    return float if isinstance(option.type, click.types.FloatParamType) else str


def _resolved(folder: Path, key: str, value: Any, option: click.Parameter) -> Any:
    """Paths are relative to the file; a source is a path if it names something that is there."""
    if isinstance(option.type, BundleType) and value == SHIPPED.name and not _is_there(folder / value):
        return value
    if isinstance(option.type, click.Path):
        return str(folder / value)
    if key == "source" and _is_there(folder / value):
        return str(folder / value)
    return value


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # what no file can be called
        return False
