"""What a line allows: numbers worked out by hand, and a line measured over real sites."""

from __future__ import annotations

import io
import json
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from rich.console import Console

from pedsam.command import main
from runtime.check.plan import (
    CODES,
    DOWN,
    HEADS,
    OWN,
    SITES,
    UP,
    Line,
    Outlook,
    coded_stage,
    look_ahead,
    measure_line,
)
from runtime.check.plan_cli import print_outlook, to_json
from runtime.check.prediction import Shares
from runtime.sites.client import REQUEST_BYTES, WIRE_OUTPUTS, SiteClient, wire_formats
from runtime.sites.traffic import frame_bytes, message_bytes
from server.serve import ServeOptions, running_site
from stages.bundle import Bundle
from stages.errors import InputError
from tests.support.edge import Impostor, Loading, config, sites_file
from tests.support.failing_sites import WAITS
from tests.support.processes import serving

WIDE = (1080, 1920)  # 15 of 25 windows hold picture
THREE = [config(name) for name in "abc"]
HOME = Line(20, 100, 0.02)


def looked(bundle: Bundle, line: Line = HOME, **more: object) -> Outlook:
    return look_ahead(bundle, THREE, WIDE, line, **more)  # type: ignore[arg-type]


def test_a_coded_stage_says_what_travels(mini_bundle: Bundle) -> None:
    stage = coded_stage(mini_bundle.stage("window"), mini_bundle.geometry, "dct:10/3", 48)
    assert [(spec.name, spec.shape) for spec in stage.inputs] == [
        ("tile", ("n", 1150)), ("index", ("n", 1)), ("extent", ("n", 4)),
    ]  # fmt: skip
    shapes = {spec.name: spec.shape for spec in stage.outputs}
    assert shapes["embedding_q8"] == ("n", 5, 5, 48)
    assert shapes["scale"] == ("n", 5, 5, 1)
    tensors = message_bytes(stage, WIRE_OUTPUTS["int8"])
    assert 1150 + 4 + 16 < tensors.up < 1150 + 4 + 16 + 600
    assert 25 * (48 + 2) < tensors.down < 25 * (48 + 2) + 400


def test_windows_that_share_a_request_share_its_heads(mini_bundle: Bundle) -> None:
    stage = coded_stage(mini_bundle.stage("window"), mini_bundle.geometry, "dct:10/3", 48)
    alone, together = (frame_bytes(stage, WIRE_OUTPUTS["int8"], [(5, most)] * 3) for most in (1, 5))
    assert (alone.requests, together.requests) == (15, 3)
    assert 15 * 1150 < together.up < alone.up - 12 * 300
    found = next(
        each for each in looked(mini_bundle).allowed if (each.tiles, each.components) == (CODES[2], 48)
    )
    assert found.size == replace(together, up=together.up + 3 * HEADS.up, down=together.down + 3 * HEADS.down)
    assert max(found.size.up, found.size.down) < 30_000


def test_the_line_limits_what_is_large(mini_bundle: Bundle) -> None:
    own = looked(mini_bundle, price_per_gb=0.5).allowed[0]
    assert (own.tiles, own.components, own.limited_by) == (OWN, 192, UP)
    assert own.fps == pytest.approx(20e6 / 8 / own.size.up)
    assert own.gigabytes_up == pytest.approx(9.0)  # 20 Mbit/s for an hour
    assert own.gigabytes_down == pytest.approx(own.fps * own.size.down * 3600e-9)
    assert own.price_an_hour == pytest.approx(own.gigabytes_down * 0.5)
    slow_back = looked(mini_bundle, Line(1000, 1, 0.001)).allowed[0]
    assert slow_back.limited_by == DOWN
    assert slow_back.fps == pytest.approx(1e6 / 8 / slow_back.size.down)


def test_a_long_way_limits_what_is_small(mini_bundle: Bundle) -> None:
    last = looked(mini_bundle, Line(1e6, 1e6, 0.1)).allowed[-1]
    assert last.limited_by == "the round trip, 3 frames under way"
    assert last.fps == pytest.approx(30, rel=0.01)


