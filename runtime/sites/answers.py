"""What a site answers: status, headers, JSON, sizes and tensors of it are read here and nowhere else.

All of that is what a site made it, which may be broken or hostile. So whatever it holds, what is raised is
SiteUnavailable or SiteUntrusted: this site failed. What a person is shown of it is short and printable.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import Any

import numpy as np
from multidict import CIMultiDict, MultiMapping

from stages import json_header, wire
from stages.bundle import Bundle
from stages.errors import SiteUnavailable, SiteUntrusted, WireError
from stages.json_values import brief
from stages.tensors import Array
from stages.words import shown

SITE_LOG_HINT = "see the site's log, and check url in sites.toml"
_MAX_JSON_BYTES = 1 << 20
_MAX_DIGEST = 80  # characters of one that is shown
_VERSION = re.compile("[1-9][0-9]{0,17}")  # it becomes part of a path
_SECONDS = re.compile("[0-9]{1,3}")
_REDIRECTS = (301, 302, 303, 307, 308)
_MIN_WAIT_S, _MAX_WAIT_S = 0.1, 10.0


@dataclass(frozen=True)
class Answer:
    """One answer as it came; `method` is that of the request."""

    method: str
    status: int
    headers: MultiMapping[str]
    body: bytes


class NotHere(SiteUnavailable):
    """The site does not know what was asked for."""


class Busy(SiteUnavailable):
    """The site answered `status`: it does not serve this now; ask again after `retry_after_s`."""

    def __init__(self, site: str, status: int, text: str, retry_after_s: float) -> None:
        super().__init__(site, f"does not serve this now: {text}; try again later")
        self.status = status
        self.text = text
        self.retry_after_s = retry_after_s


class Answers:
    """Reads the answers of the site named `site`, which was asked for `outputs` of the window stage."""

    def __init__(self, site: str, bundle: Bundle, outputs: Sequence[str]) -> None:
        self._site = site
        self._dtype = bundle.embedding_dtype
        self._specs = [spec for spec in bundle.stage("window").outputs if spec.name in outputs]
        self._tile_bytes = sum(
            math.prod(map(int, spec.shape[1:])) * np.dtype(spec.dtype).itemsize
            for spec in bundle.stage("window").outputs
        )

    def largest_body(self, tiles: int) -> int:
        """Bytes that no good answer about so many tiles goes beyond."""
        return _MAX_JSON_BYTES + tiles * self._tile_bytes

    def check_status(self, answer: Answer, expected: int = 200) -> None:
        """Raises what another status than `expected` means: Busy, NotHere, or that the site failed."""
        status = answer.status
        if status == expected:
            return
        text = wire.error_text(answer.body)
        if status in (429, 503):
            raise Busy(self._site, status, text, _wait_s(answer.headers.get("Retry-After")))
        if status == 412:  # If-Match: the site was started again with other bundles
            raise SiteUnavailable(
                self._site, "no longer serves these weights under this version; it is looked at again soon"
            )
        if status in (400, 404) and answer.method == "GET":
            raise NotHere(self._site, f"answered {status}: {text}; {SITE_LOG_HINT}")
        if status in _REDIRECTS:
            raise SiteUnavailable(
                self._site, "redirects, which is not followed; put the final url into sites.toml"
            )
        if status in (401, 403):
            raise SiteUnavailable(
                self._site, f"refuses this edge ({status}: {text}); check token_file in sites.toml"
            )
        raise SiteUnavailable(self._site, f"answered {status}: {text}; {SITE_LOG_HINT}")

    def site_digest(self, answer: Answer) -> str:
        """The site digest that the config of a version names, cut where it is too long to be one."""
        found = _parameter(answer, "site_digest")
        if found is None:
            raise SiteUntrusted(
                self._site,
                "its model config names no site digest; check url in sites.toml, and that `pedsam serve` "
                "answers there",
            )
        return found[:_MAX_DIGEST] if isinstance(found, str) else brief(found)

    def code(self, answer: Answer) -> str | None:
        """What travels to and from a version, as its config words it (see Bundle.code), fit to be shown."""
        found = _parameter(answer, "code")
        return shown(found) if isinstance(found, str) else None

    def max_batch(self, answer: Answer) -> int:
        """How many tiles the model takes in a request, by its config; 1 where that does not say."""
        most = _fields(answer.body).get("max_batch_size")
        return most if type(most) is int and most > 0 else 1

    def versions(self, answer: Answer) -> list[str]:
        """Versions that the site lists, newest first, wire.MAX_VERSIONS at most; none when it lists none."""
        listed = _fields(answer.body).get("versions")
        numbers = {
            number
            for number in (listed if isinstance(listed, list) else ())
            if isinstance(number, str) and _VERSION.fullmatch(number)
        }
        return sorted(numbers, key=int, reverse=True)[: wire.MAX_VERSIONS]

    def platform(self, answer: Answer) -> str:
        """Backend and device as the site's model metadata names them."""
        platform = _fields(answer.body).get("platform")
        return shown(platform) if isinstance(platform, str) and platform else "unknown"

    def headers(self, answer: Answer) -> Mapping[str, str]:
        """All headers of an answer, whatever the case of their names, fit to be shown."""
        return CIMultiDict((shown(name), shown(value)) for name, value in answer.headers.items())

    def embedding(self, answer: Answer, tiles: int) -> Array:
        """The embeddings [tiles, w, w, D], checked: shape, dtype, finite."""
        lengths = answer.headers.getall(wire.HEADER_LENGTH, [])
        try:
            outputs = wire.decode_response(answer.body, wire.only_length(lengths), self._specs, tiles)
        except WireError as exc:
            raise SiteUntrusted(self._site, f"sent a malformed answer: {exc}; {SITE_LOG_HINT}") from exc
        with np.errstate(over="ignore", invalid="ignore"):  # it is not finite then
            embedding = to_embedding(outputs, self._dtype)
        if not np.isfinite(embedding).all():
            raise SiteUntrusted(self._site, f"sent an embedding that is not finite; {SITE_LOG_HINT}")
        return embedding


def to_embedding(outputs: Mapping[str, Array], dtype: str) -> Array:
    """Window stage outputs as embeddings [n, w, w, D] of `dtype`, dequantised when they came as int8."""
    if "embedding" in outputs:
        return outputs["embedding"]
    values = outputs["embedding_q8"].astype(np.float32) * outputs["scale"].astype(np.float32)
    return values.astype(dtype)


def date_of(headers: Mapping[str, str]) -> datetime | None:
    """When an answer was made by the site's own clock; None where its Date header does not say."""
    try:
        date = parsedate_to_datetime(headers.get("Date", ""))
        return date.astimezone(timezone.utc) if date.tzinfo else None
    except (TypeError, ValueError, OverflowError):  # OverflowError for numbers that no date has
        return None


def _fields(body: bytes) -> dict[str, Any]:
    """The object that a JSON body is, none of its fields when it is something else."""
    try:
        return json_header.read(body)
    except WireError:
        return {}


def _parameter(answer: Answer, name: str) -> Any:
    """The string_value of a parameter in a model config, whatever it is; None where there is none."""
    found: Any = _fields(answer.body)
    for key in ("parameters", name, "string_value"):
        found = found.get(key) if isinstance(found, dict) else None
    return found


def _wait_s(retry_after: str | None) -> float:
    """Seconds of a Retry-After header, within bounds; 1 where it names none, for a date too."""
    seconds = int(retry_after) if retry_after and _SECONDS.fullmatch(retry_after) else 1
    return min(max(float(seconds), _MIN_WAIT_S), _MAX_WAIT_S)
