"""Claude Code's status line: one line for the person, and its rate limits for the ledger.

Claude Code runs the command after every answer, several times a minute, with JSON on stdin: ``model.display_name``,
``cost.total_cost_usd``, ``transcript_path``, ``session_id`` and, under a Claude subscription once it has answered,
``rate_limits.{five_hour,seven_day}.{used_percentage,resets_at}`` (either may be missing; resets_at is in seconds). An
exit code other than 0 or an empty line would blank the person's prompt, so whatever comes in, a line goes out.

It answers in the time that Python takes to start and a little: it loads no settings model, no MCP, and only looks into
the ledger; see :mod:`pool_mcp.ledger.quick_look`. A test holds its arithmetic against the server's.
"""

import json
import math
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pool_mcp.ledger.quick_look import Glance, Seen, glance
from pool_mcp.ledger.sums import HOUR_MS
from pool_mcp.system import places

WAIT_S = 0.05
"""How long another process's write is waited for; then there is the next time."""
MAX_BYTES = 1_000_000
MOST_WINDOWS = 16
"""So many of a host's windows are looked at; Claude Code tells of two."""
_DAY_MS = 24 * HOUR_MS
_BLOCK_MS, _WEEK_MS = 5 * HOUR_MS, 7 * _DAY_MS
_NANO = 1_000_000_000
_SAME_WINDOW_MS = 600_000
"""Resets of one window are reported a little apart."""
_NOTHING = "Claude"
Found = dict[str, Any]


def main(env: Mapping[str, str], now_ms: int) -> None:
    """Read stdin, print a line, and leave with exit code 0, come what may."""
    line = _NOTHING
    try:
        line = status_line(_read_stdin(), env, now_ms)
    except Exception as error:  # the top: a prompt without a status line is worse than a short one
        if env.get("POOL_MCP_DEBUG"):
            print(f"pool-mcp statusline: {error!r}", file=sys.stderr)  # noqa: T201
    try:
        os.write(1, line.encode("utf-8", "replace") + b"\n")
    except OSError:  # the host is gone
        pass
    finally:
        sys.stderr.flush()
        os._exit(0)  # saves the milliseconds of taking the interpreter down


def _read_stdin() -> bytes:
    content = b""
    while len(content) < MAX_BYTES and (chunk := os.read(0, 65_536)):
        content += chunk
    return content


def status_line(content: bytes, env: Mapping[str, str], now_ms: int) -> str:
    """The line for what Claude Code says; keeps the official readings in it where they tell something new."""
    try:
        parsed = json.loads(content)
    except (ValueError, RecursionError):
        return _NOTHING
    said = _table(parsed)
    parts = [_words(_table(said.get("model")).get("display_name")) or _NOTHING]
    cost = _number(_table(said.get("cost")).get("total_cost_usd"))
    if cost is not None:
        parts.append(f"${cost:.2f}")
    windows = _windows(said, now_ms)
    try:
        parts += _of_pool(said, windows, env, now_ms)
    except Exception:  # settings of whatever shape are no reason for no line
        parts += [_window(name, windows.get(key), None) for key, name in _NAMES if key in windows]
    return " · ".join(parts)


_NAMES = (("five_hour", "5h"), ("seven_day", "7d"))


def _of_pool(said: Found, windows: dict[str, Seen], env: Mapping[str, str], now_ms: int) -> list[str]:
    """Block, week and what is left, with the ledger's own figures where the session is one of a subscription."""
    config_dir, state_dir = places.directories(env)
    content = _pool_toml(config_dir / "pool.toml")
    mine = _subscription(said, content, config_dir, state_dir, env)
    block_spent = week_spent = held = None
    resets_ms = windows.get("five_hour", (None, None))[1]
    if mine is not None and not _table(content.get("ledger")).get("url"):  # a database is not asked at every answer
        with glance((state_dir / "ledger.db").absolute(), WAIT_S) as ledger:
            if ledger is not None:
                known = ledger.windows(mine["id"])
                if resets_ms is None and (then := known.get("five_hour", (None, None))[1]) is not None:
                    resets_ms = then if now_ms < then <= now_ms + _BLOCK_MS else None
                block_spent = ledger.spent_nanousd(mine["id"], block_start_ms(now_ms, resets_ms))
                week_spent = ledger.spent_nanousd(mine["id"], now_ms - _WEEK_MS)
                held = ledger.reserved_nanousd(mine["id"])
                _record(ledger, mine, known, windows, env, now_ms)
    parts = []
    budgets = {key: _budget(mine or {}, content, key) for key in ("block_budget_usd", "weekly_budget_usd")}
    spent = {"five_hour": (block_spent, "block_budget_usd"), "seven_day": (week_spent, "weekly_budget_usd")}
    for key, name in _NAMES:
        amount, budget = spent[key]
        if key in windows or amount is not None:
            parts.append(_window(name, windows.get(key), amount, budgets[budget]))
    if block_spent is not None and week_spent is not None and held is not None:
        left = min(budgets["block_budget_usd"] - block_spent / _NANO, budgets["weekly_budget_usd"] - week_spent / _NANO)
        parts.append(f"${max(0.0, left - held / _NANO):.2f} left")
    return parts


