"""The queue's transactions: who is given what became free, who ends without, who is taken out or moved.

Any process of the machine may call these at any time: what one has done another does not do again.
"""

import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from pool_mcp.asks.placing import Placing
from pool_mcp.asks.runner import Runner
from pool_mcp.asks.turns import Pool, Round, Turn
from pool_mcp.errors import InvalidRequest, PoolError
from pool_mcp.ledger.ledger import Ledger
from pool_mcp.ledger.transaction import Transaction
from pool_mcp.model import NANO, Notice, Outcome, Run, Waiting
from pool_mcp.results.asks import Place, QueueResult, queue_result

log = logging.getLogger(__name__)

FIRST_CHARS = 60
"""How much of an ask is shown in the queue."""
MOST_ROUNDS = 100
"""How many times those that wait are gone over in one transaction; each gives something to somebody."""


@dataclass(frozen=True, slots=True)
class Served:
    """What a look at the queue came to: runs that are reserved now, for this process to see through; those that ended.

    ``left`` are those that still wait, ``look_at_ms`` is when time alone changes something for one of them.
    """

    reserved: Sequence[Run] = ()
    ended: Sequence[str] = ()
    left: Sequence[Place] = ()
    look_at_ms: int | None = None


class Queue:
    """Serves those that wait in the name of one owner, this process."""

    def __init__(self, ledger: Ledger, placing: Placing, runner: Runner, clock: Callable[[], int]) -> None:
        self._ledger = ledger
        self._runner = runner
        self._placing = placing
        self._clock = clock

    def serve(self) -> Served:
        """Reserve for everybody whose turn it is, and end what cannot be served or has waited long enough.

        Where there is nothing to do, nothing is written and no other process waits.
        """
        here = self._placing.here()
        with self._ledger.read() as tx:
            turns = self._turns(tx, here)
        if not any(map(_changes, turns)):
            return Served(left=_places(turns), look_at_ms=_look_at_ms(turns))
        reserved: list[Run] = []
        ended: list[str] = []
        with self._ledger.write() as tx:
            for _ in range(MOST_ROUNDS):
                turns, pool = self._round(tx, here)
                given = [turn for turn in turns if turn.choice is not None]
                found = [self._placing.give(tx, pool, turn) for turn in given]
                reserved += [run for run in found if run is not None]
                if not given:
                    break
            for turn in turns:
                if turn.error is not None and self._end(tx, turn.waiting, turn.error):
                    ended.append(turn.waiting.run.run_id)
                elif turn.claim != turn.waiting.claim:
                    tx.queue.claim(turn.waiting.run.run_id, turn.claim)
        for run in reserved:
            log.info(
                "run %s: its turn; reserved $%.4f under %s", run.run_id, run.reserved_nanousd / NANO, run.subscription
            )
        left = [turn for turn in turns if turn.error is None and turn.choice is None]
        return Served(reserved, ended, _places(left), _look_at_ms(left))

    def places(self) -> list[Place]:
        """Everybody who waits, the first to be served first, with what for and until when."""
        here = self._placing.here()
        with self._ledger.read() as tx:
            return _places(self._turns(tx, here))

    def shown(self) -> QueueResult:
        """Everybody who waits, each with the first words of what is asked."""
        return queue_result([(one, self._first_words(one.waiting.run)) for one in self.places()], self._clock())

    def _first_words(self, run: Run) -> str:
        """From the disk, the only place where they are."""
        ask = self._runner.load(run.run_id)
        words = " ".join(ask.prompt[: 4 * FIRST_CHARS].split()) if ask else "(asked on another machine)"
        return words if len(words) <= FIRST_CHARS else f"{words[: FIRST_CHARS - 1]}…"

    def cancel(self, run_ids: Collection[str]) -> list[str]:
        """Take runs out of the queue; those that were in it, for which nothing was spent."""
        with self._ledger.write() as tx:
            message = "It was cancelled while it waited; it cost nothing."
            now_ms = self._clock()
            return [one for one in run_ids if tx.queue.end(one, Outcome.CANCELLED, message, now_ms)]

    def move(self, run_id: str, position: int) -> list[Place]:
        """Put one that waits at another position; it takes on the urgency of the one that was there.

        Raises:
            InvalidRequest: it does not wait, or there is no such position.
        """
        with self._ledger.write() as tx:
            line = tx.queue.line()
            moved = next((one for one in line if one.run.run_id == run_id), None)
            if moved is None:
                raise InvalidRequest(f"Run {run_id} does not wait; `pool-mcp queue` lists those that do.")
            if not 1 <= position <= len(line):
                raise InvalidRequest(f"There is no position {position}; {len(line)} wait.")
            urgency = line[position - 1].run.urgency
            rest = [one for one in line if one is not moved]
            rest.insert(position - 1, moved)
            tx.queue.change_urgency(run_id, urgency)
            tx.queue.put_in_order([one.run.run_id for one in rest])
        return self.places()

    def _turns(self, tx: Transaction, here: frozenset[str]) -> list[Turn]:
        return [] if tx.queue.is_empty() else self._round(tx, here)[0]

    def _round(self, tx: Transaction, here: frozenset[str]) -> tuple[list[Turn], Pool]:
        pool = self._placing.pool(tx, self._clock(), here)
        return Round(pool).all(tx.queue.line()), pool

    def _end(self, tx: Transaction, waiting: Waiting, error: PoolError) -> bool:
        run, now_ms = waiting.run, self._clock()
        outcome = Outcome(error.kind) if error.kind in set(Outcome) else Outcome.CLI_FAILED
        if not tx.queue.end(run.run_id, outcome, error.message, now_ms, error.retry_at_ms):
            return False
        message = f"an ask of {run.caller} ended while it waited ({outcome}); pool-mcp show {run.run_id}"
        tx.outbox.add(Notice.of(run.run_id, "run_failed", "", message, now_ms))
        log.info("run %s: ended while it waited: %s", run.run_id, outcome)
        return True


def _changes(turn: Turn) -> bool:
    return turn.choice is not None or turn.error is not None or turn.claim != turn.waiting.claim


def _places(turns: Sequence[Turn]) -> list[Place]:
    return [
        Place(position, turn.reason or "it is about to begin", turn.expected_at_ms, turn.waiting)
        for position, turn in enumerate(turns, 1)
    ]


def _look_at_ms(turns: Sequence[Turn]) -> int | None:
    times = [turn.waiting.give_up_at_ms for turn in turns]
    times += [turn.expected_at_ms for turn in turns if turn.expected_at_ms is not None]
    return min(times, default=None)
