"""Puts pool-mcp into the configuration of MCP hosts, takes it out again, and tells where it is.

A new entry goes in through the host's own command, where there is one on PATH, and what was written is read back. Where
there is none, or it did something else, the host's file is edited in place: a copy is kept beside it, and all that is
not ours stays as it is. An entry of ours that is there already is only ever edited, so that what the person has added
to it stays.
"""

import json
import re
import shutil
import sys
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from pool_mcp.errors import InvalidRequest
from pool_mcp.setup import jsonc, toml_text
from pool_mcp.system import commands, places, textfile

NAMES = ("claude-code", "claude-desktop", "codex", "cursor", "gemini", "vscode", "windsurf", "zed")

ENTRY = "pool"
"""What the server is called in a host, unless the person says otherwise."""

SHORT_PATH = "/usr/local/bin:/opt/homebrew/bin:/usr/bin:/bin:/usr/sbin:/sbin"
"""What a program that was not started from a shell, such as Claude Desktop, has for a PATH."""

Entry = Mapping[str, Any]
"""A server in a host's configuration."""


@dataclass(frozen=True, slots=True)
class Host:
    """One host: where it keeps its servers, in which form, and the program that writes them, where it has one."""

    name: str
    title: str
    file: Path
    key: str
    """The name of the table of servers."""
    program: str | None = None
    form: Literal["json", "toml"] = "json"
    has_type: bool = False
    """Whether an entry says ``"type": "stdio"``."""
    passes: str = "all"
    """Which of the person's variables a server gets: ``all``; ``env_vars``: those that its entry lists there;
    ``values``: those whose values the person has written into the entry's ``env``; else those that ``env`` refers to,
    in this form, with the variable's name for NAME."""

    @property
    def is_here(self) -> bool:
        """Whether the host seems to be on this machine."""
        return self.file.exists() or (self.file.name != ".claude.json" and self.file.parent.is_dir())


@dataclass(frozen=True, slots=True)
class Launch:
    """How a host is to start the server. ``variables`` are those of the person's that it needs, by name."""

    command: str
    args: list[str]
    env: dict[str, str]
    variables: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """What an installation or a removal will do."""

    host: Host
    entry: str
    launch: Launch | None
    """None: take the entry out."""
    before: str
    after: str
    command: list[str] = field(default_factory=list)
    """The host's own command, where it is used."""

    @property
    def difference(self) -> str:
        """What changes in the host's file; empty where nothing has to."""
        return textfile.difference(self.host.file, self.before, self.after)


def find(name: str, env: Mapping[str, str], platform: str = sys.platform) -> Host:
    """The host of that name, with its places on this machine."""
    home = Path(env.get("HOME") or Path.home())
    config = Path(env.get("XDG_CONFIG_HOME") or home / ".config")
    applications = home / "Library" / "Application Support" if platform == "darwin" else config
    claude = Path(env.get("CLAUDE_CONFIG_DIR") or home)
    codex = Path(env.get("CODEX_HOME") or home / ".codex")
    # Who passes what: Claude Code, Codex and Gemini CLI as tests with the programs themselves show. VS Code starts a
    # server with its own whole environment (its extHostMcpNode.ts); so does Zed (its stdio_transport.rs). Cursor and
    # Windsurf document ${env:NAME}, and of no other variable that it arrives. Claude Desktop passes PATH, HOME and a
    # few more (MCP's guide to debugging).
    json_key = "mcpServers"
    desktop = applications / "Claude" / "claude_desktop_config.json"
    windsurf = home / ".codeium" / "windsurf" / "mcp_config.json"
    known = (
        Host("claude-code", "Claude Code", claude / ".claude.json", json_key, "claude", has_type=True),
        Host("claude-desktop", "Claude Desktop", desktop, json_key, passes="values"),
        Host("codex", "Codex", codex / "config.toml", "mcp_servers", "codex", form="toml", passes="env_vars"),
        Host("cursor", "Cursor", home / ".cursor" / "mcp.json", json_key, passes="${env:NAME}"),
        Host("gemini", "Gemini CLI", home / ".gemini" / "settings.json", json_key, "gemini", passes="$NAME"),
        Host("vscode", "VS Code", applications / "Code" / "User" / "mcp.json", "servers", "code", has_type=True),
        Host("windsurf", "Windsurf", windsurf, json_key, passes="${env:NAME}"),
        Host("zed", "Zed", config / "zed" / "settings.json", "context_servers"),
    )
    return next(host for host in known if host.name == name)


