"""The ledger's schema, as a list of steps that have been or will be taken in order.

A step that has been released is never edited; a change is a further step. Money is integer nano-dollars, instants are
integer Unix milliseconds, booleans are 0 and 1.
"""

import sqlite3
from datetime import UTC, datetime
from typing import NamedTuple

from pool_mcp.ledger import schema_0_1

_SET = "pool_mcp"

# The steps that were taken, as sqlite-utils keeps them.
_TAKEN = """
CREATE TABLE IF NOT EXISTS "_sqlite_migrations" (
   "id" INTEGER PRIMARY KEY,
   "migration_set" TEXT,
   "name" TEXT,
   "applied_at" TEXT
);
CREATE UNIQUE INDEX IF NOT EXISTS "idx__sqlite_migrations_migration_set_name"
    ON "_sqlite_migrations" ("migration_set", "name");
"""


_READ_FIGURES_ONLY = """               -- what nobody reads of the organization's reports goes
DELETE FROM organisation_figures WHERE report = 'claude_code';
DELETE FROM organisation_syncs WHERE report = 'claude_code';
ALTER TABLE organisation_figures DROP COLUMN requests;
"""


_UNFINISHED = """
CREATE VIEW unfinished_runs AS          -- those whose reservation counts as spent
SELECT * FROM runs WHERE state IN ('reserved', 'running');
"""


_OVERAGE = """
CREATE TABLE overage_readings (         -- what Anthropic said last of use beyond the plan
    subscription TEXT PRIMARY KEY,
    in_use INTEGER NOT NULL,
    window TEXT NOT NULL,               -- the official window that was the tightest
    window_resets_at_ms INTEGER,
    resets_at_ms INTEGER,
    observed_at_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE overage (                  -- what of an entry was paid beyond the plan, in real money
    entry_id INTEGER PRIMARY KEY REFERENCES entries,
    subscription TEXT NOT NULL,
    at_ms INTEGER NOT NULL,
    cost_nanousd INTEGER NOT NULL
) STRICT;
CREATE INDEX overage_by_time ON overage (subscription, at_ms);
"""


_CALL_SPENDING = """
CREATE TABLE call_spending (            -- what unfinished and recent runs spent, call by call; no record of money
    subscription TEXT NOT NULL,
    at_ms INTEGER NOT NULL,
    run_id TEXT NOT NULL,
    nanousd INTEGER NOT NULL,
    PRIMARY KEY (subscription, at_ms, run_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX call_spending_by_run ON call_spending (run_id, nanousd);
CREATE INDEX runs_by_caller ON runs (caller, created_at_ms);
"""


_OUTBOX = """
CREATE TABLE outbox (                   -- notices for receivers outside, each written with what caused it
    notice_id TEXT PRIMARY KEY,
    kind TEXT NOT NULL,
    subscription TEXT NOT NULL,         -- '' where it is of none
    message TEXT NOT NULL,
    at_ms INTEGER NOT NULL
) STRICT;
CREATE INDEX outbox_by_time ON outbox (at_ms);
CREATE TABLE receivers (                -- who is sent them, by a name that holds no address
    receiver TEXT PRIMARY KEY,
    since_ms INTEGER NOT NULL,          -- it gets what was written from then on
    next_at_ms INTEGER NOT NULL,        -- no process sends it anything before; while one is sending, that is ahead
    failures INTEGER NOT NULL,          -- since the last success
    problem TEXT                        -- of the last try; NULL where it succeeded
) STRICT, WITHOUT ROWID;
CREATE TABLE deliveries (
    receiver TEXT NOT NULL,
    notice_id TEXT NOT NULL REFERENCES outbox ON DELETE CASCADE,
    message_id TEXT NOT NULL,           -- what was sent in one go has one, the same with every try
    state TEXT NOT NULL,                -- sending, delivered or given_up
    attempts INTEGER NOT NULL,
    PRIMARY KEY (receiver, notice_id)
) STRICT, WITHOUT ROWID;
"""


