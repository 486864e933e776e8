"""Several hosts, each with a server of its own, ask at once while everything that can go wrong goes wrong.

The servers and the Claude Code CLI are real processes; Anthropic is the stand-in, which keeps an exact record. A seeded
random schedule asks (inline, in the background, on sessions, with callers' budgets and with cost caps), polls, cancels,
kills and freezes servers and CLIs, ends servers with SIGTERM and by closing their stdin, replaces the CLI by a broken
one, and switches limits, 529s, expired logins, slow and hanging answers on and off. Servers that die are started again,
as hosts do. At the end all is adopted, every ask that has no answer yet is asked again under its idempotency key, and
the ledger is compared with the record, run by run:

    lost        what was billed and is not covered by an entry (a cut run's floor, marked as an estimate, covers it)
    doubled     what the ledger has beyond what was billed
    misplaced   what it has under another subscription
    leaked      reservations of runs that nobody settles
    orphaned    processes that are left
    unanswered  asks that came to no end
    overrun     what was billed beyond a budget

    python benchmarks/chaos.py --operations 1000 --servers 4 --seed 1
    python benchmarks/chaos.py --minutes 60 --small-disk    (as root: a small disk of its own, which also fills up)

Exits with 1 where anything was lost, doubled, misplaced, leaked, orphaned or left unanswered. A table shows which fault
struck how many runs in which state.
"""

import argparse
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread

from chaos_audit import Findings, command_of, compare, judge_asks, left_processes, show, unfinished
from chaos_host import Host
from chaos_schedule import CALLERS_USD, LAST, TIMEOUT_S, WEEKLY_USD, Chaos
from pool_mcp.claude.find import bundled_cli, find_cli
from pool_mcp.demo.standin import Standin

DISK_MB = 64
"""How large the small disk is."""


def _make_home(folder: Path, url: str) -> tuple[Path, dict[str, str]]:
    home = folder / "pool"
    home.mkdir(exist_ok=True)
    cli = home / "claude"  # a link, so that it can be replaced
    cli.symlink_to(bundled_cli() or find_cli("claude", os.environ))
    lines = [
        "[claude]",
        f"path = {json.dumps(str(cli))}",
        f"base_url = {json.dumps(url)}",
        "inline_wait_s = 8",
        'spares = "auto"',
        f"timeout_s = {TIMEOUT_S}",
    ]
    env = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
    env |= {"HOME": str(folder), "POOL_MCP_HOME": str(home)}
    for number, name in enumerate([*WEEKLY_USD, LAST]):
        is_key = name == "metered"
        variable = f"CHAOS_{name.upper()}"
        env[variable] = Standin.api_key(name) if is_key else Standin.token(name)
        lines += [
            "[[subscriptions]]",
            f'id = "{name}"',
            f'{"api_key_env" if is_key else "oauth_token_env"} = "{variable}"',
            f"weekly_budget_usd = {WEEKLY_USD.get(name, 1000)}",
            f"priority = {10 - number}",
        ]
    for name, usd in CALLERS_USD.items():
        lines += [f"[callers.{json.dumps(name)}]", f"weekly_budget_usd = {usd}"]
    (home / "pool.toml").write_text("\n".join(lines) + "\n")
    return home, env


@contextmanager
def _disk(folder: Path, *, small: bool) -> Iterator[None]:
    """A small disk of its own for ledger and runs, where that is wanted; needs root on Linux."""
    (folder / "pool").mkdir()
    if not small:
        yield
        return
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "chaos", folder / "pool"], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder / "pool"], check=True)


async def run(
    operations: int, seconds: float, servers: int, seed: int, folder: Path, *, small_disk: bool = False
) -> Findings:
    """Make chaos until that many operations are done or the time is over, and say what came of it."""
    began_s = time.monotonic()

    def tell(what: str) -> None:
        print(f"{time.monotonic() - began_s:6.1f} s  {what}", file=sys.stderr, flush=True)

    findings = Findings()
    with Standin(seed=seed) as standin, (folder / "servers.log").open("ab") as log:
        home, env = _make_home(folder, standin.url)
        hosts = [Host(f"host-{number}", env, log) for number in range(servers)]
        chaos = Chaos(home, hosts, standin, seed, unfinished, small_disk=small_disk)

        def progress(number: int) -> None:
            if number % 50 == 0:
                ended = Counter(ask.end for ask in chaos.asks if ask.ends)
                told = ", ".join(f"{count} {end}" for end, count in ended.most_common(4))
                tell(f"{number} operations; {len(chaos.asks)} asks: {told}")

        async with anyio.create_task_group() as tasks:
            for host in hosts:
                tasks.start_soon(host.keep_running)
            findings.operations = await chaos.run(operations, anyio.current_time() + seconds, progress)
            await chaos.settle(tell)
            for host in hosts:
                await host.close_stdin()
            tasks.cancel_scope.cancel()
        for host in hosts:
            for how, took_ms in host.slowest_stop_ms.items():
                findings.slowest_stop_ms[how] = max(took_ms, findings.slowest_stop_ms.get(how, 0))
        findings.ends_by_themselves = sum(host.unexpected_ends for host in hosts)
        findings.without_reply = sum(host.without_reply for host in hosts)
        findings.protocol_errors = dict(sum((host.protocol_errors for host in hosts), Counter[str]()))
        await anyio.to_thread.run_sync(standin.wait_idle)
        findings.reached = {fault: dict(states) for fault, states in chaos.reached.items()}
        for run_id in unfinished(home):
            findings.leaked += 1
            findings.wrong.append(f"leaked: run {run_id} is not settled")
        compare(home, standin, findings)
        judge_asks(home, chaos.asks, findings)
        command = [sys.executable, "-m", "pool_mcp", "ledger", "check", "--json"]
        checked = await anyio.run_process(command, env=env, check=False)
        problems = json.loads(checked.stdout)["problems"]
        findings.audit_problems = len(problems)
        findings.wrong += [f"audit: {problem}" for problem in problems]
        with anyio.move_on_after(5):
            while left := left_processes(home):  # noqa: ASYNC110  (there is no event for it)
                await anyio.sleep(0.05)
        findings.orphaned = len(left)
        findings.wrong += [f"orphaned: process {pid}: {command_of(pid)}" for pid in left]
    tell("done")
    return findings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--operations", type=int, help="how many; default 200, or without a bound with --minutes")
    parser.add_argument("--minutes", type=float, default=24 * 60, help="how long at most")
    parser.add_argument("--servers", type=int, default=4)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--small-disk", action="store_true", help="give ledger and runs a disk that can fill up")
    parser.add_argument("--home", type=Path, help="a new directory for ledger, runs and log, which stays")
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    options = parser.parse_args()
    bounded = options.minutes < 24 * 60
    operations = options.operations or (sys.maxsize if bounded else 200)
    logging.basicConfig(level=logging.ERROR)  # asyncio warns of every pipe to a server that was killed
    with tempfile.TemporaryDirectory(prefix="chaos-") as temporary:
        folder = options.home or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        with _disk(folder, small=options.small_disk):
            chaos = partial(run, small_disk=options.small_disk)
            findings = anyio.run(chaos, operations, options.minutes * 60, options.servers, options.seed, folder)
    if options.json:
        print(json.dumps(asdict(findings), indent=2))
    else:
        show(findings)
    sys.exit(0 if findings.is_sound else 1)


if __name__ == "__main__":
    main()
