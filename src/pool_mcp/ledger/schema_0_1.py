"""The first steps of the ledger's schema, up to that of 0.1.0; see :mod:`~pool_mcp.ledger.migrations`."""

FIRST = """
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


SUBSCRIPTION_HOURS = """
CREATE TABLE subscription_hours (       -- sums of hours; kept by triggers, so that whatever books an hour books this
    subscription TEXT NOT NULL,
    hour_ms INTEGER NOT NULL,
    calls INTEGER NOT NULL,
    unpriced_calls INTEGER NOT NULL,
    input_tokens INTEGER NOT NULL,
    output_tokens INTEGER NOT NULL,
    cache_creation_tokens INTEGER NOT NULL,
    cache_read_tokens INTEGER NOT NULL,
    cost_nanousd INTEGER NOT NULL,
    PRIMARY KEY (subscription, hour_ms)
) STRICT, WITHOUT ROWID;
INSERT INTO subscription_hours
SELECT subscription, hour_ms, sum(calls), sum(unpriced_calls), sum(input_tokens), sum(output_tokens),
    sum(cache_creation_tokens), sum(cache_read_tokens), sum(cost_nanousd)
FROM hours GROUP BY subscription, hour_ms;
CREATE TRIGGER hours_are_summed_when_added AFTER INSERT ON hours
BEGIN
    INSERT INTO subscription_hours VALUES (NEW.subscription, NEW.hour_ms, NEW.calls, NEW.unpriced_calls,
        NEW.input_tokens, NEW.output_tokens, NEW.cache_creation_tokens, NEW.cache_read_tokens, NEW.cost_nanousd)
    ON CONFLICT DO UPDATE SET
        calls = calls + excluded.calls,
        unpriced_calls = unpriced_calls + excluded.unpriced_calls,
        input_tokens = input_tokens + excluded.input_tokens,
        output_tokens = output_tokens + excluded.output_tokens,
        cache_creation_tokens = cache_creation_tokens + excluded.cache_creation_tokens,
        cache_read_tokens = cache_read_tokens + excluded.cache_read_tokens,
        cost_nanousd = cost_nanousd + excluded.cost_nanousd;
END;
CREATE TRIGGER hours_are_summed_when_changed AFTER UPDATE ON hours
BEGIN
    UPDATE subscription_hours SET
        calls = calls + NEW.calls - OLD.calls,
        unpriced_calls = unpriced_calls + NEW.unpriced_calls - OLD.unpriced_calls,
        input_tokens = input_tokens + NEW.input_tokens - OLD.input_tokens,
        output_tokens = output_tokens + NEW.output_tokens - OLD.output_tokens,
        cache_creation_tokens = cache_creation_tokens + NEW.cache_creation_tokens - OLD.cache_creation_tokens,
        cache_read_tokens = cache_read_tokens + NEW.cache_read_tokens - OLD.cache_read_tokens,
        cost_nanousd = cost_nanousd + NEW.cost_nanousd - OLD.cost_nanousd
    WHERE subscription = NEW.subscription AND hour_ms = NEW.hour_ms;
END;
CREATE TRIGGER hours_are_summed_when_removed AFTER DELETE ON hours
BEGIN
    UPDATE subscription_hours SET
        calls = calls - OLD.calls,
        unpriced_calls = unpriced_calls - OLD.unpriced_calls,
        input_tokens = input_tokens - OLD.input_tokens,
        output_tokens = output_tokens - OLD.output_tokens,
        cache_creation_tokens = cache_creation_tokens - OLD.cache_creation_tokens,
        cache_read_tokens = cache_read_tokens - OLD.cache_read_tokens,
        cost_nanousd = cost_nanousd - OLD.cost_nanousd
    WHERE subscription = OLD.subscription AND hour_ms = OLD.hour_ms;
END;
"""


CHOOSING = """
CREATE TABLE logins (                   -- what `claude auth status` last said
    subscription TEXT PRIMARY KEY,
    organisation TEXT,                  -- subscriptions of one organisation share one quota
    signed_in INTEGER NOT NULL,
    checked_at_ms INTEGER NOT NULL
) STRICT;

