"""Every child process: how the CLI is started, watched, stopped and found again.

The CLI reads its prompt from a file and writes into a file, never through a pipe to us. So when a server dies the CLI
finishes its paid-for answer, and the next server finds it: the output file is locked through the very descriptor that
is the CLI's standard output, for as long as the CLI lives, and a small shell step writes the process id to a file
before the CLI itself begins.
"""

import contextlib
import fcntl
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from pool_mcp.errors import InvalidRequest
from pool_mcp.model import Subscription
from pool_mcp.system import locks
from pool_mcp.system.changes import Changes
from pool_mcp.system.private import make_directory

READ_BYTES = 64 * 1024
KILL_S = 5.0
"""How long a process that was killed may take to be gone."""
POLL_S = 0.02
"""How often a growing file is looked at where the system gives no notice; an answer is noticed half of this later."""
LOOK_S = 0.05
"""How often it is looked at where there is notice: whether the run is to be stopped is known here alone."""

_LAUNCHER = ("/bin/sh", "-c", '(umask 077 && echo $$ > "$0") && exec "$@"')
"""In parentheses ``$$`` is the shell's own id all the same, and the CLI keeps the person's umask."""

_INHERITED = frozenset(
    {
        "PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "TZ", "TMPDIR", "TERM",
        "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME", "XDG_STATE_HOME", "XDG_RUNTIME_DIR",
        "DBUS_SESSION_BUS_ADDRESS", "SSL_CERT_FILE", "SSL_CERT_DIR", "NODE_EXTRA_CA_CERTS",
        "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "no_proxy", "all_proxy",
    }
)  # fmt: skip
"""What a child may see of our environment. Above all no ``ANTHROPIC_*`` and no ``CLAUDE*``: a key there would
silently win over the subscription's login, and be billed."""

DEPTH_VARIABLE = "POOL_MCP_DEPTH"
"""How many pools are above this process; a delegated Claude must not delegate again."""


def environment(
    env: Mapping[str, str],
    *,
    config_dir: Path | None,
    api_key_env: str | None,
    oauth_token_env: str | None,
    base_url: str,
    attachments: bool,
) -> dict[str, str]:
    """The child's whole environment: what is on the allow-list, and the subscription's credential.

    Without ``attachments`` the CLI leaves ``@path`` in a prompt alone; else it would put that file's content in, even
    for a Claude without tools.

    The credential is passed from our environment to the child's and kept nowhere.
    """
    child = {name: value for name, value in env.items() if name in _INHERITED or name.startswith("LC_")}
    child["DISABLE_AUTOUPDATER"] = "1"
    child["CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC"] = "1"
    if not attachments:
        child["CLAUDE_CODE_DISABLE_ATTACHMENTS"] = "1"
    child[DEPTH_VARIABLE] = str(depth(env) + 1)
    if config_dir is not None:
        child["CLAUDE_CONFIG_DIR"] = str(config_dir)
    if api_key_env is not None:
        child["ANTHROPIC_API_KEY"] = env.get(api_key_env, "")
    if oauth_token_env is not None:
        child["CLAUDE_CODE_OAUTH_TOKEN"] = env.get(oauth_token_env, "")
    if base_url:
        child["ANTHROPIC_BASE_URL"] = base_url
    return child


def by_hand(subscription: Subscription, base_url: str) -> dict[str, str]:
    """What to export to use a subscription by hand; ``$NAME`` stands for a variable, never its value."""
    env = {"ANTHROPIC_BASE_URL": base_url} if base_url else {}
    if subscription.config_dir is not None:
        env["CLAUDE_CONFIG_DIR"] = str(subscription.config_dir)
    if subscription.api_key_env is not None:
        env["ANTHROPIC_API_KEY"] = f"${subscription.api_key_env}"
    if subscription.oauth_token_env is not None:
        env["CLAUDE_CODE_OAUTH_TOKEN"] = f"${subscription.oauth_token_env}"
    return env


