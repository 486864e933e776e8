"""From logins on the machine to a pool.toml: with the real CLI, and config dirs as a sign-in leaves them."""

import json
import os
import subprocess
import sys
import tomllib
from datetime import UTC, datetime
from pathlib import Path

import pytest
from machine import STORED_LOGIN, Machine
from support import CLAUDE, new_id, now_ms, open_ledger
from written import answer, dump

from pool_mcp.errors import CliMissing, InvalidRequest, NeedsLogin, PoolError, SettingsError
from pool_mcp.settings import load

HEADER = """\
# What pool-mcp may use, and how much of it. Behind a "#" are the defaults.
# strategy = "headroom"       # or "health"
# weekly_budget_usd = 456.0   # of each subscription, in any seven days
# block_budget_usd = 25.0     # of each subscription, in five hours
"""
BUDGETS = "# About all of its plan, as people have measured it: weekly_budget_usd = 1120, block_budget_usd = 140.\n"
CLI_PATH = """
# Where this shell finds it; a host's PATH may be shorter.
[claude]
path = "{cli}"
"""
MINE = """\
# my pool
strategy = "health"  # I like it

# the private one
[[subscriptions]]
id = "private"  # mine
config_dir = "~/.claude-private"

# who may spend what
[callers.night]
daily_budget_usd = 5.0
"""


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path / "home", monkeypatch)


def refusal(machine: Machine, *arguments: str) -> PoolError:
    """The error of a command that has to fail, and has left the settings alone."""
    before = machine.settings.read_text() if machine.settings.exists() else None
    result = machine.run(*arguments)
    assert isinstance(result.exception, PoolError), result.output
    assert "\n" not in result.exception.message
    assert (machine.settings.read_text() if machine.settings.exists() else None) == before
    return result.exception


def test_setup_writes_every_login_that_it_finds(machine: Machine) -> None:
    machine.sign_in(".claude", "ann@example.com", "org-1")
    machine.sign_in(".claude-work", "ann@work.example", "org-2")
    (machine.home / ".claude-old").mkdir()
    said = machine.say("setup", "--yes")
    assert machine.settings.read_text() == (
        HEADER
        + CLI_PATH.format(cli=machine.bin / "claude")
        + f'\n{BUDGETS}[[subscriptions]]\nid = "default"\nplan = "max_20x"\n'
        + f'\n{BUDGETS}[[subscriptions]]\nid = "work"\nconfig_dir = "~/.claude-work"\nplan = "max_20x"\n'
    )
    assert [one.config_dir for one in load(machine.env).subscriptions] == [None, machine.home / ".claude-work"]
    assert "ann@example.com · max_20x → default" in said
    assert "ann@work.example · max_20x → work" in said
    assert "~/.claude-old        not signed in" in said
    assert (machine.settings.stat().st_mode & 0o777, machine.settings.parent.stat().st_mode & 0o777) == (0o600, 0o700)


def test_setup_run_again_has_nothing_to_write(machine: Machine) -> None:
    machine.sign_in(".claude", "ann@example.com", "org-1")
    machine.say("setup", "--yes")
    before = machine.settings.read_text()
    assert "nothing to write" in machine.say("setup")
    assert machine.settings.read_text() == before


def test_setup_keeps_what_is_in_the_file_and_adds_what_is_new(machine: Machine) -> None:
    machine.write_settings(MINE)
    machine.sign_in(".claude-private", "ann@example.com", "org-1")
    machine.sign_in(".claude-work", "ann@work.example", "org-2")
    machine.set(CLAUDE_CONFIG_DIR=str(machine.home / ".claude-private"))
    said = machine.say("setup", input="y\n")
    added = f'{BUDGETS}[[subscriptions]]\nid = "work"\nconfig_dir = "~/.claude-work"\nplan = "max_20x"\n\n'
    path = CLI_PATH.format(cli=machine.bin / "claude")
    assert machine.settings.read_text() == MINE.replace("# who may", f"{added}# who may") + path
    assert '+id = "work"' in said
    assert "-" not in {line[0] for line in said.splitlines() if line and not line.startswith("---")}


def test_two_logins_of_one_organisation_are_said_to_be_one_quota(machine: Machine) -> None:
    machine.sign_in(".claude", "ann@example.com", "org-1")
    machine.sign_in(".claude-twin", "ann@example.com", "org-1")
    assert "the same organization as default: one quota, not two" in machine.say("setup", "--yes")


