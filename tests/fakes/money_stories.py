"""Short stories of asks in the virtual world, and what has to be true at the end of each, whatever happened."""

import sqlite3
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing, suppress
from functools import partial
from pathlib import Path

import anyio
from money_world import CALL_NANOUSD, MODEL, FaultKind, Plan, Script, VirtualLoop, World, ask, virtual
from support import make_home

from pool_mcp.errors import PoolError
from pool_mcp.ledger.ledger import Ledger
from pool_mcp.model import NANO, Ask, Run
from pool_mcp.pool import Pool

FAULTS: tuple[FaultKind, ...] = ("crash", "power", "disk full", "clock ahead", "clock back")

UNFINISHED = "state IN ('reserved', 'running')"

Env = dict[str, str]
Story = Callable[[World, Env], Awaitable[None]]


async def one_ask(world: World, env: Env) -> None:
    """An ask of two calls."""
    world.scripts["alice"] = [Script(calls=2)]

    async def host(pool: Pool) -> None:
        await ask(pool, idempotency_key="one")

    await world.serve("first", env, host)


async def a_failover(world: World, env: Env) -> None:
    """A used-up window, and another subscription."""
    world.scripts["alice"] = [Script(is_refused=True)]

    async def host(pool: Pool) -> None:
        await ask(pool)

    await world.serve("first", env, host)


async def a_session(world: World, env: Env) -> None:
    """Two asks on one session."""

    async def host(pool: Pool) -> None:
        with suppress(PoolError):
            first = await pool.ask(_question(), wait_s=60)
            await ask(pool, session_id=first.session_id)

    await world.serve("first", env, host)


async def a_cancel(world: World, env: Env) -> None:
    """An ask that is cancelled while it answers."""
    world.scripts["alice"] = [Script(calls=3, call_s=5)]

    async def host(pool: Pool) -> None:
        with suppress(PoolError):
            running = await pool.ask(_question(), wait_s=2)
            await pool.result(running.run_id, cancel=True, wait_s=10)

    await world.serve("first", env, host)


async def a_server_that_stops(world: World, env: Env) -> None:
    """A background ask whose server leaves."""
    world.scripts["alice"] = [Script(calls=2)]

    async def host(pool: Pool) -> None:
        await ask(pool, background=True)
        await anyio.sleep(1)

    await world.serve("first", env, host)


async def a_burst(world: World, env: Env) -> None:
    """Two asks, for the second of which a CLI waits."""

    async def host(pool: Pool) -> None:
        pool.keep_spares()
        await ask(pool)
        await anyio.sleep(1)
        await ask(pool)

    await world.serve("first", env, host)


STORIES: dict[str, Story] = {
    "one ask": one_ask,
    "a failover": a_failover,
    "a session": a_session,
    "a cancel": a_cancel,
    "a server that stops": a_server_that_stops,
    "a burst": a_burst,
}


CALLS = {"one ask": 2, "a failover": 1, "a session": 2, "a cancel": 1, "a server that stops": 2, "a burst": 2}
"""How many API calls each story makes when nothing happens."""


def points_of(story: str, fault: FaultKind, folder: Path) -> Iterator[Plan]:
    """A plan for every point that the story's first server passes when nothing happens."""
    world, path = _tell(story, folder)
    assert [*_what_is_wrong(world, path)] == [], "the story goes well when nothing happens"
    assert len(world.calls) == CALLS[story], "it is the story that is meant"
    assert world.handed_over == (story == "a burst")
    first = next(server for server in world.servers if server.name == "first")
    for point in range(first.points):
        yield Plan(fault, point)


def play(story: str, folder: Path, *plans: Plan) -> list[str]:
    """Tell a story with its faults, let another server look after what is left, and say what is wrong then."""
    world, path = _tell(story, folder, *plans)
    return [*_what_is_wrong(world, path)]


def _tell(story: str, folder: Path, *plans: Plan) -> tuple[World, Path]:
    settings, env = make_home(
        folder, None, "alice", "bob", claude={"spares": "auto"}, subscriptions={"alice": {"priority": 1}}
    )
    Ledger(settings.ledger_path).close()
    world = World(folder, plans)

    async def whole(world: World) -> None:
        await STORIES[story](world, env)
        name = "next"
        while _ids(settings.ledger_path, UNFINISHED) and anyio.current_time() < 3600:
            await world.serve(name, env, partial(_settle, settings.ledger_path))
            await anyio.sleep(1)
            name = "later"
        while any(cli.is_alive for cli in world.clis.values()):  # noqa: ASYNC110  (what nobody knows of is spent, too)
            await anyio.sleep(1)

    with virtual(world):
        anyio.run(world.run, whole, backend_options={"loop_factory": VirtualLoop})
    return world, settings.ledger_path


async def _settle(path: Path, pool: Pool) -> None:
    """Let everything come to its end, for ten virtual minutes at most."""
    with anyio.move_on_after(600):
        while True:
            await pool.adopt()
            if not _ids(path, UNFINISHED):
                return
            await anyio.sleep(1)


def _ids(path: Path, where: str) -> list[str]:
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as conn:
        return [run_id for (run_id,) in conn.execute(f"SELECT run_id FROM runs WHERE {where} ORDER BY rowid")]


def _what_is_wrong(world: World, path: Path) -> Iterator[str]:
    with closing(Ledger(path)) as ledger:
        yield from (f"audit: {problem}" for problem in ledger.audit().problems)
        with ledger.read() as tx:
            runs = [run for run in map(tx.runs.get, _ids(path, "1")) if run is not None]
    yield from (f"ended badly: {end}" for end in world.bad_ends)
    yield from (f"leaked: {run.run_id} is {run.state}" for run in runs if not run.finished)
    yield from (
        f"no entry: {run.run_id}" for run in runs if run.finished and run.started_at_ms is not None and run.cost is None
    )
    for session in sorted({*(run.session_id for run in runs), *(call.session_id or "" for call in world.calls)}):
        yield from _compare(session, [run for run in runs if run.session_id == session], world)


def _compare(session: str, runs: list[Run], world: World) -> Iterator[str]:
    """A session's runs together with its calls: clocks that jump make no difference to that."""
    calls = [call for call in world.calls if call.session_id == session]
    billed = sum(call.cost_nanousd or 0 for call in calls)
    costs = [run.cost for run in runs if run.cost is not None]
    booked, is_estimate = sum(cost.nanousd for cost in costs), any(cost.is_estimate for cost in costs)
    told = (
        f"session {session[-4:]}: booked ${booked / NANO:.6f}{' at least' * is_estimate}, billed ${billed / NANO:.6f}"
    )
    faults = {plan.fault for plan in world.plans}
    # Where a power cut or a full disk has taken the CLI's output, one request may have been made, or none.
    unknown = CALL_NANOUSD if is_estimate and faults & {"power", "disk full"} else 1000
    if booked > billed + unknown:
        yield f"doubled: {told}"
    elif booked < billed and not is_estimate:
        yield f"lost: {told}"
    elif billed and not booked and "disk full" not in faults:
        yield f"nothing booked: {told}"
    if any(call.account != run.subscription for call in calls for run in runs):
        yield f"wrong subscription: {told}"


def _question() -> Ask:
    return Ask("What?", "host", model=MODEL)
