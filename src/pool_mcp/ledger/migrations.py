"""The ledger's schema, as a list of steps that have been or will be taken in order.

A step that has been released is never edited; a change is a further step. Money is integer nano-dollars, instants are
integer Unix milliseconds, booleans are 0 and 1.
"""

from typing import Any

from sqlite_utils import Migrations

migrations = Migrations("pool_mcp")

_FIRST = """
CREATE TABLE asks (
    ask_id TEXT PRIMARY KEY,
    caller TEXT NOT NULL,
    idempotency_key TEXT,
    fingerprint TEXT NOT NULL,          -- of the arguments, so that a key is not used for two different asks
    created_at_ms INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX asks_by_key ON asks (caller, idempotency_key) WHERE idempotency_key IS NOT NULL;

CREATE TABLE runs (
    run_id TEXT PRIMARY KEY,
    ask_id TEXT NOT NULL REFERENCES asks,
    subscription TEXT NOT NULL,
    session_id TEXT NOT NULL,
    resumed INTEGER NOT NULL,
    caller TEXT NOT NULL,
    model TEXT,                         -- as asked for; NULL is the CLI's default
    state TEXT NOT NULL CHECK (state IN ('reserved', 'running', 'settled', 'interrupted', 'failed')),
    outcome TEXT,
    message TEXT,
    owner_id TEXT NOT NULL,             -- the process that is in charge; alive while it holds its lock
    background INTEGER NOT NULL,
    cancel_requested INTEGER NOT NULL DEFAULT 0,
    structured INTEGER NOT NULL,
    created_at_ms INTEGER NOT NULL,
    started_at_ms INTEGER,
    ended_at_ms INTEGER,
    deadline_ms INTEGER NOT NULL,
    reserved_nanousd INTEGER NOT NULL,
    max_budget_nanousd INTEGER,
    baseline_json TEXT,                 -- what the CLI had booked on this session before the run
    cli_version TEXT,
    retry_at_ms INTEGER
) STRICT;
CREATE INDEX runs_by_ask ON runs (ask_id, created_at_ms);
CREATE INDEX runs_by_subscription ON runs (subscription, created_at_ms);
CREATE INDEX runs_by_model ON runs (subscription, model, ended_at_ms) WHERE state = 'settled';
CREATE INDEX runs_unfinished ON runs (subscription) WHERE state IN ('reserved', 'running');

CREATE TABLE sessions (
    session_id TEXT PRIMARY KEY,
    subscription TEXT NOT NULL,         -- for ever: the CLI finds a session only in its own config dir
    created_at_ms INTEGER NOT NULL,
    last_used_at_ms INTEGER NOT NULL
) STRICT;

CREATE TABLE entries (
    entry_id INTEGER PRIMARY KEY,
    kind TEXT NOT NULL CHECK (kind IN ('run', 'call', 'adjustment')),
    run_id TEXT UNIQUE REFERENCES runs,
    at_ms INTEGER NOT NULL,
    block_start_ms INTEGER NOT NULL,    -- of the UTC grid
    subscription TEXT NOT NULL,
    session_id TEXT,
    caller TEXT NOT NULL,
    source TEXT NOT NULL,               -- pool, transcript or reconciliation
    cost_nanousd INTEGER NOT NULL,
    is_estimate INTEGER NOT NULL,
    note TEXT
) STRICT;
CREATE INDEX entries_by_subscription ON entries (subscription, at_ms, cost_nanousd);
CREATE INDEX entries_by_caller ON entries (caller, at_ms, cost_nanousd);
CREATE INDEX entries_by_session ON entries (session_id) WHERE session_id IS NOT NULL;
CREATE TRIGGER entries_are_never_changed BEFORE UPDATE ON entries
BEGIN SELECT RAISE(ABORT, 'entries are never changed; book a further one'); END;

CREATE TABLE entry_models (
    entry_id INTEGER NOT NULL REFERENCES entries ON DELETE CASCADE,
    model TEXT NOT NULL,
    input_tokens INTEGER NOT NULL,
    output_tokens INTEGER NOT NULL,
    cache_creation_5m_tokens INTEGER NOT NULL,
    cache_creation_1h_tokens INTEGER NOT NULL,
    cache_read_tokens INTEGER NOT NULL,
    web_search_requests INTEGER NOT NULL,
    cost_nanousd INTEGER,               -- NULL: no price is known
    PRIMARY KEY (entry_id, model)
) STRICT, WITHOUT ROWID;

CREATE TABLE hours (                    -- sums of entries, kept in the transaction that books them
    subscription TEXT NOT NULL,
    hour_ms INTEGER NOT NULL,
    caller TEXT NOT NULL,
    model TEXT NOT NULL,
    source TEXT NOT NULL,
    calls INTEGER NOT NULL,
    unpriced_calls INTEGER NOT NULL,
    input_tokens INTEGER NOT NULL,
    output_tokens INTEGER NOT NULL,
    cache_creation_tokens INTEGER NOT NULL,
    cache_read_tokens INTEGER NOT NULL,
    cost_nanousd INTEGER NOT NULL,
    estimated_nanousd INTEGER NOT NULL, -- the part of cost_nanousd that is only a floor
    PRIMARY KEY (subscription, hour_ms, caller, model, source)
) STRICT, WITHOUT ROWID;
CREATE INDEX hours_by_caller ON hours (caller, hour_ms, cost_nanousd);

CREATE TABLE official_windows (         -- the newest reading of each
    subscription TEXT NOT NULL,
    window TEXT NOT NULL,
    percent REAL,
    resets_at_ms INTEGER,
    status TEXT NOT NULL,
    observed_at_ms INTEGER NOT NULL,
    PRIMARY KEY (subscription, window)
) STRICT, WITHOUT ROWID;

CREATE TABLE official_readings (        -- every reading that said something new
    subscription TEXT NOT NULL,
    window TEXT NOT NULL,
    observed_at_ms INTEGER NOT NULL,
    percent REAL,
    resets_at_ms INTEGER,
    status TEXT NOT NULL,
    PRIMARY KEY (subscription, window, observed_at_ms)
) STRICT, WITHOUT ROWID;

CREATE TABLE cooldowns (
    cooldown_id INTEGER PRIMARY KEY,
    subscription TEXT NOT NULL,
    cause TEXT NOT NULL,
    detail TEXT NOT NULL,
    run_id TEXT,
    since_ms INTEGER NOT NULL,
    until_ms INTEGER,                   -- NULL: until a person acts
    lifted_at_ms INTEGER,
    lifted_by TEXT
) STRICT;
CREATE INDEX cooldowns_open ON cooldowns (subscription, since_ms) WHERE lifted_at_ms IS NULL;
"""


@migrations()
def m001_first(db: Any) -> None:
    """Asks, runs, sessions, entries with their sums, official windows and cooldowns."""
    for statement in _statements(_FIRST):
        db.execute(statement)


def _statements(script: str) -> list[str]:
    """Split a script; ``executescript`` would commit the transaction that the migration runs in."""
    import sqlite3

    statements, buffer = [], ""
    for line in script.splitlines(keepends=True):
        buffer += line
        if sqlite3.complete_statement(buffer):
            statements.append(buffer)
            buffer = ""
    return statements
