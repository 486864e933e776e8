"""Charts as PNG, at twice their size so that they are sharp."""

import importlib.util
import io
import shlex
import sys

from pool_mcp.errors import InvalidRequest
from pool_mcp.usage.charts import INK, WIDTH, Chart, Rectangle, Stroke, Words, draw

_SCALE = 2
_ANCHORS = {"start": "ls", "middle": "ms", "end": "rs"}


def png(chart: Chart) -> bytes:
    """A chart as a PNG file.

    Raises:
        InvalidRequest: Pillow is not there; it comes with the extra ``png``.
    """
    try:
        from PIL import Image, ImageDraw, ImageFont
    except ImportError:
        raise InvalidRequest(f"A PNG needs Pillow (20 MB): `{_how_to_install()}`. SVG needs nothing.") from None
    drawing = draw(chart)
    image = Image.new("RGB", (WIDTH * _SCALE, round(drawing.height) * _SCALE))
    brush = ImageDraw.Draw(image)
    for shape in drawing.shapes:
        match shape:
            case Rectangle(x, y, width, height, color):
                # Pillow paints the last row and column, too.
                right, bottom = (x + width) * _SCALE - 1, (y + height) * _SCALE - 1
                if right >= x * _SCALE and bottom >= y * _SCALE:
                    brush.rectangle((x * _SCALE, y * _SCALE, right, bottom), fill=color)
            case Stroke((x1, y1), (x2, y2), color):
                brush.line((x1 * _SCALE, y1 * _SCALE, x2 * _SCALE, y2 * _SCALE), fill=color, width=_SCALE)
            case Words(x, y, text, anchor, size):
                font = ImageFont.load_default(size * _SCALE)
                brush.text((x * _SCALE, y * _SCALE), text, fill=INK, font=font, anchor=_ANCHORS[anchor])
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def _how_to_install() -> str:
    """The command that puts Pillow beside this program, wherever that was installed."""
    python = shlex.quote(sys.executable)
    if importlib.util.find_spec("pip"):
        return f"{python} -m pip install 'pillow>=12.1'"
    return f"uv pip install --python {python} 'pillow>=12.1'"