def _window(name: str, seen: Seen | None, spent_nanousd: int | None, budget_usd: float = 0.0) -> str:
    """One window: Anthropic's percentage, else ``~`` our own; what was spent; when it ends."""
    line = name
    if seen is not None and seen[0] is not None:
        line += f" {seen[0]:.0f}%"
    elif spent_nanousd is not None and budget_usd > 0:
        line += f" ~{100 * spent_nanousd / _NANO / budget_usd:.0f}%"
    if spent_nanousd is not None:
        line += f" ${spent_nanousd / _NANO:.2f}"
    if name == "5h" and seen is not None and seen[1] is not None:
        from datetime import datetime

        line += f" till {datetime.fromtimestamp(seen[1] / 1000).astimezone():%H:%M}"
    return line


def block_start_ms(now_ms: int, resets_ms: int | None) -> int:
    """Where the block began: five hours before the official window ends, else on the UTC grid."""
    if resets_ms is not None and resets_ms - _BLOCK_MS <= now_ms < resets_ms:
        return resets_ms - _BLOCK_MS
    midnight = now_ms - now_ms % _DAY_MS
    return midnight + (now_ms - midnight) // _BLOCK_MS * _BLOCK_MS


# What Claude Code says


def _windows(said: Found, now_ms: int) -> dict[str, Seen]:
    """The official windows that are still running and can be true."""
    found: dict[str, Seen] = {}
    for name, one in list(_table(said.get("rate_limits")).items())[:MOST_WINDOWS]:
        percent, resets_s = _number(_table(one).get("used_percentage")), _number(_table(one).get("resets_at"))
        if percent is None or not 0 <= percent <= 110 or len(name) > 64:
            continue
        resets_ms = None if resets_s is None else round(resets_s * 1000)
        if resets_ms is None or now_ms < resets_ms <= now_ms + _WEEK_MS + _DAY_MS:
            found[name] = (percent, resets_ms)
    return found


def _record(
    ledger: Glance,
    mine: Found,
    known: Mapping[str, Seen],
    windows: Mapping[str, Seen],
    env: Mapping[str, str],
    now_ms: int,
) -> None:
    if env.get("ANTHROPIC_API_KEY") or (env.get("CLAUDE_CODE_OAUTH_TOKEN") and not mine.get("oauth_token_env")):
        return  # another account than the directory's own login
    news = {name: seen for name, seen in windows.items() if is_news(seen, known.get(name))}
    if news:
        ledger.record(mine["id"], news, now_ms)


def is_news(seen: Seen, known: Seen | None) -> bool:
    """Whether a reading says more than the last one.

    An idle session goes on telling what it heard hours ago. Within one window the percentage only grows, so what is
    lower, or of an earlier window, is old; and what is equal may be.
    """
    if known is None or known[0] is None:
        return True
    if seen[1] is None or known[1] is None:
        return seen[0] is not None and seen[0] > known[0]
    if abs(seen[1] - known[1]) > _SAME_WINDOW_MS:
        return seen[1] > known[1]
    return seen[0] is not None and seen[0] > known[0]


def _table(value: object) -> Found:
    return value if isinstance(value, dict) else {}


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None


def _words(value: object) -> str:
    """A name that fits on the line: printable, one line, not too long."""
    return "".join(c for c in value if c.isprintable())[:60].strip() if isinstance(value, str) else ""


# Which subscription


def _pool_toml(path: Path) -> Found:
    if not path.exists():
        return {}
    import tomllib

    return tomllib.loads(path.read_text(encoding="utf-8-sig"))


def _subscription(
    said: Found, content: Found, config_dir: Path, state_dir: Path, env: Mapping[str, str]
) -> Found | None:
    """The subscription in whose config dir the session is, by its transcript, else by ``CLAUDE_CONFIG_DIR``."""
    home = Path(env.get("HOME") or Path.home())
    tables = content.get("subscriptions")
    dirs: dict[str, Found] = {}
    for one in tables if isinstance(tables, list) and tables else [{"id": "default"}]:
        table, name = _table(one), _table(one).get("id")
        if isinstance(name, str):
            has_credential = "api_key_env" in table or "oauth_token_env" in table
            where = places.config_dir(
                table.get("config_dir"), name, config_dir, state_dir, has_credential=has_credential
            )
            dirs[os.path.realpath(where or home / ".claude")] = table
    transcript = said.get("transcript_path")
    if isinstance(transcript, str) and transcript and "\0" not in transcript:
        real = os.path.realpath(transcript)
        return next((one for where, one in dirs.items() if real.startswith(where + os.sep)), None)
    return dirs.get(os.path.realpath(env.get("CLAUDE_CONFIG_DIR") or home / ".claude"))


def _budget(mine: Found, content: Found, key: str) -> float:
    default = {"block_budget_usd": 25.0, "weekly_budget_usd": 456.0}[key]
    return _number(mine.get(key)) or _number(content.get(key)) or default
