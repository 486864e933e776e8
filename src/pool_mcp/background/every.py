"""Repeats something for as long as a pool is open; a failure is logged, and the next turn comes all the same."""

import logging
from collections.abc import Awaitable, Callable
from typing import NoReturn

from pool_mcp.errors import PoolError

log = logging.getLogger(__name__)

Sleep = Callable[[float], Awaitable[object]]


async def every(
    seconds: float, what: str, step: Callable[[], Awaitable[object]], sleep: Sleep, first_after_s: float = 0
) -> NoReturn:
    """Take a step as :func:`once` does, sleep, and so on."""
    if first_after_s:
        await sleep(first_after_s)
    while True:
        await once(what, step)
        await sleep(seconds)


async def once(what: str, step: Callable[[], Awaitable[object]]) -> None:
    """Take a step, and log a failure. ``what`` completes "could not …".

    What is foreseen (the ledger is away, a file cannot be read) is one line; anything else comes with its traceback.
    """
    try:
        await step()
    except (PoolError, OSError) as error:
        log.warning("could not %s: %s", what, error)
    except Exception:  # the top of this task: none of this is a reason to stop serving
        log.exception("could not %s", what)
