"""An answer as it is being written: rendered on a terminal, plain text in a pipe."""

import sys
from typing import Self

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.markdown import Markdown
from rich.segment import Segment
from rich.status import Status
from rich.text import Text

from pool_mcp.views.plain import plain


class Answer:
    """Use it around the ask; :meth:`add` what is written, then :meth:`finish` with the whole answer."""

    def __init__(self, out: Console, about: Console, *, is_quiet: bool) -> None:
        """``out`` is where the answer goes, ``about`` where it is said what is being done."""
        self._out = out
        self._is_rendered = out.is_terminal and not out.is_dumb_terminal
        self._spinner: Status | None = None if is_quiet else about.status("starting the CLI")
        self._live: Live | None = None
        self._written = ""
        self._is_over = False

    def __enter__(self) -> Self:
        if self._spinner:
            self._spinner.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over = True
        self._stop_spinner()
        if self._live:
            self._live.stop()
            self._live = None

    async def progress(self, elapsed_s: float, message: str) -> None:
        """Say what the run is doing, while there is no text yet."""
        if self._spinner:
            self._spinner.update(Text(f"{message} ({elapsed_s:.0f} s)"))

    def add(self, text: str) -> None:
        """Show a further piece of the answer."""
        if self._is_over:
            return
        self._stop_spinner()
        self._written += text
        if not self._is_rendered:
            self._write(text)
            return
        if self._live is None:
            # Drawn in place until the answer is whole, and then printed once, so that it can be scrolled.
            self._live = Live(console=self._out, auto_refresh=False, transient=True)
            self._live.start()
        self._live.update(_Tail(self._written), refresh=True)

    def finish(self, text: str) -> None:
        """Show what is still missing of the whole answer."""
        if self._is_rendered:
            self._out.print(Markdown(text))
            return
        shown = self._written
        if text.startswith(shown):
            self._write(text[len(shown) :] + "\n")
        else:  # more messages than the last, or a call that was made twice
            self._write("\n" if shown.endswith(text) else f"\n\n{text}\n")

    def _stop_spinner(self) -> None:
        if self._spinner:
            self._spinner.stop()
            self._spinner = None

    def _write(self, text: str) -> None:
        sys.stdout.write(plain(text) if self._out.is_terminal else text)
        sys.stdout.flush()


class _Tail:
    """The end of a text, as much as fits on the screen."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        lines = console.render_lines(Markdown(self._text), options, pad=False)
        for line in lines[-max(1, console.height - 2) :]:
            yield from line
            yield Segment.line()
