"""Writes transcripts as Claude Code does, as many as wanted, and knows exactly what they hold.

./dev run python benchmarks/transcript_generator.py DIRECTORY --calls N [--seed N]

DIRECTORY becomes a config dir. Lines, files and their trouble are modelled on the CLI's own (2.1.206 to 2.1.330): a
line per content block, older sessions whose first blocks tell only the tokens so far, forks that repeat their parent's
lines under a new session id, subagents in files of their own and, formerly, in the session's, large tool results that
quote transcripts, the lines of failed calls, lines cut short by a crash and by a CLI that is still writing.
"""

import argparse
import json
import random
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from pool_mcp.model import DAY_MS, SECOND_MS, Tokens

LAST_DAY_MS = 1_795_305_600_000
"""2026-11-22; every call lies in the half year before, so that a seed gives the same bytes on any day."""
SPAN_DAYS = 180

MODELS = (
    ("claude-sonnet-4-6", 30), ("claude-opus-5-5", 28), ("claude-sonnet-5-5", 15), ("claude-haiku-5-5", 12),
    ("claude-opus-4-8", 8), ("claude-haiku-4-5-20251001", 5), ("claude-fable-5-2", 2),
)  # fmt: skip
UNKNOWN_MODEL = "claude-unheard-of-9"
_BASE_58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"


@dataclass(slots=True)
class Manifest:
    """What is really in the transcripts, each API call counted once."""

    calls: int = 0
    tokens: Tokens = field(default_factory=Tokens)
    by_model: dict[str, Tokens] = field(default_factory=dict)
    calls_by_model: dict[str, int] = field(default_factory=dict)
    fast_calls: int = 0
    files: int = 0
    bytes: int = 0
    lines: int = 0
    sessions: int = 0
    forks: int = 0
    copied_calls: int = 0
    sidechain_calls: int = 0
    subagent_calls: int = 0
    synthetic_lines: int = 0
    malformed_lines: int = 0
    partial_lines: int = 0

    def add(self, model: str, tokens: Tokens) -> None:
        """Count one call."""
        self.calls += 1
        self.calls_by_model[model] = self.calls_by_model.get(model, 0) + 1
        self.by_model[model] = self.by_model.get(model, Tokens()) + tokens


def generate(config_dir: Path, calls: int, seed: int = 0) -> Manifest:
    """Write transcripts of that many API calls (about 2.7 KB each), streaming; the same bytes for the same seed."""
    manifest = Manifest()
    writer = _Writer(config_dir, random.Random(seed), manifest)
    while manifest.calls < calls:
        writer.session(calls - manifest.calls)
    manifest.tokens = sum(manifest.by_model.values(), Tokens())
    manifest.lines = writer.lines
    return manifest


