"""Opens the pool beside serving, and again for the next call where it could not be opened."""

import logging
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager

import anyio

from pool_mcp.errors import PoolError
from pool_mcp.pool import Pool

log = logging.getLogger(__name__)

GetPool = Callable[[], Awaitable[Pool]]
"""Gives the pool once it is open, or raises the PoolError that keeps it from being opened."""

STOP_S = 0.4
"""How long a stop may take: Claude Code kills a server half a second after the first signal."""


class _Attempt:
    def __init__(self) -> None:
        self.ended = anyio.Event()
        self.result: Pool | PoolError | None = None

    def end(self, result: Pool | PoolError) -> None:
        self.result = result
        self.ended.set()


class Opening:
    """Run :meth:`keep_open` beside what calls :meth:`get`.

    A host is served while the pool is being opened, and when it cannot be: a host shows an agent the error of a call,
    but not why a server died.
    """

    def __init__(self, open_pool: Callable[[], AbstractAsyncContextManager[Pool]]) -> None:
        self._open_pool = open_pool
        self._attempt = _Attempt()
        self._is_wanted = anyio.Event()
        self._is_over = anyio.Event()
        self._scope = anyio.CancelScope()

    async def keep_open(self) -> None:
        """Open the pool and keep it open until :meth:`close`; after a failure, try again with the next call."""
        with self._scope:
            while not self._is_over.is_set():
                try:
                    async with self._open_pool() as pool:
                        self._attempt.end(pool)
                        pool.keep_spares()
                        await self._is_over.wait()
                except PoolError as error:
                    log.error("%s", error)
                    self._is_wanted = anyio.Event()
                    self._attempt.end(error)
                    await self._is_wanted.wait()

    def close(self) -> None:
        """Let :meth:`keep_open` end: an open pool in order, since cancelling would leave its runs unstopped."""
        self._is_over.set()
        if not isinstance(self._attempt.result, Pool):
            self._scope.cancel()

    async def get(self) -> Pool:
        """The open pool.

        Raises:
            PoolError: it cannot be opened.
        """
        if isinstance(self._attempt.result, PoolError):
            self._attempt = _Attempt()
            self._is_wanted.set()
        attempt = self._attempt
        await attempt.ended.wait()
        if isinstance(attempt.result, Pool):
            return attempt.result
        assert attempt.result is not None
        raise attempt.result

    async def stop(self) -> None:
        """Stop the pool if it is open, for a bounded time; what could not be booked, the next server books."""
        if isinstance(self._attempt.result, Pool):
            with anyio.move_on_after(STOP_S):
                await self._attempt.result.stop()
