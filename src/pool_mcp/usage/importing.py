"""The story of an import: what was spent outside the pool, read from the CLI's transcripts into the ledger.

Every transcript that has changed is read on from where the last import left it; each call is priced by the list of its
day; and what is new is booked, some thousand calls to a transaction, so that other processes never wait long. Running
an import again, after a crash or beside a run, never books a call twice: the ledger knows every call it has.
"""

import math
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from pool_mcp.accounting.pricing import price_nanousd, price_of_counts
from pool_mcp.claude import sessions, transcripts
from pool_mcp.claude.cost import session_cost
from pool_mcp.claude.transcripts import ReadPosition, TranscriptFile
from pool_mcp.ledger.imports import FileState, ImportChunk, PricedRow, Tally
from pool_mcp.ledger.ledger import Ledger
from pool_mcp.model import DAY_MS, HOUR_MS, Run, Tokens
from pool_mcp.system import locks
from pool_mcp.system.repositories import branch_name, repository_of
from pool_mcp.usage import transcript_reader
from pool_mcp.usage.transcript_reader import CallRow, FileChunk


@dataclass(frozen=True, slots=True)
class Pace:
    """How much is read at a time, and how much is booked in one transaction, which others have to wait for."""

    block_bytes: int
    batch_bytes: int
    batch_calls: int
    apart_bytes: float
    """From how much on a process of its own does the reading."""
    batch_files: int = 1000


BRISK = Pace(block_bytes=1 << 20, batch_bytes=64 << 20, batch_calls=4000, apart_bytes=64 << 20)
"""A transaction takes about 60 ms."""
SHORT = Pace(block_bytes=1 << 20, batch_bytes=4 << 20, batch_calls=1000, apart_bytes=math.inf)
"""Some tens of milliseconds of work, after which a command can say that it has waited long enough."""
QUIET = Pace(block_bytes=1 << 19, batch_bytes=1 << 19, batch_calls=500, apart_bytes=math.inf)
"""A few milliseconds of work, after which a server can do other things, or stop."""


@dataclass(frozen=True, slots=True)
class Source:
    """A subscription and the config dir in which the CLI keeps its transcripts."""

    subscription: str
    config_dir: Path


@dataclass(slots=True)
class Imported:
    """What an import has done so far."""

    files: int = 0
    files_read: int = 0
    files_waiting: int = 0
    files_unreadable: int = 0
    unreadable: list[str] = field(default_factory=list)
    """What could not be read, by its path."""
    bytes: int = 0
    bytes_read: int = 0
    malformed_lines: int = 0
    new_calls: int = 0
    known_calls: int = 0
    run_calls: int = 0
    corrected_calls: int = 0
    unpriced_calls: int = 0
    accounts: int = 0
    """Sessions of which the CLI's own account has more than its answers show."""
    cost_nanousd: int = 0

    def add(self, tally: Tally) -> None:
        """Count what became of a batch."""
        self.new_calls += tally.new
        self.known_calls += tally.known
        self.run_calls += tally.covered
        self.corrected_calls += tally.corrected
        self.unpriced_calls += tally.unpriced
        self.cost_nanousd += tally.cost_nanousd