_SEQUENCE = """
ALTER TABLE runs ADD COLUMN seq INTEGER NOT NULL DEFAULT 0;     -- the order in which runs were reserved
UPDATE runs SET seq = rowid;
CREATE UNIQUE INDEX runs_by_seq ON runs (seq);
ALTER TABLE outbox ADD COLUMN seq INTEGER NOT NULL DEFAULT 0;   -- the order in which notices were written
UPDATE outbox SET seq = rowid;
CREATE UNIQUE INDEX outbox_by_seq ON outbox (seq);
ALTER TABLE organisation_syncs ADD COLUMN seq INTEGER NOT NULL DEFAULT 0;
UPDATE organisation_syncs SET seq = rowid;
CREATE UNIQUE INDEX organisation_syncs_by_seq ON organisation_syncs (seq);
"""

_OVERAGE_RESERVATIONS = """
CREATE TABLE overage_reservations (     -- what of an unfinished run's spend may be paid beyond the plan
    run_id TEXT PRIMARY KEY REFERENCES runs ON DELETE CASCADE,
    nanousd INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
"""


_PROJECTS = """
ALTER TABLE runs ADD COLUMN project TEXT;       -- the repository that it worked in, by its root's name; NULL: unknown
ALTER TABLE runs ADD COLUMN branch TEXT;
ALTER TABLE entries ADD COLUMN project TEXT;    -- NULL: unknown, as of every entry from before there was this column
ALTER TABLE entries ADD COLUMN branch TEXT;
CREATE INDEX entries_by_project ON entries (project, at_ms, cost_nanousd) WHERE project IS NOT NULL;
"""


_SEQUENCE_OF_POSTGRES = """
ALTER TABLE runs ADD COLUMN seq BIGINT NOT NULL;
CREATE UNIQUE INDEX runs_by_seq ON runs (seq);
ALTER TABLE outbox ADD COLUMN seq BIGINT NOT NULL;
CREATE UNIQUE INDEX outbox_by_seq ON outbox (seq);
ALTER TABLE organisation_syncs ADD COLUMN seq BIGINT NOT NULL;
CREATE UNIQUE INDEX organisation_syncs_by_seq ON organisation_syncs (seq);
"""


_MACHINES = """
CREATE TABLE machines (                 -- who shares the ledger, where it is a database; '' is the one that has a file
    machine_id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    last_used_at_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
ALTER TABLE runs ADD COLUMN machine_id TEXT NOT NULL DEFAULT '';        -- where its CLI and its answer are
ALTER TABLE runs ADD COLUMN written_off INTEGER NOT NULL DEFAULT 0;     -- 1: as an estimate, by another machine
ALTER TABLE sessions ADD COLUMN machine_id TEXT NOT NULL DEFAULT '';
ALTER TABLE entries ADD COLUMN machine_id TEXT NOT NULL DEFAULT '';
ALTER TABLE cooldowns ADD COLUMN machine_id TEXT;                       -- NULL: it holds on every machine
ALTER TABLE logins RENAME TO old_logins;
CREATE TABLE logins (                   -- what `claude auth status` last said, on each machine
    subscription TEXT NOT NULL,
    machine_id TEXT NOT NULL,
    organisation TEXT,                  -- subscriptions of one organisation share one quota
    signed_in INTEGER NOT NULL,
    checked_at_ms INTEGER NOT NULL,
    PRIMARY KEY (subscription, machine_id)
) STRICT, WITHOUT ROWID;
INSERT INTO logins SELECT subscription, '', organisation, signed_in, checked_at_ms FROM old_logins;
DROP TABLE old_logins;
ALTER TABLE transcript_files RENAME TO old_transcript_files;
CREATE TABLE transcript_files (         -- what has been read of the CLI's transcripts, on each machine
    path TEXT NOT NULL,
    machine_id TEXT NOT NULL,
    device INTEGER NOT NULL,
    inode INTEGER NOT NULL,
    size INTEGER NOT NULL,              -- when it was last looked at
    modified_ns INTEGER NOT NULL,
    offset INTEGER NOT NULL,            -- where reading goes on
    digest INTEGER NOT NULL,            -- of the bytes before, by which a rewritten file is told
    PRIMARY KEY (path, machine_id)
) STRICT, WITHOUT ROWID;
INSERT INTO transcript_files
SELECT path, '', device, inode, size, modified_ns, offset, digest FROM old_transcript_files;
DROP TABLE old_transcript_files;
"""