def become(command: Sequence[str], env: Mapping[str, str], given: Mapping[str, str]) -> NoReturn:
    """Let a command take this process's place, with what a subscription gives it and no other login.

    ``$NAME`` in ``given`` stands for that variable's value in ``env``.

    Raises:
        InvalidRequest: such a variable is not set.
        OSError: the command cannot be started.
    """
    child = {name: value for name, value in env.items() if not name.startswith(("ANTHROPIC_", "CLAUDE"))}
    for name, value in given.items():
        variable = value.removeprefix("$")
        if value != variable and not env.get(variable):
            raise InvalidRequest(f"The variable {variable} is not set here; export it and run this again.")
        child[name] = value if value == variable else env[variable]
    sys.stdout.flush()
    sys.stderr.flush()
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # Python ignores it, and a command would inherit that
    os.execvpe(command[0], list(command), child)  # noqa: S606  (no shell is the point)


def depth(env: Mapping[str, str]) -> int:
    """How many pools are above this process."""
    value = env.get(DEPTH_VARIABLE, "")
    return int(value) if value.isdecimal() else 0


@dataclass(frozen=True, slots=True)
class RunFiles:
    """The files of one run, in a directory that only the owner may enter."""

    directory: Path

    @property
    def prompt(self) -> Path:
        """What the CLI reads; removed when the run has ended."""
        return self.directory / "prompt"

    @property
    def ask(self) -> Path:
        """The ask but for its prompt, as JSON, for whoever starts the CLI; removed with the prompt."""
        return self.directory / "ask.json"

    @property
    def stdout(self) -> Path:
        """The CLI's event stream; locked while the CLI lives."""
        return self.directory / "stdout.jsonl"

    @property
    def stderr(self) -> Path:
        """What the CLI complained of."""
        return self.directory / "stderr.txt"

    @property
    def pid(self) -> Path:
        """The CLI's process id, written before it begins; also its process group."""
        return self.directory / "pid"

    @property
    def process_id(self) -> int | None:
        """What is in :attr:`pid`, once it is there."""
        try:
            return int(self.pid.read_text())
        except (FileNotFoundError, ValueError):
            return None

    @property
    def facts(self) -> Path:
        """What an adopter needs to know of the run besides what the ledger has, as JSON."""
        return self.directory / "facts.json"

    def store(self, prompt: str, ask: Mapping[str, object], request_tokens: int) -> None:
        """Make the directory, prompt, ask and facts. A power cut may take them until :meth:`sync` is done."""
        make_directory(self.directory)
        _write(self.ask, json.dumps({**ask, _PROMPT_BYTES: len(prompt.encode())}))
        _write(self.prompt, prompt)
        _write(self.facts, json.dumps({"request_tokens": request_tokens, **_here()}))

    def sync(self) -> None:
        """Have what :meth:`store` made on the disk, before anything is started."""
        for path in (self.prompt, self.ask, self.facts, self.directory, self.directory.parent):
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)

    def is_stored(self) -> bool:
        """Whether all is there that whoever starts the CLI needs."""
        return self.prompt.exists() and self.ask.exists()

    def ask_alone(self) -> dict[str, object]:
        """The ask without its prompt, which may be missing; empty where it cannot be read."""
        try:
            ask = json.loads(self.ask.read_text())
        except (OSError, ValueError):
            return {}
        return ask if isinstance(ask, dict) else {}

    def load(self) -> tuple[str, dict[str, object]] | None:
        """The prompt and the rest of the ask, as :meth:`store` was given them; None where they are not there."""
        try:
            prompt, ask = self.prompt.read_bytes(), json.loads(self.ask.read_text())
            is_whole = isinstance(ask, dict) and ask.pop(_PROMPT_BYTES, None) == len(prompt)
            return (prompt.decode(), ask) if is_whole else None
        except (OSError, ValueError):
            return None

    def forget_ask(self) -> None:
        """Remove what was asked, once the run has ended."""
        for path in (self.prompt, self.ask):
            path.unlink(missing_ok=True)

    def note_where(self) -> None:
        """Before the CLI is started, note where and since which start of the machine, if others stored the ask."""
        facts = self._facts()
        if facts != {**facts, **_here()}:
            new = self.facts.with_suffix(".new")
            new.unlink(missing_ok=True)
            _write(new, json.dumps({**facts, **_here()}))
            new.replace(self.facts)

    @property
    def output_bytes(self) -> int:
        """How much the CLI has written; 0 where the file has been removed."""
        try:
            return self.stdout.stat().st_size
        except FileNotFoundError:
            return 0

    def cut_output(self, after_bytes: int) -> None:
        """Give the disk back what a CLI that was killed had written beyond what was read of it."""
        if self.output_bytes > after_bytes:
            with contextlib.suppress(OSError):
                os.truncate(self.stdout, after_bytes)

    def fetchable_since_ms(self, ended_at_ms: int) -> int:
        """Since when what a run left can be fetched: its end, or when it was booked, if that was later.

        Booking removes the prompt, so it is the last that happens to the directory.
        """
        try:
            return max(ended_at_ms, int(self.directory.stat().st_mtime * 1000))
        except OSError:
            return ended_at_ms

    @property
    def may_have_lost_files(self) -> bool:
        """Whether the machine may have been started again since the files were made.

        A power cut takes away what was made after them. No clock is asked for that, since clocks jump.
        """
        return self._facts().get("boot_id") != (boot_id() or None)

    @property
    def was_never_started(self) -> bool:
        """Whether the files prove that the CLI never began: those that come before it are there, the next is not."""
        return not self.may_have_lost_files and not self.stdout.exists()

    @property
    def request_tokens(self) -> int | None:
        """The least that the run's first request had, None where that is not known."""
        value = self._facts().get("request_tokens")
        return value if isinstance(value, int) else None

    @property
    def has_known_process_ids(self) -> bool:
        """Whether the run's process ids mean here what they meant where it was started: in a container they may not."""
        return self._facts().get("pid_namespace", _pid_namespace()) == _pid_namespace()

    def _facts(self) -> dict[str, object]:
        try:
            facts = json.loads(self.facts.read_text())
        except (OSError, ValueError):
            return {}
        return facts if isinstance(facts, dict) else {}