@pytest.mark.parametrize("answer", ["n\n", ""])
def test_setup_writes_nothing_unless_it_is_told_to(machine: Machine, answer: str) -> None:
    machine.sign_in(".claude", "ann@example.com", "org-1")
    result = machine.run("setup", input=answer)
    assert result.exit_code == 1
    assert 'id = "default"' in result.output
    assert "Nothing is written" in result.output
    assert not machine.settings.exists()


def test_setup_without_any_login_says_how_to_get_one(machine: Machine) -> None:
    said = machine.say("setup", "--yes")
    assert "  pool-mcp login default\n" in said
    assert [one.id for one in load(machine.env).subscriptions] == ["default"]


def test_setup_without_the_cli_says_how_to_get_it(machine: Machine) -> None:
    machine.set(POOL_MCP_CLAUDE_PATH="/nowhere/claude")
    error = refusal(machine, "setup", "--yes")
    assert isinstance(error, CliMissing)
    assert "npm install" in error.message


def test_setup_does_not_touch_settings_that_are_wrong(machine: Machine) -> None:
    machine.write_settings('strategie = "health"\n')
    assert isinstance(refusal(machine, "setup", "--yes"), SettingsError)


def test_a_login_is_added_with_a_directory_of_its_own(machine: Machine) -> None:
    machine.write_settings(MINE)
    said = machine.say("add", "work", "--plan", "pro")
    added = '[[subscriptions]]\nid = "work"\nconfig_dir = "~/.claude-work"\nplan = "pro"\n\n'
    assert machine.settings.read_text() == MINE.replace("# who may", f"{added}# who may")
    assert said.endswith("Next: pool-mcp login work\n")


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        (["--config-dir", "{home}/claude/x"], {"config_dir": "~/claude/x"}),
        (["--config-dir", "/srv/claude"], {"config_dir": "/srv/claude"}),
        (["--api-key-env", "WORK_KEY"], {"api_key_env": "WORK_KEY"}),
        (["--oauth-token-env", "A", "--config-dir", "~/b"], {"config_dir": "~/b", "oauth_token_env": "A"}),
    ],
)
def test_a_subscription_is_added_as_it_is_asked_for(
    machine: Machine, options: list[str], wanted: dict[str, str]
) -> None:
    machine.write_settings(MINE)
    machine.say("add", "new", *(option.format(home=machine.home) for option in options))
    assert tomllib.loads(machine.settings.read_text())["subscriptions"][1] == {"id": "new", **wanted}


def test_the_login_that_no_file_names_is_not_lost_to_the_first_that_is_added(machine: Machine) -> None:
    machine.sign_in(".claude", "ann@example.com", "org-1")
    assert "written down as `default`" in machine.say("add", "work")
    assert [one.id for one in load(machine.env).subscriptions] == ["default", "work"]


def test_without_a_login_the_first_that_is_added_is_the_only_one(machine: Machine) -> None:
    machine.say("add", "work")
    assert [one.id for one in load(machine.env).subscriptions] == ["work"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["add", "private"], "has a subscription 'private'"),
        (["add", "a b"], "should match pattern"),
        (["add", "x", "--config-dir", "~/.claude-private"], "share the config_dir"),
        (["add", "x", "--api-key-env", "A", "--oauth-token-env", "B"], "keep one"),
        (["add", "x", "--api-key-env", "sk-ant-secret"], "api_key_env"),
        (["remove", "work"], "there are: private"),
        (["remove", "private"], "only subscription"),
        (["login", "work"], "there are: private"),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(machine: Machine, arguments: list[str], says: str) -> None:
    machine.write_settings(MINE)
    error = refusal(machine, *arguments)
    assert isinstance(error, InvalidRequest)
    assert says in error.message


def test_subscriptions_in_an_inline_array_are_for_the_person_to_edit(machine: Machine) -> None:
    machine.write_settings('subscriptions = [{ id = "a" }, { id = "b", config_dir = "~/b" }]\n')
    assert "edit it by hand" in refusal(machine, "add", "c").message
    assert "edit by hand" in refusal(machine, "remove", "b").message


