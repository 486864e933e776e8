"""A quick look into a ledger that is there, for what must answer at once.

It loads SQLite and nothing else, makes no file, takes no migration, and waits for other processes for as long as it is
given. Writing goes through :class:`~pool_mcp.ledger.official.Official`, which takes longer to load, so that is done
only where there is something to write.
"""

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from pool_mcp.ledger import write_ahead
from pool_mcp.ledger.sums import spent_nanousd

Seen = tuple[float | None, int | None]
"""``(percent, resets_at_ms)`` of an official window."""


class Glance:
    """A look into one ledger; every method may raise ``sqlite3.Error``, and :meth:`record` ``OSError``."""

    def __init__(self, conn: sqlite3.Connection, path: Path, wait_s: float) -> None:
        self._conn = conn
        self._path = path
        self._wait_s = wait_s

    def windows(self, subscription: str) -> dict[str, Seen]:
        """What was last reported of each official window."""
        rows = self._conn.execute(
            "SELECT window, percent, resets_at_ms FROM official_windows WHERE subscription = ?", (subscription,)
        )
        return {window: (percent, resets_at_ms) for window, percent, resets_at_ms in rows}

    def spent_nanousd(self, subscription: str, since_ms: int) -> int:
        """What a subscription has spent since an instant."""
        return spent_nanousd(self._conn, "subscription", subscription, since_ms)

    def reserved_nanousd(self, subscription: str) -> int:
        """What a subscription's unfinished runs may still cost."""
        (reserved,) = self._conn.execute(
            "SELECT coalesce(sum(reserved_nanousd), 0) FROM unfinished_runs WHERE subscription = ?", (subscription,)
        ).fetchone()
        return int(reserved)

    def record(self, subscription: str, windows: Mapping[str, Seen], now_ms: int) -> None:
        """Keep readings that were made now."""
        from pool_mcp.ledger.cooldowns import Cooldowns
        from pool_mcp.ledger.official import Official
        from pool_mcp.model import WindowReading

        readings = [
            WindowReading(window, percent, resets_at_ms, "allowed", now_ms)
            for window, (percent, resets_at_ms) in windows.items()
        ]
        with write_ahead.sole_writer(self._path, self._wait_s):
            self._conn.execute("BEGIN IMMEDIATE")
            try:
                Official(self._conn, Cooldowns(self._conn, "")).record(subscription, readings, now_ms)
                self._conn.execute("COMMIT")
            except BaseException:
                self._conn.execute("ROLLBACK")
                raise
            write_ahead.checkpoint_if_long(self._conn, self._path)


@contextmanager
def glance(path: Path, wait_s: float) -> Iterator[Glance | None]:
    """Look into the ledger at an absolute path; None where there is none. What fails ends the block, and no more."""
    try:
        conn = sqlite3.connect(f"file:{_quoted(str(path))}?mode=rw", uri=True, timeout=wait_s, isolation_level=None)
    except sqlite3.Error:
        yield None
        return
    try:
        with suppress(sqlite3.Error, OSError):
            write_ahead.configure(conn)
            yield Glance(conn, path, wait_s)
    finally:
        write_ahead.close(conn, path)


def _quoted(path: str) -> str:
    return path.replace("%", "%25").replace("?", "%3f").replace("#", "%23")
