"""Makes one moving picture of several: ``./dev run python docs/animate.py OUT FRAME...``, each from `status --svg`."""

import re
import sys
from pathlib import Path

SECONDS = 2.0
"""How long each frame stands."""


def animated(frames: list[str]) -> str:
    """An SVG that shows the frames one after the other, over and over; readers that do not animate see the first."""
    opening = max(map(_opening, frames), key=_height)
    share, whole_s = 100 / len(frames), SECONDS * len(frames)
    style = (
        f"@keyframes shown {{ 0% {{ visibility: visible }} {share:.3f}%, 100% {{ visibility: hidden }} }}"
        f" .frame {{ visibility: hidden; animation: shown {whole_s:.1f}s step-end infinite }}"
        " .frame:first-of-type { visibility: visible }"
    )
    shown = [
        f'<g class="frame" style="animation-delay: {SECONDS * number - whole_s:.1f}s">{_inside(frame)}</g>'
        for number, frame in enumerate(frames)
    ]
    return f"{opening}<style>{style}</style>{''.join(shown)}</svg>\n"


def _height(opening: str) -> float:
    found = re.search(r'viewBox="\S+ \S+ \S+ ([\d.]+)"', opening)
    return float(found[1]) if found else 0.0


def _opening(frame: str) -> str:
    found = re.match(r"<svg [^>]*>", frame)
    assert found is not None, "an SVG"
    return found[0]


def _inside(frame: str) -> str:
    return re.sub(r"^<svg [^>]*>|</svg>\s*$|<!--.*?-->", "", frame, flags=re.DOTALL)


def main(out: Path, *frames: Path) -> None:
    """Write the moving picture."""
    out.write_text(animated([one.read_text(encoding="utf-8") for one in frames]), encoding="utf-8")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
