"""Which tokens of one frame look like which of another, and labels carried over by that.

Every token of a new frame takes its label, how much of it is object, from the most similar tokens nearby in
earlier frames (label propagation: Jabri et al., "Space-time correspondence as a contrastive random walk",
2020, section 3; the embeddings are those SAM's decoder gets anyway).

What is similar does not depend on the object: two frames are compared once for all that are followed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import as_strided, sliding_window_view

from stages.tensors import Array

Floats = npt.NDArray[np.float32]

MAX_GRID = 32  # tokens a side that are matched; a larger embedding (64 for SAM) is averaged down to it
SEARCH_RADIUS = 1 / 6  # of the grid's side: how far from its own place a token looks for matches
NEIGHBOURS = 8  # most similar tokens that vote
TEMPERATURE = 0.05  # of their votes, over cosine similarities
MIN_LABEL = 0.05  # where no label nearby is above it, nothing is matched


@dataclass(frozen=True)
class MemoryFrame:
    """A frame that later ones are matched with: unit features [G, G, C] of its tokens and their labels
    [G, G], 0..1."""

    features: Floats
    labels: Floats


@dataclass(frozen=True)
class Matches:
    """For each of some tokens the most similar ones nearby in another frame: their places there (row * G +
    column, int64) and cosine similarities, both [..., NEIGHBOURS] in no order. Where fewer are nearby the
    rest has a similarity of -inf."""

    places: npt.NDArray[np.int64]
    similarities: Floats


class FrameTokens:
    """The tokens of a frame, given its image embedding [1, C, E, E], and what they match in other frames."""

    def __init__(self, image_embedding: Array) -> None:
        self._image_embedding = image_embedding
        self._compared: dict[int, _Compared] = {}  # by the id of the other frame's features

    @cached_property
    def features(self) -> Floats:
        """Unit features [G, G, C]."""
        return unit_features(self._image_embedding)

    def matches(self, other: Floats, rows: slice) -> Matches:
        """Of the tokens of some rows in a frame with unit features `other` [G, G, C]. No row is compared
        twice with the same array."""
        if id(other) not in self._compared:
            self._compared[id(other)] = _Compared(self.features, other)
        return self._compared[id(other)].rows(rows)


class _Compared:
    """Matches of a frame's tokens in another, row by row as they are asked for."""

    def __init__(self, features: Floats, other: Floats) -> None:
        self._features, self._other = features, other  # kept, so that their ids stay theirs
        side = len(features)
        self._known = np.zeros(side, np.bool_)
        self._places = np.empty((side, side, NEIGHBOURS), np.int64)
        self._similarities = np.empty((side, side, NEIGHBOURS), np.float32)

    def rows(self, rows: slice) -> Matches:
        (unknown,) = np.nonzero(~self._known[rows])
        if len(unknown):
            new = slice(rows.start + int(unknown[0]), rows.start + int(unknown[-1]) + 1)
            found = match(self._features, self._other, new)
            self._places[new], self._similarities[new] = found.places, found.similarities
            self._known[new] = True
        return Matches(self._places[rows], self._similarities[rows])