class Importer:
    """Imports into one ledger; several processes may have one each, of which one at a time works."""

    def __init__(
        self,
        ledger: Ledger,
        sources: Sequence[Source],
        shown: Callable[[Run], Iterable[str]],
        clock: Callable[[], int],
    ) -> None:
        """``shown`` gives the message ids that the stream of an unfinished run shows so far."""
        self._ledger = ledger
        self._sources = sources
        self._shown = shown
        self._clock = clock
        self._first_run_ms: int | None = None
        self._project_of: Callable[[str], str | None] = _project_of

    def run(self, pace: Pace = BRISK, go_on: Callable[[Imported], bool] = lambda _: True) -> Imported | None:
        """Import all that is new; None where another process is importing.

        After every batch ``go_on`` hears what has been done so far, may wait, and may say that the import is to end
        here: the next one goes on from there.
        """
        with locks.try_lock(self._ledger.path.parent / "import.lock") as is_mine:
            return self._import(pace, go_on) if is_mine else None

    def _import(self, pace: Pace, go_on: Callable[[Imported], bool]) -> Imported:
        self._project_of = lru_cache(maxsize=1024)(_project_of)
        changed, files, unreadable = self._changed()
        done = Imported(files=files, files_unreadable=len(unreadable), unreadable=unreadable)
        done.bytes = sum(max(0, one.file.size - one.position.offset) for one in changed)
        batch: list[FileChunk] = []
        calls = read_bytes = 0
        waiting: set[str] = set()
        tasks = [(one.file.path, one.position) for one in changed]
        with transcript_reader.read_files(tasks, pace.block_bytes, apart=done.bytes >= pace.apart_bytes) as chunks:
            for chunk in chunks:
                done.files_read += chunk.is_last
                if chunk.is_unreadable:
                    done.files_unreadable += 1
                    done.unreadable.append(_text(changed[chunk.number].file.path))
                done.bytes_read += chunk.read_bytes
                done.malformed_lines += chunk.malformed
                if _text(changed[chunk.number].file.path) in waiting:
                    continue
                batch.append(chunk)
                calls += len(chunk.calls)
                read_bytes += chunk.read_bytes
                if calls >= pace.batch_calls or read_bytes >= pace.batch_bytes or len(batch) >= pace.batch_files:
                    waiting |= self._book(changed, batch, done)
                    batch, calls, read_bytes = [], 0, 0
                    if not go_on(done):
                        return done
        waiting |= self._book(changed, batch, done)
        for one in changed:
            if not one.file.is_subagent and _text(one.file.path) not in waiting:
                self._book_account(one, done)
        done.files_waiting = len(waiting)
        go_on(done)
        return done

    def _changed(self) -> tuple[list["_Changed"], int, list[str]]:
        """The transcripts that are new or have changed, how many there are in all, and what cannot be read."""
        with self._ledger.read() as tx:
            seen = tx.imports.seen()
        changed: list[_Changed] = []
        files = 0
        unreadable: list[str] = []
        for source in _distinct(self._sources):
            walk = transcripts.walk(source.config_dir, seen)
            files += walk.count
            unreadable += walk.unreadable
            with self._ledger.read() as tx:
                marks = tx.imports.marks(_text(file.path) for file in walk.found)
            changed += [
                _Changed(source.subscription, file, ReadPosition(*marks.get(_text(file.path), ())))
                for file in walk.found
            ]
        # As they were written: calls of one time stand side by side in the ledger's indexes, which takes a sixth off
        # the time of booking, and what a fork copied is first found in its parent.
        changed.sort(key=lambda one: one.file.modified_ns)
        return changed, files, list(map(_text, unreadable))

    def _book(self, changed: Sequence["_Changed"], batch: Sequence[FileChunk], done: Imported) -> set[str]:
        """Book what was read; the paths, as the ledger has them, of transcripts that have to wait for a run to end."""
        # Asked after the transcripts were read: whoever made a call that stands in them is known by now.
        with self._ledger.read() as tx:
            if self._first_run_ms is None:
                self._first_run_ms = tx.imports.first_run_ms(self._clock())
            unfinished = [run for run in tx.runs.unfinished() if run.machine_id == tx.machines.mine]
            with_runs = tx.imports.sessions_with_runs({_text(changed[chunk.number].file.session_id) for chunk in batch})
        latest_ms = max((call[2] for chunk in batch for call in chunk.calls), default=0)
        in_flight = {
            transcripts.message_key(message_id)
            for run in unfinished
            if latest_ms >= run.created_at_ms - _CLOCK_MARGIN_MS
            for message_id in self._shown(run)
        }
        since_ms = math.inf if self._first_run_ms is None else self._first_run_ms - _CLOCK_MARGIN_MS
        message_keys = {
            call[0]: transcripts.message_key(call[1])
            for chunk in batch
            for is_of_runs in (_text(changed[chunk.number].file.session_id) in with_runs,)
            for call in chunk.calls
            if is_of_runs or call[2] >= since_ms
        }
        found = [_import_chunk(changed[chunk.number], chunk, self._clock(), self._project_of) for chunk in batch]
        with self._ledger.write() as tx:
            tally = tx.imports.book(found, message_keys, in_flight)
        done.add(tally)
        return tally.waiting

    def _book_account(self, one: "_Changed", done: Imported) -> None:
        """Book what the CLI's own account of a session has beyond its answers: compaction, titles, web search.

        What a fork carried over from its original is not the fork's.
        """
        account = sessions.read_account(Path(one.file.path))
        if account is None:
            return
        chunks = transcripts.read_calls(one.file.path, ReadPosition())
        keys = [call.key for chunk in chunks for call in chunk.calls]
        at_ms = min(account.at_ms or self._clock(), self._clock())

        def price(model: str, tokens: Tokens) -> int | None:
            return price_nanousd(model, tokens, at_ms)

        with self._ledger.write() as tx:
            booked = tx.imports.book_account(
                _text(one.file.session_id), one.subscription, session_cost(account.cost_state), at_ms, keys, price
            )
        done.accounts += bool(booked)
        done.cost_nanousd += booked


