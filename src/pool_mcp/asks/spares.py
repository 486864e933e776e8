"""A CLI that is started before it is needed, so that the next ask of a burst need not wait for its start.

A spare waits for one prompt on a pipe that this process alone holds, so it ends when this process does. It has no run,
holds no reservation and has asked no model. An ask that it fits takes over its session's id in the transaction that
reserves, and its files by renaming them; where it has gone by then, the ask starts a CLI of its own.
"""

import contextlib
import logging
import os
import shutil
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import NoReturn

import anyio
from anyio.to_thread import run_sync as in_thread

from pool_mcp.asks.runner import Runner, Start, prompt_of
from pool_mcp.choosing import selection
from pool_mcp.claude import login
from pool_mcp.claude.command import user_message
from pool_mcp.claude.fields import as_version
from pool_mcp.claude.process import CliProcess, RunFiles
from pool_mcp.claude.waiting import WaitingCli
from pool_mcp.errors import PoolError
from pool_mcp.ledger.ledger import Ledger
from pool_mcp.model import HOUR_MS, SECOND_MS, Ask, Run, Subscription
from pool_mcp.settings import Settings
from pool_mcp.state import State
from pool_mcp.system import locks, memory, places
from pool_mcp.system.commands import Commands

log = logging.getLogger(__name__)

FIRST_VERSION = (2, 1, 206)
"""The oldest CLI of which is known that it answers to its end, and as it does with ``-p``, when its pipe is closed."""
LOOK_S = 1.0
"""How often a waiting spare is compared with what it is for."""
START_AFTER_S = 0.05
"""How long an ask's answer goes ahead of the start of a spare."""
GIVE_WAY_AFTER_MS = 10 * SECOND_MS
"""How long a spare is kept from other servers that would have one."""
ASK_FOR_S = 15.0
"""How long a server waits for another to give way."""
FRESH_LOGIN_MS = 4 * HOUR_MS
"""A login that was written so recently is not renewed when the CLI starts; renewing may not be broken off."""
STOP_S = 0.1
"""How long a stopping server waits for its spare to end by itself."""
LEAST_FREE_BYTES = 1024**3
"""Where less memory is free there is no spare; one takes about 160 MB."""
BUDGET_SHARE = 0.9
"""A spare's ``--max-budget-usd`` is this much of what is left, since others spend while it waits."""


@dataclass(frozen=True, slots=True)
class _Likely:
    """The next ask as it is expected: under which subscription, and what it might spend at most."""

    ask: Ask
    subscription: Subscription
    max_budget_nanousd: int | None


@dataclass(frozen=True, slots=True)
class _Key:
    """Everything that a run must not inherit from a spare that was made for something else."""

    subscription: str
    start: Start = field(repr=False)
    cli_files: tuple[tuple[int, int, int], ...]
    login_written_at_ms: int | None
    day: str


@dataclass(frozen=True, slots=True)
class Spare:
    """A waiting CLI, what it may be used for, and until when."""

    session_id: str
    max_budget_nanousd: int | None
    key: _Key
    since_ms: int
    cli: WaitingCli = field(repr=False)

    def fits(self, key: _Key, max_budget_nanousd: int | None) -> bool:
        """Whether an ask may have it: made for just that, and given no more than may be spent, nor much less."""
        mine, others = self.max_budget_nanousd, max_budget_nanousd
        if mine is None or others is None:
            return self.key == key and mine is others
        return self.key == key and mine <= others <= 2 * mine


