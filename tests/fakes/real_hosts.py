"""Real MCP hosts from their packages, each in a home of its own, headless, with a scripted model in its model's place.

Nothing leaves the machine: each host's model is on loopback, telemetry and updates are off, and the proxy variables
lead to the scripted model, which refuses and records.
"""

import json
import os
import shutil
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import cli_versions
from npm_packages import node_modules
from scripted_model import ScriptedModel

POOL_MCP = Path(sys.executable).with_name("pool-mcp")
TIMEOUT_S = 120


@dataclass
class Seat:
    """A home with one host in it. ``env`` is the person's shell's, with keys and tokens."""

    home: Path
    model: ScriptedModel
    env: dict[str, str] = field(default_factory=dict)

    def write(self, name: str, content: object) -> None:
        """Put a file below the home: a text, or anything else as JSON."""
        path = self.home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content, indent=2))

    def run(self, *command: str) -> str:
        """Run a program to its end; what it printed, on both channels.

        Raises:
            AssertionError: it failed or took too long; with what it printed.
        """
        work = self.home / "work"
        work.mkdir(exist_ok=True)
        try:
            ended = subprocess.run(
                command,
                env=self.env,
                cwd=work,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=TIMEOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired as late:
            raise AssertionError(f"{command} took over {TIMEOUT_S} s: {late.stdout!r}") from None
        assert ended.returncode == 0, f"{command} ended with {ended.returncode}: {ended.stdout}"
        return ended.stdout


class RealHost(ABC):
    """One host: its program, what makes it headless, and how it is given a prompt."""

    program: str
    """What the program is called on PATH."""
    installs_as: str | None = None
    """Its name for ``pool-mcp install``; None where that does not know it."""
    lists_with: tuple[str, ...] = ()
    """The arguments that have it list its servers; empty where it has no such command."""

    @abstractmethod
    def executable(self) -> Path:
        """The program's file."""

    @abstractmethod
    def configure(self, seat: Seat) -> None:
        """Point it at the scripted model, and keep it from everything else; before the server is installed."""

    @abstractmethod
    def prompt(self, text: str) -> list[str]:
        """The arguments that have it work on a prompt and end, allowed to use the server's tools."""

    def add_by_hand(self, seat: Seat, entry: Mapping[str, object]) -> None:
        """Put the server in, as a person would; for hosts that ``pool-mcp install`` does not know."""
        raise NotImplementedError

    def is_here(self) -> bool:
        """Whether there is a package of it for this machine."""
        return self.executable().exists()


class ClaudeCode(RealHost):
    """Claude Code, of the environment or of an older wheel."""

    program = "claude"
    installs_as = "claude-code"
    lists_with = ("mcp", "list")

    def __init__(self, version: cli_versions.CliVersion) -> None:
        self._version = version

    def executable(self) -> Path:
        return self._version.cli

    def configure(self, seat: Seat) -> None:
        seat.env |= {
            "ANTHROPIC_BASE_URL": seat.model.url,
            "CLAUDE_CODE_OAUTH_TOKEN": "sk-ant-oat01-of-the-host",
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
            "DISABLE_AUTOUPDATER": "1",
        }

    def prompt(self, text: str) -> list[str]:
        return ["-p", text, "--allowedTools", "mcp__pool", "ToolSearch"]


class Codex(RealHost):
    """OpenAI's Codex."""

    program = "codex"
    installs_as = "codex"
    lists_with = ("mcp", "list")

    def executable(self) -> Path:
        return node_modules() / ".bin" / "codex"

    def configure(self, seat: Seat) -> None:
        provider = {"name": "scripted", "base_url": f"{seat.model.url}/v1", "wire_api": "responses"}
        lines = ["check_for_update_on_startup = false", 'model = "gpt-5"', 'model_provider = "scripted"']
        lines += ["", "[analytics]", "enabled = false", "", "[otel]", 'metrics_exporter = "none"']
        lines += ["", "[features]", "apps = false", "plugins = false", "remote_plugin = false"]
        lines += ["", "[model_providers.scripted]", *(f'{key} = "{value}"' for key, value in provider.items())]
        seat.write(".codex/config.toml", "\n".join(lines) + "\n")

    def prompt(self, text: str) -> list[str]:
        return ["exec", "--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox", text]


class GeminiCli(RealHost):
    """Google's Gemini CLI."""

    program = "gemini"
    installs_as = "gemini"
    lists_with = ("mcp", "list")

    def executable(self) -> Path:
        return node_modules() / ".bin" / "gemini"

    def configure(self, seat: Seat) -> None:
        settings = {
            "security": {"auth": {"selectedType": "gemini-api-key"}},
            "general": {"enableAutoUpdate": False, "enableAutoUpdateNotification": False},
            "privacy": {"usageStatisticsEnabled": False},
            "telemetry": {"enabled": False},
        }
        seat.write(".gemini/settings.json", settings)
        seat.env |= {"GEMINI_API_KEY": "of-the-host", "GOOGLE_GEMINI_BASE_URL": seat.model.url, "NO_BROWSER": "1"}
        seat.env["GEMINI_CLI_TRUST_WORKSPACE"] = "true"

    def prompt(self, text: str) -> list[str]:
        # With a model named, it does not first ask one which it should use.
        return ["--approval-mode", "yolo", "--model", "gemini-2.5-flash", "-p", text]


class OpenCode(RealHost):
    """opencode."""

    program = "opencode"
    lists_with = ("mcp", "list")

    def executable(self) -> Path:
        return node_modules() / "opencode-linux-x64" / "bin" / "opencode"

    def configure(self, seat: Seat) -> None:
        options = {"baseURL": f"{seat.model.url}/v1", "apiKey": "of-the-host"}
        provider = {"npm": "@ai-sdk/openai-compatible", "options": options, "models": {"scripted": {"tool_call": True}}}
        self._settings: dict[str, object] = {"autoupdate": False, "share": "disabled", "model": "local/scripted"}
        self._settings["provider"] = {"local": provider}
        seat.write(".config/opencode/opencode.json", self._settings)
        for name in ("AUTOUPDATE", "MODELS_FETCH", "LSP_DOWNLOAD", "DEFAULT_PLUGINS"):
            seat.env[f"OPENCODE_DISABLE_{name}"] = "1"

    def add_by_hand(self, seat: Seat, entry: Mapping[str, object]) -> None:
        server = {"type": "local", "command": [entry["command"]], "environment": entry["env"]}
        seat.write(".config/opencode/opencode.json", {**self._settings, "mcp": {"pool": server}})

    def prompt(self, text: str) -> list[str]:
        return ["run", "--auto", text]


class Continue(RealHost):
    """Continue's command line."""

    program = "cn"

    def executable(self) -> Path:
        return node_modules() / ".bin" / "cn"

    def configure(self, seat: Seat) -> None:
        model = {"name": "scripted", "provider": "openai", "model": "gpt-4o", "roles": ["chat"]}
        model |= {"apiBase": f"{seat.model.url}/v1", "apiKey": "of-the-host"}
        self._settings: dict[str, object] = {"name": "x", "version": "1.0.0", "schema": "v1", "models": [model]}
        seat.write(".continue/config.yaml", self._settings)
        seat.env |= {"CONTINUE_TELEMETRY_ENABLED": "0", "CONTINUE_GLOBAL_DIR": str(seat.home / ".continue")}
        self._file = seat.home / ".continue" / "config.yaml"

    def add_by_hand(self, seat: Seat, entry: Mapping[str, object]) -> None:
        server = {"name": "pool", "type": "stdio", **entry}
        seat.write(".continue/config.yaml", {**self._settings, "mcpServers": [server]})

    def prompt(self, text: str) -> list[str]:
        return ["--config", str(self._file), "--auto", "-p", text]


HOSTS: Mapping[str, RealHost] = {
    "claude-code-newest": ClaudeCode(cli_versions.NEWEST),
    "claude-code-oldest": ClaudeCode(cli_versions.THIS_RUN),
    "codex": Codex(),
    "gemini": GeminiCli(),
    "opencode": OpenCode(),
    "continue": Continue(),
}


def take_seat(host: RealHost, home: Path, env: Mapping[str, str], model: ScriptedModel) -> Seat:
    """A home in which the host is on PATH and configured; ``env`` is what else the person's shell has."""
    programs = home / "bin"
    programs.mkdir()
    (programs / host.program).symlink_to(host.executable())
    node = shutil.which("node")
    assert node is not None
    (programs / "node").symlink_to(node)
    proxies = {"HTTP_PROXY": model.url, "HTTPS_PROXY": model.url, "NO_PROXY": "127.0.0.1,localhost"}
    seat = Seat(home, model, {**env, **proxies, "TERM": "dumb", "LANG": "C.UTF-8"})
    seat.env["PATH"] = f"{programs}{os.pathsep}{os.defpath}"
    host.configure(seat)
    return seat
