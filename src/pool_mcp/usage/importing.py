"""The story of an import: what was spent outside the pool, read from the CLI's transcripts into the ledger.

Every transcript that has changed is read on from where the last import left it; each call is priced by the list of its
day; and what is new is booked, some thousand calls to a transaction, so that other processes never wait long. Running
an import again, after a crash or beside a run, never books a call twice: the ledger knows every call it has.
"""

import math
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from pool_mcp.accounting.pricing import price_of_classes
from pool_mcp.claude import transcripts
from pool_mcp.claude.transcripts import Mark, Place
from pool_mcp.ledger.imports import Call, FileState, Found, Tally
from pool_mcp.ledger.ledger import Ledger
from pool_mcp.model import HOUR_MS, Run
from pool_mcp.system import locks
from pool_mcp.usage import transcript_reader
from pool_mcp.usage.transcript_reader import Seen, Stretch


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
    bytes: int = 0
    bytes_read: int = 0
    malformed_lines: int = 0
    new_calls: int = 0
    known_calls: int = 0
    run_calls: int = 0
    corrected_calls: int = 0
    unpriced_calls: int = 0
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

    def __init__(self, ledger: Ledger, sources: Sequence[Source], shown: Callable[[Run], Iterable[str]]) -> None:
        """``shown`` gives the message ids that the stream of an unfinished run shows so far."""
        self._ledger = ledger
        self._sources = sources
        self._shown = shown
        self._first_run_ms: int | None = None

    def run(self, pace: Pace = BRISK, go_on: Callable[[Imported], bool] = lambda _: True) -> Imported | None:
        """Import all that is new; None where another process is importing.

        After every batch ``go_on`` hears what has been done so far, may wait, and may say that the import is to end
        here: the next one goes on from there.
        """
        with locks.try_lock(self._ledger.path.parent / "import.lock") as is_mine:
            return self._import(pace, go_on) if is_mine else None

    def _import(self, pace: Pace, go_on: Callable[[Imported], bool]) -> Imported:
        changed, files = self._changed()
        done = Imported(files=files, bytes=sum(max(0, one.place.size - one.mark.offset) for one in changed))
        batch: list[Stretch] = []
        calls = read_bytes = 0
        waiting: set[str] = set()
        tasks = [(one.place.path, one.mark) for one in changed]
        with transcript_reader.stretches(tasks, pace.block_bytes, apart=done.bytes >= pace.apart_bytes) as stretches:
            for stretch in stretches:
                done.files_read += stretch.is_last
                done.files_unreadable += stretch.is_unreadable
                done.bytes_read += stretch.read_bytes
                done.malformed_lines += stretch.malformed
                if _text(changed[stretch.number].place.path) in waiting:
                    continue
                batch.append(stretch)
                calls += len(stretch.calls)
                read_bytes += stretch.read_bytes
                if calls >= pace.batch_calls or read_bytes >= pace.batch_bytes or len(batch) >= pace.batch_files:
                    waiting |= self._book(changed, batch, done)
                    batch, calls, read_bytes = [], 0, 0
                    if not go_on(done):
                        return done
        waiting |= self._book(changed, batch, done)
        done.files_waiting = len(waiting)
        go_on(done)
        return done

    def _changed(self) -> tuple[list["_Changed"], int]:
        """The transcripts that are new or have changed, and how many there are in all."""
        with self._ledger.read() as tx:
            seen = tx.imports.seen()
        changed: list[_Changed] = []
        files = 0
        for source in _distinct(self._sources):
            places, count = transcripts.walk(source.config_dir, seen)
            files += count
            with self._ledger.read() as tx:
                marks = tx.imports.marks(_text(place.path) for place in places)
            changed += [
                _Changed(source.subscription, place, Mark(*marks.get(_text(place.path), ()))) for place in places
            ]
        # As they were written: calls of one time stand side by side in the ledger's indexes, which takes a sixth off
        # the time of booking, and what a fork copied is first found in its parent.
        changed.sort(key=lambda one: one.place.modified_ns)
        return changed, files

    def _book(self, changed: Sequence["_Changed"], batch: Sequence[Stretch], done: Imported) -> set[str]:
        """Book what was read; the paths, as the ledger has them, of transcripts that have to wait for a run to end."""
        # Asked after the transcripts were read: whoever made a call that stands in them is known by now.
        with self._ledger.read() as tx:
            if self._first_run_ms is None:
                self._first_run_ms = tx.imports.first_run_ms()
            unfinished = tx.unfinished()
        latest_ms = max((call[2] for stretch in batch for call in stretch.calls), default=0)
        in_flight = {
            transcripts.message_key(message_id)
            for run in unfinished
            if latest_ms >= run.created_at_ms - _CLOCK_MARGIN_MS
            for message_id in self._shown(run)
        }
        since_ms = math.inf if self._first_run_ms is None else self._first_run_ms - _CLOCK_MARGIN_MS
        message_keys = {
            call[0]: transcripts.message_key(call[1])
            for stretch in batch
            for call in stretch.calls
            if call[2] >= since_ms
        }
        found = [_found(changed[stretch.number], stretch) for stretch in batch]
        with self._ledger.write() as tx:
            tally = tx.imports.book(found, message_keys, in_flight)
        done.add(tally)
        return tally.waiting


_CLOCK_MARGIN_MS = HOUR_MS
"""How far the system's clock may have been set back since a run began."""


class _Changed(NamedTuple):
    """A transcript that is new or has changed, and how far it has been read."""

    subscription: str
    place: Place
    mark: Mark


def _found(changed: _Changed, stretch: Stretch) -> Found:
    """A stretch as the ledger takes it."""
    place = changed.place
    if stretch.is_last and not stretch.is_unreadable:
        state = FileState(place.device, place.inode, place.size, place.modified_ns, stretch.offset, stretch.digest)
    else:  # whoever finds this state, after a crash, is to see a file that has changed
        state = FileState(place.device, place.inode, 0, 0, stretch.offset, stretch.digest)
    return Found(
        path=_text(place.path),
        subscription=changed.subscription,
        session_id=_text(place.session_id),
        is_subagent=place.is_subagent,
        calls=list(map(_priced, stretch.calls)),
        state=state,
    )


def _priced(call: Seen) -> Call:
    key, _, at_ms, model, tokens, fast, us_only = call
    return (key, at_ms, model, *tokens, price_of_classes(model, tokens, at_ms, fast=fast, us_only=us_only))


def _text(name: str) -> str:
    """A file's name as the ledger can keep it; names that are not UTF-8 have no other form."""
    return name if name.isascii() else os.fsencode(name).decode(errors="backslashreplace")


def _distinct(sources: Iterable[Source]) -> list[Source]:
    """Without those whose config dir is another's by a different name: what it holds is the first one's."""
    seen: dict[Path, Source] = {}
    for source in sources:
        seen.setdefault(source.config_dir.resolve(), source)
    return list(seen.values())
