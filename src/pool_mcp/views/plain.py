"""Keeps what others wrote (a model, an agent, a transcript) from acting on the terminal that it is shown on."""

from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

_ACTING = dict.fromkeys(
    (*(code for code in range(0x20) if chr(code) not in "\t\n"), *range(0x7F, 0xA0), *range(0x202A, 0x202F),
     *range(0x2066, 0x206A))
)  # fmt: skip
"""Control characters, with which a text could write elsewhere, into the clipboard or the keyboard's buffer, and those
that turn the direction of what stands beside them."""


def plain(text: str) -> str:
    """A text without the characters that act on a terminal; lines and tabs stay."""
    return text if text.isprintable() else text.translate(_ACTING)


class PlainConsole(Console):
    """A console on which a view's styles act, and nothing that stands in a text: no markup, no control codes."""

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, highlight=False, **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Render as usual, with every text made plain."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=plain(segment.text))