class _Writer:
    """Writes one session after the other, keeping the last few to be forked."""

    def __init__(self, config_dir: Path, draw: random.Random, manifest: Manifest) -> None:
        self._projects = config_dir / "projects"
        self._draw = draw
        self._manifest = manifest
        self._recent: list[tuple[str, str, list[bytes], int]] = []  # slug, session, lines, calls
        self.lines = 0
        words = ["".join(draw.choices("abcdefghijklmnopqrstuvwxyzäß€ ", k=draw.randint(2, 9))) for _ in range(4000)]
        text = " ".join(draw.choices(words, k=120_000))
        self._prose = json.dumps(text, ensure_ascii=False)[1:-1].encode()
        trap = '{"type":"assistant","message":{"id":"msg_quoted","usage":{"input_tokens":5,"output_tokens":9}}}\n'
        self._code = json.dumps(trap * 20 + 'if (x == "y") {\n\treturn "\\\\";\n}\n' * 20_000)[1:-1].encode()

    def session(self, most: int) -> None:
        """Write one session of at most so many calls, perhaps a fork of an earlier one, perhaps with subagents."""
        draw, manifest = self._draw, self._manifest
        session_id = self._uuid()
        slug = f"-home-user-project-{draw.randint(1, 40)}"
        at_ms = LAST_DAY_MS - draw.randrange(SPAN_DAYS * DAY_MS)
        lines: list[bytes] = []
        copied = 0
        if self._recent and draw.random() < 0.06:
            slug, parent, parent_lines, parent_calls = draw.choice(self._recent)
            upto = draw.randint(len(parent_lines) // 2, len(parent_lines))
            lines = [line.replace(parent.encode(), session_id.encode()) for line in parent_lines[:upto]]
            copied = sum(b'"type":"assistant"' in line for line in lines)
            manifest.forks += 1
            manifest.copied_calls += min(parent_calls, copied)
        is_old = draw.random() < 0.15
        version = "2.1.206" if is_old else "2.1.330"
        model = draw.choices([name for name, _ in MODELS], [weight for _, weight in MODELS])[0]
        wanted = min(most, max(1, int(draw.lognormvariate(3.6, 1.1))))
        folder = self._projects / slug
        folder.mkdir(parents=True, exist_ok=True)
        before = manifest.calls
        state = _State(session_id, version, slug, is_old, at_ms)
        with (folder / f"{session_id}.jsonl").open("wb") as file:
            manifest.files += 1
            manifest.sessions += 1
            self._write(file, lines)
            own: list[bytes] = []
            while manifest.calls - before < wanted:
                turn = list(self._turn(state, model, wanted - (manifest.calls - before)))
                self._write(file, turn)
                if copied + len(own) < 400:
                    own += turn
                if draw.random() < 0.02 and manifest.calls - before < wanted:
                    self._subagent(folder / session_id, state, wanted - (manifest.calls - before))
                if draw.random() < 0.002:  # a crash in the midst of a line, and the CLI going on after it
                    self._write(file, [self._broken(state)])
                    manifest.malformed_lines += 1
            if draw.random() < 0.02:  # still being written
                half = self._broken(state)[:-1]
                file.write(half)
                manifest.bytes += len(half)
                manifest.partial_lines += 1
        if len(lines) + len(own) < 600:
            self._recent = [*self._recent[-30:], (slug, session_id, lines + own, manifest.calls - before)]

    def _write(self, file: BinaryIO, lines: list[bytes]) -> None:
        data = b"".join(lines)
        file.write(data)
        self._manifest.bytes += len(data)
        self.lines += len(lines)

    def _subagent(self, folder: Path, state: "_State", most: int) -> None:
        """A subagent's calls: in a file of their own."""
        (folder / "subagents").mkdir(parents=True, exist_ok=True)
        agent = f"{self._draw.getrandbits(64):016x}"
        model = self._draw.choice(["claude-haiku-5-5", "claude-sonnet-4-6"])
        with (folder / "subagents" / f"agent-a{agent}.jsonl").open("wb") as file:
            self._manifest.files += 1
            for _ in range(min(most, self._draw.randint(1, 6))):
                self._manifest.subagent_calls += 1
                self._write(file, list(self._call(state, model, is_sidechain=True, agent=agent)))
                self._write(file, [self._tool_result(state, is_sidechain=True)])

    def _turn(self, state: "_State", model: str, most: int) -> Iterator[bytes]:
        """A prompt, the calls it takes with what their tools return, and what the CLI notes down beside."""
        draw = self._draw
        state.at_ms += draw.randint(5, 400) * SECOND_MS
        yield self._line(state, b'"type":"user","message":{"role":"user","content":"%s"}' % self._text(40, 300))
        if not state.is_old:
            yield self._note(state, b"attachment", 300)
            yield b'{"type":"last-prompt","sessionId":"%s","lastPrompt":"%s"}\n' % (
                state.session_id.encode(),
                self._text(20, 80),
            )
        for number in range(min(most, draw.choice((1, 1, 2, 3, 4, 6, 9)))):
            chosen = UNKNOWN_MODEL if draw.random() < 0.001 else model
            in_session = state.is_old and draw.random() < 0.05
            self._manifest.sidechain_calls += in_session
            yield from self._call(state, chosen, is_sidechain=in_session)
            if number or draw.random() < 0.7:
                yield self._tool_result(state)
        if draw.random() < 0.01:
            self._manifest.synthetic_lines += 1
            yield self._assistant(
                state, "<synthetic>", f"{self._uuid()}", "", self._text(20, 60), Tokens(), "stop_sequence"
            )

    def _call(
        self, state: "_State", model: str, *, is_sidechain: bool = False, agent: str | None = None
    ) -> Iterator[bytes]:
        """An API call: a line for each block of its answer."""
        draw = self._draw
        creation = draw.randint(0, 9000)
        one_hour = draw.choice((0, creation, creation // 2))
        tokens = Tokens(
            input=draw.randint(1, 900),
            output=draw.randint(3, 4000),
            cache_creation_5m=creation - one_hour,
            cache_creation_1h=one_hour,
            cache_read=draw.randint(0, 180_000),
            web_search_requests=draw.randint(1, 3) if draw.random() < 0.005 else 0,
        )
        message_id, request_id = f"msg_01{self._id()}", f"req_01{self._id(state.at_ms)}"
        speed = "fast" if model == "claude-opus-5-5" and draw.random() < 0.03 else "standard"
        self._manifest.add(model, tokens)
        self._manifest.fast_calls += speed == "fast"
        blocks = draw.choice((1, 1, 1, 2, 2, 3))
        for number in range(1, blocks + 1):
            state.at_ms += draw.randint(1, 9) * SECOND_MS + draw.randrange(1000)
            so_far, stop = tokens, '"tool_use"'
            if state.is_old and number < blocks:
                so_far = Tokens(
                    tokens.input,
                    draw.randint(1, 3),
                    tokens.cache_creation_5m,
                    tokens.cache_creation_1h,
                    tokens.cache_read,
                )
                stop = "null"
            yield self._assistant(
                state, model, message_id, request_id, self._block(number), so_far, stop, speed, is_sidechain, agent
            )

    def _assistant(
        self,
        state: "_State",
        model: str,
        message_id: str,
        request_id: str,
        block: bytes,
        tokens: Tokens,
        stop: str,
        speed: str = "standard",
        is_sidechain: bool = False,
        agent: str | None = None,
    ) -> bytes:
        usage = (
            f'{{"input_tokens":{tokens.input},"cache_creation_input_tokens":{tokens.cache_creation},'
            f'"cache_read_input_tokens":{tokens.cache_read},"output_tokens":{tokens.output},'
            + ("" if state.is_old else '"output_tokens_details":{"thinking_tokens":0},')
            + f'"server_tool_use":{{"web_search_requests":{tokens.web_search_requests},"web_fetch_requests":0}},'
            f'"service_tier":"standard","cache_creation":{{"ephemeral_1h_input_tokens":{tokens.cache_creation_1h},'
            f'"ephemeral_5m_input_tokens":{tokens.cache_creation_5m}}},"inference_geo":"","iterations":[],'
            f'"speed":"{speed}"}}'
        )
        # The API sends the model first; a gateway may not.
        names = f'"model":"{model}","id":"{message_id}","type":"message","role":"assistant",'
        if self._draw.random() < 0.1:
            names = f'"id":"{message_id}","type":"message","role":"assistant","model":"{model}",'
        if not block.startswith(b"{"):
            block = b'{"type":"text","text":"%s"}' % block
        return self._line(
            state,
            f'"message":{{{names}"content":['.encode()
            + block
            + f'],"stop_reason":{stop if stop.startswith(("null", chr(34))) else json.dumps(stop)},'
            f'"stop_sequence":null,"stop_details":null,"usage":{usage},"diagnostics":null}},'
            f'"requestId":"{request_id}","type":"assistant"'.encode(),
            is_sidechain,
            agent,
        )

    def _block(self, number: int) -> bytes:
        draw = self._draw
        if number == 1:
            return b'{"type":"text","text":"%s"}' % self._text(20, 260)
        if number == 2 and draw.random() < 0.3:
            return b'{"type":"thinking","thinking":"","signature":"%s"}' % (b"Er" * draw.randint(100, 500))
        return b'{"type":"tool_use","id":"toolu_01%s","name":"Edit","input":{"file_path":"/a/b.py","old":"%s"}}' % (
            self._id().encode(),
            self._text(20, 300, self._code),
        )

    def _tool_result(self, state: "_State", *, is_sidechain: bool = False) -> bytes:
        size = min(400_000, int(self._draw.lognormvariate(4.0, 1.5)))
        text = self._text(size, size, self._code)
        return self._line(
            state,
            b'"type":"user","message":{"role":"user","content":[{"tool_use_id":"toolu_01x","type":"tool_result",'
            b'"content":"%s"}]},"toolUseResult":{"stdout":"%s","usage":{"input_tokens":3,"output_tokens":7}}'
            % (text, self._text(1, max(1, size // 4), self._code)),
            is_sidechain,
        )

    def _note(self, state: "_State", kind: bytes, size: int) -> bytes:
        return self._line(
            state, b'"attachment":{"type":"skills","content":"%s"},"type":"%s"' % (self._text(1, size), kind)
        )

    def _broken(self, state: "_State") -> bytes:
        whole = self._assistant(state, MODELS[0][0], f"msg_01{self._id()}", "", self._text(9, 90), Tokens(7, 7), "null")
        return whole[: self._draw.randint(40, len(whole) - 30)] + b"\n"

    def _line(self, state: "_State", body: bytes, is_sidechain: bool = False, agent: str | None = None) -> bytes:
        return b'{"parentUuid":"%s","isSidechain":%s,%s%s%s}\n' % (
            self._uuid().encode(),
            b"true" if is_sidechain else b"false",
            b'"agentId":"a%s",' % agent.encode() if agent else b"",
            body,
            state.tail(self._uuid()),
        )

    def _text(self, least: int, most: int, of: bytes | None = None) -> bytes:
        """A piece of prose or code that is valid inside a JSON string."""
        source = self._prose if of is None else of
        size = min(self._draw.randint(least, most), len(source) - 1)
        start = self._draw.randrange(len(source) - size)
        piece = source[start : start + size].decode(errors="ignore").encode()
        # An escape that was cut apart at either end would break the line.
        return piece[piece.find(b" ") + 1 : piece.rfind(b" ")] if piece.count(b" ") > 1 else b""

    def _uuid(self) -> str:
        text = f"{self._draw.getrandbits(128):032x}"
        return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"

    def _id(self, at_ms: int | None = None) -> str:
        """What Anthropic's ids are made of: 128 bits in base 58, which in a request id begin with the time."""
        bits = self._draw.getrandbits(128) if at_ms is None else at_ms << 80 | self._draw.getrandbits(80)
        digits = []
        for _ in range(22):
            bits, digit = divmod(bits, 58)
            digits.append(_BASE_58[digit])
        return "".join(reversed(digits))


@dataclass(slots=True)
class _State:
    """A session as it goes on."""

    session_id: str
    version: str
    slug: str
    is_old: bool
    at_ms: int

    def tail(self, uuid: str) -> bytes:
        """What every line of a session ends in."""
        at = datetime.fromtimestamp(self.at_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        more = "" if self.is_old else '"effort":"high","perTurnEffort":null,"madeBy":"model",'
        return (
            f',"uuid":"{uuid}","timestamp":"{at}",{more}"userType":"external","entrypoint":"cli",'
            f'"cwd":"/home/user/project","sessionId":"{self.session_id}","version":"{self.version}","gitBranch":"main"'
        ).encode()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--calls", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    print(json.dumps(asdict(generate(chosen.directory, chosen.calls, chosen.seed)), indent=2))
