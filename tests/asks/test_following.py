"""A run is followed by the system's own notice where there is one, and its answer is not read a second time."""

from pathlib import Path

import anyio
import pytest
from support import make_home, open_pool

from pool_mcp.demo.standin import Standin
from pool_mcp.model import Ask
from pool_mcp.system import changes
from pool_mcp.system.changes import Changes

pytestmark = pytest.mark.anyio

FOREVER_S = 3600.0


async def test_what_is_written_to_a_file_ends_the_wait_at_once(tmp_path: Path) -> None:
    path = tmp_path / "output"
    path.touch()
    with Changes(path, None) as watched, path.open("ab", buffering=0) as file:
        assert watched.are_told
        with anyio.fail_after(60):
            for _ in range(3):
                file.write(b"a line\n")
                await watched.wait(FOREVER_S)


async def test_the_end_of_a_child_that_writes_nothing_ends_the_wait(tmp_path: Path) -> None:
    path = tmp_path / "output"
    path.touch()
    async with await anyio.open_process(["/bin/cat"]) as child:
        assert child.stdin is not None
        with Changes(path, child.pid) as watched, anyio.fail_after(60):
            await child.stdin.aclose()
            await watched.wait(FOREVER_S)


async def test_where_the_system_has_no_notices_left_a_run_is_answered_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: int) -> int:
        raise OSError("too many")

    monkeypatch.setattr(changes, "_checked", refuse)
    with Standin() as standin:
        settings, env = make_home(tmp_path, standin)
        async with open_pool(settings, env) as pool:
            answer = await pool.ask(Ask("What?", "test"), wait_s=60)
    assert answer.status == "completed"


async def test_the_answer_of_a_run_that_was_followed_here_is_not_read_again(tmp_path: Path) -> None:
    with Standin() as standin:
        settings, env = make_home(tmp_path, standin)
        async with open_pool(settings, env) as pool:
            answer = await pool.ask(Ask("What?", "test"), wait_s=60)
            (settings.runs_dir / answer.run_id / "stdout.jsonl").unlink()
            assert (await pool.result(answer.run_id)).text == answer.text
