"""Build the version's engines on the board, in its container, one at a time.

What counts is the engine's file and its record: a build is done when the file that the record describes is
there, whatever was said meanwhile.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jetson.connection import BoardError
from jetson.steps.step import Job, Plan, Say, Step
from jetson.versions import checksum_lines
from stages.places import stages_for

RESULT = "engines.json"
REPORT = "/pedsam/state/engines.json"  # where the container writes it; engines.sh moves it to the version


class EnginesStep(Step):
    """`pedsam build --for edge` reuses what still fits."""

    name = "engines"

    def look(self, job: Job) -> Plan:
        stages = " and ".join(stages_for(job.bundle, "edge"))
        report = report_of(job)
        if report and _verified(job, report):
            return Plan(f"{describe(report)}: version {job.id} has them")
        return Plan(
            "not all are built for this version", f"build {stages} on the board; minutes the first time"
        )

    def do(self, job: Job, say: Say) -> str:
        arguments = ["--bundle", "/pedsam/bundle", "--for", "edge", "--json", REPORT]
        job.run("engines.sh", job.id, *arguments, what="the engines cannot be built", on_line=say)
        report = report_of(job)
        if not report or not _verified(job, report):
            raise BoardError(
                f"pedsam build ended well on {job.board.address}, and the engines are not there; is its disk "
                "full?"
            )
        return describe(report)


def report_of(job: Job) -> Mapping[str, Any]:
    """What `pedsam build --json` told on the board, {} where that is nothing that can be used."""
    report = job.read(RESULT)
    try:
        describe(report), rows(report)
    except (LookupError, TypeError, ValueError):
        return {}
    return report


def _verified(job: Job, report: Mapping[str, Any]) -> bool:
    """Whether every engine of a report is on the board as its record says."""
    lines = checksum_lines({f"bundle/{row['plan']}": row["plan_sha256"] for row in report["stages"]})
    return job.board.script("versions.sh", "verify", job.id, stdin=lines).status == 0


def describe(report: Mapping[str, Any]) -> str:
    """The engines in one line."""
    names = ", ".join(row["stage"] for row in report["stages"])
    return f"{names} for {report['device']} with {report['library']} {report['library_version']}"


def rows(report: Mapping[str, Any]) -> list[list[str]]:
    """A row a stage: name, precision, seconds, and megabytes of file, weights, activations, builder."""
    return [
        [
            row["stage"],
            row["precision"],
            f"{row['build_s']:.0f} s",
            *(_mb(row[key]) for key in ("plan_bytes", "weights_bytes", "activation_bytes", "peak_bytes")),
        ]
        for row in report["stages"]
    ]


def _mb(size: int | None) -> str:
    return "unknown" if size is None else f"{size / 1e6:.0f} MB"
