"""`pedsam.open` and `pedsam.open_async`: from arguments to a session, and what can be known to be wrong
before."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from functools import wraps
from inspect import signature
from pathlib import Path
from typing import Any, ParamSpec, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from runtime.api.arguments import sizes_of
from runtime.api.errors import ArgumentError
from runtime.api.session import AsyncSession
from runtime.api.synchronous import Session
from runtime.detectors.kinds import check_kind
from runtime.edge import (
    EdgeOptions,
    check_computed_here,
    check_detectors,
    check_exposure,
    check_ledger,
    ledger_path,
)
from runtime.encoder_choice import FORMS, check_form
from runtime.run_files import files_read, files_written
from runtime.run_options import check_weights
from runtime.sites.client import WIRE_OUTPUTS, choose_wire
from runtime.sites.config import read_sites
from stages.bundle import Bundle, named_bundle, shipped_bundle
from stages.distinct import check_distinct
from stages.engines.backends import BACKENDS
from stages.errors import InputError

AnyPath: TypeAlias = str | os.PathLike[str]
P = ParamSpec("P")
T = TypeVar("T")

# What an option may be: as the command's. Least and most of numbers, where a number is given.
_CHOICES = {
    "wire": (None, *WIRE_OUTPUTS),
    "backend": BACKENDS,
    "when_sites_fail": (None, "local", "lose"),
    "encoder": (None, *FORMS),
}
_RANGES = {
    "threads": (1, 1024),
    "reuse_threshold": (0, 255),
    "spot_checks": (0, 1000),
    "spot_check_share": (0, 1),
    "keep_px": (64, 4096),
}


def open_async(
    bundle: AnyPath | None = None,
    sites: AnyPath | None = None,
    *,
    sizes: Iterable[Sequence[int]] = (),
    films: bool = True,
    allow_undistilled: bool = False,
    wire: str | None = EdgeOptions.wire,
    backend: str = EdgeOptions.backend,
    threads: int | None = EdgeOptions.threads,
    accept_exposure: bool = EdgeOptions.accept_exposure,
    new_session: bool = EdgeOptions.new_session,
    insecure: bool = EdgeOptions.insecure,
    ledger: AnyPath | None = EdgeOptions.ledger,
    reuse_threshold: float = EdgeOptions.reuse_threshold,
    spot_checks: float = EdgeOptions.spot_checks,
    spot_check_share: float = EdgeOptions.spot_check_share,
    keep_boxes: npt.ArrayLike = EdgeOptions.keep_boxes,
    keep: str | Sequence[str] = EdgeOptions.keep,
    keep_px: int = EdgeOptions.keep_px,
    keep_objects: bool = EdgeOptions.keep_objects,
    keep_for_session: bool = EdgeOptions.keep_for_session,
    when_sites_fail: str | None = EdgeOptions.when_sites_fail,
    encoder: str | None = EdgeOptions.encoder,
) -> AsyncSession:
    """A session for `async with`, which opens it. See `pedsam.open`."""
    loaded = Bundle.load(shipped_bundle() if bundle is None else named_bundle(Path(bundle)))
    options = EdgeOptions(
        sites=None if sites is None else Path(sites),
        wire=wire,
        backend=backend,
        threads=threads,
        accept_exposure=accept_exposure,
        new_session=new_session,
        insecure=insecure,
        ledger=None if ledger is None else Path(ledger),
        reuse_threshold=reuse_threshold,
        spot_checks=spot_checks,
        spot_check_share=spot_check_share,
        keep_boxes=_boxes(keep_boxes),
        keep=_kinds(keep),
        keep_px=keep_px,
        keep_objects=keep_objects,
        keep_for_session=keep_for_session,
        when_sites_fail=when_sites_fail,
        encoder=encoder,
    )
    given = sizes_of(sizes)
    check_options(loaded, options, films)
    check_weights(loaded, allow_undistilled)
    return AsyncSession(loaded, options, given, films)


def _takes_what(other: Callable[P, Any]) -> Callable[[Callable[..., T]], Callable[P, T]]:
    """A function that hands its arguments on to another one, by whose signature it is known."""

    def decorate(function: Callable[..., T]) -> Callable[P, T]:
        own = signature(other).replace(return_annotation=function.__annotations__["return"])

        @wraps(function)
        def same(*args: P.args, **kwargs: P.kwargs) -> T:
            try:
                own.bind(*args, **kwargs)
            except TypeError as exc:
                raise TypeError(f"{function.__name__}() {exc}") from None
            return function(*args, **kwargs)

        same.__signature__ = own  # type: ignore[attr-defined]
        return same

    return decorate


@_takes_what(open_async)
def open(*args: Any, **options: Any) -> Session:
    """Open a session: engines of a bundle on this machine, and sites that compute windows for it.

    `bundle`: the folder of a bundle; None, or "mini", is the one that comes with pedsam. `sites`: the path of
    sites.toml; without it everything is computed here and nothing leaves.

    `sizes`: (height, width) of all frames to come. What operators may see is settled by it, so with sites it
    has to be known; without `sizes` it is that of the first frame, which then waits for the sites too, and
    frames of another shape are refused. `films=False` says that frames do not follow each other in time, as
    of a folder of photographs: what `keep` finds on one then stays on that one alone, and `track` is refused.
    `allow_undistilled` takes weights whose masks are not meaningful.

    All others are the options of `pedsam run`, whose help explains each, by the names that edge.toml has:
    `--keep-box` is `keep_boxes`, a list of [left, top, right, bottom]; `--for-session` is `keep_for_session`.
    The exposure ledger is the one that `pedsam run` has with these sites, beside sites.toml or where `ledger`
    says: caps hold for all of them together, one at a time.

    Raises InputError, BundleError or EngineError, one sentence each, for whatever can be known to be wrong
    before anything is sent.
    """
    return Session(open_async(*args, **options))


def check_options(bundle: Bundle, options: EdgeOptions, films: bool) -> None:
    """As `pedsam run` checks its options. Raises a PedsamError."""
    for name, allowed in _CHOICES.items():
        if (value := getattr(options, name)) not in allowed:
            known = ", ".join(map(repr, allowed))
            raise ArgumentError(f"{name} is {value!r}, expected one of {known}")
    for name, (least, most) in _RANGES.items():
        value = getattr(options, name)
        if value is not None and not (isinstance(value, int | float | np.number) and least <= value <= most):
            raise ArgumentError(f"{name} is {value!r}, expected a number from {least} to {most}")
    if options.spot_check_share == 0:
        raise ArgumentError("spot_check_share is 0, expected more; spot_checks=0 checks nothing")
    _ = options.kept  # raises
    if options.keep_objects and options.sites and not films:
        raise ArgumentError(
            "keep_objects needs objects that are followed; leave films=False out, or keep_objects"
        )
    choose_wire(bundle, options.wire)
    check_form(bundle, options.encoder)
    sites = read_sites(options.sites, options.insecure) if options.sites else ()
    check_exposure(sites, options.accept_exposure)
    check_computed_here(bundle, options)
    check_detectors(options)
    written = files_written(ledger=ledger_path(options.sites, options.ledger))
    check_distinct(list(written), list(files_read(bundle, options.sites, sites)), [])
    check_ledger(sites, range(bundle.geometry.windows), options)


def _boxes(boxes: npt.ArrayLike) -> tuple[tuple[float, float, float, float], ...]:
    try:
        array = np.asarray(boxes, np.float64).reshape(-1, 4)
    except (TypeError, ValueError) as exc:
        raise ArgumentError(
            "keep_boxes are not [[left, top, right, bottom], ...] in pixels of the frame"
        ) from exc
    return tuple((left, top, right, bottom) for left, top, right, bottom in array.tolist())


def _kinds(keep: str | Sequence[str]) -> tuple[str, ...]:
    kinds = [part.strip() for part in keep.split(",")] if isinstance(keep, str) else list(keep)
    try:
        for kind in kinds:
            check_kind(kind)
    except InputError as exc:
        raise ArgumentError(str(exc)) from exc
    return tuple(dict.fromkeys(kinds))