_WAITING_RUNS = """
PRAGMA defer_foreign_keys = ON;         -- entries refer to runs, which are all there again at the end
CREATE TEMP TABLE kept_runs AS SELECT * FROM runs;
CREATE TEMP TABLE kept_reservations AS SELECT * FROM overage_reservations;      -- which go with runs
DROP VIEW unfinished_runs;
DROP TABLE runs;
CREATE TABLE runs (
    run_id TEXT PRIMARY KEY,
    ask_id TEXT NOT NULL REFERENCES asks,
    subscription TEXT NOT NULL,         -- '' until a run that waits has been given one
    session_id TEXT NOT NULL,
    resumed INTEGER NOT NULL,
    caller TEXT NOT NULL,
    model TEXT,                         -- as asked for; NULL is the CLI's default
    state TEXT NOT NULL CHECK (state IN ('waiting', 'reserved', 'running', 'settled', 'interrupted', 'failed')),
    outcome TEXT,
    message TEXT,
    owner_id TEXT NOT NULL,             -- the process that is in charge; alive while it holds its lock
    background INTEGER NOT NULL,
    cancel_requested INTEGER NOT NULL DEFAULT 0,
    structured INTEGER NOT NULL,
    created_at_ms INTEGER NOT NULL,     -- of the reservation; while it waits, of the ask
    started_at_ms INTEGER,
    ended_at_ms INTEGER,
    deadline_ms INTEGER NOT NULL,
    reserved_nanousd INTEGER NOT NULL,
    max_budget_nanousd INTEGER,
    baseline_json TEXT,                 -- what the CLI had booked on this session before the run
    cli_version TEXT,
    retry_at_ms INTEGER,
    seq INTEGER NOT NULL DEFAULT 0,     -- the order in which runs were asked
    project TEXT,                       -- the repository that it worked in, by its root's name; NULL: unknown
    branch TEXT,
    machine_id TEXT NOT NULL DEFAULT '',        -- where its CLI and its answer are
    written_off INTEGER NOT NULL DEFAULT 0,     -- 1: as an estimate, by another machine
    urgency TEXT NOT NULL DEFAULT 'normal',
    queued_at_ms INTEGER                -- since when it waited; NULL where it did not
) STRICT;
INSERT INTO runs (run_id, ask_id, subscription, session_id, resumed, caller, model, state, outcome, message, owner_id,
    background, cancel_requested, structured, created_at_ms, started_at_ms, ended_at_ms, deadline_ms, reserved_nanousd,
    max_budget_nanousd, baseline_json, cli_version, retry_at_ms, seq,
    project, branch, machine_id, written_off)
SELECT run_id, ask_id, subscription, session_id, resumed, caller, model, state, outcome, message, owner_id,
    background, cancel_requested, structured, created_at_ms, started_at_ms, ended_at_ms, deadline_ms, reserved_nanousd,
    max_budget_nanousd, baseline_json, cli_version, retry_at_ms, seq,
    project, branch, machine_id, written_off
FROM kept_runs ORDER BY seq;
INSERT INTO overage_reservations (run_id, nanousd) SELECT run_id, nanousd FROM kept_reservations;
DROP TABLE kept_runs;
DROP TABLE kept_reservations;
CREATE INDEX runs_by_ask ON runs (ask_id, created_at_ms);
CREATE INDEX runs_by_subscription ON runs (subscription, created_at_ms);
CREATE INDEX runs_by_model ON runs (subscription, model, ended_at_ms) WHERE state = 'settled';
CREATE INDEX runs_unfinished ON runs (subscription) WHERE state IN ('reserved', 'running');
CREATE INDEX runs_by_session ON runs (session_id);
CREATE INDEX runs_by_caller ON runs (caller, created_at_ms);
CREATE UNIQUE INDEX runs_by_seq ON runs (seq);
CREATE VIEW unfinished_runs AS          -- those whose reservation counts as spent
SELECT * FROM runs WHERE state IN ('reserved', 'running');
"""


