"""What keeps a ledger: one SQLite file, or a PostgreSQL database that machines share."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pool_mcp.ledger.transaction import Transaction
from pool_mcp.model import Audit


@dataclass(frozen=True, slots=True)
class Database:
    """A database that has just been asked."""

    place: str
    version: str
    round_trip_ms: float
    ahead_ms: int
    """Its clock against this machine's."""
    is_encrypted: bool
    is_local: bool


class Engine(Protocol):
    """One open ledger on one engine. Safe to call from any thread."""

    def write(self) -> AbstractContextManager[Transaction]:
        """Be the only writer for the block; commit at its end, roll back if it raises."""
        ...

    def read(self) -> AbstractContextManager[Transaction]:
        """See one consistent state for the length of the block."""
        ...

    def patiently(self) -> AbstractContextManager[None]:
        """Let statements that go through the whole ledger take their time."""
        ...

    def changes(self) -> int:
        """A number that is another one once another connection has committed a change; it may be another one anyway."""
        ...

    def audit(self) -> Audit:
        """Prove the sums against the entries; reads the whole ledger."""
        ...

    def backup(self, target: Path) -> None:
        """Write a consistent copy as a SQLite file."""
        ...

    def clock(self, local: Callable[[], int]) -> Callable[[], int]:
        """The clock that all who share the ledger go by, made from this machine's."""
        ...

    def database(self) -> Database | None:
        """What there is to know of the database; None for a file."""
        ...

    def close(self) -> None:
        """Close the connection; what is committed stays."""
        ...
