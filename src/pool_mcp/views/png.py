"""Charts as PNG, at twice their size so that they are sharp."""

import io

from PIL import Image, ImageDraw, ImageFont

from pool_mcp.usage.charts import INK, WIDTH, Chart, Rectangle, Stroke, Words, draw

_SCALE = 2
_ANCHORS = {"start": "ls", "middle": "ms", "end": "rs"}


def png(chart: Chart) -> bytes:
    """A chart as a PNG file."""
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
