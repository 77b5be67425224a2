"""Fixtures for every test."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable

import pytest
from hypothesis import settings

from stages.bundle import Bundle
from tests.support import bundles
from tests.support.bundles import exported_bundle
from tests.support.loop_watch import blocking
from tests.support.session import (  # noqa: F401 (pytest finds hooks here)
    pytest_collection_modifyitems,
    pytest_deselected,
    pytest_runtest_setup,
    pytest_runtest_teardown,
    pytest_sessionfinish,
    pytest_terminal_summary,
    pytest_testnodedown,
)

# A time limit on each example would fail on a busy machine; pytest-timeout bounds the whole test.
settings.register_profile("pedsam", deadline=None)
settings.load_profile("pedsam")


def pytest_configure(config: pytest.Config) -> None:
    """Tests run on the CPU whatever the machine has, except when those marked gpu alone are asked for."""
    if config.getoption("markexpr") != "gpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    if config.getoption("numprocesses", None):
        os.environ.setdefault("OMP_NUM_THREADS", "1")  # of torch: its threads spin on cores they share


# Started in the background this process ignores Ctrl-C, and so would the processes that tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def exported(request: pytest.FixtureRequest) -> Callable[[str, str], Bundle]:
    """Makes a bundle with random weights: exported(model, dtype of the embedding)."""
    return lambda model, dtype: exported_bundle(request.config, model, dtype)


@pytest.fixture(scope="session")
def mini_bundle(exported: Callable[[str, str], Bundle]) -> Bundle:
    """The mini model with random weights and fp16 embeddings."""
    return exported("mini", "float16")


@pytest.fixture(scope="session")
def mini_head_bundle(request: pytest.FixtureRequest, mini_bundle: Bundle) -> Bundle:
    """The weights of `mini_bundle` with two window blocks at the edge, hidden states in fp16."""
    return bundles.mini_head_bundle(request.config, mini_bundle)


@pytest.fixture(scope="session")
def tiny_head_bundle(request: pytest.FixtureRequest) -> Bundle:
    """A tiny model with two window blocks at the edge; hidden states travel as 16 components in int8."""
    return bundles.tiny_head_bundle(request.config)


@pytest.fixture(scope="session")
def mini_streaming_bundle(request: pytest.FixtureRequest) -> Bundle:
    """The mini that is shipped, with the parts of its global stage."""
    return bundles.mini_streaming_bundle(request.config)


@pytest.fixture
async def unblocked_loop(anyio_backend: str) -> AsyncIterator[None]:
    """Fails an async test that keeps the event loop from running for too long."""
    with blocking(asyncio.get_running_loop()) as complaints:
        yield
    if complaints:
        pytest.fail("the event loop was blocked: " + "; ".join(complaints))
