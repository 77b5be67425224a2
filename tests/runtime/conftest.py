"""Fixtures for tests of the edge."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from stages.bundle import Bundle
from tests.support.bundles import tiny_bundle


@pytest.fixture(scope="session")
def exported_fp32(exported: Callable[[str, str], Bundle]) -> Bundle:
    """The mini model with the weights of `mini_bundle` and fp32 embeddings."""
    return exported("mini", "float32")


@pytest.fixture(scope="session")
def components_bundle(request: pytest.FixtureRequest) -> Bundle:
    """The tiny model, whose embeddings of 24 channels travel as 8 components, fp32 for exactness."""
    return tiny_bundle(request.config, "float32-8")
