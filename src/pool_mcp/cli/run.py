"""The only wiring: the real clock, ids and ledger, put together into a pool; and how a command ends.

Exit codes: 0 done, 1 failed, 2 wrong use, 3 nothing left for now (limit, budget, overloaded: try later), 4 a person
must act (login, billing, no CLI), 130 cancelled.
"""

import json
import logging
import os
import sys
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn, TypeVar

import click

from pool_mcp.errors import PoolError

if TYPE_CHECKING:
    from pydantic import BaseModel
    from rich.console import Console

    from pool_mcp.pool import Pool

T = TypeVar("T")


@dataclass(slots=True)
class Terminal:
    """What the person wants to see besides the result: ``-v`` counts, ``-q``, ``--color``."""

    verbosity: int = 0
    quiet: bool = False
    color: str = "auto"

    def console(self, *, stderr: bool = False) -> "Console":
        """Where to print to, as the person wants it."""
        from pool_mcp.views import tables

        return tables.console(stderr=stderr, color=self.color)


terminal = Terminal()
"""Of this command; set by its options."""

EXIT_CODES = {
    "invalid_request": 2,
    "unknown_session": 2,
    "limit": 3,
    "budget": 3,
    "overloaded": 3,
    "auth": 4,
    "billing": 4,
    "cli_missing": 4,
    "cancelled": 130,
}


def now_ms() -> int:
    """The time in Unix milliseconds."""
    return time.time_ns() // 1_000_000


def new_id() -> str:
    """An id that nothing else has."""
    return str(uuid.uuid4())


@asynccontextmanager
async def open_pool() -> "AsyncIterator[Pool]":
    """The pool with the real settings, clock, ids and ledger, which is closed at the end.

    Raises:
        PoolError: the settings are wrong, or the ledger cannot be opened.
    """
    import anyio.to_thread

    from pool_mcp.ledger.ledger import Ledger
    from pool_mcp.pool import Pool
    from pool_mcp.settings import load

    env = dict(os.environ)
    settings = load(env)
    # A ledger that others hold is waited for, and nothing that goes on here waits with it.
    place = settings.ledger_path, settings.ledger.url, now_ms
    ledger = await anyio.to_thread.run_sync(Ledger, *place, abandon_on_cancel=True)
    try:
        async with Pool(settings, ledger, env, now_ms, new_id).open() as pool:
            yield pool
    finally:
        ledger.close()


def with_pool(work: "Callable[[Pool], Awaitable[T]]", *, as_json: bool = False) -> T:
    """Do one thing with an open pool; under ``as_json`` a failure is JSON, too."""
    import anyio

    # What a person has to know is in the result or the error; log lines are for those who ask for them.
    log_to_stderr((logging.CRITICAL, logging.INFO, logging.DEBUG)[min(2, terminal.verbosity)])

    async def inside() -> T:
        async with open_pool() as pool:
            return await work(pool)

    try:
        with errors_as_json(as_json):
            return anyio.run(inside)
    except BaseExceptionGroup as group:
        if group.subgroup(KeyboardInterrupt):
            raise KeyboardInterrupt from None
        raise


@contextmanager
def errors_as_json(as_json: bool) -> Iterator[None]:
    """Under ``as_json`` print a failure as JSON, too, before it ends the command."""
    try:
        yield
    except PoolError as error:
        if as_json:
            from pool_mcp.results.base import error_result

            said = error_result(error, now_ms()).model_dump(mode="json", exclude_none=True)
            print_data(json.dumps({"error": said}, indent=2, ensure_ascii=False))
        raise


def print_json(result: "BaseModel") -> None:
    """Print a result as the tools give it."""
    print_data(json.dumps(result.model_dump(mode="json"), indent=2, ensure_ascii=False))


def print_data(text: str, *, nl: bool = True) -> None:
    """Print what others may have written: as it is into a file or a pipe, and so that none of it acts on a terminal."""
    if sys.stdout.isatty():
        from pool_mcp.views.plain import plain

        text = plain(text)
    click.echo(text, nl=nl)


def fail(error: PoolError) -> NoReturn:
    """End with one line on stderr and the exit code of the error's kind."""
    from pool_mcp.views.times import localized

    click.echo(f"pool-mcp: {localized(error.message, now_ms())}", err=True)
    sys.exit(EXIT_CODES.get(error.kind, 1))


def log_to_stderr(level: int) -> None:
    """Write log lines from a level on to stderr."""
    logging.basicConfig(level=level, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for library in ("httpx2", "httpcore2"):  # they log whole addresses, and a receiver's may be a secret
        logging.getLogger(library).setLevel(max(level, logging.WARNING))
