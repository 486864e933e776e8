"""Sends notices to those whom the person has set as receivers, from the ledger's outbox.

Each receiver has a task of its own in every server, so one that hangs keeps no other waiting; a claim in the ledger
makes one process send at a time. A notice is sent at least once, always under the same id.
"""

import logging
import shutil
from collections.abc import Callable, Mapping
from datetime import datetime, tzinfo

import anyio.abc
from anyio.to_thread import run_sync as in_thread

from pool_mcp.background.every import Sleep, every
from pool_mcp.ledger.ledger import Ledger
from pool_mcp.model import DAY_MS, SECOND_MS, Message, Notice
from pool_mcp.results.notices import message_result, ntfy_headers
from pool_mcp.settings import NotifySettings, Settings
from pool_mcp.system import commands, places

log = logging.getLogger(__name__)

LOOK_S = 2.0
"""How often a server looks into the outbox."""

BEGIN_S = 3.0
"""When it looks first; a short command is over by then and sends nothing."""

TIMEOUT_S = 10.0
"""For one request or command, all of it."""

MOST = 50
"""So many notices are one digest at most."""


class Notifying:
    """Call :meth:`start` once a pool is open."""

    def __init__(self, settings: Settings, ledger: Ledger, env: Mapping[str, str], clock: Callable[[], int]) -> None:
        self._settings = settings
        self._ledger = ledger
        self._env = env
        self._clock = clock
        self._zone = places.time_zone(env) if settings.notify else None

    def start(self, tasks: anyio.abc.TaskGroup, sleep: Sleep, first_after_s: float = BEGIN_S) -> None:
        """Send what comes into the outbox from now on, in tasks that are started here."""
        for one in self._settings.notify:
            tasks.start_soon(self._serve, one, sleep, first_after_s)

    async def _serve(self, receiver: NotifySettings, sleep: Sleep, first_after_s: float) -> None:
        if problem := missing(receiver, self._env):
            log.warning("notices cannot go to %s: %s", receiver.where, problem)
        is_known = False

        async def step() -> None:
            nonlocal is_known
            if not is_known:
                await in_thread(self.begin, receiver)
                is_known = True
                await sleep(first_after_s)
            await self.look(receiver)

        await every(LOOK_S, f"send notices to {receiver.where}", step, sleep)

    def begin(self, receiver: NotifySettings) -> None:
        """Have a receiver be sent what is written from now on; one that is known goes on."""
        with self._ledger.write() as tx:
            tx.outbox.begin(receiver.name, self._clock())

    async def look(self, receiver: NotifySettings) -> None:
        """Send a receiver's next message, where there is one, it is time to, and no other process is at it."""
        message = await in_thread(self._claim, receiver)
        if message is None:
            return
        problem = await send(receiver, message, self._env, self._settings.variables(self._env))
        if problem is not None:
            log.warning("a notice was not taken by %s: %s", receiver.where, problem)
        await in_thread(self._note, receiver, message, problem)

    def _claim(self, receiver: NotifySettings) -> Message | None:
        name, kinds, now_ms = receiver.name, receiver.on, self._clock()
        if is_quiet(receiver.quiet_hours, now_ms, self._zone):
            return None
        with self._ledger.read() as tx:
            if not tx.outbox.is_due(name, kinds, now_ms):
                return None
        keep_ms = DAY_MS * (2 if receiver.quiet_hours else 1)  # a day of tries after whatever was quiet
        with self._ledger.write() as tx:
            return tx.outbox.claim(name, kinds, self._clock(), keep_ms, MOST if receiver.digest_s else 1)

    def _note(self, receiver: NotifySettings, message: Message, problem: str | None) -> None:
        with self._ledger.write() as tx:
            now_ms = self._clock()
            if problem is None:
                tx.outbox.delivered(receiver.name, message, now_ms + receiver.digest_s * SECOND_MS)
            else:
                tx.outbox.failed(receiver.name, problem, now_ms)


async def send(receiver: NotifySettings, message: Message, env: Mapping[str, str], secrets: list[str]) -> str | None:
    """Send a message once; None where the receiver took it, else why not. A command gets no variable of ``secrets``."""
    if problem := missing(receiver, env):
        return problem
    content = message_result(message).model_dump_json(exclude_none=True).encode()
    if receiver.command is not None:
        known = {name: value for name, value in env.items() if name not in secrets}
        code = await commands.feed(receiver.command, known, content, TIMEOUT_S)
        return {0: None, 124: f"it did not end within {TIMEOUT_S:g} s", 127: "it could not be run"}.get(
            code, f"it ended with exit code {code}"
        )
    from pool_mcp.background.webhook import post  # loads the HTTP client

    headers = {"Content-Type": "application/json", "X-Notice-Id": message.message_id}
    if receiver.kind == "ntfy":
        headers |= ntfy_headers(message)
        content = message_result(message).message.encode()
    headers |= {header: places.read_env(env, name) or "" for header, name in receiver.headers.items()}
    assert receiver.url is not None, "what has no command has an address"
    return await post(receiver.url, content, headers, TIMEOUT_S)


def missing(receiver: NotifySettings, env: Mapping[str, str]) -> str | None:
    """What a receiver lacks on this machine: a variable, or its program."""
    for name in receiver.headers.values():
        if places.read_env(env, name) is None:
            return f"{name} is not set in this environment"
    if receiver.command and shutil.which(receiver.command[0], path=env.get("PATH")) is None:
        return "the program is not there, or not executable"
    return None


def is_quiet(hours: str | None, now_ms: int, zone: tzinfo | None) -> bool:
    """Whether an instant is within a span of a person's day, which may go over midnight."""
    if hours is None:
        return False
    begin, _, end = hours.partition("-")
    now = f"{datetime.fromtimestamp(now_ms / 1000, zone):%H:%M}"
    return begin <= now < end if begin < end else now >= begin or now < end


def trial(now_ms: int) -> Message:
    """What ``pool-mcp notify test`` sends."""
    return Message.of([Notice.of("test", "test", "", "A test of pool-mcp; notices arrive here.", now_ms)])