_WAITING_RUNS_OF_POSTGRES = """
ALTER TABLE runs DROP CONSTRAINT runs_state_check;
ALTER TABLE runs ADD CONSTRAINT runs_state_check
    CHECK (state IN ('waiting', 'reserved', 'running', 'settled', 'interrupted', 'failed'));
ALTER TABLE runs ADD COLUMN urgency TEXT NOT NULL DEFAULT 'normal';
ALTER TABLE runs ADD COLUMN queued_at_ms BIGINT;
"""


_QUEUE = """
CREATE TABLE queue (                    -- a row for each run that waits
    run_id TEXT PRIMARY KEY REFERENCES runs,
    place INTEGER NOT NULL,             -- among those of the same urgency
    wait_for TEXT NOT NULL CHECK (wait_for IN ('turn', 'room')),
    not_before_ms INTEGER,
    give_up_at_ms INTEGER NOT NULL,
    only_subscription TEXT,             -- NULL: any
    by_name INTEGER NOT NULL,           -- whether the caller named that one
    max_cost_nanousd INTEGER,
    timeout_ms INTEGER NOT NULL,
    tried TEXT NOT NULL,                -- subscriptions that have refused the ask, by commas
    claim TEXT                          -- the subscription that asks behind it leave to it
) STRICT;
"""


class Step(NamedTuple):
    """A change of the schema: its name for ever, and its statements, of which no two share a line."""

    name: str
    script: str
    postgres: str | None = None
    """The same for PostgreSQL, where :mod:`~pool_mcp.ledger.dialect` cannot make it of the other."""

    def statements(self) -> list[str]:
        """One by one; ``executescript`` would commit the transaction in which they are taken."""
        found, buffer = [], ""
        for line in self.script.splitlines(keepends=True):
            buffer += line
            if sqlite3.complete_statement(buffer):
                found.append(buffer)
                buffer = ""
        return found


STEPS = (
    Step("m001_first", schema_0_1.FIRST),
    Step("m_subscription_hours", schema_0_1.SUBSCRIPTION_HOURS),
    Step("m_choosing", schema_0_1.CHOOSING),
    Step("m_imports", schema_0_1.IMPORTS),
    Step("m_organisation", schema_0_1.ORGANISATION),
    Step("m_read_figures_only", _READ_FIGURES_ONLY),
    Step("m_unfinished", _UNFINISHED),
    Step("m_overage", _OVERAGE),
    Step("m_call_spending", _CALL_SPENDING),
    Step("m_outbox", _OUTBOX),
    Step("m_sequence", _SEQUENCE, _SEQUENCE_OF_POSTGRES),
    Step("m_overage_reservations", _OVERAGE_RESERVATIONS),
    Step("m_projects", _PROJECTS),
    Step("m_machines", _MACHINES),
    Step("m_waiting_runs", _WAITING_RUNS, _WAITING_RUNS_OF_POSTGRES),
    Step("m_queue", _QUEUE),
)
"""In their order; a further one goes at the end."""


def applied(conn: sqlite3.Connection) -> list[str]:
    """The steps that a ledger has taken, in their order, by name."""
    if conn.execute("SELECT 1 FROM sqlite_master WHERE name = '_sqlite_migrations'").fetchone() is None:
        return []
    rows = conn.execute("SELECT name FROM _sqlite_migrations WHERE migration_set = ? ORDER BY id", (_SET,))
    return [name for (name,) in rows]


def apply(conn: sqlite3.Connection) -> None:
    """Take the steps that a ledger has not taken yet, in the transaction that is open."""
    taken = applied(conn)
    if not taken:
        for statement in Step("", _TAKEN).statements():
            conn.execute(statement)
    for step in STEPS:
        if step.name not in taken:
            for statement in step.statements():
                conn.execute(statement)
            conn.execute(
                "INSERT INTO _sqlite_migrations (migration_set, name, applied_at) VALUES (?, ?, ?)",
                (_SET, step.name, str(datetime.now(UTC))),
            )
