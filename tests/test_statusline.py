"""The status line: whatever Claude Code says, a line comes out at once, and the ledger has the readings."""

import json
import os
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pool_mcp import statusline
from pool_mcp.choosing import windows
from pool_mcp.ledger import sums
from pool_mcp.ledger.ledger import Ledger
from pool_mcp.ledger.quick_look import Seen
from pool_mcp.model import BLOCK_MS, DAY_MS, HOUR_MS, NANO, SECOND_MS, Cost, ModelCost, Tokens, WindowReading
from pool_mcp.settings import load

NOW_MS = 1_795_340_000_000  # 2026-11-22T10:13:20Z
RESETS_S = 1_795_345_200  # 11:40Z
COMMAND = [sys.executable, "-m", "pool_mcp", "statusline"]


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    home = tmp_path / "pool"
    home.mkdir()
    (home / "pool.toml").write_text(
        '[[subscriptions]]\nid = "plain"\n'
        f'[[subscriptions]]\nid = "work"\nconfig_dir = "{tmp_path}/work"\nweekly_budget_usd = 100\n'
        '[[subscriptions]]\nid = "token"\noauth_token_env = "TOKEN"\n'
    )
    env = {"POOL_MCP_HOME": str(home), "HOME": str(tmp_path), "PATH": os.defpath, "TZ": "UTC"}
    Ledger(load(env).ledger_path).close()
    return env


def said(transcript: Path | None = None, five_hour: float = 23.5, seven_day: float = 41.2, **more: Any) -> bytes:
    """What Claude Code says, in the fields that matter here and some that do not."""
    content = {
        "hook_event_name": "Status",
        "session_id": "3f2b7c1e-0d4a-4a51-9a53-0b3d7f6a0001",
        "cwd": "/somewhere",
        "model": {"id": "claude-opus-5-5", "display_name": "Opus 5.5"},
        "workspace": {"current_dir": "/somewhere", "project_dir": "/somewhere"},
        "version": "2.1.330",
        "cost": {"total_cost_usd": 0.4249, "total_duration_ms": 45_000, "total_lines_added": 156},
        "context_window": {"used_percentage": 12},
        "rate_limits": {
            "five_hour": {"used_percentage": five_hour, "resets_at": RESETS_S},
            "seven_day": {"used_percentage": seven_day, "resets_at": RESETS_S + 3 * 86_400},
        },
        **more,
    }
    if transcript is not None:
        content["transcript_path"] = str(transcript)
    return json.dumps(content).encode()


def readings(env: dict[str, str]) -> dict[str, dict[str, WindowReading]]:
    with closing(Ledger(load(env).ledger_path)) as ledger, ledger.read() as tx:
        return tx.official.latest()


def spend(env: dict[str, str], subscription: str, *spent: tuple[int, float]) -> None:
    with closing(Ledger(load(env).ledger_path)) as ledger, ledger.write() as tx:
        for at_ms, usd in spent:
            amount = round(usd * NANO)
            tx.organisation.adjust(subscription, at_ms, Cost(amount, {"opus": ModelCost(Tokens(), amount)}), "")


def test_the_line_tells_model_cost_block_week_and_what_is_left(env: dict[str, str], tmp_path: Path) -> None:
    start = RESETS_S * SECOND_MS - BLOCK_MS
    spend(env, "work", (start - 1, 20.0), (start, 3.1), (NOW_MS - 6 * DAY_MS, 30.0), (NOW_MS - 8 * DAY_MS, 5.0))
    line = statusline.status_line(said(tmp_path / "work/projects/x/one.jsonl"), env, NOW_MS)
    local = time.strftime("%H:%M", time.localtime(RESETS_S))
    assert line == f"Opus 5.5 · $0.42 · 5h 24% $3.10 till {local} · 7d 41% $53.10 · $21.90 left"


def test_without_official_windows_the_budgets_of_ones_own_count(env: dict[str, str]) -> None:
    spend(env, "plain", (NOW_MS - 60_000, 5.0), (NOW_MS - DAY_MS, 17.8))
    line = statusline.status_line(said(rate_limits=None), env, NOW_MS)
    assert line == "Opus 5.5 · $0.42 · 5h ~20% $5.00 · 7d ~5% $22.80 · $20.00 left"


