"""`pedsam check` against real sites: what a good one shows, and one sentence for each way of failing."""

from __future__ import annotations

import re
import resource
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import anyio
import pytest
from aiohttp import web

from runtime.check.check import (
    STEPS,
    CheckOptions,
    CheckState,
    Report,
    SiteReport,
    Step,
    check_sites,
)
from runtime.check.reachability import connect_time_s, host_of, port_of
from runtime.sites.answers import SITE_LOG_HINT
from runtime.sites.client import SiteClient
from runtime.sites.config import SiteConfig
from stages.bundle import Bundle
from stages.errors import InputError, PedsamError, SiteUnavailable
from tests.support.edge import Impostor, Loading, config, sites_file
from tests.support.failing_sites import FAILING, WAITS, Failing
from tests.support.few_files import few_files
from tests.support.keys import keys_for, site_at
from tests.support.processes import MODULE, serving
from tests.support.tls import site_with

# Not unblocked_loop: it turns asyncio's debug mode on, where a handshake that fails is an error of the loop.
pytestmark = pytest.mark.anyio


async def checked(bundle: Bundle, *sites: SiteConfig) -> Report:
    return await check_sites(bundle, sites, CheckOptions(threads=1, timeouts=WAITS))


@asynccontextmanager
async def three_sites(bundle: Bundle, folder: Path) -> AsyncIterator[list[SiteConfig]]:
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(site_with(bundle, keys_for(folder / name, name)))
            for name in "abc"
        ]


async def test_three_sites_with_keys_are_green(mini_bundle: Bundle, tmp_path: Path) -> None:
    async with three_sites(mini_bundle, tmp_path) as sites:
        report = await checked(mini_bundle, *sites)
    assert report.usable, [site.failure for site in report.sites]
    for site in report.sites:
        check_good(site)
    assert [site.windows for site in report.sites] == [5, 5, 5]
    assert report.warnings == [
        "sites a, b, c are on this machine (loopback): good for a trial, but whoever runs the machine sees "
        "the whole picture"
    ]
    check_prediction(report)


def check_good(site: SiteReport) -> None:
    found = {step.name: step.text for step in site.steps}
    assert tuple(found) == STEPS
    assert found["name"] == "127.0.0.1"
    assert found["tls"] == "TLSv1.3"
    assert found["token"] == "accepted"  # noqa: S105
    assert found["digest"].startswith("same: ")
    assert re.fullmatch(r"\S+ of 0.01", found["probe"])
    assert re.fullmatch(r"onnxruntime \S+ on CPU", found["backend"])
    assert site.certificate is not None
    assert (site.certificate.subject, site.certificate.issuer) == (
        "127.0.0.1",
        f"{site.config.name} authority",
    )
    assert site.alone is not None
    assert site.alone.up is not None
    assert site.alone.down is not None
    assert min(site.alone.round_trip_s, site.alone.up.mbit_s, site.alone.down.mbit_s) > 0
    assert site.alone.tiles_per_s > 0
    assert site.together_s


def check_prediction(report: Report) -> None:
    assert report.prediction is not None
    assert report.edge is not None
    slowest_s = max(report.prediction.steps_s.values())
    assert report.prediction.fps == pytest.approx(1 / slowest_s)
    assert report.prediction.steps_s[report.prediction.limited_by] == slowest_s
    windows_s = max(site.together_s or 0 for site in report.sites)
    assert windows_s in report.prediction.steps_s.values()
    assert set(report.prediction.gigabytes_an_hour) == {"fp16", "int8"}


@pytest.mark.parametrize("failing", FAILING.values(), ids=FAILING.keys())
async def test_each_failure_has_its_sentence_and_a_run_says_the_same(
    mini_bundle: Bundle, tmp_path: Path, failing: Failing
) -> None:
    async with failing.opening(mini_bundle, tmp_path) as site:
        report = await check_sites(mini_bundle, [site], CheckOptions(timeouts=failing.timeouts))
        said_by_run = await sentence_of_run(mini_bundle, site, failing)
    (found,) = report.sites
    last = STEPS.index(failing.step)
    assert [step.name for step in found.steps] == list(STEPS)
    assert [step.state for step in found.steps[:last]] == [CheckState.OK] * last
    assert found.steps[last].state is CheckState.FAILED, found.steps
    assert {step.state for step in found.steps[last + 1 :]} == {CheckState.SKIPPED}
    assert found.failure is not None
    assert re.fullmatch(pattern(failing.says, site, mini_bundle), found.failure), found.failure
    assert found.failure == said_by_run
    assert not report.usable
    assert report.prediction is None