def unit_features(image_embedding: Array) -> Floats:
    """Unit features [G, G, C] of an image embedding [1, C, E, E]."""
    step = -(-image_embedding.shape[2] // MAX_GRID)
    tokens = image_embedding[0].transpose(1, 2, 0)
    blocks = sum(tokens[row::step, col::step] for row in range(step) for col in range(step))
    features = np.ascontiguousarray(blocks, np.float32)
    unit: Floats = features / np.maximum(np.linalg.norm(features, axis=2, keepdims=True), 1e-12)
    return unit


def propagate(tokens: FrameTokens, memory: Sequence[MemoryFrame]) -> tuple[Floats, Floats]:
    """Labels of a frame's tokens from the most similar ones nearby in all frames of `memory`.

    Returns the labels [G, G] and the mean cosine similarity [G, G] of those tokens; both are 0 where nothing
    within the search radius is labelled.
    """
    side = len(tokens.features)
    labelled = np.maximum.reduce([frame.labels for frame in memory]) > MIN_LABEL
    near = _near(labelled.any(axis=1)), _near(labelled.any(axis=0))
    matches = [tokens.matches(frame.features, near[0]) for frame in memory]
    # [rows, columns, frames * NEIGHBOURS]
    similarities = np.concatenate([each.similarities[:, near[1]] for each in matches], axis=2)
    values = np.concatenate(
        [frame.labels.ravel()[each.places[:, near[1]]] for frame, each in zip(memory, matches, strict=True)],
        axis=2,
    )
    best = _largest(similarities)
    labels, means = np.zeros((2, side, side), np.float32)
    labels[near], means[near] = _vote(
        np.take_along_axis(similarities, best, -1), np.take_along_axis(values, best, -1)
    )
    return labels, means


def match(features: Floats, other: Floats, rows: slice) -> Matches:
    """The most similar tokens of `other` within the search radius of those in some rows of `features`, both
    [G, G, C]; its arrays are [rows, G, NEIGHBOURS]."""
    side, radius = len(features), radius_of(len(features))
    reach = 2 * radius + 1
    # The rows of `other` around each: [rows, reach, G, C] -> [rows, C, reach * G]
    around = np.pad(other, ((radius, radius), (0, 0), (0, 0)))[rows.start : rows.stop + 2 * radius]
    bands = sliding_window_view(around, reach, 0).transpose(0, 3, 1, 2)
    product = features[rows] @ bands.reshape(len(bands), reach * side, -1).transpose(0, 2, 1)
    wide = np.full((len(bands), side, reach, side + 2 * radius), -np.inf, np.float32)
    wide[..., radius:-radius] = product.reshape(len(bands), side, reach, side)
    # Of the token in column i those from column i - radius on, which `wide` has at i.
    row, column, down, across = wide.strides
    nearby = as_strided(wide, (len(bands), side, reach, reach), (row, column + across, down, across))
    similarities = nearby.reshape(len(bands), side, -1)
    places, beyond = _places(side)
    similarities[beyond[rows]] = -np.inf
    best = _largest(similarities)
    return Matches(np.take_along_axis(places[rows], best, -1), np.take_along_axis(similarities, best, -1))


def radius_of(side: int) -> int:
    """How many tokens from its own place a token of a grid of this side looks."""
    return max(1, round(side * SEARCH_RADIUS))


@lru_cache(maxsize=4)
def _places(side: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """The places around each token, as row * G + column, and which are beyond the grid; [G, G, reach^2]."""
    radius = radius_of(side)
    line = np.arange(side)[:, None] + np.arange(-radius, radius + 1)  # [G, reach]
    beyond = (line < 0) | (line >= side)
    places = line[:, None, :, None] * side + line[None, :, None, :]  # [G, G, reach, reach]
    either = beyond[:, None, :, None] | beyond[None, :, None, :]
    return np.where(either, 0, places).reshape(side, side, -1), either.reshape(side, side, -1)


def _near(labelled: npt.NDArray[np.bool_]) -> slice:
    """From the first to the last True along one axis, and the search radius around; empty without any."""
    (places,) = np.nonzero(labelled)
    if not len(places):
        return slice(0, 0)
    radius = radius_of(len(labelled))
    return slice(max(0, int(places[0]) - radius), min(len(labelled), int(places[-1]) + radius + 1))


def _largest(similarities: Floats) -> npt.NDArray[np.intp]:
    """The places of the NEIGHBOURS largest along the last axis, in no order."""
    return np.argpartition(similarities, -NEIGHBOURS, axis=-1)[..., -NEIGHBOURS:]


def _vote(similarities: Floats, values: Floats) -> tuple[Floats, Floats]:
    """The mean of `values` along the last axis, weighted by a softmax of `similarities`, and their mean."""
    weights = np.exp((similarities - similarities.max(axis=-1, keepdims=True)) / TEMPERATURE)
    votes = (weights * values).sum(axis=-1) / weights.sum(axis=-1)
    return votes, similarities.mean(axis=-1)
