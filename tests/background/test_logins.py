"""Stale readings and logins are looked after without a run: by one process at a time, seldom, and silently."""

import json
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest
from anthropic_proxy import anthropic_proxy
from cli_versions import CLI_VERSIONS, THIS_RUN, CliVersion
from support import make_home, open_ledger

from pool_mcp.background.logins import REFRESH_MS, STALE_MS, Upkeep
from pool_mcp.claude.login import usage_of
from pool_mcp.claude.stream import usage_readings
from pool_mcp.ledger.ledger import Ledger
from pool_mcp.model import HOUR_MS, MINUTE_MS, NANO, Subscription, WindowReading
from pool_mcp.settings import Settings
from pool_mcp.state import State

NOW = 1_795_340_000_000

LIMITS = [
    {"kind": kind, "group": group, "percent": percent, "resets_at": resets_at, "severity": "normal", **more}
    for kind, group, percent, resets_at, more in (
        ("session", "session", 23, "2026-11-22T12:00:00Z", {"is_active": True}),
        ("weekly_all", "weekly", 41, "2026-11-26T12:00:00Z", {"is_active": False, "scope": None}),
        (
            "weekly_scoped",
            "weekly",
            12,
            "2026-11-26T12:00:00Z",
            {"is_active": False, "scope": {"model": {"display_name": "Opus"}}},
        ),
    )
]
"""As Anthropic's usage endpoint and Claude Code 2.1.330 give them."""


RESET, WEEK = 1_795_348_800_000, 1_795_694_400_000
READ = [
    WindowReading("five_hour", 23.0, RESET, "allowed", NOW),
    WindowReading("seven_day", 41.0, WEEK, "allowed", NOW),
    WindowReading("seven_day_opus", 12.0, WEEK, "allowed", NOW),
]


def said(limits: object) -> str:
    event = {"type": "assistant", "usage_report": {"session": {}, "rate_limits": limits}}
    return f'{{"type":"system"}}\n{json.dumps(event)}\n'


def test_the_clis_own_usage_is_read_in_its_own_units() -> None:
    assert usage_readings(said({"limits": LIMITS}), NOW) == READ


@pytest.mark.parametrize("version", CLI_VERSIONS, ids=lambda one: one.name)
def test_the_real_cli_asks_anthropic_for_a_stored_logins_limits(version: CliVersion, tmp_path: Path) -> None:
    config_dir = tmp_path / "carol"
    config_dir.mkdir()
    carol = Subscription("carol", config_dir, None, None, "max", NANO, NANO, 0, 15, enabled=True)
    login = {"accessToken": "none", "refreshToken": "none", "expiresAt": 1_999_999_999_999, "subscriptionType": "max"}
    scopes = {"scopes": ["user:inference", "user:profile"]}
    (config_dir / ".credentials.json").write_text(json.dumps({"claudeAiOauth": login | scopes}))
    with anthropic_proxy(tmp_path, LIMITS) as proxy:
        env = {"HOME": str(tmp_path), **proxy.env}
        found = usage_of(version.cli, carol, env, "", tmp_path, lambda: NOW)
    assert "GET /api/oauth/usage" in proxy.asked
    assert not [one for one in proxy.asked if "event_logging" in one]
    assert found == ([] if version is THIS_RUN else READ)  # that version tells it in prose only


@pytest.mark.parametrize(
    "output",
    [
        "",
        "no JSON\n[]\n3\n",
        said(None),
        said({"limits": None}),
        said({"limits": ["x", {"kind": 3}, {"kind": "session"}, {"kind": "weekly_scoped", "percent": 1, "scope": []}]}),
    ],
)
def test_what_cannot_be_understood_tells_nothing(output: str) -> None:
    assert usage_readings(output, NOW) == []


@dataclass
class Clock:
    now_ms: int = NOW

    def __call__(self) -> int:
        return self.now_ms


def stored_login(tmp_path: Path, usage: str) -> tuple[Settings, Path]:
    """A home with one stored login and a CLI that keeps a list of what it was asked."""
    (tmp_path / "usage").write_text(usage)
    (tmp_path / "login").write_text(json.dumps({"loggedIn": True, "orgId": "org-1"}))
    calls, cli = tmp_path / "calls", tmp_path / "claude"
    cli.write_text(
        f'#!/bin/sh\necho "$1" >> {calls}\ncase "$1" in auth) cat {tmp_path}/login ;; *) cat {tmp_path}/usage ;; esac\n'
    )
    cli.chmod(0o755)
    settings, _ = make_home(
        tmp_path, cli=cli, subscriptions={"alice": {"enabled": False}, "carol": {"config_dir": str(tmp_path / "carol")}}
    )
    return settings, calls


def upkeep(settings: Settings, ledger: Ledger, clock: Clock) -> Upkeep:
    return Upkeep(settings, ledger, State(settings), {"HOME": "/nowhere"}, clock)


def times_asked(calls: Path, what: str) -> int:
    return calls.read_text().split().count(what) if calls.exists() else 0


def test_a_stale_reading_is_refreshed_by_one_process_and_not_again_for_five_minutes(tmp_path: Path) -> None:
    settings, calls = stored_login(tmp_path, said({"limits": LIMITS}))
    clock = Clock()
    with closing(open_ledger(settings)) as ledger, closing(open_ledger(settings)) as beside:
        one, other = upkeep(settings, ledger, clock), upkeep(settings, beside, clock)
        one.look()
        assert times_asked(calls, "-p") == 0  # nobody has asked for anything
        for server in (one, other):
            server.asked()
            server.look()
        assert times_asked(calls, "-p") == 1
        with ledger.read() as tx:
            assert tx.official.latest()["carol"]["seven_day"].percent == 41.0
        clock.now_ms += STALE_MS
        one.look()
        assert times_asked(calls, "-p") == 1  # still fresh
        clock.now_ms += MINUTE_MS
        one.look()
        other.look()
        assert times_asked(calls, "-p") == 2
        clock.now_ms += HOUR_MS
        one.look()
        assert times_asked(calls, "-p") == 2  # no longer in use


def test_a_cli_that_tells_nothing_is_left_alone_and_the_last_reading_stays(tmp_path: Path) -> None:
    settings, calls = stored_login(tmp_path, "nonsense\n")
    clock = Clock()
    with closing(open_ledger(settings)) as ledger:
        before = WindowReading("five_hour", 50.0, NOW + HOUR_MS, "allowed", NOW - STALE_MS - 1)
        with ledger.write() as tx:
            tx.official.record("carol", [before], before.observed_at_ms)
        one = upkeep(settings, ledger, clock)
        one.asked()
        for _ in range(3):
            one.look()
        assert times_asked(calls, "-p") == 1
        clock.now_ms += REFRESH_MS
        one.look()
        assert times_asked(calls, "-p") == 2
        with ledger.read() as tx:
            assert tx.official.latest() == {"carol": {"five_hour": before}}


def test_the_organisation_is_asked_for_once_and_kept(tmp_path: Path) -> None:
    settings, calls = stored_login(tmp_path, "")
    clock = Clock()
    with closing(open_ledger(settings)) as ledger:
        for _ in range(3):
            upkeep(settings, ledger, clock).look()
        with ledger.read() as tx:
            assert tx.logins.organisations() == {"carol": "org-1"}
    assert times_asked(calls, "auth") == 1
