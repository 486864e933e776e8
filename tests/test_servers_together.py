"""Several real servers over one ledger: what one of them learns of a subscription, the others act on at once."""

import json
from pathlib import Path

import anyio
import pytest
from hosting import SERVE, Host, host
from support import make_home, now_ms, sign_in

from pool_mcp.demo.standin import Standin
from pool_mcp.demo.standin_accounts import Behaviour
from pool_mcp.model import HOUR_MS

pytestmark = pytest.mark.anyio


async def state(host: Host, name: str) -> tuple[str, bool]:
    """A subscription's status, and whether it is cooling."""
    status = await host.call("usage_status", subscription=name)
    return status["subscriptions"][0]["status"], status["subscriptions"][0]["cooldown"] is not None


async def test_a_limit_that_one_server_meets_and_its_early_reset_hold_for_the_others_too(
    standin: Standin, tmp_path: Path
) -> None:
    folder = tmp_path / "alice"
    _, env = make_home(
        tmp_path, standin, "alice", "bob", subscriptions={"alice": {"priority": 1, "config_dir": str(folder)}}
    )
    standin.accounts["alice"] = Behaviour(mode="five_hour_limit")
    async with host(env, tmp_path / "one") as one, host(env, tmp_path / "other", "auto") as other:
        assert await one.ask() == [("alice", "limit"), ("bob", "ok")]
        assert await other.ask() == await one.ask() == [("bob", "ok")]
        assert await state(other, "alice") == ("cooldown", True)
        assert len(standin.refused) == 1
        # Anthropic gives everybody a new window; an interactive session there is the first to see it.
        standin.accounts["alice"] = Behaviour()
        seen = {"five_hour": {"used_percentage": 1, "resets_at": (now_ms() + 5 * HOUR_MS) // 1000}}
        session = json.dumps({"rate_limits": seen, "transcript_path": str(folder / "projects/x/one.jsonl")})
        await anyio.run_process([*SERVE[:-1], "statusline"], input=session.encode(), env=env)
        assert await state(one, "alice") == await state(other, "alice") == ("available", False)
        assert await other.ask() == await one.ask() == [("alice", "ok")]


async def test_a_login_that_is_back_is_used_again_by_every_server_without_a_restart(
    standin: Standin, tmp_path: Path
) -> None:
    folder = tmp_path / "carol"
    _, env = make_home(tmp_path, standin, "bob", subscriptions={"carol": {"priority": 1, "config_dir": str(folder)}})
    async with host(env, tmp_path / "one") as one, host(env, tmp_path / "other", "auto") as other:
        # The CLI itself says, at no cost, that nobody is signed in there; so no ask runs into it.
        assert await one.ask() == await other.ask() == [("bob", "ok")]
        assert (await state(other, "carol"))[0] == "needs_login"
        sign_in(folder, "carol", "org-1")
        assert await other.ask() == await one.ask() == [("carol", "ok")]
        assert await state(one, "carol") == await state(other, "carol") == ("available", False)


async def test_a_token_that_works_again_is_used_again_by_every_server_once_one_has_tried_it(
    standin: Standin, tmp_path: Path
) -> None:
    _, env = make_home(tmp_path, standin, "alice", "bob", subscriptions={"alice": {"priority": 1}})
    standin.accounts["alice"] = Behaviour(mode="auth")
    async with host(env, tmp_path / "one") as one, host(env, tmp_path / "other", "auto") as other:
        assert await one.ask() == [("alice", "auth"), ("bob", "ok")]
        assert await other.ask() == [("bob", "ok")]
        standin.accounts["alice"] = Behaviour()
        named = await other.call("ask_claude", prompt="Say something.", subscription="alice")
        assert named["status"] == "completed"
        assert await one.ask() == [("alice", "ok")]
