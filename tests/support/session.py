"""Hooks that hold for every run: a bound on memory, an order, and a word on what was left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest

from tests.support.memory import children_peak_bytes, forget_peak, peak_bytes

MEMORY_LIMIT = 2.5e9  # bytes of one test process, and of any one that it starts
FULL_MEMORY_LIMIT = 4.5e9  # of tests of full-size models
# Which marker leaves a test out of `make test`, and what runs it.
RUN_BY = {
    "full": "make test-full",
    "gpu": "make test-gpu",
    "triton": "make test-triton",
    "browser": "make test where there is a Chromium",
    "gstreamer": "make test where gst-launch-1.0 is installed",
    "sshd": "make test where OpenSSH's server is installed",
    "mosquitto": "make test where mosquitto is installed",
    "ffmpeg": "make test where ffmpeg is installed",
    "systemd": "make test where systemd-analyze is installed",
}
# Two processes begin with one half of the tests each. In this order one begins with exports of bundles, the
# other with what needs none (training): it would wait for those exports.
FOLDERS = ("support", "export", "server", "evaluation", "training", "stages", "runtime")

children_before = pytest.StashKey[int]()
left_out = pytest.StashKey[Counter[str]]()


# Memory


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    item.stash[children_before] = children_peak_bytes()
    forget_peak()


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item) -> None:
    """Fails a test during which this process, or one that it started, took more memory than tests may."""
    limit = FULL_MEMORY_LIMIT if item.get_closest_marker("full") else MEMORY_LIMIT
    children = children_peak_bytes()
    if children == item.stash[children_before]:
        children = 0
    for who, taken in (("the test process", peak_bytes()), ("a process it started", children)):
        if taken > limit:
            pytest.fail(
                f"{who} took {taken / 1e9:.1f} GB of memory, more than {limit / 1e9:.1f} GB: use a "
                "smaller model, or mark the test full",
                pytrace=False,
            )


# Order


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=_folder)  # stable: the order within a folder stays


def _folder(item: pytest.Item) -> int:
    """The place of tests/FOLDER/... in FOLDERS; what lies elsewhere comes first."""
    folder = item.nodeid.split("/")[1:2]
    return FOLDERS.index(folder[0]) if folder and folder[0] in FOLDERS else -1


# What was left out


def pytest_deselected(items: Sequence[pytest.Item]) -> None:
    for item in items:
        counted = item.config.stash.setdefault(left_out, Counter())
        counted.update(marker for marker in RUN_BY if item.get_closest_marker(marker))


def pytest_sessionfinish(session: pytest.Session) -> None:
    output: dict[str, Any] | None = getattr(session.config, "workeroutput", None)
    if output is not None:  # this is a process of pytest-xdist
        output["left_out"] = dict(session.config.stash.get(left_out, None) or {})


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Each process of pytest-xdist leaves out the same tests, so any one of them can tell."""
    node.config.stash[left_out] = Counter(getattr(node, "workeroutput", {}).get("left_out"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for marker, count in (config.stash.get(left_out, None) or {}).items():
        terminalreporter.write_line(
            f"NOT TESTED: what is marked {marker}, {count} in all; {RUN_BY[marker]} tests it"
        )
