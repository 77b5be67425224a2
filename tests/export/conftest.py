"""What tests of exports share: bundles and weights of a tiny model, and graphs in several precisions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import pytest
import torch

from export.sam import Weights
from stages.bundle import Bundle
from tests.support.bundles import TINY, graph_bundle, random_weights, tiny_bundle


@pytest.fixture(scope="session")
def graphs(request: pytest.FixtureRequest) -> Callable[..., Bundle]:
    """Writes graphs with random weights, unchecked: graphs(model, precision[, code of tiles])."""
    return partial(graph_bundle, request.config)


@pytest.fixture(scope="session")
def tiny(request: pytest.FixtureRequest) -> Callable[[str], Bundle]:
    """Exports the tiny model with random weights in one precision: tiny("fp16")."""
    return lambda precision: tiny_bundle(request.config, precision)


@pytest.fixture(scope="session")
def tiny_weights() -> Weights:
    """The weights of `tiny`; not to be changed."""
    return random_weights(TINY)


@pytest.fixture
def no_grad() -> Iterator[None]:
    """For tests that run modules of torch."""
    with torch.no_grad():
        yield
