"""Every failure a caller may see, as one tree.

    PoolError
    ├── InvalidRequest       kind "invalid_request"  the arguments or the settings are wrong
    │   └── SettingsError                            pool.toml or the environment is wrong
    ├── UnknownSession       kind "unknown_session"  no such session, or its subscription is gone
    ├── LimitReached         kind "limit"            every subscription that could serve is at an official limit
    ├── BudgetExceeded       kind "budget"           a budget of the person's own has no room
    ├── NeedsLogin           kind "auth"             the CLI is not signed in
    ├── BillingProblem       kind "billing"          the account cannot be billed
    ├── Overloaded           kind "overloaded"       Anthropic is overloaded; no account is at fault
    ├── RunTimeout           kind "timeout"          the run did not end in its time
    ├── RunCancelled         kind "cancelled"        the host or the person stopped the run
    ├── CliMissing           kind "cli_missing"      no Claude Code CLI on this machine
    ├── CliFailed            kind "cli_failed"       the CLI ended without an answer
    └── LedgerError          kind "ledger"           the ledger cannot be read or written
        └── LedgerInDoubt                            nobody knows whether it was written

Branch on ``kind`` and the attributes, never on the words. The message is one line that says what happened and
what to do next; it never holds a prompt, an answer or a credential.
"""

import re
from typing import ClassVar

MAX_MESSAGE_CHARS = 2000
"""A longer message repeats something that somebody passed in; its middle is left out."""

_SECRET = re.compile(
    r"""
    (?<![A-Za-z0-9])
    (?: sk-[A-Za-z]*                                # Anthropic and OpenAI
      | gh[a-z]_ | github_pat_ | glpat- | xox[a-z]-  # GitHub, GitLab, Slack
      | AKIA | AIza | ya29\.                         # AWS, Google
      | eyJ                                         # a JSON Web Token
      | Bearer\s+
    )
    [A-Za-z0-9_.+/=-]{6,}
    """,
    re.VERBOSE,
)
"""How keys and tokens begin."""


def looks_secret(text: str) -> bool:
    """Whether a text holds what begins like a key or a token."""
    return _SECRET.search(text) is not None


def begins_secret(text: str) -> bool:
    """Whether a text is what begins like a key or a token; elsewhere in a path the same letters may be a name."""
    return _SECRET.match(text) is not None


def without_secrets(text: str) -> str:
    """A text with what begins like a key or a token left out."""
    return _SECRET.sub("[a secret, not shown]", text)


def safe_line(text: str) -> str:
    """A text as one line of at most ``MAX_MESSAGE_CHARS`` for a log or a terminal: no secret, no control characters."""
    shown = without_secrets(text)  # before it is cut, which could leave a key's end alone
    if len(shown) > MAX_MESSAGE_CHARS:
        half = MAX_MESSAGE_CHARS // 2
        shown = f"{shown[:half]} […] {shown[-half:]}"
    return "".join(
        char if char.isprintable() else " " if char.isspace() else "\N{REPLACEMENT CHARACTER}" for char in shown
    )


class PoolError(Exception):
    """What every error here is.

    ``retry_at_ms`` is when the same call may succeed (Unix ms), ``subscription`` the one at fault,
    ``alternatives`` the subscriptions that could serve instead, ``run_id`` the run that failed, ``partial_text`` what a
    run that was cut had answered until then.
    """

    kind: ClassVar[str] = "cli_failed"

    def __init__(
        self,
        message: str,
        *,
        retry_at_ms: int | None = None,
        subscription: str | None = None,
        alternatives: tuple[str, ...] = (),
        run_id: str | None = None,
        partial_text: str | None = None,
    ) -> None:
        self.message = safe_line(message)
        super().__init__(self.message)
        self.retry_at_ms = retry_at_ms
        self.subscription = subscription
        self.alternatives = alternatives
        self.run_id = run_id
        self.partial_text = partial_text


class InvalidRequest(PoolError):
    """The caller's arguments cannot be served as they are; nothing was spent."""

    kind = "invalid_request"


class SettingsError(InvalidRequest):
    """``pool.toml`` or the environment is wrong; the message names file, key and what is allowed."""


class UnknownSession(PoolError):
    """No subscription knows the session that was to be continued."""

    kind = "unknown_session"


class LimitReached(PoolError):
    """An official window is used up on every subscription that could serve."""

    kind = "limit"


class BudgetExceeded(PoolError):
    """A budget that the person set has no room for the ask."""

    kind = "budget"


class NeedsLogin(PoolError):
    """The CLI is not signed in under the subscription."""

    kind = "auth"


class BillingProblem(PoolError):
    """Anthropic refuses to bill the account (credit, payment, hold)."""

    kind = "billing"


class Overloaded(PoolError):
    """Anthropic's service is overloaded or failing; another account would not help."""

    kind = "overloaded"


class RunTimeout(PoolError):
    """The run did not end in its time and was stopped; what it spent is booked."""

    kind = "timeout"


class RunCancelled(PoolError):
    """The run was stopped on request; what it spent is booked."""

    kind = "cancelled"


class CliMissing(PoolError):
    """The Claude Code CLI is not on this machine."""

    kind = "cli_missing"


class CliFailed(PoolError):
    """The CLI ended without a usable answer."""

    kind = "cli_failed"


class LedgerError(PoolError):
    """The ledger cannot be opened, read or written."""

    kind = "ledger"


class LedgerInDoubt(LedgerError):
    """The ledger went away before it said whether it was written."""


BY_KIND: dict[str, type[PoolError]] = {
    error.kind: error
    for error in (
        InvalidRequest,
        UnknownSession,
        LimitReached,
        BudgetExceeded,
        NeedsLogin,
        BillingProblem,
        Overloaded,
        RunTimeout,
        RunCancelled,
        CliMissing,
        CliFailed,
        LedgerError,
    )
}
"""Error class by kind, for failures that are read back from a run's record."""
