"""What the tests share: a home with a pool.toml, a pool over it, captured output of real CLIs, waiting by deadline."""

import json
import os
import time
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import record

from pool_mcp.claude.find import bundled_cli
from pool_mcp.demo.standin import Standin
from pool_mcp.ledger.ledger import Ledger
from pool_mcp.model import HOUR_MS
from pool_mcp.pool import Pool
from pool_mcp.settings import Settings, load

CLAUDE = bundled_cli() or Path("claude")
"""The real CLI, from the wheel of claude-agent-sdk."""

CAPTURES = Path(__file__).parents[1] / "data" / "cli"
"""What real CLIs printed: ``<version>/<case>.jsonl``."""


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def new_id() -> str:
    return str(uuid.uuid4())


def capture(version: str, case: str) -> list[bytes]:
    """The lines that a real CLI printed."""
    return (CAPTURES / version / f"{case}.jsonl").read_bytes().splitlines()


def token_env(account: str) -> str:
    """The variable that holds an account's token in a home made by :func:`make_home`."""
    return f"TOKEN_{account.upper().replace('-', '_')}"


def make_home(
    home: Path,
    standin: Standin | None = None,
    *accounts: str,
    cli: Path = CLAUDE,
    claude: Mapping[str, object] | None = None,
    subscriptions: Mapping[str, Mapping[str, object]] | None = None,
    callers: Mapping[str, Mapping[str, object]] | None = None,
    **top: object,
) -> tuple[Settings, dict[str, str]]:
    """Write a pool.toml and load it; give the settings and the environment that goes with them.

    Each account (default: one, ``alice``) becomes a subscription of its name that is signed in to the stand-in by a
    token. ``subscriptions`` adds keys to an account's table, or, under a name that is no account, a table without a
    token. ``claude``, ``callers`` and the further keywords go into the file as they are.
    """
    said: dict[str, dict[str, object]] = {name: {"oauth_token_env": token_env(name)} for name in accounts or ("alice",)}
    for name, more in (subscriptions or {}).items():
        said[name] = {**said.get(name, {}), **more}
    base_url = {} if standin is None else {"base_url": standin.url}
    tables: list[tuple[str, Mapping[str, object]]] = [
        ("[claude]", {"path": str(cli), "allowed_dirs": [str(home)], "spares": "off", **base_url, **(claude or {})})
    ]
    tables += [("[[subscriptions]]", {"id": name, **table}) for name, table in said.items()]
    tables += [(f"[callers.{json.dumps(name)}]", table) for name, table in (callers or {}).items()]
    pool_home = home / "pool"
    pool_home.mkdir(parents=True, exist_ok=True)
    (pool_home / "pool.toml").write_text(_lines(top) + "".join(f"{head}\n{_lines(table)}" for head, table in tables))
    env = {"PATH": os.defpath, "HOME": str(home), "POOL_MCP_HOME": str(pool_home)}
    env |= {token_env(name): Standin.token(name) for name in accounts or ("alice",)}
    settings = load(env)
    if standin is not None:
        record.remember(standin, settings.ledger_path)
    return settings, env


def _lines(table: Mapping[str, object]) -> str:
    # A JSON string, number or boolean is a TOML one, too.
    return "".join(f"{key} = {json.dumps(value)}\n" for key, value in table.items())


def sign_in(config_dir: Path, account: str, organisation: str) -> None:
    """What the CLI's own sign-in leaves behind, for an account of the stand-in."""
    config_dir.mkdir(exist_ok=True)
    login = {
        "accessToken": Standin.token(account),
        "refreshToken": f"sk-ant-ort01-{account}",
        "expiresAt": now_ms() + 24 * HOUR_MS,
        "scopes": ["user:inference", "user:profile"],
        "subscriptionType": "max",
        "rateLimitTier": "default_claude_max_20x",
    }
    (config_dir / ".credentials.json").write_text(json.dumps({"claudeAiOauth": login}))
    owner = {"accountUuid": account, "emailAddress": f"{account}@example.com", "organizationUuid": organisation}
    (config_dir / ".claude.json").write_text(json.dumps({"oauthAccount": owner}))


def open_ledger(settings: Settings) -> Ledger:
    return Ledger(settings.ledger_path, settings.ledger.url, now_ms)


@asynccontextmanager
async def open_pool(settings: Settings, env: Mapping[str, str]) -> AsyncIterator[Pool]:
    """A pool with its own ledger connection and the real clock. Expect errors inside the block: outside, they come
    in a group."""
    ledger = open_ledger(settings)
    try:
        async with Pool(settings, ledger, env, now_ms, new_id).open() as pool:
            yield pool
    finally:
        ledger.close()


async def until(condition: Callable[[], Any], timeout_s: float = 5.0) -> None:
    """Wait for what comes about outside this process; fail when it does not."""
    with anyio.fail_after(timeout_s):
        while not condition():  # noqa: ASYNC110  (there is no event for it)
            await anyio.sleep(0.01)


def spares(settings: Settings) -> dict[str, int]:
    """The spares that there are: process ids by session."""
    found = {}
    for path in (settings.state_dir / "spare").glob("*/pid"):
        try:
            found[path.parent.name] = int(path.read_text())
        except (FileNotFoundError, ValueError):
            continue
    return found


def has_spare(pool: Pool) -> bool:
    """Whether a pool has a spare that an ask can take."""
    spare = pool._spares._spare
    return spare is not None and spare.cli.is_ready


def is_gone(pid: int) -> bool:
    """Whether a process has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


def group_is_gone(settings: Settings, run_id: str) -> bool:
    """Whether nothing that a run started in its process group still runs."""
    group = int((settings.runs_dir / run_id / "pid").read_text())
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    # What has ended counts until its parent has asked how; where /proc tells, that need not be waited for.
    stats = [_stat(path) for path in Path("/proc").glob("[0-9]*/stat")]
    return bool(stats) and not any(group == one and state not in "ZX" for state, one in stats)


def _stat(path: Path) -> tuple[str, int]:
    """State and group of a process on Linux."""
    try:
        state, _, group, *_ = path.read_text().rpartition(")")[2].split()
    except OSError:
        return "X", 0
    return state, int(group)
