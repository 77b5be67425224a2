"""What a site answers, whatever it is: read, or one short sentence that the site failed."""

from __future__ import annotations

import json
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from multidict import CIMultiDict

from runtime.sites.answers import Answer, Answers, Busy, NotHere, date_of
from stages import wire
from stages.errors import SiteError, SiteUnavailable, SiteUntrusted
from stages.tensors import Array
from tests.fuzz.answers import BUNDLE, NAMES, SEEDS, VALUES, check_answer, mutated_answer

FP16 = Answers("a", BUNDLE, ("embedding",))
INT8 = Answers("a", BUNDLE, ("embedding_q8", "scale"))


def answered(body: bytes = b"", status: int = 200, method: str = "GET", **headers: str) -> Answer:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(method, status, CIMultiDict(named), body)


@given(st.sampled_from(SEEDS), st.randoms(use_true_random=False))
@settings(max_examples=400)
def test_answers_that_are_almost_right(seed: Answer, random: Random) -> None:
    check_answer(mutated_answer(seed, random))


@given(st.binary(max_size=300), st.integers(0, 999), st.dictionaries(st.sampled_from(NAMES), st.text()))
def test_any_bytes_status_and_headers(body: bytes, status: int, headers: dict[str, str]) -> None:
    check_answer(answered(body, status, **headers))


@pytest.mark.parametrize("value", VALUES, ids=lambda value: repr(value)[:20])
@pytest.mark.parametrize("name", NAMES)
def test_each_hostile_header(name: str, value: str) -> None:
    for seed in SEEDS:
        check_answer(Answer("POST", 503, CIMultiDict({**seed.headers, name: value}), seed.body))
        check_answer(Answer("GET", 200, CIMultiDict({**seed.headers, name: value}), seed.body))


@pytest.mark.parametrize(
    ("retry_after", "wait_s"),
    [
        *((None, 1), ("2", 2), ("0", 0.1), ("999", 10)),
        *((text, 1) for text in ("1\u00b2", "\u0663", "9" * 5000, "-1", "nan", "soon")),
    ],
)
def test_a_busy_site_is_asked_again_after_a_bounded_time(retry_after: str | None, wait_s: float) -> None:
    headers = {} if retry_after is None else {"Retry_After": retry_after}
    with pytest.raises(Busy) as caught:
        FP16.check_status(answered(b"full", 503, "POST", **headers))
    assert caught.value.retry_after_s == wait_s


@pytest.mark.parametrize(
    ("status", "method", "kind"),
    [
        (404, "GET", NotHere),
        (404, "POST", SiteUnavailable),
        (412, "POST", SiteUnavailable),
        (99, "POST", SiteUnavailable),
        (204, "GET", SiteUnavailable),
        (429, "POST", Busy),
    ],
)
def test_what_a_status_means(status: int, method: str, kind: type[SiteError]) -> None:
    with pytest.raises(SiteError) as caught:
        FP16.check_status(answered(b"no", status, method))
    assert type(caught.value) is kind


DEEP = b'{"parameters":' + b"[" * 50_000
NUMBER = b'{"parameters":{"site_digest":{"string_value":%s}}}'


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{}", b"[]", b"null", b"<html>", b"\xff\xfe", DEEP, b'"' + b"x" * 100_000,
        NUMBER % (b"9" * 1_000_000), NUMBER % b"NaN", NUMBER % b"-Infinity", b'{"parameters":7}',
        b'{"parameters":{"site_digest":{"string_value":"a","string_value":"b"}}}',
        b'{"parameters":{"site_digest":{}}}', NUMBER % b"null",
    ],
    ids=lambda body: repr(body[:24]),
)  # fmt: skip
def test_a_config_without_a_digest_is_another_sites(body: bytes) -> None:
    with pytest.raises(SiteUntrusted, match="names no site digest"):
        FP16.site_digest(answered(body))
    assert FP16.versions(answered(body)) == []
    assert FP16.platform(answered(body)) == "unknown"


