"""A person's machine in a temporary directory: a home, a short PATH, logins that the real CLI takes for stored ones."""

import json
import os
from collections.abc import Mapping
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from support import CLAUDE

from pool_mcp.cli.main import commands

STORED_LOGIN = {
    "claudeAiOauth": {
        "accessToken": "sk-ant-oat01-of-nobody",
        "refreshToken": "sk-ant-ort01-of-nobody",
        "expiresAt": 4_102_444_800_000,
        "scopes": ["user:inference", "user:profile"],
        "subscriptionType": "max",
        "rateLimitTier": "default_claude_max_20x",
    }
}


class Machine:
    """Everything that a command may look at is below ``home``; commands run in this process, with the real CLI."""

    def __init__(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.home = home
        self.bin = home / "bin"
        self.bin.mkdir(parents=True)
        self.env = {"HOME": str(home), "PATH": f"{self.bin}:{os.defpath}", "LANG": "C.UTF-8", "COLUMNS": "200"}
        for name in os.environ:
            monkeypatch.delenv(name)
        self._monkeypatch = monkeypatch
        self.set(**self.env)
        (self.bin / "claude").symlink_to(CLAUDE)

    def set(self, **env: str) -> None:
        """Set variables of the person's shell."""
        self.env |= env
        for name, value in env.items():
            self._monkeypatch.setenv(name, value)

    @property
    def settings(self) -> Path:
        """Where pool.toml is, or will be."""
        return self.home / ".config" / "pool-mcp" / "pool.toml"

    def write_settings(self, text: str) -> None:
        """What the person has in pool.toml."""
        self.settings.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.settings.write_text(text)

    def sign_in(self, name: str, email: str, organization: str) -> None:
        """A config dir (``.claude`` is the CLI's own) as the CLI leaves it after a sign-in."""
        folder = self.home / name
        folder.mkdir(exist_ok=True)
        (folder / ".credentials.json").write_text(json.dumps(STORED_LOGIN))
        about = {"accountUuid": email, "emailAddress": email, "organizationUuid": organization}
        state = self.home / ".claude.json" if name == ".claude" else folder / ".claude.json"
        state.write_text(json.dumps({"oauthAccount": about}))

    def run(self, *arguments: str, input: str | None = None) -> Result:  # noqa: A002  (click's word)
        """Run one command; an error is in the result."""
        return CliRunner().invoke(commands, arguments, input=input, prog_name="pool-mcp")

    def say(self, *arguments: str, input: str | None = None) -> str:  # noqa: A002
        """Run one command that has to succeed; what it said."""
        result = self.run(*arguments, input=input)
        if result.exception is not None:
            raise result.exception
        return result.output

    def files(self) -> Mapping[str, str]:
        """Every small text file below the home, by name."""
        found = (path for path in self.home.rglob("*") if path.is_file() and not path.is_symlink())
        return {str(path.relative_to(self.home)): path.read_text(errors="replace") for path in found}