def test_a_removed_subscription_leaves_the_file_and_keeps_its_ledger_and_login(machine: Machine) -> None:
    machine.write_settings(MINE)
    machine.say("add", "work")
    ledger = open_ledger(load(machine.env))
    with ledger.write() as tx:
        tx.runs.insert_ask(new_id(), "night", None, "", now_ms())
    ledger.close()
    machine.sign_in(".claude-work", "ann@work.example", "org-2")
    kept = {name: text for name, text in machine.files().items() if not name.endswith("pool.toml")}
    said = machine.say("remove", "work")
    assert machine.settings.read_text() == MINE
    assert '-id = "work"' in said
    assert {name: text for name, text in machine.files().items() if not name.endswith("pool.toml")} == kept


def fake_sign_in(machine: Machine, *, succeeds: bool) -> None:
    """The real CLI, but for a sign-in that asks nobody: it writes what a sign-in writes, where it was told to."""
    (machine.bin / "claude").unlink()
    (machine.home / "login.json").write_text(json.dumps(STORED_LOGIN))
    written = f'cp {machine.home}/login.json "$CLAUDE_CONFIG_DIR/.credentials.json"' if succeeds else "exit 1"
    (machine.bin / "claude").write_text(
        f'#!/bin/sh\nif [ "$1 $2" = "auth login" ]; then\n'
        f'  env > {machine.home}/seen; {written}\nelse exec {CLAUDE} "$@"; fi\n'
    )
    (machine.bin / "claude").chmod(0o755)


def test_login_signs_in_under_the_subscription_that_was_named(machine: Machine) -> None:
    machine.write_settings(MINE)
    fake_sign_in(machine, succeeds=True)
    machine.set(ANTHROPIC_API_KEY="sk-ant-of-another", DISPLAY=":0")
    assert machine.say("login", "private") == "private: max_20x\n"
    seen = dict(line.split("=", 1) for line in (machine.home / "seen").read_text().splitlines() if "=" in line)
    assert seen["CLAUDE_CONFIG_DIR"] == str(machine.home / ".claude-private")
    assert seen["DISPLAY"] == ":0"
    assert "ANTHROPIC_API_KEY" not in seen
    assert (machine.home / ".claude-private").stat().st_mode & 0o777 == 0o700


def test_a_sign_in_that_was_given_up_is_told_from_one_that_worked(machine: Machine) -> None:
    machine.write_settings(MINE)
    fake_sign_in(machine, succeeds=False)
    assert isinstance(refusal(machine, "login", "private"), NeedsLogin)


def test_a_key_has_no_sign_in(machine: Machine) -> None:
    machine.write_settings('[[subscriptions]]\nid = "work"\napi_key_env = "WORK_KEY"\n')
    assert "WORK_KEY" in refusal(machine, "login", "work").message


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script_for_the_shell(machine: Machine, shell: str) -> None:
    assert "_POOL_MCP_COMPLETE" in machine.say("completion", shell)


def test_the_words_of_a_command_are_completed(machine: Machine) -> None:
    machine.write_settings(MINE)
    program = Path(sys.executable).with_name("pool-mcp")

    def complete(line: str) -> list[str]:
        ask = {"_POOL_MCP_COMPLETE": "bash_complete", "COMP_WORDS": line, "COMP_CWORD": str(len(line.split(" ")) - 1)}
        said = subprocess.run([program], env={**os.environ, **ask}, capture_output=True, text=True, check=True)
        return [word.partition(",")[2] for word in said.stdout.split()]

    assert complete("pool-mcp doc") == ["doctor"]
    assert complete("pool-mcp login pr") == ["private"]
    assert complete("pool-mcp install cu") == ["cursor"]


def test_the_first_status_and_report_have_what_was_spent_before_and_later_ones_what_is_new(machine: Machine) -> None:
    machine.sign_in(".claude", "ann@example.com", "org-1")
    project = machine.home / ".claude" / "projects" / "-a"
    project.mkdir(parents=True)
    transcript = project / "9b2006f4-8099-489e-9cb3-64e8039e70f3.jsonl"
    at = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    transcript.write_bytes(dump(answer(timestamp=at)))
    shown = machine.say("setup", "--yes")
    assert "new calls, $0.0" in shown
    assert "default: " not in shown  # signed in, and nothing to say about it
    first = json.loads(machine.say("status", "--json"))
    assert first["pool"]["week_cost_usd"] > 0
    assert first["imported_at"] is not None
    with transcript.open("ab") as file:
        file.write(dump(answer("msg_2", "req_2", timestamp=at)))
    report = json.loads(machine.say("report", "--json"))
    assert report["total"]["calls"] == 2
    assert "transcripts read " in machine.say("report")
