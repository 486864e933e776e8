"""The ledger's side of an import: which transcripts have been read how far, and which call is in which entry.

Used only inside a transaction. A call is known by its key for ever, also when its transcript or, by retention, its
entry is gone. Which calls are a run's: those that its own stream showed, wherever they turn up; and of those in its
session's transcripts, by their time, its subagents' (which no stream shows) and, where its stream was lost, all.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Final, NamedTuple

from pool_mcp.accounting.pricing import price_of_counts
from pool_mcp.choosing.windows import grid_block
from pool_mcp.ledger.entries import ADD_MODEL, ADD_TO_HOUR, INSERT_ENTRY, Entry, add_entry
from pool_mcp.ledger.lists import rows_among
from pool_mcp.ledger.sql import Connection
from pool_mcp.model import CLOCK_SLACK_MS, HOUR_MS, Cost, ModelCost, Tokens

CALLER = "outside"
"""Who made the calls that no run made."""
SOURCE = "transcript"


class FileState(NamedTuple):
    """A transcript as it was when it was last read, how far that went, and a digest of what stands just before."""

    device: int
    inode: int
    size: int
    modified_ns: int
    offset: int
    digest: int


PricedRow = tuple[int, int, str, int, int, int, int, int, int, int | None, str | None, str | None]
"""A :class:`PricedCall` without its names: to make an object of each would add a twentieth to an import."""


class PricedCall(NamedTuple):
    """An API call that a transcript shows; ``cost_nanousd`` is None where no price is known."""

    key: int
    at_ms: int
    model: str
    input: int
    output: int
    cache_creation_5m: int
    cache_creation_1h: int
    cache_read: int
    web_search_requests: int
    cost_nanousd: int | None
    project: str | None
    branch: str | None

    @property
    def cost(self) -> ModelCost:
        """What was used, and for how much."""
        return ModelCost(Tokens(*self[3:9]), self.cost_nanousd)


_KEY: Final = 0
_AT_MS: Final = 1
_OUTPUT: Final = 4
_COST: Final = 9


@dataclass(frozen=True, slots=True)
class ImportChunk:
    """What a stretch of one transcript shows, and the file's state once that is booked."""

    path: str
    subscription: str
    session_id: str
    is_subagent: bool
    calls: Sequence[PricedRow]
    state: FileState


@dataclass(slots=True)
class Tally:
    """What became of the calls that were found."""

    new: int = 0
    known: int = 0
    covered: int = 0
    corrected: int = 0
    unpriced: int = 0
    cost_nanousd: int = 0
    waiting: set[str] = field(default_factory=set)
    """Transcripts of sessions on which a run is in flight: not taken in, to be read again once it is booked."""


@dataclass(frozen=True, slots=True)
class _RunSpan:
    """When a run was at work on a session."""

    entry_id: int
    starts_at_ms: int
    ends_at_ms: int
    is_lost: bool
    """Whether none of its calls is known by its stream."""


