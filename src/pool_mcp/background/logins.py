"""Looks after what no ask brings along: who is signed in, whose quota it is, and readings that have gone stale.

All of it asks the CLI and no model, costs nothing, is done by one process at a time (a lease in the ledger), and is
for logins that the CLI keeps in a config dir: keys and tokens tell it nothing.
"""

import logging
import sys
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pool_mcp.choosing import cooldowns
from pool_mcp.choosing.budget import Balance
from pool_mcp.claude import login
from pool_mcp.claude.find import find_cli
from pool_mcp.claude.sessions import config_dir_or_default
from pool_mcp.errors import CliMissing, PoolError
from pool_mcp.ledger.ledger import Ledger
from pool_mcp.model import HOUR_MS, MINUTE_MS, SECOND_MS, Outcome, Subscription
from pool_mcp.settings import Settings
from pool_mcp.state import State
from pool_mcp.system.commands import Commands
from pool_mcp.system.private import make_directory

log = logging.getLogger(__name__)

LOGIN_MS = 6 * HOUR_MS
"""How often a login is asked for its organisation."""

LOGIN_AGAIN_MS = 50 * SECOND_MS
"""How often at most it is asked, whatever has changed; and how often a missing login is looked for again."""

KEEPS_FILES = sys.platform != "darwin"
"""Whether the CLI keeps a login in a file, so that none means that nobody is signed in; macOS has its keychain."""

REFRESH_MS = 5 * MINUTE_MS
"""How often at most one subscription's usage is asked for: Anthropic's endpoint answers 429 to much more."""

STALE_MS = 10 * MINUTE_MS
"""A reading older than this has gone stale."""

IN_USE_MS = 30 * MINUTE_MS
"""The choice matters while this server was asked for something this long ago at most, answered or not."""


