"""What a check shows a person at 80 columns, and what it writes for programs."""

from __future__ import annotations

import io
import json
from datetime import datetime, timezone

import pytest
from rich.console import Console

from runtime.check.check import STEPS, Report, SiteReport
from runtime.check.prediction import EdgeTimes, Prediction, Shares
from runtime.check.reachability import Certificate
from runtime.check.report import print_report, to_json
from runtime.check.site_speed import Rate, Speed
from runtime.sites.may_see import MaySee
from stages.bundle import Bundle
from tests.support.edge import config

UNTIL = datetime(2027, 3, 4, tzinfo=timezone.utc)


def shown(report: Report, width: int = 80) -> str:
    file = io.StringIO()
    print_report(Console(file=file, width=width), report)
    return file.getvalue()


def good(name: str) -> SiteReport:
    site = SiteReport(config(name), addresses=("203.0.113.7",))
    for step in STEPS:
        site.passed(f"{step} is fine")
    site.certificate = Certificate("gpu.example.org", f"{name} authority", UNTIL, "f" * 64, "e" * 64)
    site.alone = Speed(0.0123, Rate(93.6, at_least=False), Rate(4.25, at_least=True), 87.6)
    site.windows, site.together_s = 5, 0.08
    return site


def bad(name: str, sentence: str) -> SiteReport:
    site = SiteReport(config(name))
    site.passed("203.0.113.9")
    site.failed(sentence)
    return site


def report_of(bundle: Bundle, *sites: SiteReport) -> Report:
    return Report(bundle, "fp16", (1080, 1920), list(sites))


def test_a_good_site_in_a_column(mini_bundle: Bundle) -> None:
    report = report_of(mini_bundle, *(good(name) for name in "abc"))
    report.edge = EdgeTimes(0.01, 0.02, 0.03, 0.04, None, 0.05, 2)
    seen = {f"operator-{name}": MaySee(5, 0.333, 0.333) for name in "abc"}
    report.shares = Shares({"a": 5, "b": 5, "c": 5}, 0, seen)
    steps = {"the window stage at site b": 0.08, "resizing frames": 0.01}
    report.prediction = Prediction(12.5, "the window stage at site b", steps, {"fp16": (1.25, 0.5)})
    text = shown(report)
    assert all(len(line) <= 80 for line in text.splitlines())
    cells = [[cell.strip() for cell in line.split("│")] for line in text.splitlines() if "│" in line]
    rows = {row[1]: row[2] for row in cells}
    assert rows["operator"] == "operator-a"
    assert rows["certificate of"] == "gpu.example.org"
    assert rows["issued by"] == "a authority"
    assert rows["good until"] == "2027-03-04"
    assert rows["SHA-256"] == "f" * 16
    assert rows["backend"] == "backend is fine"
    assert rows["round trip"] == "12.3 ms"
    assert rows["Mbit/s up"] == "94"
    assert rows["Mbit/s down"] == "over 4.2"
    assert rows["tiles/s alone"] == "87.6"
    assert rows["all together"] == "62.5"  # 5 / 0.08
    assert rows["windows a frame"] == "5 in 80 ms"
    shares = "operator-a 33 %, operator-b 33 %, operator-c 33 %; 5 of 15 windows each"
    assert f"operators may see of the picture: {shares}" in " ".join(text.split())
    found = json.loads(to_json(report))["may_see"]["operator-b"]
    assert found == {"windows": 5, "share": 0.333, "most": 0.333}
    assert "predicted: 12.5 frames/s of 1920 x 1080 with one object, fp16 wire" in text
    assert "limited by the window stage at site b: 80 ms of every frame" in text
    assert "at that rate 1.25 GB an hour up and 0.50 GB down with --wire fp16" in text
    assert text.splitlines()[-1] == "3 of 3 sites can be used"


def test_a_failed_site_and_its_sentence(mini_bundle: Bundle) -> None:
    sentence = "site b: cannot be reached at 203.0.113.9:8443 (Connection refused); check url in sites.toml"
    text = shown(report_of(mini_bundle, good("a"), bad("b", sentence)), width=120)
    assert text.count("FAILED") == 1
    assert sentence in text
    assert "predicted" not in text
    assert text.splitlines()[-1] == "1 of 2 sites can be used"


@pytest.mark.parametrize(("width", "tables"), [(80, 2), (160, 1), (50, 4)])
def test_many_sites_take_several_tables(mini_bundle: Bundle, width: int, tables: int) -> None:
    report = report_of(mini_bundle, *(bad(name, f"site {name}: no") for name in "abcd"))
    assert shown(report, width).count("operator ") == tables


def test_what_a_site_says_cannot_steer_the_terminal(mini_bundle: Bundle) -> None:
    evil = "\x1b[2J\x07[red]x[/red]\u202e"
    site = bad("a", f"site a: answered 500: {evil}")
    site.headers = {"Server": evil}
    other = good("b")
    other.steps = []
    for _ in STEPS:
        other.passed(evil)
    other.certificate = Certificate(evil, evil, UNTIL, "f" * 64, "e" * 64)
    report = report_of(mini_bundle, site, other)
    report.warnings = [evil]
    text = shown(report, width=200)
    assert all(char.isprintable() or char == "\n" for char in text)
    assert "?[2J?[red]x[/red]?" in text  # markup stays words


def test_json_holds_everything(mini_bundle: Bundle) -> None:
    report = report_of(mini_bundle, good("a"), bad("b", "site b: no"))
    report.warnings = ["careful"]
    found = json.loads(to_json(report))
    assert found["usable"] is False
    assert found["warnings"] == ["careful"]
    assert found["prediction"] is None
    assert found["site_digest"] == mini_bundle.site_digest
    a, b = found["sites"]["a"], found["sites"]["b"]
    assert a["steps"]["tls"] == {"state": "ok", "text": "tls is fine"}
    assert (a["up"], a["down"]["at_least"]) == ({"mbit_s": 93.6, "at_least": False}, True)
    assert a["certificate"]["until"] == "2027-03-04T00:00:00+00:00"
    assert (a["round_trip_s"], a["together_s"], a["tiles_per_s_alone"]) == (0.0123, 0.08, 87.6)
    assert (b["usable"], b["failure"], b["up"]) == (False, "site b: no", None)
    assert b["steps"]["tcp"] == {"state": "failed", "text": "site b: no"}
    assert b["steps"]["tls"]["state"] == "skipped"
