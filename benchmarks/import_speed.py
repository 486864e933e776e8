"""The first import of many transcripts, and one with nothing new, beside ccusage on the same files in the same run.

./dev run python benchmarks/import_speed.py [--calls N] [--rounds N] [--ccusage COMMAND] [--json]

Before anything is timed the transcripts are generated and, when all is done, removed. Both programs are timed from
spawn to exit, in turn; CPU is that of all their processes, memory the sum of what these hold at once (pages that
several share are counted in parts), looked at ten times a second. What the ledger holds is compared with the
generator's manifest, model by model and class by class, and so is what ccusage says; the costs are shown side by side.
"""

import argparse
import json
import os
import re
import resource
import shlex
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from pool_mcp.ledger.ledger import Ledger
from pool_mcp.model import NANO, Tokens
from pool_mcp.usage.importing import Imported, Importer, Source
from side_by_side import report
from transcript_generator import Manifest, generate

WEB_SEARCH_USD = 0.01
"""What Anthropic asks for one, and ccusage leaves out."""


@dataclass(frozen=True)
class Used:
    """What a program took."""

    wall_s: float
    cpu_s: float
    peak_mb: float
    stdout: bytes


def run(command: list[str], env: dict[str, str]) -> Used:
    """Run a program to its end."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.perf_counter()
    child = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    peak = [0]
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.1):
            peak[0] = max(peak[0], sum(_held_kb(pid) for pid in _family(child.pid)))

    watcher = threading.Thread(target=watch)
    watcher.start()
    stdout, stderr = child.communicate()
    ended.set()
    wall_s = time.perf_counter() - began
    watcher.join()
    if child.returncode:
        sys.exit(f"{shlex.join(command)}: {stderr.decode(errors='replace')}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Used(wall_s, cpu_s, peak[0] / 1024, stdout)


def _family(pid: int) -> list[int]:
    """A process and what it started (on Linux)."""
    found = [pid]
    for one in found:
        for listed in Path(f"/proc/{one}/task").glob("*/children"):
            try:
                found += map(int, listed.read_text().split())
            except OSError:
                continue
    return found


def _held_kb(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)


def age(config_dir: Path) -> None:
    """Give every file the time of its last line, as the CLI does: an import reads them in that order."""
    for path in (config_dir / "projects").rglob("*.jsonl"):
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - (1 << 20)))
            said = re.findall(rb'"timestamp":"([^"\\]+)"', file.read())
        if said:
            at_s = datetime.fromisoformat(said[-1].decode()).timestamp()
            os.utime(path, (at_s, at_s))


def booked(ledger_path: Path) -> dict[str, Tokens]:
    """What the ledger holds, by model."""
    conn = sqlite3.connect(ledger_path)
    rows = conn.execute(
        """
        SELECT model, sum(input_tokens), sum(output_tokens), sum(cache_creation_5m_tokens),
            sum(cache_creation_1h_tokens), sum(cache_read_tokens), sum(web_search_requests)
        FROM entry_models GROUP BY model
        """
    ).fetchall()
    conn.close()
    return {model: Tokens(*tokens) for model, *tokens in rows}


def nothing_new_ms(home: Path, config_dir: Path) -> float:
    """An import's own time, in a process that runs already, when nothing has changed; the best of five."""
    ledger = Ledger(home / "ledger.db")
    importer = Importer(ledger, [Source("one", config_dir)], lambda _: (), lambda: time.time_ns() // 1_000_000)
    times = []
    for _ in range(5):
        began = time.perf_counter()
        done = importer.run()
        times.append((time.perf_counter() - began) * 1000)
        assert isinstance(done, Imported)
        assert done.files_read == 0
    ledger.close()
    return min(times)


def differences(said: bytes, manifest: Manifest) -> dict[str, int]:
    """Where ccusage's token counts differ from what was generated."""
    blocks = [block["tokenCounts"] for block in json.loads(said)["blocks"] if not block.get("isGap")]
    real = manifest.tokens
    expected = {
        "inputTokens": real.input,
        "outputTokens": real.output,
        "cacheCreationInputTokens": real.cache_creation,
        "cacheReadInputTokens": real.cache_read,
    }
    return {name: sum(block.get(name, 0) for block in blocks) - count for name, count in expected.items()}


def price_differences(ledger_path: Path, said: bytes) -> dict[str, dict[str, float | None]]:
    """Model by model, in dollars: the ledger's cost, of which for web searches, and ccusage's; None where unknown."""
    conn = sqlite3.connect(ledger_path)
    rows = conn.execute("SELECT model, sum(cost_nanousd), sum(web_search_requests) FROM entry_models GROUP BY model")
    ours = {model: (cost, searches) for model, cost, searches in rows.fetchall()}
    conn.close()
    report = json.loads(said)
    unpriced = {model.removesuffix("-fast") for model in report["totals"].get("unpricedModels", ())}
    theirs = dict.fromkeys(ours, 0.0)
    for day in report["daily"]:
        for one in day["modelBreakdowns"]:
            theirs[one["modelName"].removesuffix("-fast")] += one["cost"]
    return {
        model: {
            "pool-mcp": None if cost is None else round(cost / NANO, 4),
            "of which web searches": round(searches * WEB_SEARCH_USD, 2),
            "ccusage": None if model in unpriced else round(theirs[model], 4),
        }
        for model, (cost, searches) in ours.items()
    }


def main(calls: int, rounds: int, ccusage: list[str] | None, *, as_json: bool) -> None:
    """Generate, time in turn, compare, remove."""
    with tempfile.TemporaryDirectory() as folder:
        config_dir, home = Path(folder, "config"), Path(folder, "home")
        manifest = generate(config_dir, calls)
        age(config_dir)
        env = {"PATH": os.environ["PATH"], "HOME": folder, "POOL_MCP_HOME": str(home)}
        times: dict[str, list[float]] = {"pool-mcp import": [], "ccusage blocks": []}
        used: dict[str, list[Used]] = {name: [] for name in times}
        facts: dict[str, object] = {}
        for _ in range(rounds):
            shutil.rmtree(home, ignore_errors=True)
            home.mkdir()
            # Without a CLI, of which an open pool would ask who is signed in.
            (home / "pool.toml").write_text(
                f'[claude]\npath = "{home / "none"}"\n[[subscriptions]]\nid = "one"\nconfig_dir = "{config_dir}"\n'
            )
            used["pool-mcp import"].append(run([sys.executable, "-m", "pool_mcp", "import", "--json"], env))
            if ccusage:
                more = {**env, "CLAUDE_CONFIG_DIR": str(config_dir)}
                used["ccusage blocks"].append(run([*ccusage, "blocks", "--json", "--offline"], more))
        assert booked(home / "ledger.db") == manifest.by_model, "the ledger differs from what was generated"
        times = {name: [one.wall_s * 1000 for one in those] for name, those in used.items() if those}
        facts["generated"] = {key: value for key, value in asdict(manifest).items() if isinstance(value, int)}
        facts["ledger equals manifest in all token classes of all models"] = True
        facts["nothing new ms"] = round(nothing_new_ms(home, config_dir), 1)
        for name, those in used.items():
            if those:
                facts[f"{name}: CPU s"] = [round(one.cpu_s, 1) for one in those]
                facts[f"{name}: peak MB"] = [round(one.peak_mb) for one in those]
        if ccusage:
            facts["ccusage minus generated"] = differences(used["ccusage blocks"][-1].stdout, manifest)
            daily = run([*ccusage, "daily", "--json", "--offline", "--breakdown"], more).stdout
            facts["dollars"] = price_differences(home / "ledger.db", daily)
    report("first import", times, "ccusage blocks" if ccusage else "pool-mcp import", as_json=as_json)
    print(json.dumps(facts, indent=2))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ccusage", default="npx ccusage@20", help='Its command; "" leaves it out.')
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    main(chosen.calls, chosen.rounds, shlex.split(chosen.ccusage) or None, as_json=chosen.json)
