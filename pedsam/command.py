"""The command line: one group, a line per command. Each command lives with the package that does its work."""

from __future__ import annotations

from stages.stops import end_at_once, handle, interrupt_from_now_on, is_own_process, leave

if is_own_process():
    handle(end_at_once)  # before anything that takes time is imported

import importlib
import os
from copy import copy
from typing import Any

import click

from pedsam.own_packages import Shadowed, check_own, mixed
from stages.address import without_addresses
from stages.console import finish_output, lasting_output, open_missing_streams, print_anything
from stages.errors import PedsamError, printable, ungrouped
from stages.machine import MB, Need, own_ceilings, require
from stages.problems import library_problem, memory_problem, system_problem

COMMANDS = {
    "export": ("export.cli", "Write a bundle from a SAM checkpoint."),
    "train": ("training.train_cli", "Train promptable segmentation from scratch."),
    "distill": ("training.distill_cli", "Teach SAM with its blocks reordered what SAM knows."),
    "build": ("export.engines.cli", "Build TensorRT engines on the device that runs them."),
    "keys": ("runtime.credentials.cli", "Make certificates and tokens for sites on the internet."),
    "serve": ("server.cli", "Run one site."),
    "check": ("runtime.check.cli", "Look at every site before trusting a camera to it."),
    "bench": ("runtime.bench.cli", "How fast this machine is, all local against offloaded to sites."),
    "plan": ("runtime.check.plan_cli", "Which code and frame rate a line and these sites allow."),
    "run": ("runtime.cli", "Segment pictures or video through the sites."),
    "flash": ("jetson.flash_cli", "Turn a Jetson that runs JetPack into a running edge."),
    "board": ("jetson.board_cli", "Look at a flashed board and steer its service."),
    "evaluate": ("evaluation.cli", "Mean IoU on pictures whose instances are known."),
    "audit": ("evaluation.audit.cli", "What could each operator learn from what leaves?"),
    "demo": ("runtime.demo.cli", "Three loopback sites and real pictures, start to finish."),
}
LOOP = "run"  # stops in its own way, and may leave threads behind


LEAST = Need(40 * MB, 170 * MB)  # numpy alone; with less its libraries end the process


class LazyGroup(click.Group):
    """Imports a command's package when the command is used: a site has no torch, an exporter no camera."""

    name_used = ""  # of the command

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        module = COMMANDS[name][0]
        try:
            require(LEAST, f"pedsam {name}", own_ceilings())
            check_own(module.partition(".")[0])
            command: click.Command = importlib.import_module(module).command
        except PedsamError:
            raise
        except Shadowed as exc:
            raise click.ClickException(printable(exc)) from exc
        except Exception as exc:
            if sentence := memory_problem(exc) or mixed(exc) or library_problem(name, exc):
                raise click.ClickException(printable(sentence)) from exc
            raise
        return _with_environment(name, command)

    def main(self, *args: Any, **kwargs: Any) -> Any:
        open_missing_streams()
        print_anything()
        try:
            with lasting_output():
                return super().main(*args, **kwargs)
        except SystemExit as exc:
            if is_own_process() and self.name_used == LOOP:
                leave(int(exc.code or 0))
            raise

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name, command, rest = super().resolve_command(ctx, args)
        self.name_used = name or ""
        if name != LOOP:
            interrupt_from_now_on()
        if name is not None and command is not None and not isinstance(command, click.Group):
            _warn_of_unknown_variables(name, command)
        return name, command, rest

    def invoke(self, ctx: click.Context) -> Any:
        try:
            with ungrouped():
                result = super().invoke(ctx)
            finish_output()
            return result
        except PedsamError as exc:
            failure = click.ClickException(printable(str(exc)))
            failure.exit_code = exc.exit_code  # type: ignore[misc]
            raise failure from exc
        except click.UsageError as exc:  # click repeats what it does not take, a camera's address too
            raise click.UsageError(_usage_sentence(exc), exc.ctx) from exc
        except click.ClickException:
            raise
        except Exception as exc:
            if sentence := _problem(ctx.invoked_subcommand or "", exc):
                raise click.ClickException(printable(sentence)) from exc
            raise

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


def _problem(name: str, exc: Exception) -> str | None:
    return memory_problem(exc) or mixed(exc) or library_problem(name, exc) or system_problem(exc)


def _usage_sentence(exc: click.UsageError) -> str:
    sentence = without_addresses(exc.format_message())
    if sentence.startswith("Got unexpected extra arg") and exc.ctx and exc.ctx.info_name == "run":
        sentence += "; --source takes one: give the folder of several pictures"
    return sentence


def _warn_of_unknown_variables(name: str, command: click.Command) -> None:
    """Tell, on standard error, of each variable that is named like an option of the command and is none."""
    known = {option.envvar for option in command.params if isinstance(option, click.Option)}
    for variable in sorted(set(os.environ) - known):
        if variable.startswith(f"PEDSAM_{name.upper()}_"):
            click.echo(f"warning: {variable} does nothing: `pedsam {name}` has no such option", err=True)


def _with_environment(name: str, command: click.Command) -> click.Command:
    """The command, whose every option can be given as PEDSAM_COMMAND_OPTION too.

    Click's own auto_envvar_prefix would name variables after parameters of functions, not after options.
    """
    result = copy(command)
    result.params = [copy(parameter) for parameter in command.params]  # commands share some
    for option in result.params:
        if isinstance(option, click.Option):
            long = next(text for text in option.opts if text.startswith("--"))
            option.envvar = f"PEDSAM_{name}_{long[2:]}".replace("-", "_").upper()
    return result


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="pedsam")
def main() -> None:
    """Segment live video with Segment Anything while no cloud server sees the whole picture.

    Every option can be given by the environment too: `serve --max-batch 4` as PEDSAM_SERVE_MAX_BATCH=4.
    """


if __name__ == "__main__":
    main()