@pytest.mark.parametrize(
    ("transcript", "more_env", "kept_for"),
    [
        ("work/projects/x/one.jsonl", {}, "work"),
        (".claude/projects/x/one.jsonl", {}, "plain"),
        (".claude/projects/x/one.jsonl", {"CLAUDE_CONFIG_DIR": "{home}/work"}, "plain"),
        (None, {"CLAUDE_CONFIG_DIR": "{home}/work"}, "work"),
        (None, {}, "plain"),
        ("pool/config/token/projects/x/one.jsonl", {"CLAUDE_CODE_OAUTH_TOKEN": "t"}, "token"),
        ("elsewhere/projects/x/one.jsonl", {}, None),
        ("workshop/projects/x/one.jsonl", {}, None),
        # Another account's token or key in a login's directory: whose limits these are cannot be told.
        ("work/projects/x/one.jsonl", {"CLAUDE_CODE_OAUTH_TOKEN": "t"}, None),
        ("work/projects/x/one.jsonl", {"ANTHROPIC_API_KEY": "k"}, None),
    ],
)
def test_readings_are_kept_for_the_subscription_in_whose_directory_the_session_is(
    env: dict[str, str], tmp_path: Path, transcript: str | None, more_env: dict[str, str], kept_for: str | None
) -> None:
    env |= {name: value.format(home=tmp_path) for name, value in more_env.items()}
    statusline.status_line(said(None if transcript is None else tmp_path / transcript), env, NOW_MS)
    expected = {
        "five_hour": WindowReading("five_hour", 23.5, RESETS_S * 1000, "allowed", NOW_MS),
        "seven_day": WindowReading("seven_day", 41.2, (RESETS_S + 3 * 86_400) * 1000, "allowed", NOW_MS),
    }
    assert readings(env) == ({} if kept_for is None else {kept_for: expected})


def test_a_directory_behind_a_link_is_the_same_directory(env: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "work").symlink_to(tmp_path / "real")
    statusline.status_line(said(tmp_path / "real/projects/x/one.jsonl"), env, NOW_MS)
    assert list(readings(env)) == ["work"]


def test_an_idle_session_that_repeats_what_it_once_heard_changes_nothing(env: dict[str, str]) -> None:
    statusline.status_line(said(five_hour=45.0), env, NOW_MS)
    statusline.status_line(said(five_hour=20.0), env, NOW_MS + 1000)
    statusline.status_line(said(five_hour=45.0), env, NOW_MS + 2000)
    assert readings(env)["plain"]["five_hour"].observed_at_ms == NOW_MS
    statusline.status_line(said(five_hour=46.0), env, NOW_MS + 3000)
    assert readings(env)["plain"]["five_hour"].percent == 46.0
    late = RESETS_S * 1000 + 1
    assert " 46%" not in statusline.status_line(said(five_hour=46.0), env, late)


_RESETS = st.one_of(st.none(), st.integers(NOW_MS, NOW_MS + BLOCK_MS))
_SEEN = st.tuples(st.one_of(st.none(), st.floats(0, 100)), _RESETS)


@given(_SEEN, _SEEN)
def test_of_two_readings_at_most_one_is_news_to_the_other(one: Seen, other: Seen) -> None:
    if None not in (one[0], other[0]):
        assert not (statusline.is_news(one, other) and statusline.is_news(other, one))
        assert not statusline.is_news(one, one)


@given(st.integers(0, 4 * 10**12), st.one_of(st.none(), st.integers(-DAY_MS, DAY_MS)))
def test_the_block_is_the_one_that_the_server_counts(now_ms: int, ahead_ms: int | None) -> None:
    resets_ms = None if ahead_ms is None else now_ms + ahead_ms
    reading = WindowReading("five_hour", 1.0, resets_ms, "allowed", now_ms)
    assert statusline.block_start_ms(now_ms, resets_ms) == windows.block_at(now_ms, reading).starts_at_ms


_JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text()),
    lambda inner: st.one_of(st.lists(inner), st.dictionaries(st.text(), inner)),
)
_FIELDS = ("model", "cost", "rate_limits", "transcript_path", "workspace")


@given(
    st.one_of(
        st.binary(),
        _JSON.map(lambda value: json.dumps(value).encode()),
        st.fixed_dictionaries(
            {},
            optional={
                **dict.fromkeys(_FIELDS, _JSON),
                "rate_limits": st.dictionaries(
                    st.sampled_from(["five_hour", "seven_day", "x"]),
                    st.fixed_dictionaries({}, optional={"used_percentage": _JSON, "resets_at": _JSON}),
                ),
                "model": st.fixed_dictionaries({"display_name": st.text()}),
                "cost": st.fixed_dictionaries({"total_cost_usd": st.one_of(st.floats(), st.integers())}),
            },
        ).map(lambda value: json.dumps(value).encode()),
    )
)
def test_whatever_comes_in_one_printable_line_goes_out(content: bytes) -> None:
    line = statusline.status_line(content, {"POOL_MCP_HOME": "/nonexistent", "HOME": "/nonexistent"}, NOW_MS)
    assert line
    assert line.isprintable()


