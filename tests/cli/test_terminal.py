"""What others wrote (a model, an agent, a host, a transcript) is shown on a terminal and never acts on it."""

import io
import os
import pty
import subprocess
import sys
from pathlib import Path

import anyio
import pytest
from rich.markdown import Markdown
from rich.table import Table
from support import make_home, open_pool

from pool_mcp.demo.standin import Standin
from pool_mcp.demo.standin_accounts import Behaviour, Reply
from pool_mcp.model import Ask
from pool_mcp.views.plain import PlainConsole, plain

COMMAND = [sys.executable, "-m", "pool_mcp"]
CLIPBOARD, TURN, EIGHT_BIT = "\x1b]52;c;cHduZWQ=\x07", "\u202e", "\x9b31m"
HOSTILE = f"hello {CLIPBOARD}{TURN}{EIGHT_BIT}[/nope] there"


def on_terminal(env: dict[str, str], *arguments: str, term: str = "xterm-256color") -> str:
    """What a command writes to a terminal."""
    ours, theirs = pty.openpty()
    command = [*COMMAND, *arguments]
    with subprocess.Popen(command, env={**env, "TERM": term, "COLUMNS": "100"}, stdout=theirs, stderr=theirs) as child:
        os.close(theirs)
        written = b""
        try:
            while more := os.read(ours, 65_536):
                written += more
        except OSError:  # how a terminal says that nobody is there any more
            pass
        assert child.wait(60) == 0, written
    os.close(ours)
    return written.decode()


@pytest.mark.anyio
async def test_nothing_in_an_answer_or_a_name_acts_on_the_terminal(standin: Standin, tmp_path: Path) -> None:
    settings, env = make_home(tmp_path, standin)
    standin.accounts["alice"] = Behaviour(replies=(Reply(text=HOSTILE),) * 3)
    async with open_pool(settings, env) as pool:
        answer = await pool.ask(Ask("Hello.", HOSTILE))
    for arguments, term in (
        (("ask", "Hello."), "xterm-256color"),
        (("ask", "Hello."), "dumb"),
        (("show", answer.run_id, "--answer"), "xterm-256color"),
        (("runs",), "xterm-256color"),
        (("report", "--by", "caller"), "xterm-256color"),
        (("ledger", "query", "SELECT caller FROM runs", "--csv"), "xterm-256color"),
    ):
        seen = on_terminal(env, *arguments, term=term)
        assert "hello" in seen, arguments
        assert not any(one in seen for one in (CLIPBOARD, "\x1b]52", TURN, "\x9b")), arguments
    piped = await anyio.run_process([*COMMAND, "show", answer.run_id, "--answer"], env=env)
    assert piped.stdout.decode() == HOSTILE + "\n"  # a pipe gets what was written


@pytest.mark.parametrize("shown", [HOSTILE, Markdown(HOSTILE)], ids=["text", "markdown"])
def test_a_console_shows_texts_and_its_own_styles(shown: object) -> None:
    screen = io.StringIO()
    console = PlainConsole(file=screen, force_terminal=True, color_system="truecolor", width=80)
    table = Table(title="[/title]")
    table.add_column("[bold]name[/nope]", style="red")
    table.add_row(HOSTILE)
    console.print(shown, table)
    written = screen.getvalue()
    assert "\x1b[31m" in written  # red
    assert "[/nope]" in written
    assert not any(one in written for one in ("\x1b]", "\x07", TURN, "\x9b"))


def test_lines_tabs_and_letters_stay_as_they_are() -> None:
    text = "Grüße,\n\t\u05e9\u05dc\u05d5\u05dd 🙂"
    assert plain(text) == text