class Upkeep:
    """Call :meth:`asked` and :meth:`notice_logins` before a choice, and :meth:`look` now and then."""

    def __init__(
        self,
        settings: Settings,
        ledger: Ledger,
        state: State,
        env: Mapping[str, str],
        clock: Callable[[], int],
    ) -> None:
        self._settings = settings
        self._ledger = ledger
        self._state = state
        self._env = env
        self._clock = clock
        self._asked_at_ms: int | None = None
        self._noticing = threading.Lock()
        self._commands = Commands()

    def asked(self) -> None:
        """Somebody wants a subscription, so readings matter for a while."""
        self._asked_at_ms = self._clock()

    def notice_logins(self) -> None:
        """Know before a choice who is signed in; of several callers at once, each waits until that is known.

        A subscription whose login was written anew is let in again. The CLI is asked (0.1 to 0.3 s, at no cost) where
        it never was, and where its credentials file has changed since.
        """
        with self._noticing:
            self._notice_logins()

    def _notice_logins(self) -> None:
        try:
            cli = find_cli(self._settings.claude.path, self._env)
        except CliMissing as error:
            self._state.cli_missing = error.message
            return
        self._state.cli_missing = None
        with self._ledger.read() as tx:
            by_owner, logins = tx.cooldowns.open(), tx.logins.known()
        due = []
        for subscription in self._stored():
            missing = [one.since_ms for one in by_owner.get(subscription.id, ()) if one.cause == "auth"]
            written_ms = login.written_at_ms(config_dir_or_default(subscription.config_dir, self._env))
            if missing and written_ms is not None and written_ms > max(missing):
                self._let_in(subscription)
            if _has_changed(logins.get(subscription.id), written_ms):
                due.append(subscription)
        self._each(due, lambda one: self._ask_for_login(cli, one))

    def look(self) -> None:
        """Ask the CLI about logins and stale readings, where it is time to and no other process has."""
        with self._ledger.read() as tx:
            now_ms = self._clock()
            balances = {one.subscription.id: one for one in self._state.balances(tx, now_ms)}
            logins = tx.logins.known()
        in_use = self._asked_at_ms is not None and now_ms - self._asked_at_ms < IN_USE_MS
        for subscription in self._stored():
            balance = balances[subscription.id]
            try:
                cli = find_cli(self._settings.claude.path, self._env)
                if _is_due(logins.get(subscription.id), now_ms):
                    self._ask_for_login(cli, subscription)
                if in_use and _is_stale(balance, now_ms):
                    self._refresh(cli, subscription)
            except (PoolError, OSError) as error:
                log.debug("%s: not looked at: %s", subscription.id, error)

    def refresh(self, timeout_s: float) -> None:
        """Read the official limits of every login whose readings are stale, all at once, within a time; free."""
        cli = find_cli(self._settings.claude.path, self._env)
        with self._ledger.read() as tx:
            now_ms = self._clock()
            balances = self._state.balances(tx, now_ms)
        stale = {one.subscription.id for one in balances if _is_stale(one, now_ms)}
        due = [one for one in self._stored() if one.id in stale]
        self._each(due, lambda one: self._refresh(cli, one, timeout_s))

    def stop(self) -> None:
        """End what the CLI is being asked for, and ask it nothing more."""
        self._commands.end()

    def _stored(self) -> list[Subscription]:
        """Subscriptions whose login the CLI keeps itself."""
        keyed = ((one, one.api_key_env or one.oauth_token_env) for one in self._settings.subscriptions)
        return [one for one, name in keyed if one.enabled and name is None]

    def _each(self, subscriptions: list[Subscription], do: Callable[[Subscription], None]) -> None:
        """Do something for several subscriptions at once; what fails for one is no matter of the others."""

        def quietly(subscription: Subscription) -> None:
            try:
                do(subscription)
            except (PoolError, OSError) as error:
                log.debug("%s: not looked at: %s", subscription.id, error)

        if subscriptions:
            with ThreadPoolExecutor(min(8, len(subscriptions))) as threads:
                list(threads.map(quietly, subscriptions))

    def _ask_for_login(self, cli: Path, subscription: Subscription) -> None:
        if not self._ledger.take_lease(f"login {subscription.id}", LOGIN_AGAIN_MS, self._clock):
            return
        found = login.login_of(cli, subscription, self._env, self._commands.run)
        with self._ledger.write() as tx:
            now_ms = self._clock()
            is_back = tx.logins.record(subscription.id, found.organization_id, signed_in=found.signed_in, now_ms=now_ms)
            is_out = tx.cooldowns.latest(subscription.id, "auth") is not None
            if not found.signed_in and not is_out:
                signed_out = cooldowns.cooldown_after(Outcome.AUTH, None, None, subscription, now_ms)
                assert signed_out is not None, "this outcome has a cooldown"
                tx.cooldowns.start(subscription.id, signed_out, None)
        if is_back and is_out:
            self._let_in(subscription)

    def _let_in(self, subscription: Subscription) -> None:
        with self._ledger.write() as tx:
            lifted = tx.cooldowns.lift(subscription.id, "auth", "a new login", self._clock())
        if lifted:
            log.info("%s: somebody has signed in; it is tried again", subscription.id)

    def _refresh(self, cli: Path, subscription: Subscription, timeout_s: float = login.USAGE_TIMEOUT_S) -> None:
        if not self._ledger.take_lease(f"usage {subscription.id}", REFRESH_MS, self._clock):
            return
        where = make_directory(self._settings.state_dir / "work")
        base_url, run = self._settings.claude.base_url, self._commands.run
        readings = login.usage_of(cli, subscription, self._env, base_url, where, self._clock, timeout_s, run)
        with self._ledger.write() as tx:
            tx.official.record(subscription.id, readings, self._clock())


def _has_changed(known: tuple[bool, int] | None, written_ms: int | None) -> bool:
    """Whether what the CLI said of a login may be out of date, by the time of its credentials file alone."""
    if known is None:
        return True
    signed_in, checked_at_ms = known
    if written_ms is None:
        return signed_in and KEEPS_FILES
    return written_ms > checked_at_ms


def _is_due(known: tuple[bool, int] | None, now_ms: int) -> bool:
    """Whether it is time to ask the CLI about a login, whatever its file says."""
    if known is None:
        return True
    signed_in, checked_at_ms = known
    return now_ms - checked_at_ms >= (LOGIN_MS if signed_in else LOGIN_AGAIN_MS)


def _is_stale(balance: Balance, now_ms: int) -> bool:
    """Whether a subscription could serve and has not been heard of for a while; a run in flight brings its own news."""
    if balance.in_flight or any(map(cooldowns.needs_a_person, balance.cooldowns)):
        return False
    newest_ms = max((one.observed_at_ms for one in balance.readings.values()), default=0)
    return now_ms - newest_ms > STALE_MS