@pytest.mark.parametrize(
    "settings",
    ["not toml at all [", "subscriptions = 5", "[[subscriptions]]\nid = 5\nconfig_dir = 7", 'config_dir = "~nobody/x"'],
)
def test_broken_settings_do_not_break_the_line(env: dict[str, str], settings: str) -> None:
    (Path(env["POOL_MCP_HOME"]) / "pool.toml").write_text(settings)
    assert statusline.status_line(said(), env, NOW_MS).startswith("Opus 5.5 · $0.42")


def run(env: dict[str, str], content: bytes) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(COMMAND, input=content, env=env, capture_output=True, timeout=60, check=False)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"{", b"[" * 100_000, b'"' + b"x" * 3_000_000, said()[:-5]])
def test_as_a_command_it_leaves_with_zero_and_a_line_whatever_it_reads(env: dict[str, str], content: bytes) -> None:
    done = run(env, content)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"Claude\n", b"")


def test_a_host_cannot_fill_the_ledger_with_windows_or_put_names_there_that_act(env: dict[str, str]) -> None:
    now_s = int(time.time())
    reading = {"used_percentage": 7, "resets_at": now_s + 600}
    limits = {"five_hour": reading, "\x1b]0;x\x07": reading, **{f"w{n}": reading for n in range(5000)}}
    assert "5h 7%" in statusline.status_line(said(rate_limits=limits), env, now_s * 1000)
    assert readings(env)["plain"].keys() == {"five_hour", *(f"w{n}" for n in range(statusline.MOST_WINDOWS - 2))}


@pytest.mark.parametrize("damage", ["missing", "garbage", "directory", "unmigrated"])
def test_a_ledger_that_cannot_be_read_costs_its_figures_only(env: dict[str, str], damage: str) -> None:
    path = load(env).ledger_path
    for file in path.parent.glob("ledger.db*"):
        file.unlink()
    if damage == "garbage":
        path.write_bytes(b"no database" * 500)
    elif damage == "directory":
        path.mkdir()
    elif damage == "unmigrated":
        sqlite3.connect(path).close()
    now_s = int(time.time())
    limits = {"five_hour": {"used_percentage": 7, "resets_at": now_s + 600}}
    done = run(env, said(rate_limits=limits))
    assert done.returncode == 0
    assert done.stdout.decode().startswith("Opus 5.5 · $0.42 · 5h 7% till ")
    assert path.exists() == (damage != "missing")


def test_a_ledger_that_another_process_holds_is_waited_for_a_moment_only(env: dict[str, str]) -> None:
    now_s = int(time.time())
    limits = {"five_hour": {"used_percentage": 7, "resets_at": now_s + 600}}
    with closing(sqlite3.connect(load(env).ledger_path, isolation_level=None)) as holder:
        holder.execute("BEGIN IMMEDIATE")
        began = time.perf_counter()
        held = statusline.status_line(said(rate_limits=limits), env, now_s * 1000)
        waited_s = time.perf_counter() - began
        holder.execute("ROLLBACK")
    assert "5h 7% $0.00" in held
    assert waited_s < 2.0  # and not the server's 30 s; 0.05 on an idle machine
    assert readings(env) == {}
    statusline.status_line(said(rate_limits=limits), env, now_s * 1000)
    assert readings(env)["plain"]["five_hour"].percent == 7


def test_the_command_loads_nothing_that_takes_long(env: dict[str, str]) -> None:
    content = said(rate_limits=None)
    command = [sys.executable, "-X", "importtime", *COMMAND[1:]]
    done = subprocess.run(command, input=content, env=env, capture_output=True, timeout=60, check=True)
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.decode().splitlines()}
    assert {"sqlite3", "pool_mcp.statusline"} <= loaded
    heavy = ("pydantic", "mcp", "rich", "click", "anyio", "sqlite_utils", "dataclasses", "httpx2", "platformdirs")
    assert loaded.isdisjoint(heavy)
    assert done.stdout.startswith(b"Opus 5.5")


def test_an_hour_is_an_hour_everywhere() -> None:
    assert sums.HOUR_MS == HOUR_MS
