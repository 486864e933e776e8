"""``status --watch`` on a screen: the status again and again, in place or block after block."""

from typing import Protocol, Self

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from pool_mcp.views.status import Seen, StatusView
from pool_mcp.views.times import clock

KEYS = "q quit · r refresh · s sort · c cancel a run · ? help"
HELP = (
    ("q, Ctrl-C", "quit"),
    ("r", "look again now"),
    ("s", "sort: as in pool.toml, the fullest first, the healthiest first"),
    ("c", "cancel a run: then its number"),
    ("?", "show or hide this"),
    ("", ""),
    ("pace", "1.0x uses a window up exactly at its reset; above that it runs out before"),
    ("runs out", "when a window is used up if you go on as you have in it so far"),
    ("used", "█ what Anthropic reported, ▒ and ~ what you have spent since, or of your own budget"),
    ("health", "0 to 100: room left, less what is running and how fast it is spent"),
    ("$", "list price: what the same tokens would cost by the API; a flat plan does not bill it"),
)


class Display(Protocol):
    """Where the status is shown again and again."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...

    def __call__(self, seen: Seen, note: str = "", *, choosing: bool = False, with_help: bool = False) -> None:
        """Show it, with a note if there is one, numbers beside the runs, and the help."""


class Screen:
    """Shows the status in place, on the terminal's other screen; at the end the first one is as it was."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, screen=True, auto_refresh=False)

    def __enter__(self) -> Self:
        self._live.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def __call__(self, seen: Seen, note: str = "", *, choosing: bool = False, with_help: bool = False) -> None:
        """Draw it again; the note takes the place of the keys."""
        keys = Text(f" {note}", "bold yellow") if note else Text(f" {KEYS}", "dim")
        title = Text.assemble(("pool-mcp", "bold"), f" {clock(seen.status.generated_at)} ", keys)
        title.no_wrap, title.overflow = True, "ellipsis"
        view = _help() if with_help else StatusView(seen, height=self._console.height - 1, numbered=choosing)
        self._live.update(Group(title, view), refresh=True)


class Scroll:
    """Prints the status again and again, for a pipe and for terminals that cannot draw in place."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to restore."""

    def __call__(self, seen: Seen, note: str = "", **_: bool) -> None:
        """Print a block."""
        self._console.print(
            Text(f"== {clock(seen.status.generated_at)}", "bold"), StatusView(seen), Text(note), sep="\n"
        )


def _help() -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, meaning in HELP:
        table.add_row(name, meaning)
    return table
