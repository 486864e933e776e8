"""Fixtures for all tests."""

from collections.abc import Iterator

import pytest

from pool_mcp.standin import Standin


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def standin() -> Iterator[Standin]:
    """Anthropic, on loopback, for one test."""
    with Standin() as standin:
        yield standin
