"""The command line: one group, a line per command. Each command lives with the package that does its work."""

from __future__ import annotations

import importlib
from copy import copy
from typing import Any

import click

from stages.errors import PedsamError, ungrouped

COMMANDS = {
    "export": ("export.cli", "Write a bundle from a SAM checkpoint."),
    "train": ("export.train_cli", "Train promptable segmentation from scratch."),
    "distill": ("export.distill_cli", "Teach SAM with its blocks reordered what SAM knows."),
    "build": ("export.build_cli", "Build TensorRT engines on the device that runs them."),
    "keys": ("runtime.keys_cli", "Make certificates and tokens for sites on the internet."),
    "serve": ("server.cli", "Run one site."),
    "check": ("runtime.check_cli", "Look at every site before trusting a camera to it."),
    "run": ("runtime.cli", "Segment pictures or video through the sites."),
    "evaluate": ("evaluation.cli", "Mean IoU on pictures whose instances are known."),
    "demo": ("runtime.demo_cli", "Three loopback sites and real pictures, start to finish."),
}


class LazyGroup(click.Group):
    """Imports a command's package when the command is used: a site has no torch, an exporter no camera."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        try:
            module = importlib.import_module(COMMANDS[name][0])
        except ModuleNotFoundError as exc:
            raise click.ClickException(
                f"pedsam {name} needs the package {exc.name}; install the extra for it (README, Install)"
            ) from exc
        command: click.Command = module.command
        return _reading_environment(name, command)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            with ungrouped():
                return super().invoke(ctx)
        except PedsamError as exc:
            raise click.ClickException(str(exc)) from exc

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


def _reading_environment(name: str, command: click.Command) -> click.Command:
    """The command, whose every option can be given as PEDSAM_COMMAND_OPTION too.

    Click's own auto_envvar_prefix would name variables after parameters of functions, not after options.
    """
    reading = copy(command)
    reading.params = [copy(parameter) for parameter in command.params]  # commands share some
    for option in reading.params:
        if isinstance(option, click.Option):
            long = next(text for text in option.opts if text.startswith("--"))
            option.envvar = f"PEDSAM_{name}_{long[2:]}".replace("-", "_").upper()
    return reading


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="pedsam")
def main() -> None:
    """Segment live video with Segment Anything while no cloud server sees the picture.

    Every option can be given by the environment too: `serve --max-batch 4` as PEDSAM_SERVE_MAX_BATCH=4.
    """


if __name__ == "__main__":
    main()