class Spares:
    """Keeps at most one spare in this process, and one among all processes of this pool.

    :meth:`offer` and :meth:`take` may be called in any thread; :meth:`keep` runs beside them for as long as there may
    be a spare at all.
    """

    def __init__(
        self,
        settings: Settings,
        ledger: Ledger,
        state: State,
        runner: Runner,
        env: Mapping[str, str],
        clock: Callable[[], int],
        new_id: Callable[[], str],
    ) -> None:
        self._settings = settings
        self._ledger = ledger
        self._state = state
        self._runner = runner
        self._env = env
        self._clock = clock
        self._new_id = new_id
        self._spare: Spare | None = None
        self._promised: dict[str, Spare] = {}
        """Spares whose session is a run's already, by that session."""
        self._last: tuple[Ask, str | None] | None = None
        """What was asked last, and the subscription that answered."""
        self._wanted_until_ms = 0
        self._news = anyio.Event()
        self._changing = threading.Lock()
        self._commands = Commands()
        self._lock = contextlib.ExitStack()
        self._touched_ns = 0
        self._versions: dict[tuple[tuple[int, int, int], ...], bool] = {}
        self._is_over = True

    # For an ask

    def offer(self, subscription: Subscription, ask: Ask, max_budget_nanousd: int | None) -> Spare | None:
        """The spare that an ask can have, which from now on is kept for it; None where there is none that fits."""
        spare = self._spare
        if spare is None or not self._can_wait(ask) or len(user_message(prompt_of(ask))) > spare.cli.capacity_bytes:
            return None
        try:
            if not spare.cli.is_ready or not spare.fits(self._key(subscription, ask), max_budget_nanousd):
                return None
        except (PoolError, OSError):  # the ask itself will say what is missing
            return None
        with self._changing:
            if self._spare is not spare:
                return None
            self._promised[spare.session_id], self._spare = spare, None
        return spare

    def take(self, run: Run, ask: Ask, files: RunFiles) -> CliProcess | None:
        """Give a prepared run its spare, with the prompt; None where it has none. From here on it may spend."""
        spare = self._promised.pop(run.session_id, None)
        if spare is None:
            return None
        process = spare.cli.become(files, user_message(prompt_of(ask)))
        self._release()
        log.info("run %s: %s", run.run_id, "its CLI was waiting" if process else "its spare had gone")
        return process

    def drop(self, session_id: str) -> None:
        """End the spare of a run that was never started."""
        if spare := self._promised.pop(session_id, None):
            spare.cli.end(STOP_S if self._is_over else WaitingCli.END_S)
            self._release()

    def asked(self, ask: Ask, subscription: str) -> None:
        """An ask was answered: another like it is likely."""
        self._last = (ask, subscription)
        self._want()

    def _want(self) -> None:
        self._wanted_until_ms = self._clock() + round(ASK_FOR_S * SECOND_MS)
        self._news.set()

    # Beside all asks

    async def keep(self) -> NoReturn:
        """Start a spare where the next ask is likely to need one, and end it when it no longer fits."""
        self._is_over = False
        if self._settings.claude.spares == "eager":
            self._last = (Ask("", ""), None)
            self._want()
        while True:
            await self._news.wait()
            await anyio.sleep(START_AFTER_S)
            self._news = anyio.Event()
            while self._spare or self._promised or self._clock() < self._wanted_until_ms:
                try:
                    await in_thread(self._look)
                except (PoolError, OSError) as error:
                    log.debug("no spare: %s", error)
                    self._wanted_until_ms = 0
                    self._end("an error")
                with anyio.move_on_after(LOOK_S):
                    await self._news.wait()
                    await anyio.sleep(START_AFTER_S)
                    self._news = anyio.Event()

    def close(self) -> None:
        """Let what waits end, and start nothing more; waits for nothing."""
        self._is_over = True
        self._commands.end()
        for spare in (*self._promised.values(), *filter(None, [self._spare])):
            spare.cli.let_go()

    def stop(self) -> None:
        """See what waited to its end, for a bounded time."""
        self.close()
        self._end("the server stops")
        for session_id in list(self._promised):
            self.drop(session_id)

    def _look(self) -> None:
        """End a spare that is no longer good for anything; start one where that is wanted."""
        now_ms = self._clock()
        spare = self._spare
        if spare is not None and (why := self._why_not(spare, now_ms)):
            self._end(why)
        if self._last is None or now_ms >= self._wanted_until_ms or self._is_over:
            return
        ask, answered = self._last
        expected = self._likely(ask) if self._can_wait(ask) and not memory.is_short(LEAST_FREE_BYTES) else None
        if expected is None or not self._may_start(expected.subscription, answered, now_ms):
            self._wanted_until_ms = 0
            return
        self._replace(expected, now_ms)

    def _likely(self, ask: Ask) -> _Likely | None:
        """Where another ask like this one would be served now, and what it might spend; None where nowhere."""
        with self._ledger.read() as tx:
            now_ms, cap = self._clock(), ask.max_cost_nanousd
            balances = self._state.balances(tx, now_ms)
            request = self._state.request(tx, ask.caller, ask.model, now_ms, cap_nanousd=cap, project=ask.project)
            request = replace(request, only=ask.subscription, by_name=ask.subscription is not None)
            choice = selection.choose(request, balances, self._settings.strategy)
        chosen = next((one for one in balances if one.subscription.id == choice.subscription), None)
        if chosen is None or choice.is_paid:
            return None
        return _Likely(ask, chosen.subscription, selection.most_nanousd(request, chosen, choice, cap))

    def _replace(self, expected: _Likely, now_ms: int) -> None:
        """Have a spare for what is expected, unless another process has one and keeps it."""
        key, left = self._key(expected.subscription, expected.ask), expected.max_budget_nanousd
        spare = self._spare
        if spare is not None and spare.fits(key, left):
            with self._changing:
                if self._spare is spare:
                    self._spare = replace(spare, since_ms=now_ms)
            self._wanted_until_ms = 0
            return
        if spare is not None:
            self._end("another is wanted")
        if self._promised or not self._hold_lock():
            return
        self._wanted_until_ms = 0
        if not self._is_supported(key):
            self._release()
            return
        session_id, budget = self._new_id(), None if left is None else int(left * BUDGET_SHARE)
        cli = self._runner.start_waiting(key.start, RunFiles(self._folder / session_id), session_id, budget)
        self._spare = Spare(session_id, budget, key, now_ms, cli)
        log.debug("a spare waits for %s", expected.subscription.id)
        if self._is_over:
            self._end("the server stops")

    def _why_not(self, spare: Spare, now_ms: int) -> str | None:
        """Why a spare is to end, if it is."""
        assert self._last is not None, "a spare is for what was asked last"
        subscription = self._settings.subscription(spare.key.subscription)
        if not spare.cli.is_alive:
            return "it has ended by itself"
        if self._age_ms(spare, now_ms) > self._ttl_ms:
            return "nobody needed it in time"
        if memory.is_short(LEAST_FREE_BYTES):
            return "memory is short"
        if self._key(subscription, self._last[0]) != spare.key:
            return "what it was made for has changed"
        is_asked_for = self._lock_path.stat().st_mtime_ns != self._touched_ns
        return (
            "another server asks for one" if is_asked_for and self._age_ms(spare, now_ms) > GIVE_WAY_AFTER_MS else None
        )

    def _end(self, why: str) -> None:
        with self._changing:
            spare, self._spare = self._spare, None
        if spare is not None:
            log.debug("a spare ends: %s", why)
            spare.cli.end(STOP_S if self._is_over else WaitingCli.END_S)
        self._release()

    def _release(self) -> None:
        """Let another process have a spare, once this one has none."""
        with self._changing:
            if self._spare is None and not self._promised:
                self._lock.close()

    # What a spare may be used for

    def _can_wait(self, ask: Ask) -> bool:
        """Whether a CLI may be started for such an ask before it comes.

        Not where it goes on with a session, which others may use until then. Not where it has tools or a directory: the
        CLI reads settings and the state of a git repository when it starts.
        """
        profile = ask.tool_profile or self._settings.claude.tool_profile
        return ask.session_id is None and ask.working_dir is None and profile == "none" and not self._is_in_repository

    @property
    def _is_in_repository(self) -> bool:
        return any(
            (folder / ".git").exists() for folder in (self._settings.state_dir, *self._settings.state_dir.parents)
        )

    def _may_start(self, subscription: Subscription, answered: str | None, now_ms: int) -> bool:
        """Whether starting the CLI surely renews no stored login, which must not be broken off."""
        if subscription.api_key_env or subscription.oauth_token_env or subscription.id == answered:
            return True
        written_ms = self._written_at_ms(subscription)
        return written_ms is not None and 0 <= now_ms - written_ms < FRESH_LOGIN_MS

    def _key(self, subscription: Subscription, ask: Ask) -> _Key:
        start = self._runner.waiting(subscription, ask)
        day = datetime.fromtimestamp(self._clock() / SECOND_MS, places.time_zone(self._env)).date().isoformat()
        files = tuple(_identity(path) for path in (start.cli, start.cli.resolve()))
        return _Key(subscription.id, start, files, self._written_at_ms(subscription), day)

    def _written_at_ms(self, subscription: Subscription) -> int | None:
        return login.written_at_ms(self._runner.config_dir(subscription))

    def _is_supported(self, key: _Key) -> bool:
        """Whether the CLI is known to keep what is promised; asked once for each that is found."""
        if key.cli_files not in self._versions:
            version = as_version(login.cli_version(key.start.cli, key.start.env, self._commands.run))
            self._versions[key.cli_files] = version is not None and version >= FIRST_VERSION
        return self._versions[key.cli_files]

    # The only one

    @property
    def _folder(self) -> Path:
        return self._settings.state_dir / "spare"

    @property
    def _lock_path(self) -> Path:
        return self._settings.state_dir / "spare.lock"

    def _hold_lock(self) -> bool:
        """Be the one process that may have a spare; where another is, ask it to give way."""
        if not self._lock.enter_context(locks.try_lock(self._lock_path)):
            self._lock.close()
            os.utime(self._lock_path)
            return False
        self._touched_ns = self._lock_path.stat().st_mtime_ns
        shutil.rmtree(self._folder, ignore_errors=True)  # left by a server that was killed
        return True

    @property
    def _ttl_ms(self) -> int:
        return round(self._settings.claude.spare_ttl_s * SECOND_MS)

    def _age_ms(self, spare: Spare, now_ms: int) -> int:
        """How old a spare is; one from after a jump of the clock is as old as can be."""
        age_ms = now_ms - spare.since_ms
        return age_ms if age_ms >= 0 else self._ttl_ms + 1


def _identity(path: Path) -> tuple[int, int, int]:
    """What changes with a file's content, without reading it."""
    found = path.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns
