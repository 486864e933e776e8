"""Fixtures for all tests."""

from collections.abc import Iterator

import database
import pytest
import record
from hypothesis import settings

from pool_mcp.demo.standin import Standin

# A busy machine is no failure; pytest's own time-out finds what hangs.
settings.register_profile("tests", settings(), deadline=None)
settings.load_profile("tests")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def standin() -> Iterator[Standin]:
    """Anthropic, on loopback, for one test; afterwards, what was billed is compared with what was booked."""
    with Standin() as standin:
        yield standin
        assert record.faults(standin) == []


@pytest.fixture(scope="session")
def postgres() -> Iterator[database.Server]:
    """A PostgreSQL server for all tests of a process."""
    with database.running() as server:
        yield server
