"""What goes into the CLI's command line; pure."""

import json
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Command:
    """What one run asks of the CLI; the prompt goes in on stdin."""

    session_id: str
    resume: bool
    model: str | None = None
    effort: str | None = None
    system_prompt: str | None = None
    json_schema: Mapping[str, object] | None = None
    max_budget_usd: float | None = None
    tool_profile: str = "none"
    is_waiting: bool = False
    """Whether the CLI is started before its prompt is known, which is then one :func:`user_message`."""


def user_message(prompt: str) -> bytes:
    """A prompt as a CLI takes it that was started to wait for one; after it, the end of its input ends it."""
    return json.dumps({"type": "user", "message": {"role": "user", "content": prompt}}).encode() + b"\n"


def argv(command: Command) -> list[str]:
    """The CLI's arguments, without the program itself."""
    arguments = ["-p", "--output-format", "stream-json", "--verbose", "--include-partial-messages"]
    if command.is_waiting:
        arguments.append("--input-format=stream-json")
    # The forms with "=" keep a value that begins with a dash from being read as an option.
    arguments.append(f"--resume={command.session_id}" if command.resume else f"--session-id={command.session_id}")
    if command.model:
        arguments.append(f"--model={command.model}")
    if command.effort:
        arguments.append(f"--effort={command.effort}")
    if command.system_prompt is not None:
        arguments.append(f"--system-prompt={command.system_prompt}")
    if command.json_schema is not None:
        arguments.append(f"--json-schema={json.dumps(command.json_schema)}")
    if command.max_budget_usd is not None:
        # The CLI refuses 0; less than this is less than any call costs.
        arguments.append(f"--max-budget-usd={max(command.max_budget_usd, 0.000001):.6f}")
    match command.tool_profile:
        case "full":
            arguments += ["--permission-mode=dontAsk"]
        case "read":
            arguments += [
                "--tools=Read,Glob,Grep",
                # Inside its directory the CLI needs no permission to read; outside it would ask, and is refused.
                # Naming a tool in --allowedTools would allow it everywhere.
                "--permission-mode=dontAsk",
                "--strict-mcp-config",
                "--setting-sources=",
            ]
        case _:
            arguments += ["--tools=", "--strict-mcp-config", "--setting-sources="]
    return arguments


SYSTEM_PROMPT_BYTES = 26_900
TOOLS_BYTES = {"none": 0, "read": 7_300, "full": 46_000}
"""What the CLI itself puts into every request, at least: measured on 2.1.206, .280, .315 and .330."""

ENGLISH_BYTES_PER_TOKEN = 5
"""More than the CLI's own English has."""

BYTES_PER_TOKEN = 8
"""More bytes than a token of any text has, so that a size in bytes gives a floor."""

SYSTEM_PROMPT_TOKENS = SYSTEM_PROMPT_BYTES // ENGLISH_BYTES_PER_TOKEN


def request_tokens(command: Command, prompt: str) -> int:
    """The least that the first request of a new session has: its prompt, and what the CLI puts before it."""
    own_bytes = TOOLS_BYTES.get(command.tool_profile, 0)
    own_bytes += SYSTEM_PROMPT_BYTES if command.system_prompt is None else 0
    given = prompt + (command.system_prompt or "") + ("" if command.json_schema is None else str(command.json_schema))
    return own_bytes // ENGLISH_BYTES_PER_TOKEN + len(given.encode(errors="replace")) // BYTES_PER_TOKEN
