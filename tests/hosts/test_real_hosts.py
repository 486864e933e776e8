"""Real hosts with our server, which runs the real CLI: what a host's model gets of each result.

Hosts differ in what they hand on: some a result's text, some its data; of an error some the text only. So the request
that follows a call is read, which holds what the model really got. What cannot run here, with where its answer is from,
is in ``setup/hosts.py``.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import npm_packages
import pytest
from real_hosts import HOSTS, POOL_MCP, RealHost, Seat, take_seat
from scripted_model import ScriptedModel, Step
from support import make_home

from pool_mcp.demo.standin import Standin
from pool_mcp.demo.standin_accounts import Behaviour, Reply

ANSWER = "The stand-in's whole answer, word for word."

STEPS = {
    "status": Step("usage_status", {}),
    "ask": Step("ask_claude", {"prompt": "Say something.", "subscription": "work"}),
    "limit": Step("ask_claude", {"prompt": "Say something.", "subscription": "bob"}),
    "bad argument": Step("usage_report", {"by": "day", "since": "some day"}),
}
"""``work`` is paid by a key and ``bob`` by a token, each in a variable of the person's shell."""


@dataclass(frozen=True)
class Conversation:
    """What came of a host's run: ``got`` is what its model got for each step."""

    got: Mapping[str, str]
    run_ids: set[str]
    limited_until: str
    accounts: set[str]
    """The accounts whose key or token reached the stand-in for Anthropic."""


@pytest.mark.timeout(400)  # the first on a machine installs the packages
@pytest.mark.parametrize("name", HOSTS)
def test_a_hosts_model_gets_all_that_an_agent_acts_on(name: str, tmp_path: Path) -> None:
    if reason := npm_packages.missing():
        pytest.skip(reason)
    host = HOSTS[name]
    if not host.is_here():
        pytest.skip(f"there is no package of {host.program} for this kind of machine")
    conversation = converse(host, tmp_path)
    assert conversation.accounts == {"work", "bob"}
    assert lacks(conversation) == {}


def test_the_pinned_packages_name_no_registry() -> None:
    packages = json.loads((npm_packages.PINNED / "package-lock.json").read_text())["packages"]
    assert len(packages) > 100
    assert not [name for name, package in packages.items() if "resolved" in package]


def lacks(conversation: Conversation) -> dict[str, object]:
    """What the model should have got and did not, with what it got instead."""
    # Some hosts hand a text on inside JSON.
    got = {step: said.replace("\\n", "\n") for step, said in conversation.got.items()}
    wanted = {
        "status": [r"\bproceed\b", r"\bwork\b", r"\bbob\b"],
        "ask": [re.escape(ANSWER), "|".join(conversation.run_ids)],
        "limit": [r"\blimit\b", re.escape(conversation.limited_until)],
        "bad argument": [r"\bsince\b", "some day"],
    }
    found = {step: (said, [one for one in wanted[step] if not re.search(one, said)]) for step, said in got.items()}
    return {step: (missing, said) for step, (said, missing) in found.items() if missing}


def converse(host: RealHost, home: Path) -> Conversation:
    """Install, list, go through the script, uninstall."""
    with Standin() as standin, ScriptedModel(list(STEPS.values())) as model:
        standin.accounts["work"] = Behaviour(replies=(Reply(text=ANSWER),))
        standin.accounts["bob"] = Behaviour(mode="five_hour_limit")
        settings, env = make_home(home, standin, "bob", subscriptions={"work": {"api_key_env": "WORK_ANTHROPIC_KEY"}})
        seat = take_seat(host, home, {**env, "WORK_ANTHROPIC_KEY": Standin.api_key("work")}, model)
        install(host, seat)
        if host.lists_with:
            # Whether it connects is not asked here: Gemini CLI gives a server a few seconds for that.
            assert re.search(r"\bpool\b", seat.run(host.program, *host.lists_with))
        said = seat.run(host.program, *host.prompt("Go through the script."))
        assert len(model.got) == len(STEPS), f"the script stopped after {len(model.got)} steps: {said}"
        status = json.loads(seat.run(str(POOL_MCP), "status", "--json"))
        if host.installs_as:
            seat.run(str(POOL_MCP), "uninstall", host.installs_as)
            assert "nothing to do" in seat.run(str(POOL_MCP), "uninstall", host.installs_as)
        return Conversation(
            got=dict(zip(STEPS, model.got, strict=True)),
            run_ids={folder.name for folder in settings.runs_dir.iterdir()},
            limited_until=next(one["available_at"] for one in status["subscriptions"] if one["id"] == "bob"),
            accounts={call.account for call in standin.books} | {refusal.account for refusal in standin.refused},
        )


def install(host: RealHost, seat: Seat) -> None:
    """As a person does: by ``pool-mcp install``, or by hand where that does not know the host."""
    if host.installs_as:
        seat.run(str(POOL_MCP), "install", host.installs_as)
        assert "nothing to do" in seat.run(str(POOL_MCP), "install", host.installs_as)
        files = [file for file in seat.home.rglob("*") if file.is_file() and not file.is_symlink()]
        keys = Standin.api_key("work").encode(), Standin.token("bob").encode()
        assert not [file for file in files if any(key in file.read_bytes() for key in keys)]
    else:
        home = seat.env["POOL_MCP_HOME"]
        host.add_by_hand(seat, {"command": str(POOL_MCP), "args": [], "env": {"POOL_MCP_HOME": home}})
