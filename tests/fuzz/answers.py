"""Answers of sites that are almost right, and what must hold of their reader whatever it reads."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from random import Random

import numpy as np
from multidict import CIMultiDict

from runtime.sites.answers import Answer, Answers, Busy, date_of
from stages import wire
from stages.errors import SiteError
from tests.fuzz.messages import mutated
from tests.support.fakes import OUTPUTS, answers, tiles, tiny_bundle

BUNDLE = tiny_bundle()
READERS = (Answers("a", BUNDLE, ("embedding",)), Answers("a", BUNDLE, ("embedding_q8", "scale")))
_LONGEST_NAME = 160  # characters of what is shown of a header

INFERRED = wire.encode_response(answers(tiles(7)), dict.fromkeys((spec.name for spec in OUTPUTS), True))
JSON_BODIES: Sequence[object] = (
    {"parameters": {"site_digest": {"string_value": "sha256:" + "0" * 64}}},
    {"name": "window", "versions": ["1", "12"], "platform": "onnxruntime 1.31 on CPU"},
    {"error": "the engine broke"},
)
SEEDS: Sequence[Answer] = (
    Answer("POST", 200, CIMultiDict(INFERRED.headers), INFERRED.body),
    *(
        Answer(
            "GET", status, CIMultiDict({"Server": "pedsam", "Retry-After": "2"}), json.dumps(body).encode()
        )
        for status, body in zip((200, 200, 503), JSON_BODIES, strict=True)
    ),
)
NAMES = ("Retry-After", "Date", "Server", "Via", wire.HEADER_LENGTH, "x")
VALUES = (
    "", "0", "-1", "1\u00b2", "\u0663", "9" * 5000, "1e9", "0.5", "nan", "inf", " 7 ", "1_000",
    "\udcff\udcfe", "\x1b[2J\x07", "\u202egpj.exe", "x\r\ny: z", "\0", "x" * 9000,
    "Mon, 01 Jan 2024 00:00:00 GMT", "Mon, 01 Jan 2024 00:00:00 +99999999999999999999",
    "Mon, 01 Jan 99999999999999999999 00:00:00 GMT",
    "Mon, 01 Jan 0001 00:00:00 +2359", "Fri, 31 Dec 9999 23:59:59 -2359", "Mon, 99 Jan 2024 99:99:99 -0000",
)  # fmt: skip


def mutated_answer(seed: Answer, random: Random) -> Answer:
    """An answer with something wrong in its status, its headers or its body."""
    headers = CIMultiDict(seed.headers)
    length = headers.popone(wire.HEADER_LENGTH, None)
    body, length = mutated((seed.body, length), random)
    if length is not None:
        headers.add(wire.HEADER_LENGTH, length)
    for _ in range(random.randint(0, 2)):
        headers.add(random.choice(NAMES), random.choice(VALUES))
    status = random.randint(0, 999) if random.random() < 0.3 else seed.status
    return Answer(random.choice(("GET", "POST")), status, headers, body)


def check_answer(answer: Answer) -> None:
    """Every reader answers, or raises SiteError with one short sentence that a terminal can show."""
    for reader in READERS:
        for read in (_check_status, _check_json, _check_headers, _check_embedding):
            _only_site_errors(read, reader, answer)


def _only_site_errors(read: Callable[[Answers, Answer], None], reader: Answers, answer: Answer) -> None:
    try:
        read(reader, answer)
    except SiteError as exc:
        _check_sentence(exc)


def _check_sentence(error: SiteError) -> None:
    assert error.site == "a"
    assert 0 < len(str(error)) < 1000
    assert str(error).isprintable()
    assert not isinstance(error, Busy) or 0.1 <= error.retry_after_s <= 10


def _check_status(reader: Answers, answer: Answer) -> None:
    reader.check_status(answer)
    assert answer.status == 200


def _check_json(reader: Answers, answer: Answer) -> None:
    assert reader.platform(answer).isprintable()
    versions = reader.versions(answer)
    assert len(versions) <= wire.MAX_VERSIONS
    assert all(version.isascii() and version.isdigit() and len(version) <= 18 for version in versions)
    assert len(reader.site_digest(answer)) <= 80


def _check_headers(reader: Answers, answer: Answer) -> None:
    headers = reader.headers(answer)
    for text in (*headers, *headers.values()):
        assert text.isprintable()
        assert len(text) <= _LONGEST_NAME
    json.dumps(dict(headers), ensure_ascii=False).encode()
    for all_headers in (headers, answer.headers):
        date = date_of(all_headers)
        assert date is None or date.tzinfo is not None


def _check_embedding(reader: Answers, answer: Answer) -> None:
    embedding = reader.embedding(answer, 1)
    assert embedding.shape == (1, *BUNDLE.embedding_shape)
    assert embedding.dtype == np.float16
    assert np.isfinite(embedding).all()
