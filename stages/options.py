"""Command-line options that a site, an edge and the builder share, each declared once."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import click
from click.core import ParameterSource

from stages.address import names_address
from stages.bundle import named_bundle
from stages.engines.backends import BACKENDS
from stages.errors import BundleError

MAX_COUNT, MAX_NUMBER = 2**31 - 1, 1e9
MAX_THREADS = 1024


class Count(click.IntRange):
    """A whole number up to MAX_COUNT, for which nothing overflows."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        number: int = super().convert(value, param, ctx)
        if number > MAX_COUNT:
            self.fail(f"{value!s:.40} is too large, expected at most {MAX_COUNT}", param, ctx)
        return number


class Number(click.FloatRange):
    """A number up to MAX_NUMBER, and "inf" where it may be `endless`.

    Click's own type takes "nan", which passes every range, and "inf".
    """

    def __init__(
        self,
        smallest: float = 0,
        largest: float = MAX_NUMBER,
        *,
        min_open: bool = False,
        endless: bool = False,
    ) -> None:
        super().__init__(smallest, None if largest == MAX_NUMBER else largest, min_open)
        self._endless = endless

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number: float = super().convert(value, param, ctx)
        if not abs(number) <= MAX_NUMBER and not (self._endless and number == math.inf):
            self.fail(f"{value!s:.40} is no number up to {MAX_NUMBER:.0f}", param, ctx)
        return number


class PathType(click.Path):
    """A path, as a Path. An empty one, of a variable that is not set, would be the current folder; an address
    is not repeated, since it may hold a password."""

    def __init__(self, **more: Any) -> None:
        super().__init__(path_type=Path, **more)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "":
            self.fail("it is empty; name a file or folder, or leave the option out", param, ctx)
        if names_address(str(value)) and not os.path.lexists(value):
            self.fail("it is an address, expected a file or folder of this machine", param, ctx)
        return super().convert(value, param, ctx)


class BundleType(PathType):
    """The folder of a bundle; "mini" is the one that comes with pedsam."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return named_bundle(super().convert(value, param, ctx))
        except BundleError as exc:
            self.fail(str(exc), param, ctx)


PATH = PathType()

BACKEND = click.Option(["--backend"], type=click.Choice(BACKENDS), default="auto", show_default=True)
IDLE_THREADS: Mapping[str, tuple[str, Collection[Any]]] = {"threads": ("backend", ("tensorrt",))}
THREADS = click.Option(
    ["--threads"], type=click.IntRange(1, MAX_THREADS), help="CPU threads of an engine  [default: one a core]"
)


def bundle_option(what: str, **attributes: Any) -> click.Option:
    """`--bundle`, which is `what`; without it the command takes `stages.bundle.shipped_bundle()`."""
    text = f"{what}  [default: mini, which comes with pedsam]"
    return click.Option(["--bundle"], type=BundleType(), help=text, **attributes)


def given_options(ctx: click.Context) -> dict[str, str]:
    """The options that were given with another value than their default, by name, as they were given:
    "--max-fps", "PEDSAM_RUN_MAX_FPS", or "max_fps in edge.toml" where the file that --config names has it."""
    return {
        str(option.name): _as_given(option, ctx)
        for option in ctx.command.params
        if isinstance(option, click.Option) and option.name in ctx.params and _is_given(option, ctx)
    }


def _is_given(option: click.Option, ctx: click.Context) -> bool:
    if ctx.get_parameter_source(str(option.name)) is ParameterSource.DEFAULT:
        return False
    value = ctx.params[str(option.name)]
    return value != option.default and (is_on(value) or bool(option.secondary_opts))


def is_on(value: object) -> bool:
    """Whether the value of an option asks for something; 0 is a number."""
    return value is not None and value is not False and value != ()


def _as_given(option: click.Option, ctx: click.Context) -> str:
    source = ctx.get_parameter_source(str(option.name))
    if source is ParameterSource.DEFAULT_MAP:
        return f"{option.name} in edge.toml"
    if source is ParameterSource.ENVIRONMENT and isinstance(option.envvar, str):
        return option.envvar
    off = ctx.params[str(option.name)] is False and option.secondary_opts
    return next(text for text in (option.secondary_opts if off else option.opts) if text.startswith("--"))


def idle_reasons(
    ctx: click.Context,
    needs: Mapping[str, str],
    beside: Mapping[str, tuple[str, Collection[Any]]] = MappingProxyType({}),
) -> dict[str, str]:
    """Why options do nothing as the others are, by name: "without --sites", "with --backend tensorrt".

    `needs` has the option that each does nothing without; `beside` one, and those of its values with which it
    does nothing. All by name.
    """
    flags = {str(option.name): option.opts[0] for option in ctx.command.params}
    values = ctx.params
    reasons = {name: f"without {flags[other]}" for name, other in needs.items() if not is_on(values[other])}
    for name, (other, useless) in beside.items():
        if (value := values[other]) in useless:
            reasons[name] = f"with {flags[other]}" + ("" if value is True else f" {value}")
    return reasons


def idle_options(ctx: click.Context, reasons: Mapping[str, str]) -> Iterator[str]:
    """A sentence for each option that was given and does nothing, for these `reasons` by name."""
    for name, text in given_options(ctx).items():
        if name in reasons:
            yield f"{text} does nothing {reasons[name]}"


def warn_of_idle_options(
    needs: Mapping[str, str],
    beside: Mapping[str, tuple[str, Collection[Any]]] = MappingProxyType({}),
    say: Callable[[str], None] = click.echo,
) -> None:
    """Tell which options of the current command were given and do nothing as the others are."""
    ctx = click.get_current_context()
    for sentence in idle_options(ctx, idle_reasons(ctx, needs, beside)):
        say(f"warning: {sentence}")
