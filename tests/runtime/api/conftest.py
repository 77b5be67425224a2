"""Sessions of the bundle that is shipped."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import pedsam


@pytest.fixture(scope="module")
def session() -> Iterator[pedsam.Session]:
    """A session without sites."""
    with pedsam.open(threads=1) as session:
        yield session
