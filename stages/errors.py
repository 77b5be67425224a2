"""Every error this project raises on purpose, grouped by what the caller does about it.

PedsamError
├── give up and tell the user (the sentence says what to do)
│   ├── InputError        a picture, prompt, option or configuration file is wrong
│   ├── CheckpointError   a SAM checkpoint cannot be used
│   ├── BundleError       a bundle is incomplete, damaged or of another format
│   ├── ParityError       an exported stage does not compute what it should
│   ├── EngineError       an engine cannot be opened or was used wrongly
│   ├── FramesLost        a run is over, and some of its frames are lost
│   └── Stopped           a signal has ended a run before its first frame
├── answer the sender
│   └── WireError         a message breaks the Open Inference Protocol; `status` is the HTTP status
└── use another site
    └── SiteError         one site failed; `site` is its name
        ├── SiteUnavailable   no answer in time, or an answer that means "not now": try it again later
        └── SiteUntrusted     other weights or wrong results: never again in this session
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

_MAX_SENTENCE = 2000  # characters


class PedsamError(Exception):
    """Base of all errors here; its text is one sentence for a person.

    `exit_code` is what a command that fails with it ends with.
    """

    exit_code = 1


class InputError(PedsamError):
    """A picture, prompt, option or configuration file is wrong."""


class CheckpointError(PedsamError):
    """A SAM checkpoint cannot be used."""


class BundleError(PedsamError):
    """A bundle is incomplete, damaged or of another format."""


class ParityError(PedsamError):
    """An exported stage does not compute what PyTorch computes."""


class EngineError(PedsamError):
    """An engine cannot be opened, or was used wrongly."""


class FramesLost(PedsamError):
    """A run is over, and some of its frames are lost."""

    exit_code = 3


class Stopped(PedsamError):
    """A signal has ended a run before its first frame."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class WireError(PedsamError):
    """A message breaks the Open Inference Protocol; `status` is the HTTP status that answers it."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


@contextlib.contextmanager
def ungrouped() -> Iterator[None]:
    """Re-raises the first error of the exception group that a task group raises."""
    try:
        yield
    except Exception as exc:
        cause: BaseException = exc
        while grouped := getattr(cause, "exceptions", None):
            cause = grouped[0]
        raise cause  # noqa: B904  (it keeps its own cause)


def printable(text: object) -> str:
    """Text of a remote party without control characters, which could steer the terminal it is shown on."""
    text = str(text)
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else "?" for char in text)


class SiteError(PedsamError):
    """One site failed; `site` is its name.

    Its text is one line of bounded length that no terminal is steered by, whatever a site worded of it.
    """

    def __init__(self, site: str, message: str) -> None:
        text = printable(f"site {site}: {message}")
        super().__init__(text if len(text) <= _MAX_SENTENCE else f"{text[: _MAX_SENTENCE - 3]}...")
        self.site = site


class SiteUnavailable(SiteError):
    """The site did not answer in time or said "not now"; it may be tried again later."""


class SiteUntrusted(SiteError):
    """The site holds other weights or returned something wrong; it is not used again in this session."""