@pytest.mark.parametrize(
    ("value", "digest"),
    [
        ("sha256:0", "sha256:0"),
        ("x" * 5000, "x" * 80),
        (["x"], "['x']"),
        (1e308, "1e+308"),
    ],
)
def test_a_digest_that_is_none_is_shown_short(value: object, digest: str) -> None:
    body = {"parameters": {"site_digest": {"string_value": value}}}
    assert FP16.site_digest(answered(json.dumps(body).encode())) == digest


def test_a_digest_of_nested_lists_is_shown_short() -> None:
    nested = b"[" * 200 + b"]" * 200
    assert len(FP16.site_digest(answered(NUMBER % nested))) <= 80


@pytest.mark.parametrize(
    ("listed", "versions"),
    [
        (["1", "12", "3"], ["12", "3", "1"]),
        ([str(number) for number in range(1, 100)], [str(number) for number in range(99, 91, -1)]),
        (["1/../..", "01", "-1", "\u0663", "9" * 5000, "", None, ["1"], {"1": 1}, 7], []),
        ("123", []),
        ({"1": 1}, []),
        (None, []),
    ],
)
def test_versions_become_part_of_a_path_only_as_numbers(listed: object, versions: list[str]) -> None:
    assert FP16.versions(answered(json.dumps({"versions": listed}).encode())) == versions


@pytest.mark.parametrize(
    ("metadata", "platform"),
    [
        (b'{"platform": "onnxruntime 1.31.1 on CPU"}', "onnxruntime 1.31.1 on CPU"),
        (b'{"platform": 7}', "unknown"),
        (b'{"platform": ""}', "unknown"),
        (b'{"platform": "\\u001b[31m\\u202e\\n\\ud800"}', "?[31m???"),
        (b'{"platform": "%s"}' % (b"x" * 1000), "x" * 157 + "..."),
    ],
)
def test_the_platform_is_fit_to_be_shown(metadata: bytes, platform: str) -> None:
    assert FP16.platform(answered(metadata)) == platform


def test_headers_are_found_in_any_case_and_fit_to_be_shown() -> None:
    headers = FP16.headers(answered(sERVER="\x1b[2J\udcff", Via="x" * 9000))
    assert headers["Server"] == "?[2J?"
    assert len(headers["via"]) == 160


@pytest.mark.parametrize(
    ("date", "year"),
    [
        ("Mon, 01 Jan 2024 00:00:00 GMT", 2024),
        ("Mon, 01 Jan 2024 00:00:00", None),
        ("Mon, 01 Jan 2024 00:00:00 +99999999999999999999", None),
        ("Mon, 01 Jan 99999999999999999999 00:00:00 GMT", None),
        ("Mon, 01 Jan 0001 00:00:00 +2359", 2000),  # a year of two digits
        ("Fri, 31 Dec 9999 23:59:59 -2359", None),
        ("\u00b2", None),
        ("", None),
    ],
)
def test_a_date_is_one_or_none(date: str, year: int | None) -> None:
    found = date_of({"Date": date})
    assert (found and found.year) == year
    assert date_of({}) is None


def tile_answer(scale: float, value: int = 127) -> Answer:
    shape = BUNDLE.embedding_shape
    outputs: dict[str, Array] = {
        "embedding_q8": np.full((1, *shape), value, np.int8),
        "scale": np.full((1, *shape[:2], 1), scale, np.float16),
    }
    message = wire.encode_response(outputs, dict.fromkeys(outputs, True))
    return Answer("POST", 200, CIMultiDict(message.headers), message.body)


@pytest.mark.parametrize("scale", [np.inf, np.nan, 65504.0, -65504.0])
@pytest.mark.filterwarnings("error")
def test_a_scale_that_is_too_large_for_fp16_is_not_finite_afterwards(scale: float) -> None:
    """A finite scale too: 127 times the largest one is more than fp16 holds."""
    with pytest.raises(SiteUntrusted, match="not finite"):
        INT8.embedding(tile_answer(scale), 1)
    assert np.isfinite(INT8.embedding(tile_answer(1.0), 1)).all()


def test_an_answer_may_be_as_large_as_every_output_of_its_tiles_and_no_larger() -> None:
    every_output = 2 * 2 * (3 * 2 + 3 + 2)  # fp16, int8 and scale
    assert FP16.largest_body(3) - FP16.largest_body(0) == 3 * every_output