_PROMPT_BYTES = "prompt_bytes"
"""By this an ask shows whether its prompt is whole."""


def _here() -> dict[str, object]:
    """Where and since when process ids mean what they mean now."""
    return {"pid_namespace": _pid_namespace(), "boot_id": boot_id()}


def _write(path: Path, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(text.encode())


class CliProcess:
    """A CLI that runs: our own child, or one that another server started."""

    def __init__(self, files: RunFiles, child: "subprocess.Popen[bytes] | None" = None) -> None:
        self._files = files
        self._child = child

    @property
    def is_alive(self) -> bool:
        """Whether the CLI itself still runs; what it started may outlive it."""
        if self._child is not None:
            return self._child.poll() is None
        if not locks.is_held(self._files.stdout):
            return False
        pid = self._files.process_id
        return pid is None or not self._files.has_known_process_ids or self._is_it(pid)

    @property
    def is_own(self) -> bool:
        """Whether this process started it."""
        return self._child is not None

    @property
    def child_pid(self) -> int | None:
        """The process id, known for sure only of our own child that was not waited for."""
        return self._child.pid if self._child is not None and self._child.returncode is None else None

    @property
    def exit_code(self) -> int | None:
        """The exit code, known only of our own child."""
        return None if self._child is None else self._child.poll()

    def signal(self, number: signal.Signals) -> None:
        """Signal the CLI's whole process group; nothing happens where it is gone."""
        # A process id can have been used again: not our own child's before it is reaped, and not that of a CLI which
        # still holds its lock.
        pid = self._child.pid if self._child is not None else self._files.process_id
        if pid is None or not self._may_signal(pid):
            return
        try:
            os.killpg(pid, number)
        except (ProcessLookupError, PermissionError):
            return

    def renamed(self, files: RunFiles) -> "CliProcess":
        """The same process, once its files have other names."""
        return CliProcess(files, self._child)

    def wait_or_kill(self, wait_s: float) -> None:
        """Wait for our own child's end, for a bounded time, then kill it and what it started."""
        assert self._child is not None, "it is our own child"
        try:
            self._child.wait(wait_s)
        except subprocess.TimeoutExpired:
            self.signal(signal.SIGKILL)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._child.wait(KILL_S)

    def kill_leftovers(self) -> None:
        """After the CLI's end: kill what it started and left running in its group."""
        if self._child is not None and self._child.poll() is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._child.pid, signal.SIGKILL)
        else:
            self.signal(signal.SIGKILL)

    def _may_signal(self, pid: int) -> bool:
        if self._child is not None:
            return self._child.poll() is None
        is_here = self._files.has_known_process_ids and locks.is_held(self._files.stdout)
        # Where the CLI has ended, what it started is still a group by its id, which no other process can have.
        return is_here and (self._is_it(pid) or not _exists(pid))

    def _is_it(self, pid: int) -> bool:
        """Whether a process is the CLI: it exists, and writes into the run's file where that can be seen."""
        try:
            return os.path.samestat(Path(f"/proc/{pid}/fd/1").stat(), self._files.stdout.stat())
        except OSError:
            return _exists(pid) and not Path("/proc/self/fd").exists()


