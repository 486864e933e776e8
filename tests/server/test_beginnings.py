"""However a conversation begins, our server answers as the SDK does, early or not, and no request goes unanswered."""

import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from beginnings import VERSIONS, Lines, beginnings
from mcp_types import jsonrpc_message_adapter
from pydantic import ValidationError

DRIVER = Path(__file__).parents[1] / "fakes" / "sdk_driver.py"
STARTS = 2
"""The first start keeps what it can; a later one answers from that."""


def converse(home: Path, conversations: list[Lines], *, leaves_at_once: bool) -> list[list[list[str]]]:
    """What a host that waits got from the SDK's own transport, and the host from each start of our server."""
    said = [([line.decode("latin-1") for line in lines], leaves_at_once) for lines in conversations]
    task = {"home": str(home), "starts": STARTS, "conversations": said}
    ran = subprocess.run(
        [sys.executable, DRIVER], input=json.dumps(task), capture_output=True, text=True, check=False, timeout=500
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert "out of date" not in ran.stderr
    assert "Traceback" not in ran.stderr
    results: list[list[list[str]]] = json.loads(ran.stdout)
    return results


def unreadable(lines: Lines) -> list[Any]:
    """The ids of requests that the SDK cannot read, as a patient reader finds them."""
    found = []
    for line in lines:
        text = line.decode(errors="replace").removeprefix("\ufeff")
        try:
            jsonrpc_message_adapter.validate_json(line.decode(errors="replace"), by_name=False)
        except ValidationError:
            sys.set_int_max_str_digits(0)
            try:
                message, _ = json.JSONDecoder().raw_decode(text.lstrip())
            except (ValueError, RecursionError):
                message = {"id": int(text.split('"id": ')[1].split(",")[0])} if '"id": ' in text else None
            finally:
                sys.set_int_max_str_digits(4300)
            request_id = message.get("id") if isinstance(message, dict) else None
            if isinstance(request_id, int | str) and not isinstance(request_id, bool):
                found.append(request_id)
    return found


def split(got: list[str], ids: list[Any]) -> tuple[list[str], list[Any]]:
    """What the SDK answered, in an order of its own, and the ids of the errors for what it could not read."""
    rest, refused = [], []
    sys.set_int_max_str_digits(0)
    for text in got:
        reply = json.loads(text)
        is_refusal = isinstance(reply, dict) and reply.get("error", {}).get("code") in (-32700, -32600)
        if is_refusal and reply["id"] in ids and "JSON" in reply["error"]["message"]:
            refused.append(reply["id"])
        else:
            rest.append(json.dumps(reply, sort_keys=True))
    sys.set_int_max_str_digits(4300)
    return sorted(rest), refused


def different(home: Path, cases: dict[str, Lines], *, leaves_at_once: bool) -> dict[str, Any]:
    """What is expected and what came, of every beginning that is not answered as the SDK does."""
    results = converse(home, list(cases.values()), leaves_at_once=leaves_at_once)
    wrong = {}
    for (name, lines), (stock, *starts) in zip(cases.items(), results, strict=True):
        ids = unreadable(lines)
        expected, *found = [(split(stock, [])[0], ids), *(split(start, ids) for start in starts)]
        if found != [expected] * STARTS:
            wrong[name] = (expected, found)
    return wrong


@pytest.mark.timeout(600)
@pytest.mark.parametrize("leaves_at_once", [False, True], ids=["a host that waits", "a host that leaves at once"])
def test_the_answers_to_every_beginning_are_the_sdks(tmp_path: Path, leaves_at_once: bool) -> None:
    cases = beginnings()
    assert len(cases) >= 222
    if leaves_at_once:
        cases = dict(itertools.islice(cases.items(), 0, None, 3))
    wrong = different(tmp_path, cases, leaves_at_once=leaves_at_once)
    if leaves_at_once and wrong:  # where the machine stands still in the moment of the end, a reply is cut
        wrong = different(tmp_path / "again", {name: cases[name] for name in wrong}, leaves_at_once=True)
    assert not wrong, f"{list(wrong)}: {json.dumps(dict(list(wrong.items())[:3]), indent=1)[:6000]}"
    folders = {name: tmp_path / str(number) for number, name in enumerate(cases)}
    kept = {name for name, folder in folders.items() if folder.exists()}
    good = {*(f"version {json.dumps(version)}" for version in VERSIONS), "later: tools/list", "2024-11-05 tools/list"}
    assert good & cases.keys() <= kept
    assert not {name for name in kept if name.startswith(("version 1999", 'version "of', "jsonrpc", "clientInfo null"))}
    assert all([path.name for path in folders[name].iterdir()] == ["replies.json"] for name in kept)
