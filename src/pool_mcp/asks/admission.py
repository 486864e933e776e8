"""Refuses an ask that cannot work, before anything is spent: one line that says what to do instead."""

import json
import re
from collections.abc import Mapping
from pathlib import Path

from pool_mcp.choices import EFFORTS, TOOL_PROFILES
from pool_mcp.choosing import windows
from pool_mcp.choosing.selection import Choice
from pool_mcp.errors import BY_KIND, InvalidRequest, LimitReached, PoolError, UnknownSession
from pool_mcp.model import NANO, Ask
from pool_mcp.settings import Settings

MAX_PROMPT_BYTES = 4_000_000
"""Longer than any model's context window holds."""
MAX_ARGUMENT_BYTES = 100_000
"""A single command-line argument may have 128 KiB on Linux."""
MAX_TIMEOUT_S = 86_400
MAX_COST_USD = 1_000_000
MAX_NAME_BYTES = 1000

_MODEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@\[\]-]{0,127}")
_SESSION = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")

_REFUSALS = ("overloaded", "limit", "budget", "auth", "billing", "cli_missing", "invalid_request")
"""Of several reasons why nobody can serve, the one that is told first."""


def check_ask(ask: Ask, settings: Settings) -> None:
    """Pass, or say what is wrong with an ask's arguments.

    Raises:
        InvalidRequest: an argument cannot be served as it is.
        UnknownSession: the session id has not the form of one.
    """
    if not ask.prompt.strip():
        raise InvalidRequest("The prompt is empty; say what Claude should do.")
    _check_text("prompt", ask.prompt, MAX_PROMPT_BYTES, "shorten it, or let Claude read files (tool_profile read)")
    _check_text("system_prompt", ask.system_prompt or "", MAX_ARGUMENT_BYTES, "move the long part into the prompt")
    _check_text("caller", ask.caller, MAX_NAME_BYTES, "shorten it")
    _check_text("idempotency_key", ask.idempotency_key or "", MAX_NAME_BYTES, "shorten it")
    if ask.model is not None and not _MODEL.fullmatch(ask.model):
        raise InvalidRequest(f"{ask.model!r} is no model name; use an alias such as sonnet, or a full name.")
    _check_model(ask, settings)
    if ask.effort is not None and ask.effort not in EFFORTS:
        raise InvalidRequest(f"{ask.effort!r} is no effort; use one of {', '.join(EFFORTS)}.")
    if ask.json_schema is not None:
        _check_schema(ask.json_schema)
    if ask.max_cost_nanousd is not None and not 0 < ask.max_cost_nanousd <= MAX_COST_USD * NANO:
        raise InvalidRequest(f"max_cost_usd must be more than 0 and at most {MAX_COST_USD}.")
    if ask.timeout_s is not None and not 0 < ask.timeout_s <= MAX_TIMEOUT_S:
        raise InvalidRequest(f"timeout_s must be more than 0 and at most {MAX_TIMEOUT_S} (a day).")
    if ask.working_dir is not None and not _is_directory(ask.working_dir):
        raise InvalidRequest(f"working_dir {ask.working_dir!r} is not a directory on this machine; give a whole path.")
    _check_profile(ask.tool_profile, settings)
    check_session_id(ask.session_id)
    if ask.subscription is not None:
        settings.subscription(ask.subscription)


def _check_model(ask: Ask, settings: Settings) -> None:
    """A caller may use the models that are named for it, by a part of their names."""
    budget = settings.callers.get(ask.caller)
    allowed = () if budget is None else budget.models
    if allowed and not any(name.lower() in (ask.model or "").lower() for name in allowed):
        asked = f"not {ask.model}" if ask.model else "and the ask names none"
        raise InvalidRequest(f"Caller {ask.caller!r} may use {', '.join(allowed)} only, {asked}; pass model.")


def check_session_id(session_id: str | None) -> None:
    """Pass, or say that this cannot be the id of a session.

    Raises:
        UnknownSession: it has not the form of one.
    """
    if session_id is not None and not _SESSION.fullmatch(session_id):
        raise UnknownSession(
            f"{session_id!r} is no session id; pass one that an earlier answer gave, or none for a new one."
        )


def refusal(choice: Choice) -> PoolError:
    """No subscription can serve: the error that says why, and when that will have changed."""
    kinds = [c.blocked_by for c in choice.candidates if c.blocked_by not in (None, "pinned")]
    kind = next((k for k in _REFUSALS if k in kinds), "limit")
    relevant = [c for c in choice.candidates if c.blocked_by == kind]
    times = [c.available_at_ms for c in choice.candidates if c.available_at_ms is not None]
    retry_at_ms = min(times) if times else None
    when = f" Try again at {windows.rfc3339(retry_at_ms)}." if retry_at_ms is not None else ""
    return BY_KIND.get(kind, LimitReached)(
        f"No subscription can serve this ask: {choice.reason}.{when}",
        retry_at_ms=retry_at_ms,
        subscription=relevant[0].id if len(relevant) == 1 else None,
    )


def _is_directory(path: str) -> bool:
    try:
        directory = Path(path).expanduser()
        return directory.is_absolute() and directory.is_dir()  # what is relative would be so to the server
    except (OSError, RuntimeError):  # a name that is too long; the ~name of nobody
        return False


def _check_text(name: str, text: str, limit: int, advice: str) -> None:
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise InvalidRequest(f"The {name} holds half a surrogate pair; send valid Unicode.") from None
    if size > limit:
        raise InvalidRequest(f"The {name} has {size / 1e6:.1f} MB; at most {limit / 1e6:g} MB can be sent: {advice}.")
    if "\0" in text:
        raise InvalidRequest(f"The {name} holds a NUL character; remove it.")


def _check_profile(profile: str | None, settings: Settings) -> None:
    """A caller may ask for less than the operator allows, never for more."""
    allowed = TOOL_PROFILES[: TOOL_PROFILES.index(settings.claude.tool_profile) + 1]
    if profile is not None and profile not in allowed:
        raise InvalidRequest(
            f"tool_profile {profile!r} is not allowed here (allowed: {', '.join(allowed)}); "
            "the operator sets claude.tool_profile in pool.toml."
        )


def _check_schema(schema: Mapping[str, object]) -> None:
    from jsonschema import Draft202012Validator, SchemaError  # slow to import, rarely needed

    try:
        if len(json.dumps(schema)) > MAX_ARGUMENT_BYTES:
            raise InvalidRequest(f"The json_schema is larger than {MAX_ARGUMENT_BYTES // 1000} kB; make it smaller.")
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        where = "/".join(str(part) for part in error.path) or "its top"
        why = " ".join(f"{error.message} (at {where})".split())[:300]
        raise InvalidRequest(f"The json_schema is not a valid JSON Schema: {why}.") from None
    except RecursionError:
        raise InvalidRequest("The json_schema is nested too deeply; make it flatter.") from None
    if schema.get("type") != "object":
        raise InvalidRequest('The json_schema must describe an object: {"type": "object", "properties": ...}.')
