"""Charts as PNG, at twice their size so that they are sharp."""

import io

from PIL import Image, ImageDraw, ImageFont

from pool_mcp.usage.charts import HEIGHT, WIDTH, Chart, Rectangle, Stroke, Words, dashes, draw

_SCALE = 2
_ANCHORS = {"start": "ls", "middle": "ms", "end": "rs"}


def png(chart: Chart) -> bytes:
    """A chart as a PNG file."""
    image = Image.new("RGB", (WIDTH * _SCALE, HEIGHT * _SCALE))
    brush = ImageDraw.Draw(image)
    for shape in draw(chart).shapes:
        match shape:
            case Rectangle(x, y, width, height, colour):
                # Pillow paints the last row and column, too.
                right, bottom = (x + width) * _SCALE - 1, (y + height) * _SCALE - 1
                if right >= x * _SCALE and bottom >= y * _SCALE:
                    brush.rectangle((x * _SCALE, y * _SCALE, right, bottom), fill=colour)
            case Stroke(points, colour, width, dashed):
                wide = max(1, round(width * _SCALE))
                if dashed:
                    for segment in dashes(points, 6, 5):
                        brush.line([part * _SCALE for part in segment], fill=colour, width=wide)
                else:
                    path = [(x * _SCALE, y * _SCALE) for x, y in points]
                    brush.line(path, fill=colour, width=wide, joint="curve")
            case Words(x, y, text, anchor, colour, size):
                font = ImageFont.load_default(size * _SCALE)
                brush.text((x * _SCALE, y * _SCALE), text, fill=colour, font=font, anchor=_ANCHORS[anchor])
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()
