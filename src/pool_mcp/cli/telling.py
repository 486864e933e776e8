"""How the commands of the way in tell what they did: in words, or under ``--json`` as one object."""

from pathlib import Path
from typing import TYPE_CHECKING

from pool_mcp.cli import run

if TYPE_CHECKING:
    from pydantic import BaseModel
    from rich.console import RenderableType


class Teller:
    """Says lines to a person; under ``as_json`` it says none of them, and one object in their place."""

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json
        self._out = run.terminal.console()

    def say(self, text: str, style: str = "") -> None:
        """A line that is never broken: paths and commands are there to be copied."""
        if not self.as_json:
            self._out.print(text, style=style, markup=False, soft_wrap=True)

    def show(self, what: "RenderableType") -> None:
        """A table or a view."""
        if not self.as_json:
            self._out.print(what)

    def difference(self, file: Path, before: str, after: str) -> None:
        """What changes in a file, in color."""
        from pool_mcp.system import textfile

        if not before:
            self.say(f"{textfile.short(file)} (new)", "bold")
        lines = after.splitlines() if not before else textfile.difference(file, before, after).splitlines()
        for line in lines:
            self.say(line, "green" if line.startswith("+") else "red" if line.startswith("-") else "")

    def result(self, found: "BaseModel") -> None:
        """The whole as JSON, where that is asked for."""
        if self.as_json:
            run.print_json(found)
