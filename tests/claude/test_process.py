"""The CLI's process as another server finds it: in another container, and in folders that may not be entered."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pool_mcp.claude import sessions, transcripts
from pool_mcp.claude.process import CliProcess, RunFiles

IN_A_CONTAINER = """
import fcntl, os, sys
from pathlib import Path
from pool_mcp.claude.process import RunFiles

files = RunFiles(Path(sys.argv[1]))
files.store("ping", {}, 100)
files.pid.write_text(sys.argv[2])  # there, the CLI's own id; here, somebody else's
output = os.open(files.stdout, os.O_WRONLY | os.O_CREAT)
fcntl.flock(output, fcntl.LOCK_EX)
print("runs", flush=True)
sys.stdin.read()
"""


def can_have_containers() -> bool:
    """Whether this system lets us make a namespace of process ids."""
    unshare = shutil.which("unshare")
    return unshare is not None and subprocess.run([unshare, "-pf", "true"], check=False).returncode == 0


@pytest.mark.skipif(not can_have_containers(), reason="no namespaces of process ids here")
def test_a_cli_in_another_container_is_alive_and_nobody_elses_process_is_signalled(tmp_path: Path) -> None:
    files = RunFiles(tmp_path / "run")
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, start_new_session=True) as stranger:  # leaves with us
        there = ["unshare", "-pf", sys.executable, "-c", IN_A_CONTAINER, str(files.directory), str(stranger.pid)]
        with subprocess.Popen(there, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as container:
            assert container.stdin is not None
            assert container.stdout is not None
            assert container.stdout.readline() == b"runs\n"
            found = CliProcess(files)
            assert found.is_alive
            found.signal(signal.SIGKILL)
            found.kill_leftovers()
            assert found.is_alive
            container.stdin.close()
        assert not found.is_alive, "its lock is gone with it"
        found.kill_leftovers()
        assert stranger.poll() is None


@contextmanager
def somebody_else() -> Iterator[None]:
    """Be a user without rights for a moment, where the tests are run by root, whom nothing keeps out."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_folder_that_may_not_be_entered_hides_no_other() -> None:
    with tempfile.TemporaryDirectory() as folder:  # pytest's own are in one that only its owner may enter
        config_dir, session_id = Path(folder), "0" * 8
        for slug in ("closed", "open"):
            project = config_dir / "projects" / slug
            (project / session_id / "subagents").mkdir(parents=True)
            (project / f"{session_id}.jsonl").write_text("{}\n")
        closed, project = config_dir / "projects" / "closed", config_dir / "projects" / "open"
        config_dir.chmod(0o755)
        closed.chmod(0)
        (project / session_id / "subagents").chmod(0)
        with somebody_else():
            assert sessions.find_transcripts(config_dir, session_id) == [project / f"{session_id}.jsonl"]
            assert sessions.subagent_files(project / f"{session_id}.jsonl") == []
            walk = transcripts.walk(config_dir)
        assert sorted(walk.unreadable) == sorted(map(str, [closed, project / session_id / "subagents"]))
        assert [file.path for file in walk.found] == [str(project / f"{session_id}.jsonl")]
        closed.chmod(0o700)
        (project / session_id / "subagents").chmod(0o700)