def launch(env: Mapping[str, str], variables: Sequence[str] = ()) -> Launch:
    """How this very installation is started again, by its whole path: the PATH of a graphical host is short."""
    home = {}
    if places.read_env(env, "POOL_MCP_HOME"):
        home["POOL_MCP_HOME"] = str(places.directories(env)[0].absolute())
    python = Path(sys.executable)
    uvx = shutil.which("uvx", path=env.get("PATH"))
    if uvx and re.search(r"/(archive|environments|builds)-v\d+/", str(python)):
        # uv's cache: what lies there today may be cleaned away tomorrow.
        return Launch(uvx, _uvx_arguments(), home, variables)
    script = python.with_name("pool-mcp")
    if script.is_file():
        return Launch(str(script), [], home, variables)
    return Launch(str(python), ["-m", "pool_mcp"], home, variables)


def _uvx_arguments() -> list[str]:
    """From where uvx got this package: the index, or the place that its metadata names (PEP 610)."""
    said = metadata.distribution("pool-mcp").read_text("direct_url.json")
    origin: dict[str, Any] = json.loads(said) if said else {}
    url = str(origin.get("url", "")).removeprefix("file://")
    if not url:
        return ["pool-mcp"]
    git = origin.get("vcs_info", {})
    return ["--from", f"git+{url}@{git['commit_id']}" if git else url, "pool-mcp"]


def entries(host: Host) -> dict[str, Entry]:
    """The servers that a host has, by name.

    Raises:
        InvalidRequest: its file cannot be read.
    """
    return _entries(host, textfile.read(host.file))


def ours(host: Host) -> dict[str, Entry]:
    """Those of a host's servers that start pool-mcp."""
    return {name: entry for name, entry in entries(host).items() if _is_ours(entry)}


def missing_program(host: Host, entry: Entry, env: Mapping[str, str]) -> str | None:
    """The program that an entry starts, where the host would not find it."""
    command = str(entry.get("command", ""))
    path = SHORT_PATH if host.name == "claude-desktop" else env.get("PATH")
    return None if shutil.which(command, path=path) else command


def home_of(entry: Entry) -> str | None:
    """The ``POOL_MCP_HOME`` that an entry sets."""
    env = entry.get("env")
    return str(env["POOL_MCP_HOME"]) if isinstance(env, dict) and env.get("POOL_MCP_HOME") else None


def missing_variables(host: Host, entry: Entry, variables: Sequence[str]) -> list[str]:
    """The variables, of those that the server needs, that the host would not pass on to it."""
    if host.passes == "all":
        return []
    env, listed = entry.get("env"), entry.get("env_vars")
    given = {*(env if isinstance(env, dict) else ())}
    for one in listed if isinstance(listed, list) else ():
        given.add(one.get("name") if isinstance(one, dict) else one)
    return [name for name in variables if name not in given]


def _references(host: Host, variables: Sequence[str]) -> dict[str, str]:
    """What an entry's ``env`` has to say so that the host passes variables on.

    A reference to a variable that is not set may arrive as it is written, which the server takes for not set.
    """
    return {name: host.passes.replace("NAME", name) for name in variables} if "NAME" in host.passes else {}


def _listed(host: Host, variables: Sequence[str]) -> list[str]:
    """The same for an entry's ``env_vars``."""
    return list(variables) if host.passes == "env_vars" else []


def plan(host: Host, entry: str, wanted: Launch | None, env: Mapping[str, str]) -> Plan:
    """What is to be done so that the host has the entry as wanted, or not at all (None).

    Raises:
        InvalidRequest: the host's file cannot be read, or its entry of that name is somebody else's.
    """
    before = textfile.read(host.file)
    present = _entries(host, before).get(entry)
    if present is not None and not _is_ours(present):
        raise InvalidRequest(
            f"{host.title} has a server {entry!r} that is not pool-mcp ({host.file}); choose another with --name."
        )
    if _is_as_wanted(host, present, wanted):
        return Plan(host, entry, wanted, before, before)
    after = _edit(host, before, entry, wanted)
    command: list[str] = []
    # Codex 0.169 drops the comments inside its table of servers; where there are any, the edit here is the safer one.
    loses_comments = host.form == "toml" and "#" in before
    program = host.program and shutil.which(host.program, path=env.get("PATH"))
    if program and (present is None or wanted is None) and not loses_comments:
        command = _command(host, program, entry, wanted)
    return Plan(host, entry, wanted, before, after, command)


def carry_out(plan: Plan, env: Mapping[str, str]) -> tuple[bool, Path | None]:
    """Do it: whether the host's own command did it, and the copy of the file where it was edited.

    Raises:
        InvalidRequest: the host's file cannot be read or written.
    """
    host = plan.host
    if plan.command:
        commands.run(plan.command, env)
        if _is_as_wanted(host, entries(host).get(plan.entry), plan.launch):
            return True, None
    before = textfile.read(host.file)
    return False, textfile.replace(host.file, _edit(host, before, plan.entry, plan.launch), backup=True)