CREATE TABLE alerts (                   -- each is told once, by whichever process comes first
    key TEXT PRIMARY KEY,
    kind TEXT NOT NULL,
    subscription TEXT NOT NULL,
    message TEXT NOT NULL,
    at_ms INTEGER NOT NULL,
    until_ms INTEGER NOT NULL
) STRICT;

CREATE TABLE leases (                   -- what only one process at a time does
    name TEXT PRIMARY KEY,
    until_ms INTEGER NOT NULL
) STRICT;
"""


IMPORTS = """
CREATE TABLE transcript_files (         -- what has been read of the CLI's transcripts
    path TEXT PRIMARY KEY,
    device INTEGER NOT NULL,
    inode INTEGER NOT NULL,
    size INTEGER NOT NULL,              -- when it was last looked at
    modified_ns INTEGER NOT NULL,
    offset INTEGER NOT NULL,            -- where reading goes on
    digest INTEGER NOT NULL             -- of the bytes before, by which a rewritten file is told
) STRICT, WITHOUT ROWID;

CREATE TABLE transcript_calls (         -- every call that a transcript has shown; outlives transcript and entry
    call_key INTEGER PRIMARY KEY,       -- of its message id and request id
    entry_id INTEGER NOT NULL,          -- the entry that it is in: its own, or a run's
    output_tokens INTEGER NOT NULL      -- as far as they are booked
) STRICT;

CREATE TABLE run_calls (                -- every call that a run's own stream has shown
    message_key INTEGER PRIMARY KEY,
    entry_id INTEGER NOT NULL           -- the run's
) STRICT;
CREATE INDEX run_calls_by_entry ON run_calls (entry_id);
CREATE INDEX runs_by_session ON runs (session_id);

CREATE TABLE run_transcripts (          -- what transcripts show of runs whose entries are estimates
    entry_id INTEGER NOT NULL,
    model TEXT NOT NULL,
    input_tokens INTEGER NOT NULL,
    output_tokens INTEGER NOT NULL,
    cache_creation_5m_tokens INTEGER NOT NULL,
    cache_creation_1h_tokens INTEGER NOT NULL,
    cache_read_tokens INTEGER NOT NULL,
    web_search_requests INTEGER NOT NULL,
    cost_nanousd INTEGER NOT NULL,
    PRIMARY KEY (entry_id, model)
) STRICT, WITHOUT ROWID;
"""


ORGANISATION = """
CREATE TABLE organisation_figures (     -- what the organisation's reports say; never spend of the ledger's
    report TEXT NOT NULL,
    starts_at_ms INTEGER NOT NULL,
    ends_at_ms INTEGER NOT NULL,
    key_id TEXT NOT NULL,               -- '' where it is not by key
    model TEXT NOT NULL,                -- '' where it is not by model
    detail TEXT NOT NULL,               -- what else tells a row from its neighbours, as JSON
    requests INTEGER,
    input_tokens INTEGER NOT NULL,
    output_tokens INTEGER NOT NULL,
    cache_creation_5m_tokens INTEGER NOT NULL,
    cache_creation_1h_tokens INTEGER NOT NULL,
    cache_read_tokens INTEGER NOT NULL,
    web_search_requests INTEGER NOT NULL,
    cost_nanousd INTEGER,               -- billed; NULL where the report does not say
    list_nanousd INTEGER,               -- at list price; NULL where the report does not say
    PRIMARY KEY (report, starts_at_ms, ends_at_ms, key_id, model, detail)
) STRICT, WITHOUT ROWID;
CREATE TABLE organisation_syncs (       -- which spans of which report were read, and when
    report TEXT NOT NULL,
    since_ms INTEGER NOT NULL,
    until_ms INTEGER NOT NULL,
    synced_at_ms INTEGER NOT NULL,
    refreshed_at_ms INTEGER             -- until when Anthropic said that its data went
) STRICT;
"""
