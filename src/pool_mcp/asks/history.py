"""What was run: the latest runs, and all that is known of one; read from the ledger and the run's files."""

from collections.abc import Callable
from dataclasses import dataclass

from pool_mcp.asks.live_spend import LiveSpend
from pool_mcp.asks.runner import Runner
from pool_mcp.claude.verdict import judge
from pool_mcp.errors import InvalidRequest
from pool_mcp.ledger.ledger import Ledger
from pool_mcp.model import DAY_MS, Run, RunState
from pool_mcp.results.asks import AskDetails, RunsResult, ask_details, runs_result
from pool_mcp.results.ledger import CheckResult, check_result
from pool_mcp.settings import Settings

_NAMED = 5
"""How many of the runs that an id could mean are named."""


@dataclass(frozen=True, slots=True)
class Which:
    """Which runs are meant; None is all."""

    subscription: str | None = None
    caller: str | None = None
    state: RunState | None = None


class History:
    """Tells of runs; changes nothing."""

    def __init__(self, settings: Settings, ledger: Ledger, runner: Runner, clock: Callable[[], int]) -> None:
        self._settings = settings
        self._ledger = ledger
        self._runner = runner
        self._clock = clock
        self._live = LiveSpend(runner)

    def find(self, begun: str) -> str:
        """The id of the latest run of the ask that an id, or the beginning of one, means.

        Raises:
            InvalidRequest: it is the beginning of none, or of several asks' ids.
        """
        with self._ledger.read() as tx:
            latest = tx.runs.with_prefix(begun, _NAMED + 1) if begun else []
        if not latest:
            raise InvalidRequest(f"No run or ask begins with {begun!r}; `pool-mcp runs` lists them.")
        if len(latest) > 1:
            named = ", ".join(latest[:_NAMED])
            more = ", …" if len(latest) > _NAMED else ""
            raise InvalidRequest(f"{begun!r} is the beginning of several: {named}{more}. Give more of it.")
        return latest[0]

    def session(self, begun: str) -> str:
        """The session that its id, the beginning of it, or a run's or an ask's id means; else the id as it is.

        Raises:
            InvalidRequest: it is the beginning of several.
        """
        with self._ledger.read() as tx:
            sessions = tx.runs.sessions_with_prefix(begun, 2) if begun else []
            latest = tx.runs.with_prefix(begun, 2) if begun else []
            run = tx.runs.get(latest[0]) if len(latest) == 1 else None
        found = {*sessions, *([run.session_id] if run else [])}
        if len(found) > 1 or len(latest) > 1:
            raise InvalidRequest(f"{begun!r} is the beginning of several sessions or runs; give more of it.")
        return found.pop() if found else begun

    def latest_session(self, caller: str) -> str:
        """The session that a caller's last answer came from.

        Raises:
            InvalidRequest: there is none yet.
        """
        with self._ledger.read() as tx:
            session = tx.runs.latest_session(caller)
        if session is None:
            raise InvalidRequest(f"{caller!r} has no conversation yet; ask without --continue.")
        return session

    def runs(self, which: Which, limit: int) -> RunsResult:
        """What runs now with what it has cost so far, and the latest of what has ended, newest first."""
        with self._ledger.read() as tx:
            running = [*tx.runs.unfinished(), *(one.run for one in tx.queue.line())]
            ended = tx.runs.ended(which.subscription, which.caller, which.state, limit)
        meant = [run for run in reversed(running) if _is_meant(run, which)]
        return runs_result(meant, ended, self._clock(), self._live.of(meant))

    def ask(self, begun: str, *, with_answer: bool = False) -> AskDetails:
        """All that is known of an ask, by the id of it or of any of its runs, or by the beginning of one.

        Raises:
            InvalidRequest: the id means no ask, or several.
        """
        run_id = self.find(begun)
        with self._ledger.read() as tx:
            run = tx.runs.get(run_id)
            attempts = [] if run is None else tx.runs.of_ask(run.ask_id)
        text: str | None = None
        structured: object = None
        if with_answer:
            stream = self._runner.read(run_id)
            verdict = judge(stream)
            text, structured = (verdict.text, verdict.structured) if verdict else (stream.last_text, None)
        return ask_details([(one, *self._files(one)) for one in attempts], self._clock(), text, structured)

    def check(self) -> CheckResult:
        """Prove the ledger's sums, and name the runs that are not settled."""
        found = self._ledger.audit()
        with self._ledger.read() as tx:
            return check_result(found, tx.runs.unfinished())

    def _files(self, run: Run) -> tuple[str | None, int | None]:
        """Where a run's files are, and until when; None where they are gone, or stay as long as it runs."""
        directory = self._settings.runs_dir / run.run_id
        if not directory.is_dir():
            return None, None
        kept_ms = round(self._settings.claude.keep_answers_days * DAY_MS)
        if run.ended_at_ms is None:
            return str(directory), None
        return str(directory), self._runner.files(run.run_id).fetchable_since_ms(run.ended_at_ms) + kept_ms


def _is_meant(run: Run, which: Which) -> bool:
    wanted = ((which.subscription, run.subscription), (which.caller, run.caller), (which.state, run.state))
    return all(want in (None, has) for want, has in wanted)