async def sentence_of_run(bundle: Bundle, site: SiteConfig, failing: Failing) -> str:
    with pytest.raises(PedsamError) as caught:
        async with SiteClient(site, bundle, "fp16", failing.timeouts) as client:
            await client.connect(bundle.probe())
    return str(caught.value)


def pattern(says: str, site: SiteConfig, bundle: Bundle) -> str:
    filled = says.format(
        host=host_of(site),
        port=port_of(site),
        url=site.url,
        ca=site.ca,
        cert=site.cert,
        digest=bundle.site_digest,
    )
    return re.escape(filled).replace(r"\*", ".+")


async def test_each_site_that_is_waited_for_is_told_once(mini_bundle: Bundle) -> None:
    """Those that are asked a dozen times in that second; the one that serves is not told of."""
    told: list[str] = []
    options = CheckOptions(threads=1, timeouts=replace(WAITS, probe_s=1.2))
    async with AsyncExitStack() as stack:
        loading = [await stack.enter_async_context(Loading(mini_bundle).running()) for _ in "ab"]
        serves = await stack.enter_async_context(Impostor(mini_bundle).running())
        sites = [config(name, url) for name, url in zip("abc", [*loading, serves], strict=True)]
        report = await check_sites(mini_bundle, sites, options, tell=told.append)
    assert sorted(told) == [
        f"site {name}: answers 503, not ready (loading); waiting up to 1 s" for name in "ab"
    ]
    for site in report.sites[:2]:
        assert site.failure == (
            f"site {site.config.name}: gave no answer within 1.2 s, only that it does not serve this now: "
            f"loading; {SITE_LOG_HINT}"
        )
    assert report.sites[2].failure is None


async def test_the_line_about_a_site_that_is_waited_for_comes_while_it_is(
    mini_bundle: Bundle, tmp_path: Path
) -> None:
    """On the terminal of the command, which ends long before those 60 s are over: it is stopped here."""
    async with Loading(mini_bundle).running() as url:
        sites = sites_file(tmp_path / "sites.toml", ("a", url))
        line = [*MODULE, "check", "--bundle", str(mini_bundle.path), "--sites", str(sites)]
        async with await anyio.open_process(line, stderr=None) as process:
            assert process.stdout is not None
            with anyio.fail_after(55):
                first = await process.stdout.receive()
            running = process.returncode is None
            process.kill()
    assert first.decode() == "site a: answers 503, not ready (loading); waiting up to 60 s\n"
    assert running


async def test_one_failing_site_leaves_the_others_measured(mini_bundle: Bundle, tmp_path: Path) -> None:
    """Two operators are left with caps of five: the edge's own engine takes the last five windows."""
    async with Impostor(mini_bundle).running() as first, Impostor(mini_bundle).running() as second:
        report = await checked(mini_bundle, config("a", first), config("b", second), config("c"))
    assert [site.usable for site in report.sites] == [True, True, False]
    assert [site.windows for site in report.sites] == [5, 5, 0]
    assert report.shares is not None
    assert report.shares.at_edge == 5
    assert report.prediction is not None
    assert any("global + decoder + 5 windows" in step for step in report.prediction.steps_s)
    assert not report.usable
    assert report.sites[0].steps[STEPS.index("backend")] == Step("backend", CheckState.OK, "unknown")


async def test_it_says_where_a_site_that_lies_would_not_be_found(mini_bundle: Bundle, tmp_path: Path) -> None:
    without = "no spot checks, so a site that lies is not found: "
    for part in ("bundle.json", "edge", "global", "decoder"):
        (tmp_path / part).symlink_to(mini_bundle.path / part)
    async with Impostor(mini_bundle).running() as first, Impostor(mini_bundle).running() as second:
        sites = config("a", first), config("b", second)
        good = await checked(mini_bundle, *sites)
        bare = await checked(Bundle.load(tmp_path), *sites)
        options = CheckOptions(threads=1, timeouts=WAITS, spot_checks=0)
        off = await check_sites(mini_bundle, sites, options)
    assert not any(note.startswith(without) for note in good.notes)
    assert bare.notes == [
        without
        + "this bundle has no window stage here; copy it to the edge, where its memory has room for it"
    ]
    assert off.notes == [without + "--spot-checks is 0"]


