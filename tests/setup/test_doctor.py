"""The doctor finds what is wrong, names the one command that mends it, and says by its exit code that it did."""

import json
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from datetime import datetime
from pathlib import Path

import pytest
from machine import Machine
from support import new_id, now_ms, open_ledger
from written import answer, dump

from pool_mcp.model import (
    BLOCK_MS,
    HOUR_MS,
    Cost,
    ModelCost,
    Outcome,
    Run,
    RunState,
    Settlement,
    Tokens,
    WindowReading,
)
from pool_mcp.results.setup import FindingResult
from pool_mcp.settings import load
from pool_mcp.setup.doctor import examine
from pool_mcp.system.locks import OwnerLock

NO_CLI = ("cli", "npm install -g @anthropic-ai/claude-code")


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A machine with a login, a host and a ledger on which all is well."""
    machine = Machine(tmp_path / "home", monkeypatch)
    machine.set(POOL_MCP_HOME=str(machine.home / "pool"))
    machine.sign_in(".claude", "ann@example.com", "org-1")
    (machine.home / "pool").mkdir(mode=0o700)
    (machine.home / "pool" / "pool.toml").write_text('[[subscriptions]]\nid = "ann"\n')
    open_ledger(load(machine.env)).close()
    (machine.bin / "claude").rename(machine.bin / "claude-code")
    machine.set(POOL_MCP_CLAUDE_PATH=str(machine.bin / "claude-code"))
    machine.say("install", "claude-code")
    return machine


def look(machine: Machine) -> dict[str, list[FindingResult]]:
    """All findings by what was looked at."""
    found: dict[str, list[FindingResult]] = {}
    for one in examine(machine.env, now_ms()).findings:
        found.setdefault(one.check, []).append(one)
    return found


def broken(machine: Machine) -> list[tuple[str, str]]:
    """What is broken, and what mends it."""
    return [(one.check, one.fix or "") for one in examine(machine.env, now_ms()).findings if one.status == "broken"]


def broken_elsewhere(machine: Machine) -> list[tuple[str, str]]:
    """What is broken besides the CLI, which is away so that it need not be asked."""
    machine.set(POOL_MCP_CLAUDE_PATH="/nowhere/claude")
    (cli, *others) = broken(machine)
    assert cli == NO_CLI
    return others


def test_where_all_is_well_every_line_says_so(machine: Machine) -> None:
    found = look(machine)
    assert {check: [one.status for one in each] for check, each in found.items()} == {
        "settings": ["ok"],
        "cli": ["ok"],
        "login": ["ok"],
        "sqlite": ["ok"],
        "ledger": ["ok"],
        "runs": ["ok"],
        "locks": ["ok"],
        "clock": ["ok"],
        "permissions": ["ok"],
        "transcripts": ["ok"],
        "hosts": ["ok"],
    }
    assert found["login"][0].text == "ann: ann@example.com · max_20x"
    assert found["cli"][0].text.startswith("2.1.")
    assert found["sqlite"][0].text.startswith(f"SQLite {sqlite3.sqlite_version}")
    said = machine.run("doctor")
    assert said.exit_code == 0
    assert said.output.endswith("All is well.\n")


def test_a_machine_with_nothing_on_it_is_told_what_to_do_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(tmp_path / "home", monkeypatch)
    result = machine.run("doctor", "--json")
    said = json.loads(result.output)
    assert result.exit_code == 1
    assert said["ok"] is False
    assert {one["check"]: (one["status"], one["fix"]) for one in said["findings"]} == {
        "settings": ("note", "pool-mcp setup"),
        "cli": ("ok", None),
        "login": ("broken", "pool-mcp login default"),
        "sqlite": ("ok", None),
        "ledger": ("ok", None),
        "permissions": ("ok", None),
        "transcripts": ("ok", None),
        "hosts": ("note", "pool-mcp install claude-code"),
    }
    assert [path for path in machine.home.rglob("*") if "pool-mcp" in path.name] == []


def test_transcripts_that_cannot_be_read_are_named(machine: Machine) -> None:
    project = machine.home / ".claude" / "projects" / "slug"
    project.mkdir(parents=True)
    pipe = project / "pipe.jsonl"
    os.mkfifo(pipe)
    (found,) = look(machine)["transcripts"]
    assert (found.status, found.fix) == ("note", f"ls -ld {pipe}")
    assert found.text == "~/.claude/projects/slug/pipe.jsonl cannot be read, so what is in there is not counted"
    assert "transcripts that cannot be read" in machine.say("import")


def test_a_cli_with_an_old_price_list_is_told_once_and_is_to_be_updated(machine: Machine) -> None:
    at_ms = int(datetime.fromisoformat("2026-11-01T00:00:00Z").timestamp() * 1000)
    run = Run(
        new_id(), new_id(), "ann", new_id(), False, "agent", None, RunState.RESERVED, "me", False, False, at_ms,
        at_ms, 1,
    )  # fmt: skip
    old = Cost.of({"claude-sonnet-5": ModelCost(Tokens(1000, 1000), 18_000_000)})
    ended = Settlement(run.run_id, RunState.SETTLED, Outcome.OK, None, old, at_ms, cli_version="2.1.197")
    with closing(open_ledger(load(machine.env))) as ledger, ledger.write() as tx:
        tx.runs.insert_ask(run.ask_id, "agent", None, "", at_ms)
        tx.runs.insert(run)
        assert tx.runs.mark_running(run.run_id, "me", None, at_ms)
        assert tx.runs.settle(ended, "me")
    project = machine.home / ".claude" / "projects" / "slug"
    project.mkdir(parents=True)
    for name in ("one", "two"):
        (project / f"{name}.jsonl").write_bytes(dump(answer(name)))
        machine.say("import")
    with closing(open_ledger(load(machine.env))) as ledger, ledger.read() as tx:
        told = [alert.message for _, alert in tx.notices.current(now_ms()) if alert.kind == "prices"]
    assert told == [
        "ann: Claude Code 2.1.197 prices claude-sonnet-5 at 1.50 times the list price, and so it is booked; update it"
    ]
    (found,) = look(machine)["prices"]
    assert (found.status, found.fix) == ("note", "claude update")


def test_in_a_pipe_every_finding_is_a_line_without_colour_and_each_remedy_a_line_below(machine: Machine) -> None:
    (machine.home / "pool" / "runs").mkdir(mode=0o755)
    machine.set(POOL_MCP_CLAUDE_PATH="/nowhere/claude")
    program = Path(sys.executable).with_name("pool-mcp")
    done = subprocess.run([program, "doctor"], env=machine.env, capture_output=True, check=False)
    lines = done.stdout.decode().splitlines()
    assert done.returncode == 1
    assert b"\x1b" not in done.stdout
    assert [line[:14].rstrip() for line in lines if line and line[0] in "✓✗·"] == [
        "✓ settings",
        "✗ cli",
        "✓ sqlite",
        "✓ ledger",
        "✓ runs",
        "✓ locks",
        "✓ clock",
        "✗ permissions",
        "✓ transcripts",
        "✓ hosts",
    ]
    at = next(at for at, line in enumerate(lines) if line.startswith("✗ permissions"))
    assert lines[at + 1] == f"    chmod -R go-rwx {machine.home}/pool/runs"
    assert lines[-1] == "2 to fix; the command is under each."


def test_where_the_locale_has_no_ticks_words_stand_for_them(machine: Machine) -> None:
    program = Path(sys.executable).with_name("pool-mcp")
    env = {**machine.env, "PYTHONIOENCODING": "ascii", "POOL_MCP_CLAUDE_PATH": "/nowhere/claude"}
    done = subprocess.run([program, "doctor"], env=env, capture_output=True, check=False)
    assert [line[:11] for line in done.stdout.splitlines()[:2]] == [b"ok settings", b"NO cli     "]


def test_settings_that_are_wrong_are_shown_with_their_error(machine: Machine) -> None:
    (machine.home / "pool" / "pool.toml").write_text("strategie = 1\n")
    found = look(machine)
    assert found["settings"][0].status == "broken"
    assert "did you mean strategy" in found["settings"][0].text
    assert found["settings"][0].fix == f'"${{EDITOR:-vi}}" {machine.home}/pool/pool.toml'
    assert list(found) == ["settings", "hosts"]


def test_a_missing_cli_is_named_with_the_way_to_get_it(machine: Machine) -> None:
    machine.set(POOL_MCP_CLAUDE_PATH="/nowhere/claude")
    assert broken(machine) == [NO_CLI]


def test_a_cli_of_an_early_version_is_worth_an_update(machine: Machine) -> None:
    (machine.bin / "old").write_text("#!/bin/sh\necho '2.1.200 (Claude Code)'\n")
    (machine.bin / "old").chmod(0o755)
    machine.set(POOL_MCP_CLAUDE_PATH=str(machine.bin / "old"))
    found = look(machine)
    assert (found["cli"][0].status, found["cli"][0].fix) == ("note", f"{machine.bin}/old update")
    assert (found["login"][0].status, "gave no answer" in found["login"][0].text) == ("broken", True)


def test_each_subscription_has_its_login_and_each_that_lacks_one_its_own_remedy(machine: Machine) -> None:
    (machine.home / "pool" / "pool.toml").write_text(
        '[[subscriptions]]\nid = "ann"\n[[subscriptions]]\nid = "out"\nconfig_dir = "~/.claude-out"\n'
        '[[subscriptions]]\nid = "key"\napi_key_env = "A_KEY"\n'
        '[[subscriptions]]\nid = "token"\noauth_token_env = "A_TOKEN"\n'
        '[[subscriptions]]\nid = "unset"\noauth_token_env = "B_TOKEN"\n'
        '[[subscriptions]]\nid = "off"\noauth_token_env = "C_TOKEN"\nenabled = false\n'
    )
    machine.set(A_KEY="sk-ant-api03-of-nobody", A_TOKEN="sk-ant-oat01-of-nobody")
    assert [(one.status, one.text, one.fix) for one in look(machine)["login"]] == [
        ("ok", "ann: ann@example.com · max_20x", None),
        ("broken", "out: not signed in", "pool-mcp login out"),
        ("ok", "key: an API key, from A_KEY", None),
        ("ok", "token: a token, from A_TOKEN", None),
        ("broken", "unset: B_TOKEN is not set in this environment", "export B_TOKEN=…"),
    ]


def test_two_logins_of_one_organisation_are_noted(machine: Machine) -> None:
    machine.sign_in(".claude-twin", "bob@example.com", "org-1")
    (machine.home / "pool" / "pool.toml").write_text(
        '[[subscriptions]]\nid = "ann"\n[[subscriptions]]\nid = "twin"\nconfig_dir = "~/.claude-twin"\n'
    )
    (_, twin) = look(machine)["login"]
    assert twin.status == "note"
    assert "the same organization as ann, so the same quota" in twin.text


def test_sums_that_are_not_what_the_entries_say_are_found(machine: Machine) -> None:
    conn = sqlite3.connect(machine.home / "pool" / "ledger.db")
    columns = [row[1] for row in conn.execute("PRAGMA table_info(hours)")]
    values = ["x" if kind.startswith("TEXT") else 1 for _, _, kind, *_ in conn.execute("PRAGMA table_info(hours)")]
    conn.execute(f"INSERT INTO hours ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})", values)
    conn.commit()
    conn.close()
    assert broken_elsewhere(machine) == [("ledger", "pool-mcp ledger check")]


def test_a_ledger_that_is_none_is_found(machine: Machine) -> None:
    (machine.home / "pool" / "ledger.db").write_text("not a database, whatever its name says" * 100)
    assert broken_elsewhere(machine) == [("ledger", "pool-mcp ledger check")]


def test_runs_that_nobody_follows_and_locks_that_nobody_holds_are_found(machine: Machine) -> None:
    settings = load(machine.env)
    lock = OwnerLock(settings.owners_dir, new_id())
    ledger = open_ledger(settings)
    for owner_id in (lock.owner_id, "gone"):
        insert_run(machine, owner_id)
    (settings.owners_dir / "gone").touch(mode=0o600)
    machine.set(POOL_MCP_CLAUDE_PATH="/nowhere/claude")
    found = look(machine)
    assert [(one.status, one.text) for one in found["runs"]] == [
        ("broken", "1 without a server that follows them; not booked yet")
    ]
    assert [(one.status, one.fix) for one in found["locks"]] == [("note", "pool-mcp status")]
    machine.say("status")
    assert broken_elsewhere(machine) == [("runs", "pool-mcp status")], "it goes on once there is a CLI"
    lock.release()
    ledger.close()


def insert_run(machine: Machine, owner_id: str) -> None:
    ledger, now = open_ledger(load(machine.env)), now_ms()
    run = Run(
        run_id=new_id(),
        ask_id=new_id(),
        subscription="ann",
        session_id=new_id(),
        resumed=False,
        caller="me",
        model=None,
        state=RunState.RESERVED,
        owner_id=owner_id,
        background=False,
        structured=False,
        created_at_ms=now,
        deadline_ms=now + HOUR_MS,
        reserved_nanousd=1,
    )
    with ledger.write() as tx:
        tx.runs.insert_ask(run.ask_id, run.caller, None, "", now)
        tx.runs.insert(run)
    ledger.close()


@pytest.mark.parametrize(
    ("observed_ago_ms", "resets_in_ms", "says"),
    [
        (0, HOUR_MS, None),
        (0, BLOCK_MS, None),
        (0, BLOCK_MS + HOUR_MS, "1h0m behind Anthropic's"),
        (0, -3 * HOUR_MS, "3h0m ahead of Anthropic's"),
        (-3 * HOUR_MS, 0, "2h59m behind what the ledger has seen"),
    ],
)
def test_a_clock_that_is_wrong_is_known_by_anthropics_resets_and_the_ledgers_times(
    machine: Machine, observed_ago_ms: int, resets_in_ms: int, says: str | None
) -> None:
    ledger, now = open_ledger(load(machine.env)), now_ms()
    observed_ms = now - observed_ago_ms
    reading = WindowReading("five_hour", 10.0, observed_ms + resets_in_ms, "allowed", observed_ms)
    with ledger.write() as tx:
        tx.official.record("ann", [reading], reading.observed_at_ms)
    ledger.close()
    machine.set(POOL_MCP_CLAUDE_PATH="/nowhere/claude")
    (clock,) = look(machine)["clock"]
    assert clock.status == ("ok" if says is None else "broken")
    assert says is None or says in clock.text


def test_what_others_could_read_or_change_is_found(machine: Machine) -> None:
    state = machine.home / "pool"
    (state / "runs").mkdir(mode=0o755)
    assert broken_elsewhere(machine) == [("permissions", f"chmod -R go-rwx {state}/runs")]
    os.chmod(state / "runs", 0o700)  # noqa: PTH101
    (state / "pool.toml").chmod(0o666)
    assert broken_elsewhere(machine) == [("permissions", f"chmod go-w {state}/pool.toml")]


def test_a_host_whose_entry_has_gone_stale_is_found(machine: Machine) -> None:
    cursor = machine.home / ".cursor" / "mcp.json"
    cursor.parent.mkdir()
    entry = {"command": "/gone/pool-mcp", "env": {"POOL_MCP_HOME": str(machine.home / "pool")}}
    cursor.write_text(json.dumps({"mcpServers": {"claude pool": entry}}))
    assert broken_elsewhere(machine) == [("hosts", "pool-mcp install cursor --name 'claude pool'")]
    machine.say("install", "cursor", "--name", "claude pool")
    assert broken_elsewhere(machine) == []


def test_a_host_that_keeps_other_books_is_found(machine: Machine) -> None:
    machine.set(POOL_MCP_HOME="")
    machine.say("install", "cursor")
    machine.set(POOL_MCP_HOME=str(machine.home / "pool"))
    assert broken_elsewhere(machine) == [("hosts", "pool-mcp install cursor")]


@pytest.mark.parametrize("host", ["codex", "cursor", "gemini", "windsurf"])
def test_a_host_that_keeps_back_a_key_which_its_entry_does_not_name_is_found(machine: Machine, host: str) -> None:
    machine.set(WORK_KEY="k")
    machine.say("install", host)
    machine.say("add", "work", "--api-key-env", "WORK_KEY")
    assert broken_elsewhere(machine) == [("hosts", f"pool-mcp install {host}")]
    machine.say("install", host)
    assert broken_elsewhere(machine) == []


@pytest.mark.parametrize("host", ["claude-code", "vscode", "zed"])
def test_a_host_that_passes_every_variable_on_needs_no_more(machine: Machine, host: str) -> None:
    machine.set(WORK_KEY="k")
    machine.say("install", host)
    machine.say("add", "work", "--api-key-env", "WORK_KEY")
    assert broken_elsewhere(machine) == []


def test_a_key_that_the_person_has_to_write_into_claude_desktops_file_is_found(machine: Machine) -> None:
    machine.set(WORK_KEY="k")
    machine.say("add", "work", "--api-key-env", "WORK_KEY")
    machine.say("install", "claude-desktop")
    file = machine.home / ".config" / "Claude" / "claude_desktop_config.json"
    assert broken_elsewhere(machine) == [("hosts", f'"${{EDITOR:-vi}}" {file}')]
    settings = json.loads(file.read_text())
    settings["mcpServers"]["pool"]["env"]["WORK_KEY"] = "k"
    file.write_text(json.dumps(settings))
    assert broken_elsewhere(machine) == []


def test_claude_desktop_does_not_find_what_only_a_shell_finds(machine: Machine) -> None:
    (machine.bin / "uvx").write_text("")
    (machine.bin / "uvx").chmod(0o755)
    file = machine.home / ".config" / "Claude" / "claude_desktop_config.json"
    file.parent.mkdir(parents=True)
    entry = {"command": "uvx", "args": ["pool-mcp"], "env": {"POOL_MCP_HOME": str(machine.home / "pool")}}
    file.write_text(json.dumps({"mcpServers": {"pool": entry}}))
    assert broken_elsewhere(machine) == [("hosts", "pool-mcp install claude-desktop")]


def test_a_host_that_is_here_and_does_not_start_it_is_noted(machine: Machine) -> None:
    machine.set(POOL_MCP_CLAUDE_PATH="/nowhere/claude")
    (machine.home / ".cursor").mkdir()
    assert [(one.status, one.fix) for one in look(machine)["hosts"]] == [
        ("ok", None),
        ("note", "pool-mcp install cursor"),
    ]


def test_a_host_whose_file_is_broken_is_found(machine: Machine) -> None:
    (machine.home / ".cursor").mkdir()
    (machine.home / ".cursor" / "mcp.json").write_text("{")
    assert broken_elsewhere(machine) == [("hosts", f'"${{EDITOR:-vi}}" {machine.home}/.cursor/mcp.json')]