def _entries(host: Host, text: str) -> dict[str, Entry]:
    try:
        content = jsonc.loads(text) if host.form == "json" else tomllib.loads(text)
    except ValueError as error:
        raise InvalidRequest(f"{host.file}: {error}; fix it, or let {host.title} do so, and try again.") from None
    servers = content.get(host.key) if isinstance(content, dict) else None
    if not isinstance(servers, dict):
        return {}
    return {name: entry for name, entry in servers.items() if isinstance(entry, dict)}


def _is_ours(entry: Entry) -> bool:
    # Of the command its last part only: a folder may be called anything.
    arguments = entry.get("args")
    words = [Path(str(entry.get("command", ""))).name, *(arguments if isinstance(arguments, list) else [])]
    return any(isinstance(word, str) and re.search(r"\bpool[-_]mcp\b", word) for word in words)


def _is_as_wanted(host: Host, present: Entry | None, wanted: Launch | None) -> bool:
    if present is None or wanted is None:
        return present is None and wanted is None
    return (
        present.get("command") == wanted.command
        and (present.get("args") or []) == wanted.args
        and home_of(present) == wanted.env.get("POOL_MCP_HOME")
        and (host.passes == "values" or not missing_variables(host, present, wanted.variables))
    )


def _edit(host: Host, text: str, entry: str, wanted: Launch | None) -> str:
    """The host's text with the entry as wanted."""
    present = _entries(host, text).get(entry)
    try:
        if host.form == "toml":
            return _edit_toml(host, text, entry, present, wanted)
        if wanted is None:
            return jsonc.remove(text, (host.key, entry))
        if present is None:
            return jsonc.set_value(text, (host.key, entry), _new_entry(host, wanted))
        for key, value in _merged(host, present, wanted).items():
            if present.get(key) != value:
                text = jsonc.set_value(text, (host.key, entry, key), value)
        return text
    except ValueError as error:
        raise InvalidRequest(f"{host.file}: {error}; put the server {entry!r} in by hand.") from None


def _edit_toml(host: Host, text: str, entry: str, present: Entry | None, wanted: Launch | None) -> str:
    if present is not None:
        text = toml_text.remove(text, lambda path, _: path[:2] == (host.key, entry))
        if entry in _entries(host, text):
            raise ValueError("the server is not in a table of its own")
    if wanted is None:
        return text
    values = _new_entry(host, wanted) if present is None else {**present, **_merged(host, present, wanted)}
    return toml_text.append(text, f"[{host.key}.{toml_text.key(entry)}]", values)


def _new_entry(host: Host, wanted: Launch) -> dict[str, object]:
    kind = {"type": "stdio"} if host.has_type else {}
    env = wanted.env | _references(host, wanted.variables)
    listed = _listed(host, wanted.variables)
    passed = {**({"env": env} if env else {}), **({"env_vars": listed} if listed else {})}
    return {**kind, "command": wanted.command, "args": wanted.args, **passed}


def _merged(host: Host, present: Entry, wanted: Launch) -> dict[str, object]:
    """What has to be in an entry that is there; variables of the person's own stay."""
    said = present.get("env")
    kept = said if isinstance(said, dict) else {}
    missing = missing_variables(host, present, wanted.variables)
    env = {name: value for name, value in kept.items() if name != "POOL_MCP_HOME"} | wanted.env
    env |= _references(host, missing)
    listed = _listed(host, missing)
    passed = {"env_vars": [*(present.get("env_vars") or []), *listed]} if listed else {}
    return {"command": wanted.command, "args": wanted.args, **({"env": env} if env or kept else {}), **passed}


def _command(host: Host, program: str, entry: str, wanted: Launch | None) -> list[str]:
    """The host's own command for it; empty where it has none."""
    if wanted is None:
        match host.name:
            case "claude-code" | "gemini":
                return [program, "mcp", "remove", "-s", "user", entry]
            case "codex":
                return [program, "mcp", "remove", entry]
        return []  # VS Code's adds and does not remove
    if _listed(host, wanted.variables):
        return []  # Codex's cannot say which to pass on
    start: Sequence[str] = [wanted.command, *wanted.args]
    env = [f"{name}={value}" for name, value in {**wanted.env, **_references(host, wanted.variables)}.items()]
    match host.name:
        case "claude-code":
            return [program, "mcp", "add", "-s", "user", entry, *(w for e in env for w in ("-e", e)), "--", *start]
        case "codex":
            return [program, "mcp", "add", entry, *(w for e in env for w in ("--env", e)), "--", *start]
        case "gemini":
            return [program, "mcp", "add", "-s", "user", *(w for e in env for w in ("-e", e)), entry, *start]
        case "vscode":
            return [program, "--add-mcp", json.dumps({"name": entry, **_new_entry(host, wanted)})]
    return []
