"""`pedsam check`."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.text import Text

from runtime.check.check import CheckOptions, Report, check_sites
from runtime.check.edge_speed import NOTHING_KEPT
from runtime.check.json_file import check_json_file, write_json_file
from runtime.check.local import LocalOptions, local_problems
from runtime.check.prediction import windows_kept
from runtime.check.report import print_report, to_json
from runtime.edge import (
    EdgeOptions,
    check_computed_here,
    check_detectors,
    check_exposure,
    check_ledger,
    ledger_path,
)
from runtime.edge_toml import config_option
from runtime.mqtt import BrokerAnswer, MqttOptions, ask_broker
from runtime.options import (
    ACCEPT_EXPOSURE,
    ALLOW_UNDISTILLED,
    BUNDLE,
    HEARTBEAT,
    INSECURE,
    KEEP,
    KEEP_BOXES,
    KEEP_OBJECTS,
    KEEP_PX,
    KEPT,
    LEDGER,
    METRICS_HOST,
    METRICS_KEYS,
    METRICS_PORT,
    MJPEG,
    MJPEG_HOST,
    MJPEG_KEYS,
    MQTT,
    MQTT_CA,
    MQTT_INSECURE,
    MQTT_PASSWORD_FILE,
    MQTT_TOPIC,
    NEEDS,
    NEW_SESSION,
    OUT,
    PREVIEW,
    PREVIEW_HOST,
    PREVIEW_KEYS,
    PRICE_PER_GB,
    PROMPTS,
    SITES,
    SPOT_CHECKS,
    STATE,
    TRACE,
    WIRE,
    FrameSize,
    inputs_of,
    values_of,
    values_with,
)
from runtime.results.run_folder import RESULTS, results_in
from runtime.run_files import files_read, files_written
from runtime.run_options import check_weights
from runtime.sites.config import SiteConfig, read_sites
from stages.bundle import Bundle, shipped_bundle
from stages.console import make_console
from stages.distinct import NamedFile
from stages.errors import InputError, printable
from stages.options import BACKEND, IDLE_THREADS, PATH, THREADS, warn_of_idle_options


@click.command(
    "check",
    params=[
        config_option("whose files, ports and keys are tried too, as are those of the options below."),
        *(BUNDLE, SITES, WIRE, BACKEND, THREADS, INSECURE, ACCEPT_EXPOSURE, LEDGER),
        *(NEW_SESSION, ALLOW_UNDISTILLED, PROMPTS, STATE, OUT, TRACE, HEARTBEAT, PREVIEW, PREVIEW_HOST),
        *(PREVIEW_KEYS, METRICS_PORT, METRICS_HOST, METRICS_KEYS, MJPEG, MJPEG_HOST, MJPEG_KEYS),
        *(MQTT, MQTT_PASSWORD_FILE, MQTT_CA, MQTT_TOPIC, MQTT_INSECURE, SPOT_CHECKS, PRICE_PER_GB),
        *(KEEP, KEEP_PX, KEEP_OBJECTS, KEEP_BOXES, KEPT),
    ],
)
@click.option(
    "--frame",
    "size",
    type=FrameSize(),
    default="1920x1080",
    show_default=True,
    help="Predict for such frames.",
)
@click.option("--json", "json_path", type=PATH, help="Write all that was found to a file.")
def command(
    bundle: Path | None,
    allow_undistilled: bool,
    json_path: Path | None,
    **options: Any,
) -> None:
    """Look at every site, and at what a run needs here, before trusting a camera to it.

    Sends probes and noise, never a picture, and changes no file. Without --sites it looks at this machine
    alone, which then runs every window. Ends with 0 when every site can be used and a run with these options
    would start, else with 1.
    """
    console = make_console()
    warn_of_idle_options(_needs(), IDLE_THREADS)
    loaded = Bundle.load(bundle or shipped_bundle())
    edge = EdgeOptions(**values_of(EdgeOptions, dict(options)))
    sites = read_sites(edge.sites, edge.insecure) if edge.sites else ()
    check_json_file(json_path, _files_of_a_run(loaded, sites, options))
    kept = _kept(loaded, edge, options["size"], options["kept"])
    problems = asyncio.run(local_problems(LocalOptions(**values_of(LocalOptions, dict(options)))))
    problems += _refusals(loaded, sites, edge, options["size"], allow_undistilled)
    keep = edge.keeping(films=True) if sites else NOTHING_KEPT
    chosen = CheckOptions(**values_of(CheckOptions, options | {"kept": kept, "keep": keep}))
    report = _check(console, loaded, sites, chosen)
    report.problems = problems
    report.warnings = [line for line in report.warnings if line not in problems]
    if report.edge_error in problems:
        report.edge_error = None
    if sites and (edge.keep or edge.keep_objects):
        report.warnings.append(
            "how many windows --keep and --keep-objects keep is not in the prediction; --kept N predicts for "
            "as many"
        )
    if (answer := _answer_of_the_broker(options)) is not None:
        (report.notes if answer.welcome else report.warnings).append(answer.sentence)
    print_report(console, report)
    write_json_file(json_path, to_json(report))
    click.get_current_context().exit(0 if report.usable else 1)


def _kept(bundle: Bundle, edge: EdgeOptions, size: tuple[int, int], count: int) -> frozenset[int]:
    """The windows that `--keep-box` and `--kept` keep of a frame of (height, width): none without sites."""
    if edge.sites is None:
        return frozenset()
    edge.kept.check_inside([size])
    return windows_kept(bundle.geometry, size, count, edge.kept.windows(bundle.geometry, *size))


def _needs() -> dict[str, str]:
    """What the options of this command do nothing without, by name."""
    known = click.get_current_context().params
    return {name: other for name, other in NEEDS.items() if other in known} | {"kept": "sites"}


def _answer_of_the_broker(options: dict[str, Any]) -> BrokerAnswer | None:
    """None where a run tells none, or cannot; a run begins whatever the broker answers."""
    if options["mqtt"] is None:
        return None
    values = values_with("mqtt_", dict(options))
    try:
        return ask_broker(MqttOptions(options["mqtt"], **values))
    except InputError:  # which is among the problems
        return None


def _files_of_a_run(
    bundle: Bundle, sites: tuple[SiteConfig, ...], options: dict[str, Any]
) -> Iterator[NamedFile]:
    """What a run with these options reads and writes."""
    yield from inputs_of(click.get_current_context())
    yield from files_read(bundle, options["sites"], sites)
    ledger = ledger_path(options["sites"], options["ledger"])
    files = {name: options[name] for name in ("trace", "heartbeat", "state")}
    yield from files_written(**files, ledger=ledger)
    if options["out"] is not None:
        yield from (NamedFile("--out", file) for file in results_in(options["out"], RESULTS))


def _refusals(
    bundle: Bundle,
    sites: tuple[SiteConfig, ...],
    edge: EdgeOptions,
    size: tuple[int, int],
    allow_undistilled: bool,
) -> list[str]:
    """Why a run would refuse this bundle, these sites or its ledger."""
    windows = bundle.geometry.windows_with_picture(*size)
    refusals = []
    for trial in (
        partial(check_weights, bundle, allow_undistilled),
        partial(check_exposure, sites, edge.accept_exposure),
        partial(check_ledger, sites, windows, edge),
        partial(check_computed_here, bundle, edge),
        partial(check_detectors, edge),
    ):
        try:
            trial()
        except InputError as exc:
            refusals.append(str(exc))
    return refusals


def _check(console: Console, bundle: Bundle, sites: tuple[SiteConfig, ...], options: CheckOptions) -> Report:
    with console.status("") as status:
        return asyncio.run(
            check_sites(
                bundle,
                sites,
                options,
                say=lambda doing: status.update(Text(printable(doing))),
                tell=lambda line: console.print(Text(printable(line))),
            )
        )
