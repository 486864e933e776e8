"""Looks after what no ask brings along: who is signed in, whose quota it is, and readings that have gone stale.

All of it asks the CLI and no model, costs nothing, is done by one process at a time (a lease in the ledger), and is
for logins that the CLI keeps in a config dir: keys and tokens tell it nothing.
"""

import logging
from collections.abc import Callable, Mapping

from pool_mcp.choosing import cooldowns
from pool_mcp.choosing.budget import Balance
from pool_mcp.claude import login
from pool_mcp.claude.find import find_cli
from pool_mcp.claude.transcripts import config_dir_or_default
from pool_mcp.errors import PoolError
from pool_mcp.ledger.ledger import Ledger
from pool_mcp.model import HOUR_MS, MINUTE_MS, SECOND_MS, Subscription
from pool_mcp.settings import Settings
from pool_mcp.state import State
from pool_mcp.system.private import make_directory

log = logging.getLogger(__name__)

LOGIN_MS = 6 * HOUR_MS
"""How often a login is asked for its organisation."""

MISSING_LOGIN_MS = 50 * SECOND_MS
"""How often a missing one is looked for again."""

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

    def asked(self) -> None:
        """Somebody wants a subscription, so readings matter for a while."""
        self._asked_at_ms = self._clock()

    def notice_logins(self) -> None:
        """Let a subscription back in once its login has been written anew; only the file's time is looked at."""
        with self._ledger.read() as tx:
            by_owner = tx.cooldowns.open()
        for subscription in self._stored():
            missing = [one for one in by_owner.get(subscription.id, ()) if one.cause == "auth"]
            if not missing:
                continue
            written_ms = login.written_at_ms(config_dir_or_default(subscription.config_dir, self._env))
            if written_ms is not None and written_ms > max(one.since_ms for one in missing):
                self._let_in(subscription)

    def look(self) -> None:
        """Ask the CLI about logins and stale readings, where it is time to and no other process has."""
        with self._ledger.read() as tx:
            now_ms = self._clock()
            balances = {one.subscription.id: one for one in self._state.balances(tx, now_ms)}
        in_use = self._asked_at_ms is not None and now_ms - self._asked_at_ms < IN_USE_MS
        for subscription in self._stored():
            balance = balances[subscription.id]
            try:
                self._look_at_login(subscription, balance)
                if in_use and _is_stale(balance, now_ms):
                    self._refresh(subscription)
            except (PoolError, OSError) as error:
                log.debug("%s: not looked at: %s", subscription.id, error)

    def _stored(self) -> list[Subscription]:
        """Subscriptions whose login the CLI keeps itself."""
        keyed = ((one, one.api_key_env or one.oauth_token_env) for one in self._settings.subscriptions)
        return [one for one, name in keyed if one.enabled and name is None]

    def _look_at_login(self, subscription: Subscription, balance: Balance) -> None:
        out = any(one.cause == "auth" for one in balance.cooldowns)
        if not self._ledger.take_lease(f"login {subscription.id}", MISSING_LOGIN_MS if out else LOGIN_MS, self._clock):
            return
        found = login.login_of(find_cli(self._settings.claude.path, self._env), subscription, self._env)
        with self._ledger.write() as tx:
            is_back = tx.logins.record(
                subscription.id, found.organization_id, signed_in=found.signed_in, now_ms=self._clock()
            )
        if is_back and out:
            self._let_in(subscription)

    def _let_in(self, subscription: Subscription) -> None:
        with self._ledger.write() as tx:
            lifted = tx.cooldowns.lift(subscription.id, "auth", "a new login", self._clock())
        if lifted:
            log.info("%s: somebody has signed in; it is tried again", subscription.id)

    def _refresh(self, subscription: Subscription) -> None:
        if not self._ledger.take_lease(f"usage {subscription.id}", REFRESH_MS, self._clock):
            return
        cli = find_cli(self._settings.claude.path, self._env)
        where = make_directory(self._settings.state_dir / "work")
        readings = login.usage_of(cli, subscription, self._env, self._settings.claude.base_url, where, self._clock)
        with self._ledger.write() as tx:
            tx.official.record(subscription.id, readings)


def _is_stale(balance: Balance, now_ms: int) -> bool:
    """Whether a subscription could serve and has not been heard of for a while; a run in flight brings its own news."""
    if balance.in_flight or any(map(cooldowns.needs_a_person, balance.cooldowns)):
        return False
    newest_ms = max((one.observed_at_ms for one in balance.readings.values()), default=0)
    return now_ms - newest_ms > STALE_MS
