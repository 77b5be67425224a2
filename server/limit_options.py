"""The options of `pedsam serve` that set its Limits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from server.limits import Limits
from stages.options import Count, Number

F = TypeVar("F", bound=Callable[..., Any])

_COUNT, _SECONDS = Count(1), Number(0, min_open=True)
_OPTIONS: tuple[tuple[str, str, click.ParamType[Any], str], ...] = (
    ("--max-connections", "connections", _COUNT, "Connections open at once; one more is closed at once."),
    ("--max-per-address", "per_address", _COUNT, "Connections open at once from one address."),
    ("--max-requests", "requests", _COUNT, "Requests under way, half of them from one address."),
    ("--max-memory", "memory_mib", _COUNT, "MiB for bodies and answers, half of it for one address."),
    ("--header-timeout", "header_s", _SECONDS, "Seconds for the head of a request."),
    ("--read-timeout", "read_s", _SECONDS, "Seconds for the body of a request."),
    ("--write-timeout", "write_s", _SECONDS, "Seconds for a client to read its answer."),
    ("--json-timeout", "json_s", _SECONDS, "Seconds to read, or to write, the JSON of a request."),
    ("--idle-timeout", "idle_s", _SECONDS, "Seconds a connection without requests is kept."),
)


def limit_options(command: F) -> F:
    """Gives a command one parameter for each Limits field that has an option, named like the field."""
    for name, field, kind, text in reversed(_OPTIONS):
        default = getattr(Limits, field)
        command = click.option(name, field, type=kind, default=default, show_default=True, help=text)(command)
    return command