class Tiring(Impostor):
    """It answers a number of probes, then fails."""

    answers = 1

    async def answer(self, request: web.Request, embedding: object = None) -> web.Response:
        self.answers -= 1
        return web.Response(status=500, text="tired") if self.answers < 0 else await super().answer(request)


async def test_a_site_that_fails_under_load_is_not_usable(mini_bundle: Bundle) -> None:
    async with Tiring(mini_bundle).running() as url:
        report = await checked(mini_bundle, config("a", url))
    (site,) = report.sites
    assert site.steps[-1].name == "speed"
    assert site.failure is not None
    assert "site a: answered 500: tired" in site.failure
    assert report.prediction is None


def test_a_site_that_passed_everything_can_still_fail() -> None:
    site = SiteReport(config("a"))
    for _ in STEPS:
        site.passed("yes")
    assert site.usable
    site.failed("site a: gone")
    assert [step.name for step in site.steps] == list(STEPS)
    assert site.failure == "site a: gone"
    assert not site.usable


async def test_one_operator_alone_is_warned_of_as_a_run_refuses_it(mini_bundle: Bundle) -> None:
    report = await checked(mini_bundle, config("a"), config("b", operator="operator-a"))
    assert any("operator operator-a alone would see the whole picture" in line for line in report.warnings)


async def test_a_bundle_that_lacks_a_stage_is_told(mini_bundle: Bundle, tmp_path: Path) -> None:
    copied = tmp_path / "bundle"
    for name in ("bundle.json", "edge", "window"):
        (copied / name).parent.mkdir(exist_ok=True)
        (copied / name).symlink_to(mini_bundle.path.absolute() / name)
    bundle = Bundle.load(copied)
    async with Impostor(bundle).running() as url:
        report = await checked(bundle, config("a", url))
    assert report.sites[0].usable
    assert report.edge_error is not None
    assert "global/model.onnx is missing; copy it from the full bundle" in report.edge_error
    assert not report.usable
    assert report.prediction is None


NO_MORE_FILES = (
    "site a: cannot be asked, as the edge may open no more files (Too many open files); give it more with "
    "`ulimit -n`, or LimitNOFILE= of its service"
)


async def test_an_edge_that_may_open_no_more_files_says_so_in_check_and_run(mini_bundle: Bundle) -> None:
    """Not that the site is at fault: it is a process of its own, with files enough."""
    with serving(mini_bundle.path) as process:
        site = config("a", process.url)
        async with SiteClient(site, mini_bundle, "fp16", WAITS) as client:
            await client.connect(mini_bundle.probe())  # what is imported when it is needed is there now
            await client.platform()
        with few_files(spare=2):
            report = await check_sites(mini_bundle, [site], CheckOptions(threads=1, timeouts=WAITS))
            with pytest.raises(SiteUnavailable) as said_by_run:
                async with SiteClient(site, mini_bundle, "fp16", WAITS) as client:
                    await client.connect(mini_bundle.probe())
    assert report.sites[0].failure == NO_MORE_FILES
    assert str(said_by_run.value) == NO_MORE_FILES


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "https://127.0.0.1:1", "http://localhost:1"])
async def test_a_socket_that_cannot_be_made_is_not_the_sites_fault(mini_bundle: Bundle, url: str) -> None:
    site, probe = config("a", url), mini_bundle.probe()
    for spare in (50, 0):  # first with files enough, for what is imported when it is needed
        async with SiteClient(site, mini_bundle, "fp16", WAITS) as client:
            with few_files(spare), pytest.raises(SiteUnavailable) as said:
                await client.connect(probe)
            with few_files(spare), pytest.raises(SiteUnavailable) as said_by_check:
                await connect_time_s(site, WAITS.connect_s)
    assert str(said.value) == str(said_by_check.value) == NO_MORE_FILES


async def test_a_certificate_that_cannot_be_opened_for_want_of_files(
    mini_bundle: Bundle, tmp_path: Path
) -> None:
    site = site_at("https://127.0.0.1:1", keys_for(tmp_path))
    with few_files(0), pytest.raises(InputError) as caught:
        site.ssl_context()
    assert str(caught.value) == NO_MORE_FILES


async def test_an_edge_that_can_write_nothing_is_told_beside_the_sites(mini_bundle: Bundle) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    async with Impostor(mini_bundle).running() as url:
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
        try:
            report = await checked(mini_bundle, config("a", url))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert report.sites[0].usable
    assert re.fullmatch(r"cannot write .*; check free space and permissions .*", report.edge_error or "")
    assert not report.usable
