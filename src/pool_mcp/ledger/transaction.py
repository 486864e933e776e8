"""What can be read and written in a transaction of :class:`~pool_mcp.ledger.ledger.Ledger`: one part per concern."""

from pool_mcp.ledger.balances import Balances
from pool_mcp.ledger.cooldowns import Cooldowns
from pool_mcp.ledger.imports import Imports
from pool_mcp.ledger.leases import Leases
from pool_mcp.ledger.logins import Logins
from pool_mcp.ledger.machines import Machines
from pool_mcp.ledger.notices import Notices
from pool_mcp.ledger.official import Official
from pool_mcp.ledger.organisation import Organisation
from pool_mcp.ledger.outbox import Outbox
from pool_mcp.ledger.overage import Overage
from pool_mcp.ledger.queue import Queue
from pool_mcp.ledger.reports import Reports
from pool_mcp.ledger.runs import Runs
from pool_mcp.ledger.spending import Spending
from pool_mcp.ledger.sql import Connection


class Transaction:
    """The parts, all within the transaction that is open."""

    def __init__(self, conn: Connection, machine_id: str = "") -> None:
        self.connection = conn
        self.balances = Balances(conn)
        self.cooldowns = Cooldowns(conn, machine_id)
        self.imports = Imports(conn, machine_id)
        self.leases = Leases(conn)
        self.logins = Logins(conn, machine_id)
        self.outbox = Outbox(conn)
        self.machines = Machines(conn, machine_id)
        self.notices = Notices(conn, self.outbox)
        self.official = Official(conn, self.cooldowns)
        self.organisation = Organisation(conn)
        self.overage = Overage(conn)
        self.reports = Reports(conn)
        self.spending = Spending(conn)
        self.runs = Runs(conn, machine_id, self.cooldowns, self.imports, self.overage)
        self.queue = Queue(conn, self.runs)
