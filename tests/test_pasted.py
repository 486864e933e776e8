"""What the README and the documents show to paste works when it is pasted: in a shell, in a home of its own."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support import make_home

from pool_mcp.demo.standin import Standin

ROOT = Path(__file__).parent.parent
PLACEHOLDER = "3f2b7c1e"
"""A run's id in the documents; a real one stands in its place here."""
NOT_RUN = {
    "./dev demo": "the tests of the demo run it",
    "./dev test": "this is a part of it",
    "uv tool install .": "the packages would come from the network",
}


def pasted() -> list[str]:
    """Every line of a block of shell, once, in order."""
    documents = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    blocks = [
        block
        for document in documents
        for block in re.findall(r"```sh\n(.*?)```", document.read_text(encoding="utf-8"), re.DOTALL)
    ]
    return list(dict.fromkeys(line.split("  #")[0].strip() for block in blocks for line in block.splitlines()))


def test_what_is_shown_to_paste_works_in_a_shell(standin: Standin, tmp_path: Path) -> None:
    settings, env = make_home(tmp_path, standin)
    binaries = f"{Path(sys.executable).parent}:{settings.claude.path.rpartition('/')[0]}"
    (tmp_path / "work").mkdir()
    git = ["git", "-c", "user.name=A", "-c", "user.email=a@example.com"]
    for command in (["git", "init", "-q"], ["git", "add", "."], [*git, "commit", "-qm", "Begin", "--allow-empty"]):
        subprocess.run(command, cwd=tmp_path / "work", env=os.environ | env, check=True, capture_output=True)
    env |= {"PATH": f"{binaries}:{os.environ['PATH']}", "COLUMNS": "100"}
    run_id = PLACEHOLDER
    wrong = []
    for line in pasted():
        if line in NOT_RUN or line.startswith("docker "):  # a client may be here without an engine
            continue
        shell = subprocess.run(
            ["bash", "-c", line.replace(PLACEHOLDER, run_id)],
            cwd=tmp_path / "work",
            env=env,
            input="y\n",
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )
        if shell.returncode != 0 or "Traceback" in shell.stderr:
            wrong.append((line, shell.returncode, shell.stdout[-300:], shell.stderr[-300:]))
        if line.startswith("pool-mcp ask") and run_id == PLACEHOLDER:
            listed = subprocess.run(["pool-mcp", "runs", "--json"], env=env, capture_output=True, text=True, check=True)
            run_id = json.loads(listed.stdout)["ended"][0]["run_id"][:8]
    assert wrong == []


@pytest.mark.parametrize("line", NOT_RUN)
def test_what_is_not_run_here_is_shown_and_its_program_is_there(line: str) -> None:
    assert line in pasted()
    program = line.split()[0]
    assert (ROOT / program).exists() if program.startswith("./") else shutil.which(program)
