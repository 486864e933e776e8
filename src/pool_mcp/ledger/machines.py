"""The machines that share a ledger. One file's ledger has one, whose id is empty and which has no row."""

from dataclasses import dataclass

from pool_mcp.ledger.sql import Connection


@dataclass(frozen=True, slots=True)
class MachineUse:
    """A machine that has used the ledger, and what of its runs is not booked yet."""

    machine_id: str
    name: str
    last_used_at_ms: int
    in_flight: int
    reserved_nanousd: int


class Machines:
    """Reads and writes within the transaction that is open, as one machine."""

    def __init__(self, conn: Connection, machine_id: str) -> None:
        self._conn = conn
        self.mine = machine_id
        """The id of this one."""

    def known(self) -> list[MachineUse]:
        """Every machine, the one that was last there first."""
        rows = self._conn.execute(
            """
            SELECT machines.machine_id, machines.name, machines.last_used_at_ms, count(unfinished_runs.run_id),
                coalesce(sum(unfinished_runs.reserved_nanousd), 0)
            FROM machines LEFT JOIN unfinished_runs ON unfinished_runs.machine_id = machines.machine_id
            GROUP BY machines.machine_id, machines.name, machines.last_used_at_ms
            ORDER BY machines.last_used_at_ms DESC
            """
        )
        return [MachineUse(*row) for row in rows]

    def name(self, machine_id: str) -> str:
        """What a machine is called."""
        row = self._conn.execute("SELECT name FROM machines WHERE machine_id = ?", (machine_id,)).fetchone()
        return machine_id if row is None else str(row[0])

    def elsewhere(self, machine_id: str) -> str | None:
        """What a machine is called that is not this one; None for this one."""
        return None if machine_id == self.mine else self.name(machine_id)

    def forget(self, machine_id: str) -> None:
        """Take a machine, of which no run is left, off the list; it is back on it when it uses the ledger again."""
        self._conn.execute("DELETE FROM machines WHERE machine_id = ?", (machine_id,))
