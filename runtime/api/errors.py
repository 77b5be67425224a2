"""Errors that the library raises besides those of stages.errors: each is a PedsamError, one sentence long."""

from __future__ import annotations

from stages.errors import InputError, PedsamError


class ArgumentError(InputError, ValueError):
    """An argument of a call is wrong: an array of another dtype or shape, a box outside the frame."""


class FrameLost(PedsamError):
    """A frame could not be completed within the caps, or for want of a site; trying again may help."""


class SessionClosed(PedsamError, RuntimeError):
    """A session, or what it has made, is used before it is open or after it is closed."""


class NoImage(PedsamError, RuntimeError):
    """A predictor is asked for masks before it has an image."""