def start(cli: Path, arguments: Sequence[str], files: RunFiles, env: Mapping[str, str], cwd: Path) -> CliProcess:
    """Start the CLI on the run's files, in a process group of its own."""
    prompt = os.open(files.prompt, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return spawn(cli, arguments, files, env, cwd, prompt)
    finally:
        os.close(prompt)


def spawn(
    cli: Path, arguments: Sequence[str], files: RunFiles, env: Mapping[str, str], cwd: Path, stdin: int
) -> CliProcess:
    """Start the CLI with its output in files, which is locked for as long as it lives, and its process id beside it."""
    output = os.open(files.stdout, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    errors = os.open(files.stderr, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(output, fcntl.LOCK_EX)
        child = subprocess.Popen(
            [*_LAUNCHER, str(files.pid), str(cli), *arguments],
            stdin=stdin,
            stdout=output,
            stderr=errors,
            env=dict(env),
            cwd=cwd,
            start_new_session=True,
        )
    finally:
        os.close(output)
        os.close(errors)
    return CliProcess(files, child)


def pipe_bytes(pipe: int) -> int:
    """What goes into an empty pipe at once: on Linux as much as it holds, elsewhere what is written in one piece."""
    if sys.platform == "linux":
        return fcntl.fcntl(pipe, fcntl.F_GETPIPE_SZ)
    return select.PIPE_BUF


async def follow(process: CliProcess, files: RunFiles) -> AsyncIterator[bytes]:
    """The CLI's output as it grows, with an empty chunk at every idle look, until the CLI has ended."""
    with contextlib.ExitStack() as stack:
        try:
            output = stack.enter_context(files.stdout.open("rb"))
        except FileNotFoundError:
            return  # taken away, or by a power cut never written
        changes = stack.enter_context(Changes(files.stdout, process.child_pid))
        while True:
            # Asked before reading: whatever was written before the end is read after it.
            alive = process.is_alive
            data = output.read(READ_BYTES)
            if data:
                yield data
            elif not alive:
                return
            else:
                yield b""
                await changes.wait(LOOK_S if changes.are_told else POLL_S)


class Stop:
    """Stops a CLI by ever harder means: SIGINT (it still reports its cost), SIGTERM, SIGKILL."""

    STEPS = ((0.0, signal.SIGINT), (4.0, signal.SIGTERM), (6.0, signal.SIGKILL))
    """Seconds from the first signal. A CLI that reports after SIGINT does so within about 0.1 s."""

    READ_S = 4.0
    """How long what was written before the end may take to be read."""

    def __init__(self, process: CliProcess, now_s: float) -> None:
        self._process = process
        self._began_s = now_s
        self._taken = 0

    def is_long_past(self, now_s: float) -> bool:
        """Whether the last of the signals was due a while ago."""
        return now_s - self._began_s > self.STEPS[-1][0] + self.READ_S

    def tick(self, now_s: float) -> None:
        """Send the signals that are due."""
        while self._taken < len(self.STEPS) and now_s - self._began_s >= self.STEPS[self._taken][0]:
            self._process.signal(self.STEPS[self._taken][1])
            self._taken += 1


def _pid_namespace() -> str:
    """The namespace in which this process's ids mean something; empty where there is but one."""
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def boot_id() -> str:
    """What names this start of the machine and no other; empty where it cannot be told."""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        if sys.platform == "darwin":
            sysctl = ["/usr/sbin/sysctl", "-n", "kern.bootsessionuuid"]
            return subprocess.run(sysctl, capture_output=True, check=True, text=True, timeout=5).stdout.strip()
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return ""