class Imports:
    """Reads and writes within the transaction that is open."""

    def __init__(self, conn: Connection, machine_id: str) -> None:
        self._conn = conn
        self._machine_id = machine_id
        self._adjusted_nanousd = 0

    def seen(self) -> set[tuple[int, int, int, int]]:
        """Device, inode, size and time of change (ns) of every transcript that has been read to its end."""
        sql = "SELECT device, inode, size, modified_ns FROM transcript_files WHERE machine_id = ?"
        return set(self._conn.execute(sql, (self._machine_id,)))

    def marks(self, paths: Iterable[str]) -> dict[str, tuple[int, int]]:
        """How far transcripts have been read, with the digest, of those paths that are known."""
        rows = rows_among(
            self._conn,
            "SELECT path, offset, digest FROM transcript_files WHERE path IN ({marks}) AND machine_id = ?",
            paths,
            self._machine_id,
        )
        return {path: (offset, digest) for path, offset, digest in rows}

    def first_run_ms(self, now_ms: int) -> int | None:
        """When the pool's first run was placed, None before it; no earlier call can be a run's.

        The beginning of all time where a wrong clock has dated that run ahead of now.
        """
        (first,) = self._conn.execute("SELECT min(created_at_ms) FROM runs").fetchone()
        return first if first is None or first <= now_ms + CLOCK_SLACK_MS else 0

    def sessions_with_runs(self, session_ids: Iterable[str]) -> set[str]:
        """Which sessions the pool has had a run on."""
        rows = rows_among(
            self._conn, "SELECT DISTINCT session_id FROM runs WHERE session_id IN ({marks})", sorted(session_ids)
        )
        return {session for (session,) in rows}

    def keep_calls_of_run(self, entry_id: int, message_keys: Iterable[int]) -> None:
        """Note which calls a run's entry covers."""
        self._conn.executemany(
            "INSERT INTO run_calls VALUES (?, ?) ON CONFLICT (message_key) DO NOTHING",
            ((key, entry_id) for key in message_keys),
        )

    def book(
        self, chunks: Sequence[ImportChunk], message_keys: Mapping[int, int], in_flight: AbstractSet[int]
    ) -> Tally:
        """Book every call that is neither known nor a run's; note how far the transcripts have been read.

        ``message_keys`` are those of the calls, by their keys, that a run may have made. ``in_flight`` are those that
        the streams of unfinished runs show, read after the transcripts were.
        """
        tally, adjusted_before = Tally(), self._adjusted_nanousd
        busy = {session for (session,) in self._conn.execute(_BUSY_SESSIONS)}
        taken = [chunk for chunk in chunks if chunk.session_id not in busy]
        tally.waiting = {chunk.path for chunk in chunks if chunk.session_id in busy}
        calls: dict[int, tuple[PricedRow, ImportChunk]] = {}
        for chunk in taken:
            for call in chunk.calls:
                before = calls.get(call[_KEY])
                if before is None:
                    calls[call[_KEY]] = (call, chunk)
                else:
                    tally.known += 1
                    if call[_OUTPUT] > before[0][_OUTPUT]:
                        calls[call[_KEY]] = (call, before[1])
        known = self._known(calls)
        covering = self._covering(calls, known, message_keys)
        not_new = known.keys() | covering.keys() | {key for key, of in message_keys.items() if of in in_flight}
        for key in not_new and [key for key in calls if key in not_new]:
            call = PricedCall._make(calls.pop(key)[0])
            if key in known:
                tally.known += 1
                entry_id, output = known[key]
                if call.output > output:
                    tally.corrected += self._correct(call, entry_id, output)
            else:
                tally.covered += 1
                if key in covering:
                    self._cover(call, covering[key])
        self._insert(list(calls.values()))
        tally.new = len(calls)
        costs = [call[_COST] for call, _ in calls.values()]
        tally.unpriced = costs.count(None)
        tally.cost_nanousd = sum(filter(None, costs)) + self._adjusted_nanousd - adjusted_before
        self.keep_files([(chunk.path, chunk.state) for chunk in taken])
        return tally

    def keep_files(self, files: Iterable[tuple[str, FileState]]) -> None:
        """Note how far transcripts have been read."""
        self._conn.executemany(
            """
            INSERT INTO transcript_files VALUES (?, ?, ?, ?, ?, ?, ?, ?)
            ON CONFLICT (path, machine_id) DO UPDATE
            SET device = excluded.device, inode = excluded.inode, size = excluded.size,
                modified_ns = excluded.modified_ns, offset = excluded.offset, digest = excluded.digest
            """,
            ((path, self._machine_id, *state) for path, state in files),
        )

    def book_account(
        self,
        session_id: str,
        subscription: str,
        account: Cost,
        at_ms: int,
        keys: Sequence[int],
        price: Callable[[str, Tokens], int | None],
    ) -> int:
        """Book the tokens that the CLI's account of a session has beyond what is booked of it; the nano-dollars.

        ``keys`` are of the calls in the session's transcript: of those that are another session's it is a fork, which
        began with that one's account.
        """
        if (session_id,) in self._conn.execute(_BUSY_SESSIONS):
            return 0
        sessions = self._sessions_of(keys) | {session_id}
        models = {}
        for model, part in account.models.items():
            more = part.tokens.since(self._tokens_of(sessions, model))
            if more != Tokens():
                models[model] = ModelCost(more, price(model, more))
        if not models:
            return 0
        cost = Cost.of(models, is_estimate=True)
        note = f"session {session_id}: the CLI's own account has more than its answers show"
        repository = self._conn.execute(
            "SELECT project, branch FROM entries WHERE session_id = ? ORDER BY entry_id DESC LIMIT 1", (session_id,)
        ).fetchone()
        entry = Entry(
            "adjustment", at_ms, subscription, CALLER, SOURCE, cost, session_id, None, note, *repository or ()
        )
        add_entry(self._conn, replace(entry, machine_id=self._machine_id))
        return cost.nanousd

    def _sessions_of(self, keys: Sequence[int]) -> set[str]:
        """The sessions under which calls are booked."""
        rows = rows_among(
            self._conn,
            """
            SELECT DISTINCT session_id FROM transcript_calls JOIN entries USING (entry_id)
            WHERE call_key IN ({marks}) AND session_id IS NOT NULL
            """,
            sorted(set(keys)),
        )
        return {session for (session,) in rows}

    def _tokens_of(self, sessions: AbstractSet[str], model: str) -> Tokens:
        """All that is booked of sessions and one model."""
        names = ", ".join(f"coalesce(sum(m.{name}), 0)" for name in _AMOUNTS[:-1])
        sql = f"""
            SELECT {names} FROM entries JOIN entry_models m USING (entry_id)
            WHERE session_id IN ({{marks}}) AND model = ?
        """  # noqa: S608  (column names)
        return Tokens(*map(sum, zip(*rows_among(self._conn, sql, sorted(sessions), model), strict=True)))

    def _known(self, keys: Iterable[int]) -> dict[int, tuple[int, int]]:
        """The entry and the booked output tokens of every call that is known."""
        rows = rows_among(
            self._conn,
            "SELECT call_key, entry_id, output_tokens FROM transcript_calls WHERE call_key IN ({marks})",
            sorted(keys),
        )
        return {key: (entry_id, output) for key, entry_id, output in rows}

    def _covering(
        self,
        calls: dict[int, tuple[PricedRow, ImportChunk]],
        known: dict[int, tuple[int, int]],
        message_keys: Mapping[int, int],
    ) -> dict[int, int]:
        """The run's entry for every call, of those that are not known, that a run made."""
        asked = [key for key in message_keys if key in calls and key not in known]
        if not asked:
            return {}
        of_streams = dict(
            rows_among(
                self._conn,
                "SELECT message_key, entry_id FROM run_calls WHERE message_key IN ({marks})",
                sorted({message_keys[key] for key in asked}),
            )
        )
        spans = {session: _spans(self._conn, session) for session in {calls[key][1].session_id for key in asked}}
        covering: dict[int, int] = {}
        for key in asked:
            call, chunk = calls[key]
            entry_id = of_streams.get(message_keys[key])
            if entry_id is None:
                for span in spans[chunk.session_id]:
                    if (chunk.is_subagent or span.is_lost) and span.starts_at_ms <= call[_AT_MS] <= span.ends_at_ms:
                        entry_id = span.entry_id
            if entry_id is not None:
                covering[key] = entry_id
        return covering

    def _insert(self, new: Sequence[tuple[PricedRow, ImportChunk]]) -> None:
        """Give every call an entry of its own."""
        (last,) = self._conn.execute("SELECT coalesce(max(entry_id), 0) FROM entries").fetchone()
        entries, models, keys = [], [], []
        hours: dict[tuple[str, int, str], list[int]] = defaultdict(lambda: [0] * 7)
        for entry_id, (call, chunk) in enumerate(new, start=last + 1):
            key, at_ms, model, input_, output, creation_5m, creation_1h, read, searches, cost, *repository = call
            hour_ms = at_ms - at_ms % HOUR_MS
            whose = (chunk.subscription, chunk.session_id, CALLER, SOURCE)
            entries.append(
                (
                    entry_id,
                    "call",
                    None,
                    at_ms,
                    _block_of_hour(hour_ms),
                    *whose,
                    cost or 0,
                    0,
                    None,
                    *repository,
                    self._machine_id,
                )
            )
            models.append((entry_id, model, input_, output, creation_5m, creation_1h, read, searches, cost))
            keys.append((key, entry_id, output))
            sums = hours[chunk.subscription, hour_ms, model]
            sums[0] += 1
            sums[1] += cost is None
            sums[2] += input_
            sums[3] += output
            sums[4] += creation_5m + creation_1h
            sums[5] += read
            sums[6] += cost or 0
        self._conn.executemany(INSERT_ENTRY, entries)
        self._conn.executemany(ADD_MODEL, models)
        keys.sort()
        self._conn.executemany("INSERT INTO transcript_calls VALUES (?, ?, ?)", keys)
        self._conn.executemany(
            ADD_TO_HOUR,
            (
                (subscription, hour_ms, CALLER, model, SOURCE, *sums, 0)
                for (subscription, hour_ms, model), sums in hours.items()
            ),
        )

    def _correct(self, call: PricedCall, entry_id: int, output: int) -> bool:
        """A later line of a known call told more: book that, unless a run's entry has the call, which knows better."""
        self._conn.execute("UPDATE transcript_calls SET output_tokens = ? WHERE call_key = ?", (call.output, call.key))
        row = self._conn.execute("SELECT kind, is_estimate FROM entries WHERE entry_id = ?", (entry_id,)).fetchone()
        if row is None:  # removed by retention
            return False
        kind, is_estimate = row
        if kind == "call":
            return self._book_rest(entry_id, call.model, call.cost, "a later line told more", is_estimate=False)
        if is_estimate:
            more = Tokens(output=call.output - output)
            nanousd = price_of_counts(call.model, more.counts, call.at_ms, fast=False, us_only=False)
            self._show(entry_id, call.model, ModelCost(more, nanousd))
        return False

    def _cover(self, call: PricedCall, entry_id: int) -> None:
        """Note that a run's entry has a call; where the entry is an estimate, the transcript may show more of it."""
        self._conn.execute("INSERT INTO transcript_calls VALUES (?, ?, ?)", (call.key, entry_id, call.output))
        (is_estimate,) = self._conn.execute(
            "SELECT is_estimate FROM entries WHERE entry_id = ?", (entry_id,)
        ).fetchone() or (False,)
        if is_estimate:
            self._show(entry_id, call.model, call.cost)

    def _show(self, entry_id: int, model: str, part: ModelCost) -> None:
        """Add to what transcripts show of a run whose entry is a floor, and book it where that is more."""
        self._conn.execute(
            f"""
            INSERT INTO run_transcripts VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
            ON CONFLICT (entry_id, model) DO UPDATE
            SET {", ".join(f"{name} = run_transcripts.{name} + excluded.{name}" for name in _AMOUNTS)}
            """,  # noqa: S608  (column names)
            (entry_id, model, *part.tokens.counts, part.cost_nanousd or 0),
        )
        *tokens, nanousd = self._conn.execute(
            f"SELECT {', '.join(_AMOUNTS)} FROM run_transcripts WHERE entry_id = ? AND model = ?",  # noqa: S608
            (entry_id, model),
        ).fetchone()
        shown = ModelCost(Tokens(*tokens), nanousd)
        self._book_rest(entry_id, model, shown, "the transcript of the cut run shows more", is_estimate=True)

    def _book_rest(self, entry_id: int, model: str, shown: ModelCost, why: str, *, is_estimate: bool) -> bool:
        """Book what an entry, with what was added to it before, lacks of what was shown; False where it lacks none."""
        note = f"entry {entry_id}: {why}"
        *tokens, nanousd = self._conn.execute(
            f"""
            SELECT {", ".join(f"coalesce(sum(m.{name}), 0)" for name in _AMOUNTS)}
            FROM entries JOIN entry_models m USING (entry_id)
            WHERE model = ? AND (entry_id = ? OR note = ? AND session_id =
                (SELECT session_id FROM entries WHERE entry_id = ?))
            """,  # noqa: S608  (column names)
            (model, entry_id, note, entry_id),
        ).fetchone()
        lacking = (shown.cost_nanousd or 0) - nanousd
        more = shown.tokens.since(Tokens(*tokens))
        if lacking < 0 or (lacking == 0 and (is_estimate or more == Tokens())):
            return False
        self._adjust(
            entry_id,
            model,
            ModelCost(more, None if shown.cost_nanousd is None else lacking),
            note,
            is_estimate=is_estimate,
        )
        return True

    def _adjust(self, entry_id: int, model: str, more: ModelCost, note: str, *, is_estimate: bool) -> None:
        """Book what an entry lacks, under its own subscription, session, caller and time."""
        at_ms, subscription, session_id, caller, *repository = self._conn.execute(
            "SELECT at_ms, subscription, session_id, caller, project, branch FROM entries WHERE entry_id = ?",
            (entry_id,),
        ).fetchone()
        cost = Cost(more.cost_nanousd or 0, {model: more}, is_estimate)
        self._adjusted_nanousd += cost.nanousd
        entry = Entry("adjustment", at_ms, subscription, caller, SOURCE, cost, session_id, None, note, *repository)
        add_entry(self._conn, replace(entry, machine_id=self._machine_id))


_BUSY_SESSIONS = "SELECT session_id FROM unfinished_runs"

_AMOUNTS = (
    "input_tokens",
    "output_tokens",
    "cache_creation_5m_tokens",
    "cache_creation_1h_tokens",
    "cache_read_tokens",
    "web_search_requests",
    "cost_nanousd",
)


def _spans(conn: Connection, session_id: str) -> list[_RunSpan]:
    # A run that began its session has all before its end: that its calls are dated before it is a clock's fault.
    rows = conn.execute(
        """
        SELECT entry_id, CASE WHEN resumed = 1 THEN started_at_ms ELSE 0 END, ended_at_ms,
            NOT EXISTS (SELECT 1 FROM run_calls WHERE run_calls.entry_id = entries.entry_id)
        FROM runs JOIN entries USING (run_id) WHERE runs.session_id = ? AND started_at_ms IS NOT NULL
        """,
        (session_id,),
    )
    return [_RunSpan(entry_id, begin, end, bool(is_lost)) for entry_id, begin, end, is_lost in rows]


@lru_cache(maxsize=8192)
def _block_of_hour(hour_ms: int) -> int:
    return grid_block(hour_ms).starts_at_ms