def test_less_of_a_picture_takes_fewer_bytes(mini_bundle: Bundle) -> None:
    coded = [each for each in looked(mini_bundle).allowed if each.tiles != OWN]
    assert len(coded) == 16
    for components in {each.components for each in coded}:
        up = [each.size.up for each in coded if each.components == components]
        assert up == sorted(up, reverse=True)
    assert tuple(each.wire for each in looked(mini_bundle).allowed[:2]) == wire_formats(mini_bundle)


def test_slow_sites_limit_every_code(mini_bundle: Bundle) -> None:
    """Five windows a site at 10 tiles a second are 2 frames, a fifth of what the line carries."""
    found = looked(mini_bundle, tiles_per_s=dict.fromkeys("abc", 10.0))
    assert found.sites_fps == pytest.approx(2.0)
    assert {each.limited_by for each in found.allowed} == {SITES}
    assert found.advice is found.allowed[0]


def test_what_the_sites_got_over_a_full_line_says_nothing_of_other_codes(mini_bundle: Bundle) -> None:
    found = looked(mini_bundle, tiles_per_s=dict.fromkeys("abc", 40.0))
    assert found.allowed[0].limited_by == SITES
    coded = [each for each in found.allowed if each.tiles != OWN]
    assert all(each.limited_by != SITES for each in coded)
    assert coded[0].limited_by == UP


def test_a_site_that_is_down_leaves_the_others_their_caps(mini_bundle: Bundle, tmp_path: Path) -> None:
    """As in a run: five windows each of three operators, and the rest here."""
    found = looked(mini_bundle, tiles_per_s={"a": 10.0, "b": 10.0})
    assert found.shares == Shares({"a": 5, "b": 5}, at_edge=5)
    assert "5 windows of every frame fit under no cap: this machine runs them" in printed(found)
    for part in ("bundle.json", "edge", "global", "decoder"):
        (tmp_path / part).symlink_to(mini_bundle.path / part)
    bare = looked(Bundle.load(tmp_path), tiles_per_s={"a": 10.0, "b": 10.0})
    assert "fit under no cap: this bundle has no window stage to run them here; fix" in printed(bare)
    assert "raise caps to " in printed(bare)
    assert "under no cap" not in printed(looked(mini_bundle))


def test_windows_that_are_kept_take_no_bytes(mini_bundle: Bundle) -> None:
    every, found = looked(mini_bundle), looked(mini_bundle, kept={0, 1, 2})
    assert (found.shares.kept, found.shares.sent) == (3, 12)
    size, whole = found.allowed[0].size, every.allowed[0].size
    assert found.bytes_saved == (whole.up - size.up, whole.down - size.down)
    assert size.up == pytest.approx(whole.up * 12 / 15, rel=0.01)
    said = printed(found)
    assert f"3 windows of every frame are kept: {found.bytes_saved[0] / 1e3:.1f} kB up" in said
    assert "`pedsam check --kept 3` says what they cost the edge" in said
    assert json.loads(to_json(found))["windows_kept"] == 3
    assert "are kept" not in printed(every)


def printed(outlook: Outlook) -> str:
    file = io.StringIO()
    print_outlook(Console(file=file, width=300), outlook)
    return file.getvalue()


@pytest.mark.parametrize("wire", ["fp16", "int8"])
def test_what_was_measured_is_said_of_the_wire_it_was_measured_with(mini_bundle: Bundle, wire: str) -> None:
    """40 tiles a second are more than half of what the line carries: other wires may be quicker."""
    found = looked(mini_bundle, Line(20, 20, 0.001), tiles_per_s=dict.fromkeys("abc", 40.0), wire=wire)
    first, second = found.allowed[:2]
    assert (first.tiles, first.wire, first.limited_by) == (OWN, wire, SITES)
    assert (second.tiles, second.limited_by) == (OWN, UP)
    assert f"with this bundle and {wire} over this line" in printed(found)


@pytest.mark.anyio
async def test_the_line_is_measured_without_a_tile(mini_bundle: Bundle) -> None:
    good, other = Impostor(mini_bundle, max_batch=25), Impostor(mini_bundle)
    other.digest = "sha256:" + "0" * 64
    async with (
        running_site(mini_bundle, ServeOptions(port=0, threads=1)) as site,
        good.running() as to_good,
        other.running() as to_other,
    ):
        sites = [config("a", site.url), config("b", to_good), config("c", to_other)]
        line, tiles_per_s, failures = await measure_line(mini_bundle, sites, "fp16", WAITS)
    assert set(tiles_per_s) == {"a", "b"}
    assert min(line.up_mbit, line.down_mbit, line.round_trip_s, *tiles_per_s.values()) > 0
    assert ["other weights" in failure for failure in failures] == [True]
    assert good.tiles == other.tiles == []  # of what the good one answered all were probes


