"""Tokens matched with those of other frames: labels as the plain way gives them, nothing compared twice."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from runtime.objects import matching
from runtime.objects.matching import NEIGHBOURS, TEMPERATURE, FrameTokens, MemoryFrame, propagate, radius_of
from stages.tensors import Array

Floats = npt.NDArray[np.float32]


def embedding(seed: int, side: int) -> Array:
    return np.random.default_rng(seed).normal(size=(1, 16, side, side)).astype(np.float32)


def rectangle(side: int, top: int, left: int, bottom: int, right: int, value: float = 1.0) -> Floats:
    labels = np.zeros((side, side), np.float32)
    labels[top:bottom, left:right] = value
    return labels


def memory_of(seed: int, labels: Floats) -> MemoryFrame:
    return MemoryFrame(FrameTokens(embedding(seed, len(labels))).features, labels)


def plain(features: Floats, memory: list[MemoryFrame], row: int, col: int) -> tuple[float, float]:
    """Label and similarity of one token: every token of every frame within the radius, best first."""
    side, radius = len(features), radius_of(len(features))
    rows = range(max(0, row - radius), min(side, row + radius + 1))
    cols = range(max(0, col - radius), min(side, col + radius + 1))
    candidates = [
        (float(features[row, col] @ frame.features[y, x]), float(frame.labels[y, x]))
        for frame in memory
        for y in rows
        for x in cols
    ]
    best = np.array(sorted(candidates, reverse=True)[:NEIGHBOURS])
    weights = np.exp((best[:, 0] - best[:, 0].max()) / TEMPERATURE)
    return float((weights * best[:, 1]).sum() / weights.sum()), float(best[:, 0].mean())


@pytest.mark.parametrize("side", [9, 24, 32])
def test_labels_are_those_of_the_plain_way(side: int) -> None:
    labels = [rectangle(side, 0, 1, side // 3, side // 2), rectangle(side, 2, 0, side // 2, 3, 0.6)]
    memory = [memory_of(seed, each) for seed, each in enumerate(labels, 1)]
    tokens = FrameTokens(embedding(0, side))
    found = np.stack(propagate(tokens, memory), axis=-1)
    radius = radius_of(side)
    expected = np.zeros((side, side, 2))
    for row in range(side // 2 + radius):
        for col in range(side // 2 + radius):
            expected[row, col] = plain(tokens.features, memory, row, col)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_labels_are_a_vote_of_all_memory_frames() -> None:
    """Two frames that disagree about every token leave it undecided."""
    tokens = FrameTokens(np.repeat(embedding(0, 12), 2, axis=3).repeat(2, axis=2))
    ones, zeros = np.ones((24, 24), np.float32), np.zeros((24, 24), np.float32)
    labels, similarity = propagate(
        tokens, [MemoryFrame(tokens.features, ones), MemoryFrame(tokens.features, zeros)]
    )
    assert labels == pytest.approx(np.full((24, 24), 0.5), abs=1e-3)
    assert similarity == pytest.approx(np.ones((24, 24)), abs=1e-5)  # each token is there eight times


def test_nothing_is_labelled_where_no_label_is_near() -> None:
    labels, similarity = propagate(
        FrameTokens(embedding(0, 24)), [memory_of(1, np.zeros((24, 24), np.float32))]
    )
    assert not labels.any()
    assert not similarity.any()


def test_two_frames_are_compared_once_for_all_objects(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[int, slice]] = []
    match = matching.match

    def noted(features: Floats, other: Floats, rows: slice) -> matching.Matches:
        compared.append((id(other), rows))
        return match(features, other, rows)

    monkeypatch.setattr(matching, "match", noted)
    first, second = memory_of(1, rectangle(24, 4, 4, 8, 8)), memory_of(2, rectangle(24, 4, 4, 8, 8))
    lower = MemoryFrame(first.features, rectangle(24, 8, 4, 14, 8))
    tokens = FrameTokens(embedding(0, 24))
    alone = [propagate(FrameTokens(embedding(0, 24)), [frame]) for frame in (first, second, lower)]
    compared.clear()
    together = [propagate(tokens, [frame]) for frame in (first, second, lower, first)]
    assert compared == [
        (id(first.features), slice(0, 12)),
        (id(second.features), slice(0, 12)),
        (id(first.features), slice(12, 18)),  # rows that the first object had not asked for
    ]
    for one, other in zip(alone, together[:3], strict=True):
        np.testing.assert_array_equal(one, other)


def test_nothing_beyond_the_grid_is_matched_however_unlike_the_tokens_in_it_are() -> None:
    tokens = FrameTokens(np.ones((1, 16, 24, 24), np.float32))
    unlike = MemoryFrame(-tokens.features, np.ones((24, 24), np.float32))
    labels, similarity = propagate(tokens, [unlike])
    assert labels == pytest.approx(np.ones((24, 24)))
    assert similarity == pytest.approx(-np.ones((24, 24)))
