"""Fixtures for tests of the edge."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from stages.bundle import Bundle


@pytest.fixture(scope="session")
def exported_fp32(exported: Callable[[str, str], Bundle]) -> Bundle:
    """The mini model with the weights of `mini_bundle` and fp32 embeddings."""
    return exported("mini", "float32")