@pytest.mark.anyio
async def test_a_site_that_is_waited_for_is_told_once(mini_bundle: Bundle) -> None:
    told: list[str] = []
    async with Loading(mini_bundle).running() as url:
        with pytest.raises(InputError, match="does not serve this now: loading"):
            await measure_line(
                mini_bundle, [config("a", url)], "fp16", replace(WAITS, probe_s=1.2), told.append
            )
    assert told == ["site a: answers 503, not ready (loading); waiting up to 1 s"]


@pytest.mark.anyio
async def test_no_site_no_line(mini_bundle: Bundle) -> None:
    with pytest.raises(
        InputError, match=r"no site let the line be measured: site a: .*; give --up and --down"
    ):
        await measure_line(mini_bundle, THREE[:1], "fp16", WAITS)


@pytest.mark.anyio
async def test_real_sites_take_as_many_windows_as_they_say(mini_bundle: Bundle) -> None:
    async with (
        running_site(mini_bundle, ServeOptions(port=0, threads=1)) as site,
        SiteClient(config("a", site.url), mini_bundle, "fp16", WAITS) as client,
    ):
        assert (client.max_batch, client.most_windows) == (1, 1)
        await client.check_digest()
        assert client.max_batch == 25
        assert client.most_windows == 1  # a tile of 19,200 bytes fills its request
    assert REQUEST_BYTES < 19_200


def pedsam_plan(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["plan", *map(str, arguments)])


def test_a_line_that_is_given_asks_nobody(mini_bundle: Bundle, tmp_path: Path) -> None:
    sites = sites_file(tmp_path / "sites.toml", ("a", "http://127.0.0.1:1"), ("b", "http://127.0.0.1:2"))
    found = tmp_path / "found.json"
    line: list[str | Path] = ["--bundle", mini_bundle.path, "--sites", sites, "--json", found]
    result = pedsam_plan(*line, "--up", "20", "--down", "100", "--rtt", "80", "--price-per-gb", "0.09")
    assert result.exit_code == 0, result.output
    assert "line: 20 Mbit/s up, 100 Mbit/s down, 80.0 ms there and back (given)" in result.output
    written = json.loads(found.read_text())
    assert written["line"]["round_trip_s"] == pytest.approx(0.08)
    assert sorted(written["windows"].values()) == [7, 8]
    assert written["codes"][0]["price_an_hour"] > 0
    assert (written["sites_fps"], written["notes"]) == (None, [])


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--up", "20"], "give both --up and --down"),
        (["--up", "0", "--down", "1"], "--up"),
        (["--wire", "fp32", "--up", "1", "--down", "1"], "does not offer --wire fp32"),
    ],
)
def test_what_is_wrong_is_said(
    mini_bundle: Bundle, tmp_path: Path, arguments: list[str], sentence: str
) -> None:
    sites = sites_file(tmp_path / "sites.toml", ("a", "http://127.0.0.1:1"))
    result = pedsam_plan("--bundle", mini_bundle.path, "--sites", sites, *arguments)
    assert result.exit_code != 0
    assert sentence in " ".join(result.output.split())


def test_real_sites_as_processes(mini_bundle: Bundle, tmp_path: Path) -> None:
    found = tmp_path / "found.json"
    with ExitStack() as stack:
        urls = [(name, stack.enter_context(serving(mini_bundle.path)).url) for name in "ab"]
        sites = sites_file(tmp_path / "sites.toml", *urls, ("c", "http://127.0.0.1:1"))
        result = pedsam_plan("--bundle", mini_bundle.path, "--sites", sites, "--json", found)
    assert result.exit_code == 0, result.output
    assert "there and back (measured over 2 sites" in result.output
    written = json.loads(found.read_text())
    assert (written["windows"], written["windows_at_edge"]) == ({"a": 5, "b": 5}, 5)  # c is down
    assert written["sites_fps"] > 0
    assert min(written["line"]["up_mbit"], written["line"]["round_trip_s"]) > 0
