"""Puts what was measured into docs/results.md: a section's table is made of files of benchmarks/results.

    python -m benchmarks.report            # writes the page
    python -m benchmarks.report --check    # one sentence, and exit code 1, where the page says something else

A section stands between the lines `<!-- begin NAME -->` and `<!-- end NAME -->`; what is outside of them is
written by hand. To add one, add a line to SECTIONS and both lines to the page: the module has a function
`markdown`, which takes the content of each file and returns Markdown.
"""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from benchmarks.machine import IDLE_CORES, OTHERS, ROOT

PAGE = ROOT / "docs/results.md"
RESULTS = ROOT / "benchmarks/results"

# Name of the section: its module, and its files in the order that `markdown` takes them. Those that are not
# there are left out, but for the first.
SECTIONS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "three_sites": (
        "benchmarks.three_sites",
        ("three_sites_mini.json", "three_sites_vit_b.json", "three_sites_vit_h.json"),
    ),
    "throughput": ("benchmarks.throughput", ("throughput_mini.json",)),
    "growth": ("benchmarks.growth", ("growth.json",)),
    "objects": ("benchmarks.objects", ("objects_mini.json",)),
    "overlays": ("benchmarks.overlays", ("overlays.json",)),
    "trust": ("benchmarks.trust", ("trust_mini.json",)),
    "stills": ("benchmarks.stills", ("stills_mini.json",)),
    "streaming": (
        "benchmarks.streaming",
        (
            "streaming_mini.json",
            "streaming_vit_b.json",
            "streaming_vit_h.json",
        ),
    ),
    "peers": ("benchmarks.peers.report", ("peers_mini.json", "peers_vit_b.json", "peers_vit_h.json")),
    "triton": ("benchmarks.triton.report", ("triton_mini.json", "triton_vit_b.json")),
    "site_requests": ("benchmarks.site_requests", ("site_requests_before.json", "site_requests.json")),
}


class ReportError(Exception):
    """The page or a file of results is not what a section needs."""


def section(name: str, results: Path = RESULTS) -> str:
    """A section's Markdown, without its markers. Raises ReportError."""
    module, files = SECTIONS[name]
    first, *others = (results / file for file in files)
    if not first.exists():
        raise ReportError(f"{first} is not there, from which the section {name} is made: run {module} first")
    there = {path.stem: _read(path) for path in (first, *others) if path.exists()}
    text = str(importlib.import_module(module).markdown(*there.values())).strip()
    return "\n\n".join([text, *filter(None, [_busy(there)])])


def _busy(results: Mapping[str, Mapping[str, Any]]) -> str:
    """What else the machine did while benchmarks.all measured, "" for nothing."""
    cores = {stem: result.get("bench", {}).get(OTHERS, 0.0) for stem, result in results.items()}
    told = [f"{busy:.1f} cores ({stem})" for stem, busy in cores.items() if busy >= IDLE_CORES]
    return f"Something else kept the machine busy meanwhile: {', '.join(told)}." if told else ""


def rendered(page: str, results: Path = RESULTS) -> str:
    """The page with every section as its files give it. Raises ReportError."""
    marked = re.findall(r"^<!-- begin (\S+) -->$", page, re.MULTILINE)
    if unknown := sorted(set(marked) - set(SECTIONS)):
        raise ReportError(f"the page marks a section {unknown[0]}, which SECTIONS of report.py does not name")
    for name in SECTIONS:
        begin, end = f"<!-- begin {name} -->\n", f"<!-- end {name} -->\n"
        if page.count(begin) != 1 or page.count(end) != 1 or page.index(begin) > page.index(end):
            raise ReportError(
                f"the page needs the lines {begin.strip()} and {end.strip()} once each, in this order"
            )
        before, rest = page.split(begin)
        page = f"{before}{begin}{section(name, results)}\n{end}{rest.split(end)[1]}"
    return page


def differing(page: str, results: Path = RESULTS) -> list[str]:
    """Sections of the page that are not what their files give. Raises ReportError."""
    new = rendered(page, results)
    return [name for name in SECTIONS if _between(page, name) != _between(new, name)]


def _between(page: str, name: str) -> str:
    return page.partition(f"<!-- begin {name} -->\n")[2].partition(f"<!-- end {name} -->\n")[0]


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as exc:
        raise ReportError(f"{path} is not JSON ({exc}): measure it again, or restore it") from exc


@click.command()
@click.option("--check", is_flag=True, help="Write nothing; fail where the page is not what the files give.")
@click.option("--page", type=click.Path(path_type=Path, exists=True, dir_okay=False), default=PAGE)
@click.option("--results", type=click.Path(path_type=Path, exists=True, file_okay=False), default=RESULTS)
def main(check: bool, page: Path, results: Path) -> None:
    """Render the sections of PAGE from the files in RESULTS."""
    text = page.read_text(encoding="utf-8")
    try:
        if not check:
            page.write_text(rendered(text, results), encoding="utf-8")
        elif names := differing(text, results):
            raise ReportError(
                f"{page} is not what the files of results give in {', '.join(names)}: run "
                "python -m benchmarks.report, and look at what it changed"
            )
    except ReportError as exc:
        raise click.ClickException(str(exc)) from exc


if __name__ == "__main__":
    main()
