"""Where a delegated Claude that has tools may work: never where logins are, however the place is named."""

import os
import subprocess
from pathlib import Path

import pytest
from support import make_home

from pool_mcp.asks.directories import check_working_dir, working_dir
from pool_mcp.errors import InvalidRequest
from pool_mcp.model import Ask
from pool_mcp.settings import Settings, load


@pytest.fixture
def home(tmp_path: Path) -> Path:
    for name in ("pool/runs", "work-login/projects", ".claude", "src/project/sub", "elsewhere"):
        (tmp_path / name).mkdir(parents=True)
    return tmp_path


def made(home: Path, *allowed: str, profile: str = "read") -> tuple[Settings, dict[str, str]]:
    return make_home(
        home,
        claude={"tool_profile": profile, "allowed_dirs": [str(home / one) for one in allowed]},
        subscriptions={"work": {"config_dir": str(home / "work-login")}},
    )


def may_work_in(place: Path | str, settings: Settings, env: dict[str, str], **more: bool) -> bool:
    try:
        check_working_dir(Ask("ping", "tests", working_dir=str(place), **more), settings, env)  # type: ignore[arg-type]
    except InvalidRequest:
        return False
    return True


SHUT = (
    "pool",
    "pool/runs",
    "work-login",
    "work-login/projects",
    ".claude",
    ".",
    "..",
    "link",
    "link/projects",
    "src/up",
)


@pytest.mark.parametrize("place", SHUT)
@pytest.mark.parametrize("from_terminal", [False, True])
@pytest.mark.parametrize("profile", ["read", "full"])
def test_logins_and_the_pools_home_are_never_inside(home: Path, place: str, from_terminal: bool, profile: str) -> None:
    (home / "link").symlink_to(home / "work-login")
    (home / "src/up").symlink_to(home)
    settings, env = made(home, ".", "/", profile=profile)
    assert not may_work_in(home / place, settings, env, from_terminal=from_terminal)


def test_the_root_is_never_inside(home: Path) -> None:
    assert not may_work_in("/", *made(home, "/"))


def test_the_clis_own_config_dir_is_never_inside_wherever_it_is(home: Path) -> None:
    settings, env = make_home(home, claude={"tool_profile": "read"}, subscriptions={"own": {}})
    assert may_work_in(home / "elsewhere", settings, env)
    assert not may_work_in(home / "elsewhere", settings, {**env, "CLAUDE_CONFIG_DIR": str(home / "elsewhere")})


def test_an_agent_may_have_claude_read_what_is_allowed_and_no_more(home: Path) -> None:
    settings, env = made(home, "src")
    (home / "src/out").symlink_to(home / "elsewhere")
    assert may_work_in(home / "src", settings, env)
    assert may_work_in(home / "src/project/sub", settings, env)
    assert not may_work_in(home / "elsewhere", settings, env)
    assert not may_work_in(home / "src/out", settings, env)
    assert not may_work_in(home / "src/project/../../elsewhere", settings, env)


def test_a_link_that_is_changed_after_the_check_leads_nowhere_else(home: Path) -> None:
    settings, env = made(home, "src")
    link = home / "src/link"
    link.symlink_to(home / "src/project")
    ask = Ask("ping", "tests", working_dir=str(link))
    check_working_dir(ask, settings, env)
    with working_dir(ask, str(link), settings, env) as entered:
        link.unlink()
        link.symlink_to(home / "work-login")
        there = Path(os.fsdecode(subprocess.check_output(["/bin/pwd", "-P"], cwd=entered)).strip())
    assert there == home / "src/project"
    with pytest.raises(InvalidRequest, match="would lay open"), working_dir(ask, str(link), settings, env):
        pass


def test_another_name_of_a_directory_is_the_same_directory(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a disk that does not tell upper from lower case, or where a directory is mounted twice."""
    settings, env = made(home, "src")
    (home / "src/mounted").mkdir()
    assert may_work_in(home / "src/mounted", settings, env)
    login = (home / "work-login").stat()
    real = os.fstat
    monkeypatch.setattr(os, "fstat", lambda fd: login if _name(fd) == home / "src/mounted" else real(fd))
    assert not may_work_in(home / "src/mounted", settings, env)


def _name(fd: int) -> Path:
    return Path(f"/proc/self/fd/{fd}").resolve()


def test_a_person_at_the_terminal_may_name_any_other_directory(home: Path) -> None:
    assert may_work_in(home / "elsewhere", *made(home), from_terminal=True)


def test_without_tools_any_directory_will_do(home: Path) -> None:
    assert may_work_in(home / "elsewhere", *made(home, profile="none"))


def test_by_default_it_is_the_hosts_project_unless_that_is_no_project(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, env = make_home(home, claude={"tool_profile": "read"})
    settings.config_file.write_text(settings.config_file.read_text().replace("allowed_dirs", "#"))
    settings = load(env)
    monkeypatch.chdir(home / "src/project")
    assert may_work_in(home / "src/project/sub", settings, env)
    assert not may_work_in(home / "src", settings, env)
    assert may_work_in(home / "src", settings, {**env, "CLAUDE_PROJECT_DIR": str(home / "src")})
    for nowhere in (home, Path("/")):
        monkeypatch.chdir(nowhere)
        assert not may_work_in(home / "elsewhere", settings, env)
