"""Asking from a shell: pipes, files, conversations, text as it is written."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from support import capture, make_home

from pool_mcp.asks.live_text import LiveText
from pool_mcp.cli.main import SECTIONS, commands
from pool_mcp.cli.options import CLAUDE_FLAGS
from pool_mcp.demo.standin import Standin
from pool_mcp.demo.standin_accounts import Behaviour

COMMAND = [sys.executable, "-m", "pool_mcp"]


@pytest.fixture
def standin() -> Iterator[Standin]:
    with Standin(keep_requests=True) as standin:
        yield standin


def pool_mcp(env: dict[str, str], *arguments: str, piped: str = "") -> subprocess.CompletedProcess[str]:
    command = [*COMMAND, *arguments]
    return subprocess.run(command, env=env, input=piped, capture_output=True, text=True, timeout=90, check=False)


def last_prompt(standin: Standin) -> str:
    """The last message of the user that the CLI sent."""
    _, body = standin.requests[-1]
    return json.dumps([one for one in body["messages"] if one["role"] == "user"][-1], ensure_ascii=False)


def test_the_question_the_files_and_the_pipe_all_go_in_and_the_answer_alone_comes_out(
    standin: Standin, tmp_path: Path
) -> None:
    _, env = make_home(tmp_path, standin)
    (tmp_path / "notes.md").write_text("A note.")
    done = pool_mcp(env, "ask", "Review", "this.", "-f", str(tmp_path / "notes.md"), piped="+ a changed line\n")
    assert (done.returncode, done.stdout) == (0, "Answer 1 of the stand-in for alice: no model was asked.\n")
    prompt = last_prompt(standin)
    assert prompt.index("Review this.") < prompt.index("A note.") < prompt.index("+ a changed line")
    first, session = done.stderr.splitlines()[-2:]
    assert first.startswith("alice · ")
    assert session.startswith("session ")
    assert "pool_mcp." not in done.stderr  # no log line
    dashed = pool_mcp(env, "ask", "-q", "-", piped="Only the pipe.")
    assert (dashed.stdout.count("\n"), dashed.stderr) == (1, "")
    assert "Only the pipe." in last_prompt(standin)
    assert "pool_mcp.asks" in pool_mcp(env, "-v", "ask", "Again.").stderr


def test_a_conversation_goes_on_by_continue_by_the_beginning_of_its_id_and_by_a_run(
    standin: Standin, tmp_path: Path
) -> None:
    _, env = make_home(tmp_path, standin)
    nothing = pool_mcp(env, "ask", "-c", "Go on.")
    assert (nothing.returncode, nothing.stdout) == (2, "")
    assert "has no conversation yet" in nothing.stderr
    first = json.loads(pool_mcp(env, "ask", "--json", "Begin.").stdout)
    pool_mcp(env, "ask", "--caller", "another", "Something else.")
    for arguments in (["-c"], ["--session", first["session_id"][:8]], ["--session", first["run_id"][:8]]):
        again = json.loads(pool_mcp(env, "ask", "--json", *arguments, "And then?").stdout)
        assert again["session_id"] == first["session_id"]
    assert "Begin." in json.dumps(standin.requests[-1][1]["messages"])
    both = pool_mcp(env, "ask", "-c", "--session", "x", "hm")
    assert (both.returncode, len(standin.books)) == (2, 5)


def test_an_answer_is_printed_while_it_is_being_written(standin: Standin, tmp_path: Path) -> None:
    _, env = make_home(tmp_path, standin)
    standin.accounts["alice"] = Behaviour(mode="slow", chunks=10, chunk_delay_s=0.4)
    with subprocess.Popen(
        [*COMMAND, "ask", "-q", "Slowly."], env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, bufsize=0
    ) as asking:
        assert asking.stdout is not None
        begun = asking.stdout.read(1)
        assert standin.books == []  # Anthropic has not ended the call
        rest, _ = asking.communicate(timeout=60)
    assert begun + rest == b"Answer 1 of the stand-in for alice: no model was asked.\n"


@pytest.mark.parametrize("version", ["2.1.197", "2.1.330"])
def test_the_pieces_of_an_answer_come_to_its_text_however_the_file_grows(version: str, tmp_path: Path) -> None:
    lines = capture(version, "partial-messages")
    (result,) = [event["result"] for line in lines if (event := json.loads(line))["type"] == "result"]
    content = b"".join(line + b"\n" for line in lines)
    file = tmp_path / "stdout.jsonl"
    text = LiveText(file)
    pieces = [text.read()]
    for at in range(0, len(content), 777):
        with file.open("ab") as out:
            out.write(content[at : at + 777])
        pieces.append(text.read())
    assert pieces[0] == ""
    assert "".join(pieces) == result


@pytest.mark.parametrize("flag", CLAUDE_FLAGS)
def test_a_flag_of_the_cli_gets_a_hint(flag: str) -> None:
    done = CliRunner().invoke(commands, ["ask", flag, "x"])
    assert (done.exit_code, done.stdout) == (2, "")
    assert f"{flag} is a flag of `claude`; here {CLAUDE_FLAGS[flag]}." in done.stderr


def test_every_command_is_in_one_section_of_the_help() -> None:
    named = [name for names in SECTIONS.values() for name in names]
    assert sorted(named) == sorted(commands.commands)


def test_the_ledger_answers_a_question_and_cannot_be_changed_by_one(standin: Standin, tmp_path: Path) -> None:
    _, env = make_home(tmp_path, standin)
    assert "There is no ledger at " in pool_mcp(env, "ledger", "query", "SELECT 1").stderr
    pool_mcp(env, "ask", "Something.")
    shown = pool_mcp(env, "ledger", "query", "SELECT subscription, state FROM runs", "--json")
    assert json.loads(shown.stdout) == [{"subscription": "alice", "state": "settled"}]
    assert pool_mcp(env, "ledger", "query", "SELECT 1 AS a", "--csv").stdout == "a\n1\n"
    for change in ("DELETE FROM leases", "CREATE TABLE x (y)", "SELECT nonesuch"):
        refused = pool_mcp(env, "ledger", "query", change)
        assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert pool_mcp(env, "ledger", "query", "SELECT 1", "--csv", "--json").returncode == 2
    assert pool_mcp(env, "ledger", "backup", str(tmp_path / "none" / "copy.db")).returncode == 2
    assert not (tmp_path / "none").exists()


def test_the_settings_are_found_and_shown_as_they_are_in_force(tmp_path: Path) -> None:
    settings, env = make_home(tmp_path, None, "alice", weekly_budget_usd=12.5)
    assert json.loads(pool_mcp(env, "config", "path", "--json").stdout)["settings"] == str(settings.config_file)
    shown = json.loads(pool_mcp(env, "config", "show", "--json").stdout)
    assert shown["subscriptions"][0]["weekly_budget_usd"] == 12.5
    assert 'oauth_token_env = "TOKEN_ALICE"' in pool_mcp(env, "config", "show").stdout
    assert "sk-ant" not in pool_mcp(env, "config", "show").stdout


def test_settings_are_written_by_an_editor_only_where_they_are_valid(tmp_path: Path) -> None:
    settings, env = make_home(tmp_path)
    before = settings.config_file.read_text()
    (tmp_path / "break").write_text('#!/bin/sh\nsed -i "1i nonsense = 1" "$1"\n')
    (tmp_path / "good").write_text('#!/bin/sh\necho "# Mine." >> "$1"\n')
    for name in ("break", "good"):
        (tmp_path / name).chmod(0o755)
    broken = pool_mcp({**env, "EDITOR": str(tmp_path / "break")}, "config", "edit", piped="n\n")
    assert (broken.returncode, settings.config_file.read_text()) == (2, before)
    good = pool_mcp({**env, "EDITOR": str(tmp_path / "good")}, "config", "edit")
    assert (good.returncode, settings.config_file.read_text()) == (0, before + "# Mine.\n")
    (tmp_path / "break").write_text(
        f'#!/bin/sh\necho "# By another." >> {settings.config_file}\necho "# Mine." >> "$1"\n'
    )
    both = pool_mcp({**env, "EDITOR": str(tmp_path / "break")}, "config", "edit")
    assert "was changed by somebody else meanwhile" in both.stderr
    assert settings.config_file.read_text() == before + "# Mine.\n# By another.\n"
    (tmp_path / "break").write_text('#!/bin/sh\nprintf "\\377" >> "$1"\n')
    bytes_ = pool_mcp({**env, "EDITOR": str(tmp_path / "break")}, "config", "edit")
    assert (bytes_.returncode, bytes_.stderr.count("\n")) == (2, 1)


def test_color_is_as_it_is_asked_for(tmp_path: Path) -> None:
    _, env = make_home(tmp_path)
    assert "\x1b[" not in pool_mcp(env, "status").stdout
    for arguments in (["--color", "always", "status"], ["status", "--color", "always"]):
        assert "\x1b[" in pool_mcp(env, *arguments).stdout
    assert "\x1b[3" not in pool_mcp({**env, "FORCE_COLOR": "1"}, "status", "--color", "never").stdout
