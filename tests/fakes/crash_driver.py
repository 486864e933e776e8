"""Asks Claude once through a real pool and is killed at a step of its own choosing: ``crash_driver.py STEP VICTIM``.

Where the settings want spares, it asks once before that, and waits for the spare that the second ask will have.

The steps are functions of the product that are wrapped here, in this process only. At the step it prints a line of JSON
(what the CLI had written by then) and sends SIGKILL to the victim: this process (``server``), the CLI (``cli``),
``both``, or its own process group (``group``). What it survives it reports as a second line: how the ask ended.
"""

import contextlib
import functools
import inspect
import json
import logging
import os
import signal
import sys
import time
import uuid
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NoReturn

import anyio
from support import has_spare

from pool_mcp.asks import runner
from pool_mcp.asks.reservations import Reservations
from pool_mcp.asks.supervision import Supervision
from pool_mcp.claude import waiting
from pool_mcp.claude.process import CliProcess
from pool_mcp.claude.stream import RunStream
from pool_mcp.errors import PoolError
from pool_mcp.ledger.ledger import Ledger
from pool_mcp.ledger.runs import Runs
from pool_mcp.model import Ask
from pool_mcp.pool import Pool
from pool_mcp.settings import load

MODEL = "claude-sonnet-4-6"
"""Has the same price in all versions of the CLI."""

VICTIMS = ("server", "cli", "both", "group")


class Crash:
    """What happens at the step."""

    def __init__(self, victim: str) -> None:
        self.victim = victim
        self.cli: CliProcess | None = None
        self.is_over = False

    def strike(self) -> None:
        """Kill the victim, the first time that the step is reached."""
        if self.is_over:
            return
        self.is_over = True
        _say(cli_has_said=self.cli._files.stdout.stat().st_size if self.cli else None)
        if self.victim in ("cli", "both"):
            assert self.cli is not None, "no CLI was started before this step"
            assert self.cli._child is not None, "the CLI is this process's own"
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.cli._child.pid, signal.SIGKILL)
        if self.victim in ("server", "both"):
            _die(os.kill, os.getpid())
        if self.victim == "group":
            _die(os.killpg, os.getpgrp())


def _die(kill: Callable[[int, int], None], target: int) -> NoReturn:
    kill(target, signal.SIGKILL)
    while True:  # the signal may need a moment; nothing further may be done
        signal.pause()


def _say(**said: object) -> None:
    os.write(1, json.dumps(said).encode() + b"\n")


def wrap(owner: Any, name: str, *, before: Callable[..., None] | None = None, after: Any = None) -> None:
    """Put something before or after a function; ``after`` is given its result, then its arguments."""
    function = getattr(owner, name)

    @functools.wraps(function)
    def wrapped(*arguments: Any, **named: Any) -> Any:
        if before is not None:
            before()
        result = function(*arguments, **named)
        if inspect.isawaitable(result):
            return _awaited(result, arguments)
        if after is not None:
            after(result, *arguments)
        return result

    async def _awaited(pending: Any, arguments: tuple[Any, ...]) -> Any:
        result = await pending
        if after is not None:
            after(result, *arguments)
        return result

    setattr(owner, name, wrapped)


def _fed(crash: Crash, has_come: Callable[[RunStream], bool]) -> Callable[..., None]:
    """The step at which the CLI's output, as far as it was read, says something."""

    def fed(_: object, stream: RunStream, *__: object) -> None:
        if has_come(stream):
            crash.strike()

    return fed


def place(step: str, crash: Crash) -> None:
    """Wrap the function that the step is at."""

    def strike(*_: object) -> None:
        crash.strike()

    def keep(cli: CliProcess, *_: object) -> None:
        crash.cli = cli

    wrap(runner, "start", after=keep)
    wrap(waiting.WaitingCli, "become", after=keep)
    if step == "spare taken":  # its files have been renamed, it has no prompt yet
        vars(waiting)["os"] = SimpleNamespace(**{**vars(os), "write": strike})
        return
    match step:
        case "before the reservation commits":
            wrap(Runs, "insert", after=strike)
        case "reserved":
            wrap(Reservations, "reserve", after=strike)
        case "files prepared":
            wrap(runner.Runner, "prepare", after=strike)
        case "marked running":
            wrap(runner.Runner, "start", before=crash.strike)
        case "CLI started":
            wrap(runner, "start", after=strike)
            wrap(waiting.WaitingCli, "become", after=strike)
        case "first events":
            wrap(RunStream, "feed", after=_fed(crash, lambda stream: bool(stream.calls)))
        case "result read":
            wrap(RunStream, "feed", after=_fed(crash, lambda stream: stream.result is not None))
        case "CLI ended":
            wrap(Supervision, "_settle", before=crash.strike)
        case "before the settlement commits":
            wrap(Runs, "settle", after=strike)
        case "settled":
            wrap(Supervision, "_settle", after=strike)
        case _:
            raise SystemExit(f"no step {step!r}")


async def main(step: str, victim: str, session_id: str | None) -> None:
    """Ask, and be killed on the way."""
    env = dict(os.environ)
    settings = load(env)
    pool = Pool(settings, Ledger(settings.ledger_path), env, lambda: time.time_ns() // 1_000_000, _new_id)
    async with pool.open():
        crash = Crash(victim)
        if settings.claude.spares != "off":
            await _wait_for_spare(pool)
        if step == "spare waits":
            crash.strike()
        place(step, crash)
        try:
            answer = await pool.ask(
                Ask("Will this be booked?", "driver", session_id=session_id, model=MODEL), wait_s=60
            )
            _say(ended=answer.status)
        except PoolError as error:
            _say(ended=error.kind)


async def _wait_for_spare(pool: Pool) -> None:
    pool.keep_spares()
    await pool.ask(Ask("Is another likely?", "driver", model=MODEL), wait_s=60)
    with anyio.fail_after(60):
        while not has_spare(pool):  # noqa: ASYNC110
            await anyio.sleep(0.01)


def _new_id() -> str:
    return str(uuid.uuid4())


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    anyio.run(main, sys.argv[1], sys.argv[2], sys.argv[3] if len(sys.argv) > 3 else None)