_CLOCK_MARGIN_MS = DAY_MS
"""How far the system's clock may have been set back since a run began, for runs whose calls a fork has copied."""
_AHEAD_MS = HOUR_MS
"""A call that is dated further ahead than this is dated by a clock that was wrong."""


class _Changed(NamedTuple):
    """A transcript that is new or has changed, and how far it has been read."""

    subscription: str
    file: TranscriptFile
    position: ReadPosition


def _import_chunk(
    changed: _Changed, chunk: FileChunk, now_ms: int, project_of: Callable[[str], str | None]
) -> ImportChunk:
    """A chunk as the ledger takes it. What is dated ahead of the clock counts as made now."""
    file = changed.file
    if chunk.is_last and not chunk.is_unreadable:
        state = FileState(file.device, file.inode, file.size, file.modified_ns, chunk.offset, chunk.digest)
    else:  # whoever finds this state, after a crash, is to see a file that has changed
        state = FileState(file.device, file.inode, 0, 0, chunk.offset, chunk.digest)
    return ImportChunk(
        path=_text(file.path),
        subscription=changed.subscription,
        session_id=_text(file.session_id),
        is_subagent=file.is_subagent,
        calls=[
            _priced(call if call[2] <= now_ms + _AHEAD_MS else _dated(call, now_ms), project_of) for call in chunk.calls
        ],
        state=state,
    )


def _priced(call: CallRow, project_of: Callable[[str], str | None]) -> PricedRow:
    key, _, at_ms, model, tokens, fast, us_only, working_dir, branch = call
    price = price_of_counts(model, tokens, at_ms, fast=fast, us_only=us_only)
    return (key, at_ms, model, *tokens, price, project_of(working_dir), branch_name(branch))


def _project_of(working_dir: str) -> str | None:
    return repository_of(working_dir).project if working_dir else None


def _dated(call: CallRow, at_ms: int) -> CallRow:
    return (*call[:2], at_ms, *call[3:])


def _text(name: str) -> str:
    """A file's name as the ledger can keep it; names that are not UTF-8 have no other form."""
    return name if name.isascii() else os.fsencode(name).decode(errors="backslashreplace")


def _distinct(sources: Iterable[Source]) -> list[Source]:
    """Without those whose config dir is another's by a different name: what it holds is the first one's."""
    seen: dict[Path, Source] = {}
    for source in sources:
        seen.setdefault(source.config_dir.resolve(), source)
    return list(seen.values())
