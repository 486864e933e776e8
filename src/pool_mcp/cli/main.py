"""The human's door: the commands. Data goes to stdout, everything else to stderr."""

import errno
import logging
import os
import sys
from pathlib import Path
from typing import NoReturn

import click

from pool_mcp import __version__
from pool_mcp.cli import asking, config, connecting, daily, figures, machines, notices, queueing, run, setup
from pool_mcp.cli.options import Group
from pool_mcp.errors import PoolError
from pool_mcp.system import places

SECTIONS = {
    "Every day": ["ask", "status", "runs", "show", "cancel", "queue", "report", "pick", "exec"],
    "Set up": [
        *("setup", "add", "login", "remove", "install", "uninstall"),
        *("doctor", "notify", "config", "completion", "demo"),
    ],
    "The ledger": ["import", "ledger", "machine", "sync", "reconcile"],
    "For other programs": ["serve", "worker", "statusline", "metrics"],
}

EPILOG = """\
\b
Examples:
  pool-mcp setup                           find your logins, read what they have spent
  pool-mcp install claude-code             let Claude Code ask through the pool
  git diff | pool-mcp ask "Review this."   the pipe and the question both go in
  pool-mcp ask -c "And the tests?"         go on with the last conversation
  pool-mcp status --watch                  what is left, live
  pool-mcp report --by model --since 7d    what it cost

\b
Exit codes:
  0 done   1 failed   2 wrong use   3 nothing left for now: try later
  4 a person must act (login, billing, no CLI)   130 cancelled

\b
Environment:
  POOL_MCP_HOME              settings, ledger and answers are here
  POOL_MCP_CLAUDE_PATH       the Claude Code CLI
  POOL_MCP_WEEKLY_BUDGET_USD, POOL_MCP_DEBUG
  NO_COLOR, COLUMNS, TZ      as elsewhere

Money is in dollars at list price: what the same tokens would cost by the API. A flat plan does not bill them.
"""


_SIGPIPE = 141
"""What a shell gives for a program whose reader has gone."""


def main() -> None:
    """Run the command line; every failure is one line on stderr and an exit code."""
    try:
        code = commands.main(prog_name="pool-mcp", standalone_mode=False)
        sys.stdout.flush()
        sys.exit(code)
    except OSError as error:
        _cannot_print(error)
    except PoolError as error:
        run.fail(error)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("pool-mcp: cancelled", err=True)
        sys.exit(130)


def _cannot_print(error: OSError) -> NoReturn:
    """End where standard output takes no more; what it holds is dropped, so that nothing complains at the exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if error.errno == errno.EPIPE:
        sys.exit(_SIGPIPE)
    click.echo(f"pool-mcp: the output cannot be written: {error.strerror}", err=True)
    sys.exit(1)


@click.group(
    cls=Group,
    sections=SECTIONS,
    epilog=EPILOG,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__, message="pool-mcp %(version)s")
@click.pass_context
def commands(context: click.Context) -> None:
    """Ask Claude under whichever of your own subscriptions has the most room, and see what each has spent.

    Without a command, serves MCP on stdin and stdout: that is what a host starts.
    """
    if context.invoked_subcommand is None and sys.stdin.isatty():
        click.echo(context.get_help())
    elif context.invoked_subcommand is None:
        context.invoke(serve)


@commands.command()
def serve() -> None:
    """Serve MCP on stdin and stdout (what a host starts)."""
    if sys.stdin.isatty():
        click.echo(
            "This serves MCP to a host that starts it; to set one up: pool-mcp install claude-code\n"
            "For yourself: pool-mcp status, pool-mcp ask, pool-mcp --help. Ctrl-C ends this.",
            err=True,
        )
    run.log_to_stderr(logging.INFO)
    from pool_mcp.server.handshake import Front, Replies

    _, state_dir = places.directories(os.environ)
    front = Front(Replies(state_dir / "replies.json"))
    from pool_mcp.server.server import serve as serve_behind  # half a second, in which the front answers

    serve_behind(run.open_pool, front, run.now_ms)


@commands.command()
def statusline() -> None:
    """Print Claude Code's status line, from its JSON on stdin.

    In Claude Code's settings.json: {"statusLine": {"type": "command", "command": "pool-mcp statusline"}}
    """
    from pool_mcp import statusline as line

    line.main(os.environ, run.now_ms())


@commands.command()
@click.option(
    "--home",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="New directory for settings, ledger and log; stays. Default: one for temporary files.",
)
def demo(home: Path | None) -> None:
    """See it work in half a minute, without an account or network.

    The server and the CLI are the real ones; a stand-in on this machine answers in Anthropic's place.
    """
    from pool_mcp.demo.demo import run_demo

    run_demo(home)


for _command in (
    *asking.COMMANDS,
    *daily.COMMANDS,
    *figures.COMMANDS,
    *setup.COMMANDS,
    *connecting.COMMANDS,
    *notices.COMMANDS,
    *machines.COMMANDS,
    *queueing.COMMANDS,
    *config.COMMANDS,
):
    commands.add_command(_command)
