"""The text of an answer while the CLI is still writing it."""

from pathlib import Path

from pool_mcp.claude.stream import text_delta

PARAGRAPH = "\n\n"
"""Between the messages of one run: before a tool is used, and after."""


class LiveText:
    """Reads one run's file on from where the last look left it; a file that is not there yet is empty."""

    def __init__(self, stdout: Path) -> None:
        self._stdout = stdout
        self._offset = 0
        self._rest = b""
        self._has_text = False
        self._is_new_message = False

    def read(self) -> str:
        """What was written since the last look."""
        try:
            with self._stdout.open("rb") as file:
                file.seek(self._offset)
                content = file.read()
        except OSError:  # not there yet, or never to be: the run itself says what is wrong
            return ""
        self._offset += len(content)
        *lines, self._rest = (self._rest + content).split(b"\n")
        return "".join(map(self._text, lines))

    def _text(self, line: bytes) -> str:
        delta = text_delta(line)
        if delta is None:
            return ""
        if not delta:  # a message begins
            self._is_new_message = self._has_text
            return ""
        before = PARAGRAPH if self._is_new_message else ""
        self._has_text, self._is_new_message = True, False
        return before + delta
