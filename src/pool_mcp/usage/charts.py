"""Charts of spend: bars as plain data, laid out once as rectangles, lines and words, and written as SVG.

Times stand as columns on an axis on which every hour, day, week or month has its place, whether or not there is any
spend in it; names stand as rows. The colors are Okabe and Ito's, which people with any color vision can tell apart.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape

COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#B8A900", "#7A7A7A")
INK, FAINT, PAPER = "#1F2328", "#D8DEE4", "#FFFFFF"
WIDTH = 960
_LEFT, _RIGHT, _TOP, _BOTTOM = 76, 24, 64, 44
_PLOT_HEIGHT = 312
_ROW_HEIGHT = 30
_NAME_WIDTH = 230
_FONT = 14
_LABEL_WIDTH = 64
_TOPS = (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10)

_DARK = """\
<style>@media (prefers-color-scheme: dark) {
[fill="#FFFFFF"] { fill: #0D1117 } [fill="#1F2328"] { fill: #E6EDF3 } [stroke="#D8DEE4"] { stroke: #30363D }
}</style>"""


@dataclass(frozen=True, slots=True)
class Chart:
    """Dollars by key, stacked by name; ``values[name]`` has one amount per key.

    ``is_time``: the keys are spans of time, in order and without gaps; else they are names, the most expensive first.
    """

    title: str
    keys: Sequence[str]
    values: Mapping[str, Sequence[float]]
    is_time: bool

    @property
    def totals(self) -> list[float]:
        """What stands above each key; an adjustment below zero counts as nothing."""
        return [sum(max(0.0, own[at]) for own in self.values.values()) for at in range(len(self.keys))]


@dataclass(frozen=True, slots=True)
class Rectangle:
    """A filled rectangle."""

    x: float
    y: float
    width: float
    height: float
    color: str


@dataclass(frozen=True, slots=True)
class Stroke:
    """A straight line from one point to another."""

    start: tuple[float, float]
    end: tuple[float, float]
    color: str


@dataclass(frozen=True, slots=True)
class Words:
    """Text at its baseline; ``anchor`` is start, middle or end."""

    x: float
    y: float
    text: str
    anchor: str = "start"
    size: int = _FONT


Shape = Rectangle | Stroke | Words


@dataclass(slots=True)
class Drawing:
    """Shapes in the order in which they are painted."""

    title: str
    height: float
    shapes: list[Shape] = field(default_factory=list)


def amount(usd: float) -> str:
    """Dollars for an axis or a label."""
    return f"${usd:,.0f}" if usd >= 100 or usd == int(usd) else f"${usd:.2f}"


def color_of(at: int) -> str:
    """The color of the n-th name."""
    return COLORS[at % len(COLORS)]


def axis_end(value: float) -> float:
    """Where an axis ends: the first round number that is not below a value, at least a cent."""
    power = 0.01
    while 10 * power < value:
        power *= 10
    return next(power * step for step in (*_TOPS, 20) if power * step >= value)


def shortened(name: str, length: int) -> str:
    """A name that fits into so many characters."""
    return name if len(name) <= length else name[: length - 1] + "…"


def draw(chart: Chart) -> Drawing:
    """Lay a chart out."""
    return _columns(chart) if chart.is_time else _rows(chart)


def svg(chart: Chart) -> str:
    """A chart as an SVG document, light or dark as its reader has it."""
    drawing = draw(chart)
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{drawing.height:g}" '
        f'viewBox="0 0 {WIDTH} {drawing.height:g}" role="img" font-family="system-ui, sans-serif">'
        f"<title>{escape(drawing.title)}</title>"
    )
    return "\n".join([head, _DARK, *map(_element, drawing.shapes), "</svg>", ""])


def _element(shape: Shape) -> str:
    match shape:
        case Rectangle(x, y, width, height, color):
            return f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" fill="{color}"/>'
        case Stroke((x1, y1), (x2, y2), color):
            return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{color}"/>'
        case Words(x, y, text, anchor, size):
            place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{INK}" font-size="{size}"'
            return f"<text {place}>{escape(text)}</text>"


def _paper(chart: Chart, height: float) -> Drawing:
    """Paper, title and legend."""
    shapes: list[Shape] = [Rectangle(0, 0, WIDTH, height, PAPER), Words(_FONT, 26, chart.title, size=18)]
    drawing = Drawing(chart.title, height, shapes)
    if not any(chart.totals):
        drawing.shapes.append(Words(WIDTH / 2, height / 2, "nothing spent", "middle"))
    if len(chart.values) < 2:
        return drawing
    x = float(_FONT)
    for n, name in enumerate(chart.values):
        label = shortened(name, 28)
        if x + 22 + 8 * len(label) > WIDTH - _RIGHT:
            drawing.shapes.append(Words(x, 51, "…"))
            break
        drawing.shapes += [Rectangle(x, 40, 12, 12, color_of(n)), Words(x + 18, 51, label)]
        x += 36 + 8 * len(label)
    return drawing


def _columns(chart: Chart) -> Drawing:
    """Columns along a time axis."""
    bottom = _TOP + _PLOT_HEIGHT
    drawing = _paper(chart, bottom + _BOTTOM)
    top = axis_end(max(chart.totals, default=0.0))
    for step in range(5):
        y = bottom - _PLOT_HEIGHT * step / 4
        grid = Stroke((_LEFT, y), (WIDTH - _RIGHT, y), FAINT)
        drawing.shapes += [grid, Words(_LEFT - 8, y + 5, amount(top * step / 4), "end")]
    slot = (WIDTH - _LEFT - _RIGHT) / max(1, len(chart.keys))
    width = min(48.0, slot * 0.8)
    every = max(1, -(-_LABEL_WIDTH * len(chart.keys) // (WIDTH - _LEFT - _RIGHT)))
    for at, key in enumerate(chart.keys):
        x, y = _LEFT + slot * (at + 0.5), float(bottom)
        for n, own in enumerate(chart.values.values()):
            if (height := max(0.0, own[at]) / top * _PLOT_HEIGHT) > 0:
                y -= height
                drawing.shapes.append(Rectangle(x - width / 2, y, width, height, color_of(n)))
        if at % every == 0:
            drawing.shapes.append(Words(x, bottom + 20, key, "middle"))
    return drawing


def _rows(chart: Chart) -> Drawing:
    """One row for each name, with its amount at the end."""
    drawing = _paper(chart, _TOP + _ROW_HEIGHT * max(2, len(chart.keys)) + _FONT)
    longest = max(chart.totals, default=0.0) or 1.0
    room = WIDTH - _NAME_WIDTH - 110
    for at, (key, total) in enumerate(zip(chart.keys, chart.totals, strict=True)):
        x, y = float(_NAME_WIDTH), _TOP + _ROW_HEIGHT * at
        drawing.shapes.append(Words(x - 10, y + 17, shortened(key, 28), "end"))
        for n, own in enumerate(chart.values.values()):
            if (width := max(0.0, own[at]) / longest * room) > 0:
                drawing.shapes.append(Rectangle(x, y + 3, width, _ROW_HEIGHT - 10, color_of(n)))
                x += width
        drawing.shapes.append(Words(x + 8, y + 17, amount(total)))
    return drawing
