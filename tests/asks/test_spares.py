"""A CLI that is started before it is needed: it sends nothing, serves one ask, fits it exactly, and is never left."""

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cli_versions import CLI_VERSIONS, CliVersion
from support import CLAUDE, has_spare, is_gone, make_home, new_id, now_ms, open_pool, spares, until

from pool_mcp.asks import spares as spares_module
from pool_mcp.demo.standin import Standin
from pool_mcp.model import DAY_MS, NANO, SECOND_MS, Ask, Subscription
from pool_mcp.pool import Pool
from pool_mcp.results.asks import AskResult
from pool_mcp.settings import Settings
from pool_mcp.system.locks import is_held

pytestmark = pytest.mark.anyio

BY_VERSION = pytest.mark.parametrize("version", CLI_VERSIONS, ids=lambda one: one.name)


async def a_spare(settings: Settings, pool: Pool) -> tuple[str, int]:
    await until(lambda: has_spare(pool), 60)
    return next(iter(spares(settings).items()))


@asynccontextmanager
async def keeping(settings: Settings, env: Mapping[str, str]) -> AsyncIterator[Pool]:
    async with open_pool(settings, env) as pool:
        pool.keep_spares()
        yield pool


async def ask(pool: Pool, prompt: str = "What?", **more: Any) -> AskResult:
    return await pool.ask(Ask(prompt, "test", **more), wait_s=60)


def pid_of(settings: Settings, run_id: str) -> int:
    return int((settings.runs_dir / run_id / "pid").read_text())


@BY_VERSION
async def test_the_second_ask_is_served_by_a_cli_that_waited_and_asked_nobody_until_then(
    tmp_path: Path, version: CliVersion
) -> None:
    with Standin(keep_requests=True) as standin:
        settings, env = make_home(tmp_path, standin, cli=version.cli, claude={"spares": "auto"})
        async with keeping(settings, env) as pool:
            first = await ask(pool, "/One")
            session_id, pid = await a_spare(settings, pool)
            assert len(standin.requests) == 1
            second = await ask(pool, "/One")
            assert (second.session_id, pid_of(settings, second.run_id)) == (session_id, pid)
            await a_spare(settings, pool)
            assert len(standin.requests) == 2
        bodies = [json.dumps(body) for _, body in standin.requests]
        assert bodies[1].replace(second.session_id, first.session_id) == bodies[0]
    assert is_gone(pid)
    assert spares(settings) == {}


async def test_a_new_server_serves_its_first_ask_with_a_spare_where_that_is_wanted(
    tmp_path: Path, standin: Standin
) -> None:
    settings, env = make_home(tmp_path, standin, claude={"spares": "eager"})
    async with keeping(settings, env) as pool:
        session_id, _ = await a_spare(settings, pool)
        assert (await ask(pool)).session_id == session_id


async def test_a_spare_ends_when_nobody_needs_it_in_time(
    tmp_path: Path, standin: Standin, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, env = make_home(tmp_path, standin, claude={"spares": "auto"})
    async with keeping(settings, env) as pool:
        await ask(pool)
        _, pid = await a_spare(settings, pool)
        monkeypatch.setattr(pool._spares, "_clock", lambda: now_ms() + 121 * SECOND_MS)
        await until(lambda: is_gone(pid) and not is_held(settings.state_dir / "spare.lock"), 60)
        assert spares(settings) == {}


async def test_an_ask_that_it_was_not_made_for_starts_a_cli_of_its_own(
    tmp_path: Path, standin: Standin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a run would inherit wrongly keeps it from the spare; in the end the ask that fits gets it."""
    cli = tmp_path / "claude"
    cli.symlink_to(CLAUDE)
    (tmp_path / "work").mkdir()
    settings, env = make_home(
        tmp_path, standin, "alice", "bob", cli=cli, claude={"spares": "auto"}, subscriptions={"bob": {"priority": -1}}
    )
    alice, bob = settings.subscriptions
    async with keeping(settings, env) as pool:
        like = Ask("What?", "test", system_prompt="Be brief.", max_cost_nanousd=NANO)
        await pool.ask(like, wait_s=60)
        await a_spare(settings, pool)

        def fits(subscription: Subscription = alice, most: int = NANO, **more: Any) -> bool:
            return pool._spares.offer(subscription, replace(like, **more), most) is not None

        others: dict[str, Any] = {
            "model": "opus", "effort": "low", "system_prompt": "Be long.", "json_schema": {"type": "object"},
            "session_id": new_id(), "working_dir": str(tmp_path / "work"), "tool_profile": "read",
            "prompt": "a" * 2_000_000,
        }  # fmt: skip
        assert not any(fits(**{name: value}) for name, value in others.items())
        assert not fits(bob)
        assert not fits(most=NANO // 2), "its --max-budget-usd is more than may be spent"
        assert not fits(most=NANO * 3), "its --max-budget-usd would cut the run short"
        with monkeypatch.context() as patch:
            patch.setattr(pool._spares, "_clock", lambda: now_ms() + DAY_MS)
            assert not fits(), "it was given another date"
        login = settings.state_dir / "config" / "alice" / ".credentials.json"
        login.touch()
        assert not fits(), "somebody signed in"
        login.unlink()
        with monkeypatch.context() as patch:
            cli.unlink()
            cli.write_text("#!/bin/sh\n")
            cli.chmod(0o755)
            assert not fits(), "the CLI was updated"
            cli.unlink()
            cli.symlink_to(CLAUDE)
        assert fits(prompt="Something else.")
        assert not fits(), "it serves one ask"


async def test_of_two_servers_one_has_a_spare_and_gives_way_to_the_one_that_asks_later(
    tmp_path: Path, standin: Standin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spares_module, "GIVE_WAY_AFTER_MS", 0)
    settings, env = make_home(tmp_path, standin, claude={"spares": "auto"})
    async with keeping(settings, env) as one, keeping(settings, env) as other:
        await ask(one)
        _, first = await a_spare(settings, one)
        await ask(other)
        await until(lambda: is_gone(first) and first not in spares(settings).values(), 60)
        _, second = await a_spare(settings, other)
        assert pid_of(settings, (await ask(other)).run_id) == second


async def test_where_memory_is_short_there_is_no_spare(
    tmp_path: Path, standin: Standin, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, env = make_home(tmp_path, standin, claude={"spares": "auto"})
    async with keeping(settings, env) as pool:
        await ask(pool)
        _, pid = await a_spare(settings, pool)
        monkeypatch.setattr(spares_module, "LEAST_FREE_BYTES", 1 << 60)
        await until(lambda: is_gone(pid) and not spares(settings), 60)
        await ask(pool)
        await until(lambda: pool._spares._wanted_until_ms == 0)
        assert spares(settings) == {}
