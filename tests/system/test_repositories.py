"""Which repository a directory is in, compared with what git itself says of real repositories."""

import os
import subprocess
from pathlib import Path

import pytest

from pool_mcp.system.repositories import UNKNOWN, Repository, repository_of


def git(where: Path, *arguments: str) -> str:
    who = ("-c", "user.name=me", "-c", "user.email=me@example.com", "-c", "protocol.file.allow=always")
    env = {"PATH": os.environ["PATH"], "HOME": str(where), "GIT_CONFIG_NOSYSTEM": "1"}
    done = subprocess.run(["git", *who, *arguments], cwd=where, env=env, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with a commit, a directory, a worktree beside it and a submodule."""
    root = tmp_path_factory.mktemp("sources") / "my site"
    root.mkdir()
    git(root, "init", "-q", "-b", "main")
    (root / "src" / "deep").mkdir(parents=True)
    (root / "src" / "deep" / "file").write_text("x")
    git(root, "add", ".")
    git(root, "commit", "-qm", "first")
    git(root, "worktree", "add", "-q", "-b", "feature/x", "../elsewhere")
    git(root, "worktree", "add", "-q", "--detach", "../detached")
    git(root, "submodule", "add", "-q", str(root), "libs/part")
    return root


@pytest.mark.parametrize(
    ("directory", "expected"),
    [
        (".", Repository("my site", "main")),
        ("src/deep", Repository("my site", "main")),
        ("src/no longer there/at all", Repository("my site", "main")),
        ("../elsewhere", Repository("my site", "feature/x")),
        ("../elsewhere/src", Repository("my site", "feature/x")),
        ("../detached", Repository("my site", None)),
        ("libs/part/src", Repository("part", "main")),
        ("..", UNKNOWN),
        ("\0", UNKNOWN),
    ],
)
def test_a_directory_belongs_to_the_repository_that_git_says(site: Path, directory: str, expected: Repository) -> None:
    where = site / directory
    assert repository_of(os.path.normpath(where)) == expected
    if expected.project is not None and where.is_dir():
        branch = git(where, "rev-parse", "--abbrev-ref", "HEAD")
        common = Path(git(where, "rev-parse", "--path-format=absolute", "--git-common-dir"))
        assert (expected.branch or "HEAD") == branch
        assert expected.project in (common.parent.name, common.name)


def test_what_is_no_repository_of_gits_is_none(tmp_path: Path) -> None:
    for name, content in (("empty", ""), ("words", "hello"), ("loop", "gitdir: .git")):
        (tmp_path / name).mkdir()
        (tmp_path / name / ".git").write_text(content)
    os.mkfifo(tmp_path / "words" / "HEAD")  # would be waited for
    (tmp_path / "pipe" / ".git").mkdir(parents=True)
    os.mkfifo(tmp_path / "pipe" / ".git" / "HEAD")
    found = {name: repository_of(str(tmp_path / name)) for name in ("empty", "words", "loop", "pipe")}
    assert found == {
        "empty": UNKNOWN,
        "words": UNKNOWN,
        "loop": Repository("loop"),
        "pipe": Repository("pipe"),
    }
    assert repository_of("relative/path") == UNKNOWN
