"""The log of a site on standard error: one JSON object a line, or sentences for a terminal.

A line holds an event, its facts, and a sentence made of them. Nothing that a client chose (paths, headers,
ids, names of tensors, bodies) and no token is logged. Text of other libraries may quote such things, so of
their records and of exceptions only the type and the places in the code are kept.
"""

from __future__ import annotations

import contextlib
import json
import logging
import traceback
from collections.abc import Iterator, Mapping
from datetime import datetime, timezone
from pathlib import PurePath
from typing import Any, TextIO

from stages.errors import PedsamError

OWN = "pedsam"
FORMS = ("json", "text")
Fact = str | int | float | None


def facts(event: str, **values: Fact) -> dict[str, Any]:
    """The `extra` of a log call: the event's fixed name and its fields."""
    return {"event": event, "facts": values}


@contextlib.contextmanager
def logging_to(stream: TextIO, form: str | None = None) -> Iterator[None]:
    """Write the log to `stream` while the block runs; by default as text on a terminal, else as JSON.

    Text holds warnings and errors only: a person at a terminal sees standard output too, which says the rest.
    """
    is_text = form == "text" or (form is None and stream.isatty())
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_TextFormatter() if is_text else _JsonFormatter())
    handler.setLevel(logging.WARNING if is_text else logging.INFO)
    own = logging.getLogger(OWN)
    level = own.level
    own.setLevel(logging.INFO)
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
        own.setLevel(level)


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": _time(record).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "event": getattr(record, "event", "log"),
            "message": _message(record),
            **getattr(record, "facts", {}),
            **_error(record),
        }
        return json.dumps(line)


class _TextFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        error = _error(record)
        more = f" ({error['error']}; at {' < '.join(error['at'])})" if error else ""
        return f"{_time(record):%Y-%m-%d %H:%M:%SZ} {record.levelname.lower()}: {_message(record)}{more}"


def _time(record: logging.LogRecord) -> datetime:
    return datetime.fromtimestamp(record.created, timezone.utc)


def _message(record: logging.LogRecord) -> str:
    if record.name.partition(".")[0] == OWN:
        return " ".join(record.getMessage().split())
    return f"{record.name} logged this at {record.module}:{record.lineno}"


def _error(record: logging.LogRecord) -> Mapping[str, Any]:
    """The exception of a record: its kind, with its text where this project wrote that, and its frames."""
    if not record.exc_info or record.exc_info[1] is None:
        return {}
    exc = record.exc_info[1]
    text = f": {exc}" if isinstance(exc, PedsamError) else ""
    frames = traceback.extract_tb(exc.__traceback__)[::-1]
    return {
        "error": " ".join(f"{type(exc).__name__}{text}".split()),
        "at": [f"{PurePath(frame.filename).name}:{frame.lineno}" for frame in frames],
    }
