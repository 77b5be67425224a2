"""A check for people and for programs: a table with a column a site, sentences under it, and JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from runtime.check.check import STEPS, CheckState, Report, SiteReport
from runtime.check.prediction import EdgeTimes, Keeping, Prediction
from runtime.check.site_speed import Rate
from runtime.sites.may_see import sentence
from stages.errors import printable

LABELS = {
    "digest": "site digest",
    "probe": "probe difference",
    "tls": "TLS",
    "tcp": "TCP",
}
HERE = "without --sites every window runs here, and nothing leaves"
_LABEL_COLUMNS = 18  # of the terminal, for the first column; a site needs _SITE_COLUMNS
_SITE_COLUMNS = 20
_STYLES = {CheckState.OK: "", CheckState.FAILED: "bold red", CheckState.SKIPPED: "dim"}


def print_report(console: Console, report: Report) -> None:
    """Tables as wide as the terminal, then failures, warnings, the prediction and the verdict."""
    columns = max(1, (console.width - _LABEL_COLUMNS) // _SITE_COLUMNS)
    for first in range(0, len(report.sites), columns):
        console.print(_table(report, report.sites[first : first + columns]))
    for style, line in _lines(report):
        console.print(Text(printable(line), style=style))


def _table(report: Report, sites: Sequence[SiteReport]) -> Table:
    table = Table("site", *(Column(Text(printable(site.config.name))) for site in sites))
    table.add_row(Text("operator"), *(Text(printable(site.config.operator)) for site in sites))
    for number, name in enumerate(STEPS[:-1]):
        table.add_row(Text(LABELS.get(name, name)), *(_cell(site, number) for site in sites))
        if name == "tls" and any(site.certificate for site in sites):
            for label, value in _CERTIFICATE.items():
                table.add_row(Text(label), *(Text(printable(value(site))) for site in sites))
    for label, measured in _MEASURED.items():
        table.add_row(Text(label), *(Text(measured(site)) for site in sites))
    return table


def _cell(site: SiteReport, number: int) -> Text:
    step = site.steps[number]
    text = {CheckState.OK: step.text, CheckState.FAILED: "FAILED", CheckState.SKIPPED: "-"}[step.state]
    return Text(printable(text), style=_STYLES[step.state])


def _of_certificate(value: Callable[[Any], str]) -> Callable[[SiteReport], str]:
    return lambda site: value(site.certificate) if site.certificate else "-"


_CERTIFICATE: Mapping[str, Callable[[SiteReport], str]] = {
    "certificate of": _of_certificate(lambda c: c.subject),
    "  issued by": _of_certificate(lambda c: c.issuer),
    "  good until": _of_certificate(lambda c: f"{c.until:%Y-%m-%d}"),
    "  SHA-256": _of_certificate(lambda c: c.fingerprint[:16]),
}
_MEASURED: Mapping[str, Callable[[SiteReport], str]] = {
    "round trip": lambda site: f"{site.alone.round_trip_s * 1e3:.1f} ms" if site.alone else "-",
    "Mbit/s up": lambda site: _rate(site.alone.up) if site.alone else "-",
    "Mbit/s down": lambda site: _rate(site.alone.down) if site.alone else "-",
    "tiles/s alone": lambda site: f"{site.alone.tiles_per_s:.1f}" if site.alone else "-",
    "  all together": lambda site: f"{site.windows / site.together_s:.1f}" if site.together_s else "-",
    "windows a frame": lambda site: (
        f"{site.windows} in {site.together_s * 1e3:.0f} ms" if site.together_s else "-"
    ),
}


def _rate(rate: Rate | None) -> str:
    if rate is None:
        return "not measured"
    return f"{'over ' if rate.at_least else ''}{rate.mbit_s:.{0 if rate.mbit_s >= 10 else 1}f}"


def _lines(report: Report) -> Iterator[tuple[str, str]]:
    """Style and text of each line under the table."""
    for site in report.sites:
        if site.failure:
            yield "red", site.failure
    if report.edge_error:
        yield "red", report.edge_error
    for line in report.problems:
        yield "red", line
    for line in report.warnings:
        yield "yellow", f"warning: {line}"
    for line in report.notes:
        yield "", line
    if report.shares and report.shares.may_see:
        yield "", sentence(report.shares.may_see, report.shares.sent + report.shares.at_edge)
    if report.keeping:
        yield "", _keeping(report.keeping, report.wire)
    if report.edge and report.fps_without_detectors is not None:
        yield "", _detecting(report.edge, report.fps_without_detectors)
    if report.prediction:
        for line in _prediction(report, report.prediction):
            yield "", line
    yield "bold green" if report.usable else "bold red", _verdict(report)


def _verdict(report: Report) -> str:
    good = sum(site.usable for site in report.sites)
    parts = [f"{good} of {len(report.sites)} sites can be used" if report.sites else HERE]
    if report.problems:
        parts.append("and a run would not start here: see above")
    elif report.edge_error:
        parts.append("and this machine cannot do its part: see above")
    return ", ".join(parts)


def _keeping(keeping: Keeping, wire: str) -> str:
    up, down = (size / 1e3 for size in keeping.bytes_saved)
    return (
        f"{keeping.windows} windows of every frame are kept: {_ms(keeping.edge_s)} of the edge's engines, "
        f"{up:.1f} kB up and {down:.1f} kB down less with --wire {wire}; with all of them sent "
        f"{keeping.fps_without:.1f} frames/s"
    )


def _detecting(edge: EdgeTimes, fps_without: float) -> str:
    return (
        f"the detectors of --keep take {_ms(edge.detect_s)} of every frame and "
        f"{_ms(edge.detect_processor_s)} of the processor; without them {fps_without:.1f} frames/s"
    )


def _prediction(report: Report, prediction: Prediction) -> Iterator[str]:
    height, width = report.size
    slowest, others = prediction.limited_by, dict(prediction.steps_s)
    frame = f"{width} x {height} with one object" + (f", {report.wire} wire" if report.sites else "")
    yield f"predicted: {prediction.fps:.1f} frames/s of {frame}"
    yield f"limited by {slowest}: {_ms(others.pop(slowest))} of every frame"
    yield "other steps: " + ", ".join(f"{name} {_ms(seconds)}" for name, seconds in others.items())
    for name, (up, down) in prediction.gigabytes_an_hour.items():
        price = "" if report.price_per_gb is None else f", which costs {down * report.price_per_gb:.2f}"
        yield f"at that rate {up:.2f} GB an hour up and {down:.2f} GB down with --wire {name}{price}"
        if name in prediction.heads_an_hour:
            up, down = prediction.heads_an_hour[name]
            yield f"of that {up:.2f} GB up and {down:.2f} GB down are heads of HTTP"


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.0f} ms"


def to_json(report: Report) -> str:
    """All of a report; times in seconds, rates in megabits a second."""
    prediction = report.prediction
    return json.dumps(
        {
            "model": report.bundle.geometry.name,
            "weights": report.bundle.weights,
            "site_digest": report.bundle.site_digest,
            "wire": report.wire,
            "frame": {"height": report.size[0], "width": report.size[1]},
            "usable": report.usable,
            "sites": {site.config.name: _site_json(site) for site in report.sites},
            "warnings": report.warnings,
            "notes": report.notes,
            "edge_error": report.edge_error,
            "problems": report.problems,
            "windows_at_edge": report.shares.at_edge if report.shares else None,
            "may_see": {name: vars(each) for name, each in report.shares.may_see.items()}
            if report.shares
            else None,
            "windows_kept": report.shares.kept if report.shares else None,
            "keeping": vars(report.keeping) if report.keeping else None,
            "fps_without_detectors": report.fps_without_detectors,
            "edge": vars(report.edge) if report.edge else None,
            "prediction": vars(prediction) if prediction else None,
        },
        indent=1,
    )


def _site_json(site: SiteReport) -> dict[str, Any]:
    certificate = (
        vars(site.certificate) | {"until": site.certificate.until.isoformat()} if site.certificate else None
    )
    alone = site.alone
    return {
        "operator": site.config.operator,
        "url": site.config.url,
        "usable": site.usable,
        "failure": site.failure,
        "steps": {step.name: {"state": step.state.value, "text": step.text} for step in site.steps},
        "addresses": site.addresses,
        "certificate": certificate,
        "headers": dict(site.headers),
        "round_trip_s": alone.round_trip_s if alone else None,
        "up": vars(alone.up) if alone and alone.up else None,
        "down": vars(alone.down) if alone and alone.down else None,
        "tiles_per_s_alone": alone.tiles_per_s if alone else None,
        "windows": site.windows,
        "together_s": site.together_s,
    }
