"""Segment Anything, split between an edge device and independent sites.

    import pedsam

    with pedsam.open() as session:
        masks = session.segment("photo.jpg", boxes=[100, 80, 420, 360])

docs/python.md has the whole of it. `pedsam.main` is the command line.

Importing this does nothing else: each name comes from `runtime.api` when it is first asked for. That raises
ImportError, in one sentence, where a library is missing or a package of another distribution is in the way.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pedsam.command import main as main
    from runtime.api.errors import ArgumentError, FrameLost, NoImage, SessionClosed
    from runtime.api.exposure import Exposure, OperatorExposure
    from runtime.api.masks import Masks
    from runtime.api.opening import open, open_async
    from runtime.api.predictor import AsyncPredictor
    from runtime.api.session import AsyncSession
    from runtime.api.synchronous import Predictor, Session, Tracker
    from runtime.api.tracker import AsyncTracker
    from runtime.api.tracking import TrackedFrame, TrackedObject
    from runtime.objects.tracking import TrackState
    from stages.errors import BundleError, EngineError, InputError, PedsamError

    __version__: str

__all__ = [
    "ArgumentError",
    "AsyncPredictor",
    "AsyncSession",
    "AsyncTracker",
    "BundleError",
    "EngineError",
    "Exposure",
    "FrameLost",
    "InputError",
    "Masks",
    "NoImage",
    "OperatorExposure",
    "PedsamError",
    "Predictor",
    "Session",
    "SessionClosed",
    "TrackState",
    "TrackedFrame",
    "TrackedObject",
    "Tracker",
    "open",
    "open_async",
]

_HOMES = {
    "runtime.api.errors": ("ArgumentError", "FrameLost", "NoImage", "SessionClosed"),
    "runtime.api.exposure": ("Exposure", "OperatorExposure"),
    "runtime.api.masks": ("Masks",),
    "runtime.api.opening": ("open", "open_async"),
    "runtime.api.predictor": ("AsyncPredictor",),
    "runtime.api.session": ("AsyncSession",),
    "runtime.api.synchronous": ("Predictor", "Session", "Tracker"),
    "runtime.api.tracker": ("AsyncTracker",),
    "runtime.api.tracking": ("TrackedFrame", "TrackedObject"),
    "runtime.objects.tracking": ("TrackState",),
    "stages.errors": ("BundleError", "EngineError", "InputError", "PedsamError"),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}


if not TYPE_CHECKING:  # or a checker would take any name for one

    def __getattr__(name: str) -> Any:
        """What is asked for the first time; afterwards it is there."""
        if name == "main":
            value = _command()
        elif name == "__version__":
            value = import_module("importlib.metadata").version("pedsam")
        elif name in _HOME_OF:
            value = _fetched(name)
        else:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "__version__", "main"})


def _fetched(name: str) -> Any:
    from pedsam.own_packages import check_own, mixed

    module = _HOME_OF[name]
    check_own(module.partition(".")[0])
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError) as exc:
        sentence = mixed(exc) or import_module("stages.problems").library_problem("in Python", exc)
        if sentence is None:
            raise
        raise ImportError(sentence, name=getattr(exc, "name", None)) from exc


def _command() -> Any:
    """The group of commands; where another's package is in the way the process ends with a sentence.

    It is looked for only where something fails, so that signals are handled from the first moment on.
    """
    try:
        return import_module("pedsam.command").main
    except (ImportError, AttributeError) as exc:
        from pedsam.own_packages import Shadowed, check_own, mixed

        try:
            check_own("stages")
        except Shadowed as shadowed:
            raise SystemExit(f"Error: {shadowed}") from None
        if (sentence := mixed(exc)) is not None:
            raise SystemExit(f"Error: {sentence}") from None
        raise
