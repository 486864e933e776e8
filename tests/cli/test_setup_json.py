"""What the commands of the way in say under ``--json``: one object, and a failure as one, too."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from support import make_home

COMMAND = [sys.executable, "-m", "pool_mcp"]


def said(env: dict[str, str], *arguments: str, code: int = 0) -> Any:
    ended = subprocess.run([*COMMAND, *arguments, "--json"], env=env, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr.count("\n")) == (code, int(code != 0)), ended.stderr
    return json.loads(ended.stdout)


def test_a_subscription_and_a_host_come_and_go_as_json(tmp_path: Path) -> None:
    settings, env = make_home(tmp_path)
    file = str(settings.config_file)
    added = said(env, "add", "spare", "--api-key-env", "SPARE_KEY")
    assert (added["file"], added["changed"], '+id = "spare"' in added["difference"]) == (file, True, True)
    planned = said(env, "install", "cursor", "zed", "--dry-run")
    assert [(one["host"], one["changed"], bool(one["difference"])) for one in planned["hosts"]] == [
        ("cursor", False, True),
        ("zed", False, True),
    ]
    done = said(env, "install", "cursor")
    assert (done["hosts"][0]["changed"], Path(done["hosts"][0]["file"]).exists()) == (True, True)
    assert said(env, "uninstall", "cursor")["hosts"][0]["changed"]
    assert '-id = "spare"' in said(env, "remove", "spare")["difference"]
    refused = said(env, "remove", "spare", code=2)
    assert refused["error"]["kind"] == "invalid_request"


def test_setup_as_json_asks_nothing_and_writes_only_what_it_is_told_to(tmp_path: Path) -> None:
    settings, env = make_home(tmp_path)
    settings.config_file.write_text(f"[claude]\npath = {json.dumps(settings.claude.path)}\n")
    ended = subprocess.run([*COMMAND, "setup", "--json"], env=env, capture_output=True, text=True, check=False)
    found = json.loads(ended.stdout)
    assert (ended.returncode, found["settings"]["changed"], found["next_steps"]) == (1, False, ["pool-mcp setup --yes"])
    assert [(one["subscription"], one["signed_in"]) for one in found["logins"]] == [("default", False)]
    assert "subscriptions" not in settings.config_file.read_text()


def test_a_png_without_its_library_is_refused_with_the_command_that_brings_it(tmp_path: Path) -> None:
    _, env = make_home(tmp_path)
    (tmp_path / "PIL").mkdir()
    (tmp_path / "PIL" / "__init__.py").write_text("raise ImportError")
    command = [*COMMAND, "report", "--chart", str(tmp_path / "chart.png")]
    ended = subprocess.run(
        command, env=env | {"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stdout) == (2, "")
    python, package = sys.executable, "'pillow>=12.1'"
    commands = (f"`{python} -m pip install {package}`", f"`uv pip install --python {python} {package}`")
    assert any(command in ended.stderr for command in commands)
